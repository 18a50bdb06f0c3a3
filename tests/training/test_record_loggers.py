"""Copies of a run's records: CSV, TensorBoard, Weights & Biases (offline). The run itself never notices."""

from __future__ import annotations

import csv
import math

import pytest

from jorge_tune.errors import InputError
from jorge_tune.records import RecordWriter, RunDirectory, of_kind, read_records
from jorge_tune.runs.record_loggers import CsvLogger, check_loggers, open_loggers, values_of
from jorge_tune.runs.run_journal import Moment, RunJournal
from jorge_tune.training import train
from jorge_tune.training.loop import StopRequest
from tests.training.small_recipes import digits_recipe
from tests.training.test_resume import _assert_same_run, _stopping


def rows_of(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def interrupted_and_resumed(out, **more):
    """A run that was stopped at its 12th step, after its first evaluation, and then ended."""
    stop = StopRequest()
    train(digits_recipe(), out, log_every=3, stop=stop, progress=_stopping(stop, "step", 12), **more)
    return train(digits_recipe(), out, log_every=3, resume=True, **more)


def test_the_csv_holds_the_records_of_a_resumed_run_once(tmp_path):
    train(digits_recipe(), tmp_path / "whole", log_every=3)
    interrupted_and_resumed(tmp_path / "run", loggers=("csv",))
    _assert_same_run(tmp_path / "whole", tmp_path / "run")
    records = read_records(RunDirectory(tmp_path / "run").records)
    rows = rows_of(tmp_path / "run" / "metrics.csv")
    steps = [row for row in rows if row["train/loss"]]
    assert [(int(row["step"]), float(row["train/loss"])) for row in steps] == [
        (record["step"], record["loss"]) for record in of_kind(records, "step")
    ]
    evaluations = [row for row in rows if row["validation/top1"]]
    assert [float(row["validation/top1"]) for row in evaluations] == [
        record["metrics"]["top1"] for record in of_kind(records, "evaluation", "validation")
    ]
    assert [float(row["test/loss"]) for row in rows if row["test/loss"]]
    assert float(steps[0]["lr"]) == next(of_kind(records, "step"))["lr"][0]


def test_the_csv_has_a_column_for_a_name_that_comes_late(tmp_path):
    logger = CsvLogger(RunDirectory(tmp_path), digits_recipe())
    place = {"epoch": 1.0, "train_seconds": 1.0, "kind": "evaluation", "part": "validation"}
    logger.begin([])
    assert (tmp_path / "metrics.csv").read_text() == "step,epoch,train_seconds\n"
    logger.take({**place, "step": 1, "metrics": {"loss": 0.5}})
    logger.take({**place, "step": 2, "metrics": {"loss": math.nan, "a,b": 2.0}})
    rows = rows_of(tmp_path / "metrics.csv")
    assert [row["validation/a,b"] for row in rows] == ["", "2.0"]
    assert rows[1]["validation/loss"] == "nan"


def test_names_are_those_of_parts_and_none_is_made_of_what_is_not_known():
    step = {"kind": "step", "loss": 1.0, "lr": [0.1, 0.2], "graft_ratio": None, "skipped": 0}
    assert values_of(step) == {"train/loss": 1.0, "lr": 0.1, "optimizer/skipped": 0.0}
    assert values_of({"kind": "rate", "lr": [0.3]}) == {"lr": 0.3}
    assert values_of({"kind": "end", "outcome": "finished"}) == {}


def test_tensorboard_has_the_same_scalars(tmp_path):
    pytest.importorskip("tensorboard", reason="TensorBoard is absent: pip install 'jorge-tune[tensorboard]'")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    train(digits_recipe(), tmp_path / "run", log_every=3, loggers=("tensorboard",))
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    events.Reload()
    records = read_records(RunDirectory(tmp_path / "run").records)
    written = [(event.step, event.tensor_proto.float_val[0]) for event in events.Tensors("validation/top1")]
    expected = [(one["step"], one["metrics"]["top1"]) for one in of_kind(records, "evaluation", "validation")]
    assert [step for step, _ in written] == [step for step, _ in expected]
    assert [value for _, value in written] == pytest.approx([value for _, value in expected], rel=1e-6)
    assert len(events.Tensors("train/loss")) == len(list(of_kind(records, "step")))


def test_wandb_has_them_offline_and_a_resumed_run_is_the_same_run(tmp_path, monkeypatch):
    pytest.importorskip("wandb", reason="Weights & Biases is absent: pip install 'jorge-tune[wandb]'")
    monkeypatch.setenv("WANDB_MODE", "offline")
    interrupted_and_resumed(tmp_path / "run", loggers=("wandb",))
    stored = sorted((tmp_path / "run" / "wandb").glob("offline-run-*/*.wandb"))
    kept = (tmp_path / "run" / "wandb-id.txt").read_text().strip()
    assert [path.name for path in stored] == [f"run-{kept}.wandb"] * 2
    assert b"validation/top1" in stored[0].read_bytes()
    assert "warning" not in (tmp_path / "run" / "log.txt").read_text()


class Broken:
    """A logger whose library fails, at its third word."""

    def __init__(self):
        self.taken = 0

    def begin(self, earlier):
        assert [record["kind"] for record in earlier] == ["start"]

    def take(self, record):
        self.taken += 1
        if self.taken == 2:
            raise ConnectionError("no such server\nmore words")

    def close(self):
        raise AssertionError("it was left out before")


def test_a_logger_that_fails_is_left_out_and_the_run_goes_on(tmp_path):
    broken = Broken()
    with RunJournal(RunDirectory(tmp_path)) as journal:
        journal.also_to([broken])
        journal.start(Moment(0, 0.0, 0.0), seed=0, resumed=False, about="x", facts={})
        for step in (1, 2, 3):
            journal.step(Moment(step, step / 3, 1.0), {"loss": 1.0, "lr": [0.1]})
    assert broken.taken == 2
    said = (tmp_path / "log.txt").read_text()
    assert said.count("warning: Broken gets no more of this run (ConnectionError: no such server)") == 1
    assert len(read_records(tmp_path / "records.jsonl")) == 4


def test_a_link_in_the_place_of_the_csv_is_not_followed(tmp_path):
    (tmp_path / "elsewhere").write_text("mine")
    (tmp_path / "metrics.csv").symlink_to(tmp_path / "elsewhere")
    with RunJournal(RunDirectory(tmp_path)) as journal:
        journal.also_to(open_loggers(("csv",), RunDirectory(tmp_path), digits_recipe()))
        journal.start(Moment(0, 0.0, 0.0), seed=0, resumed=False, about="x", facts={})
    assert (tmp_path / "elsewhere").read_text() == "mine"
    assert "warning: Csv gets no more of this run" in (tmp_path / "log.txt").read_text()


def test_kinds_are_checked_before_anything_is_written(tmp_path, monkeypatch):
    assert check_loggers(("wandb", "csv", "csv")[1:]) == ("csv",)
    with pytest.raises(InputError, match="--logger: must be csv, tensorboard or wandb, got 'mlflow'"):
        train(digits_recipe(), tmp_path / "run", loggers=("mlflow",))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(
        InputError, match=r"--logger wandb: the package wandb is not installed: pip install 'jorge-tune"
    ):
        train(digits_recipe(), tmp_path / "run", loggers=("wandb",))
    assert not (tmp_path / "run").exists()


def test_a_torn_id_of_wandb_is_made_anew(tmp_path):
    from jorge_tune.runs.record_loggers import _kept_id

    path = tmp_path / "wandb-id.txt"
    first = _kept_id(path)
    assert _kept_id(path) == first
    path.write_text("../../etc\n")
    assert _kept_id(path) not in (first, "../../etc")


def test_records_that_others_wrote_before_are_in_a_resumed_runs_csv(tmp_path):
    """A run that began without a logger has all its rows once it resumes with one."""
    place = {"epoch": 1.0, "train_seconds": 1.0}
    with RecordWriter(tmp_path / "records.jsonl") as writer:
        writer.write({"kind": "start", "step": 0, "epoch": 0.0, "train_seconds": 0.0, "seed": 0})
        writer.write({"kind": "step", "step": 9, **place, "loss": 1.5, "lr": [0.1]})
        writer.write({"kind": "step", "step": 12, **place, "loss": 9.0, "lr": [0.1]})
    with RunJournal(RunDirectory(tmp_path)) as journal:
        journal.also_to(open_loggers(("csv",), RunDirectory(tmp_path), digits_recipe()))
        journal.start(Moment(9, 1.0, 1.0), seed=0, resumed=True, about="x", facts={})
    assert [row["train/loss"] for row in rows_of(tmp_path / "metrics.csv")] == ["1.5"]
