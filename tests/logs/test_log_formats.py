"""Every format of logs: what is read of a whole log, and of one that grows."""

from __future__ import annotations

import os

import pytest

from jorge_tune.logs.csv_log import CsvLog
from jorge_tune.logs.formats import format_of, newest, open_log
from jorge_tune.logs.jsonl_log import JsonLinesLog
from jorge_tune.logs.rows import LogError
from jorge_tune.logs.stdout_log import StdoutLog
from jorge_tune.logs.trainer_state_log import TrainerStateLog
from jorge_tune.recipe.schema import MetricsSection
from jorge_tune.records import of_kind
from tests.logs.written import (
    HISTORY,
    KERAS,
    LIGHTNING,
    MMENGINE,
    MMENGINE_BY_ITERATION,
    TIMM,
    ULTRALYTICS,
    event_file,
    reader_for,
    records_from,
    trainer_state,
    written,
)


def evaluations(records, part="validation"):
    """Step, epoch and metrics."""
    return [(r["step"], r["epoch"], r["metrics"]) for r in of_kind(records, "evaluation", part)]


def losses(records):
    return [(r["step"], r.get("loss"), r.get("lr")) for r in of_kind(records, "step")]


def test_ultralytics(tmp_path):
    path = written(tmp_path, "results.csv", ULTRALYTICS)
    assert format_of(path) == ("csv", path)
    records = records_from(tmp_path / "run", reader_for(path))
    assert evaluations(records) == [
        (1, 1.0, {"mAP50(B)": 0.4367, "mAP50-95(B)": 0.32088, "box_loss": 0.97209}),
        (2, 2.0, {"mAP50(B)": 0.5012, "mAP50-95(B)": 0.37115, "box_loss": 0.91002}),
    ]
    assert [r["train_seconds"] for r in of_kind(records, "evaluation")] == [24.7471, 48.12]
    assert losses(records) == [(1, None, [0.0672973]), (2, None, [0.0345117])]


def test_lightning(tmp_path):
    path = written(tmp_path, "lightning_logs/version_0/metrics.csv", LIGHTNING)
    assert format_of(tmp_path / "lightning_logs") == ("csv", path)
    records = records_from(tmp_path / "run", reader_for(path))
    assert evaluations(records) == [
        (62, 1.0, {"acc": 0.41, "loss": 1.7}),
        (125, 2.0, {"acc": 0.55, "loss": 1.3}),
    ]
    assert evaluations(records, "test") == [(126, 2.0, {"acc": 0.52})]
    assert losses(records) == [(49, 1.9, None), (99, 1.4, None)]


def test_timm_has_percent_and_rows_without_an_evaluation(tmp_path):
    reader = reader_for(written(tmp_path, "summary.csv", TIMM))
    records = records_from(tmp_path / "run", reader, metric="top1")
    values = [(epoch, round(m["top1"], 6), m["loss"]) for _, epoch, m in evaluations(records)]
    assert values == [(1.0, 0.00872, 0.6336), (2.0, 0.8139, 0.574), (4.0, 0.8476, 0.4852)]
    assert reader.notes == [f"{tmp_path}/summary.csv:4: has 3 values for 6 columns and is left out"]


def test_keras(tmp_path):
    records = records_from(tmp_path / "run", reader_for(written(tmp_path, "log.csv", KERAS)))
    assert evaluations(records)[-1] == (2, 2.0, {"accuracy": 0.65, "loss": 0.9})
    assert losses(records) == [(1, 1.2, None), (2, 1.0, None)]


def test_mmengine_by_epoch_and_by_iteration(tmp_path):
    path = written(tmp_path, "a/vis_data/scalars.json", MMENGINE)
    assert format_of(tmp_path / "a") == ("mmengine", path)
    records = records_from(tmp_path / "run", reader_for(path), kind="mmengine")
    assert evaluations(records) == [
        (100, 1.0, {"coco/bbox_mAP": 0.21, "coco/bbox_mAP_50": 0.4}),
        (150, 2.0, {"coco/bbox_mAP": 0.27, "coco/bbox_mAP_50": 0.45}),
    ]
    assert losses(records)[0] == (50, 1.91, [0.02])

    path = written(tmp_path, "b/vis_data/scalars.json", MMENGINE_BY_ITERATION)
    records = records_from(tmp_path / "run-b", reader_for(path), kind="mmengine")
    assert evaluations(records) == [(1000, 1000.0, {"aAcc": 80.1, "mIoU": 41.5, "mAcc": 52.0})]
    assert records[-1]["counts"] == "steps"


def test_trainer_state(tmp_path):
    path = written(tmp_path, "checkpoint-200/trainer_state.json", trainer_state(HISTORY))
    assert format_of(tmp_path) == ("trainer_state", path)
    records = records_from(tmp_path / "run", reader_for(path), kind="trainer_state")
    assert evaluations(records) == [
        (100, 1.0, {"accuracy": 0.61, "loss": 1.1}),
        (200, 2.0, {"accuracy": 0.7, "loss": 0.8}),
    ]
    assert losses(records) == [(50, 1.387, [4.8e-06]), (100, 1.201, [4.0e-06]), (200, 0.9, [1.0e-06])]


def test_a_trainer_state_that_is_written_anew_gives_each_entry_once(tmp_path):
    path = tmp_path / "checkpoint-100" / "trainer_state.json"
    reader = TrainerStateLog(lambda: newest([str(tmp_path / "checkpoint-*" / "trainer_state.json")]), "there")
    assert reader.read() == []
    written(tmp_path, "checkpoint-100/trainer_state.json", trainer_state(HISTORY[:3]))
    assert len(reader.read()) == 3
    path.write_text(trainer_state(HISTORY[:3])[:-40])  # while it is being written
    os.utime(path, (1, 1))
    assert reader.read() == []
    with pytest.raises(LogError, match="not valid JSON"):
        reader.read(at_end=True)
    written(tmp_path, "checkpoint-200/trainer_state.json", trainer_state(HISTORY))
    assert [row.values["step"] for row in reader.read()] == [200, 200]

    # A run that resumes at step 100 has the history up to there, and another one after it.
    again = [*HISTORY[:3], HISTORY[3] | {"loss": 0.95}]
    written(tmp_path, "checkpoint-300/trainer_state.json", trainer_state(again))
    assert [row.values["loss"] for row in reader.read()] == [0.95]


def test_json_lines_with_objects_in_objects_and_bare_nan(tmp_path):
    text = (
        '{"epoch": 1, "val": {"top1": 0.5, "loss": NaN}, "mode": "x"}\n\n{"epoch": 2, "val": {"top1": 0.6, "loss": 1}}'
    )
    records = records_from(tmp_path / "run", reader_for(written(tmp_path, "a.jsonl", text)))
    assert [m["top1"] for _, _, m in evaluations(records)] == [0.5, 0.6]  # the last line is whole, though it has no end


def test_tensorboard(tmp_path):
    pytest.importorskip("tensorboard")
    log = tmp_path / "tb"
    event_file(
        log / "events.out.tfevents.1700000000.host.1.0",
        [
            (1000.0, 50, "train/loss", 1.5),
            (1010.0, 62, "val/acc", 0.5),
            (1010.0, 62, "epoch", 0.0),
            (1020.0, 125, "val/acc", 0.625),
            (1020.0, 125, "epoch", 1.0),
        ],
    )
    assert format_of(log) == ("tensorboard", log)
    reader = reader_for(log)
    rows = reader.read()
    assert [row.wall for row in rows][:2] == [1000.0, 1010.0]
    event_file(log / "events.out.tfevents.1700000099.host.1.0", [(1030.0, 188, "val/acc", 0.75)])
    assert [row.values for row in reader.read()] == [{"step": 188, "val/acc": 0.75}]
    assert reader.read() == []
    records = records_from(tmp_path / "run", reader_for(log))
    assert evaluations(records) == [(62, 1.0, {"acc": 0.5}), (125, 2.0, {"acc": 0.625}), (188, 2.0, {"acc": 0.75})]


def test_a_damaged_event_file_is_a_fault_in_words(tmp_path):
    pytest.importorskip("tensorboard")
    path = tmp_path / "events.out.tfevents.1.host"
    event_file(path, [(1.0, 1, "val/acc", 0.5), (2.0, 2, "val/acc", 0.6)])
    path.write_bytes(path.read_bytes()[:-7])  # torn: what is whole is read
    assert [row.values["step"] for row in reader_for(path).read()] == [1]


def test_without_tensorboard_the_way_out_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(LogError, match=r"pip install 'jorge-tune\[tensorboard\]'"):
        open_log(MetricsSection(from_="tensorboard"), tmp_path, None)


def test_printed_lines_by_several_expressions(tmp_path):
    reader = StdoutLog((r"Epoch: \[(?P<epoch>\d+)\]", r"Acc@1 (?P<top1>[\d.]+) Acc@5 (?P<top5>[\d.]+)"))
    reader.feed("Epoch: [0]  [ 0/10] loss 2.3\n\x1b[1mTest:\x1b[0m  Acc@1 76.", clock=1.0)
    assert reader.read() == []
    reader.feed("130 Acc@5 92.862\r\nEpoch: [1]\rEpoch: [2]\nTest: Acc@1 80.0 Acc@5 95.0", clock=2.0)
    (row,) = reader.read()
    assert (row.values, row.clock) == ({"epoch": "0", "top1": "76.130", "top5": "92.862"}, 2.0)
    assert [row.values["epoch"] for row in reader.read(at_end=True)] == ["2"]


def test_lines_are_read_as_they_grow_and_a_torn_one_waits(tmp_path):
    path = tmp_path / "a.csv"
    reader = CsvLog(lambda: path if path.exists() else None, str(path))
    assert reader.read() == []
    path.write_text("epoch,val_acc\n1,0.5\n2,0.")
    assert [row.values for row in reader.read()] == [{"epoch": "1", "val_acc": "0.5"}]
    assert reader.read() == []
    with path.open("a") as file:
        file.write("75\n3,0.8")
    assert [row.values["val_acc"] for row in reader.read()] == ["0.75"]
    assert reader.read(at_end=True) == []  # 0.8 may have been 0.85
    assert reader.notes == [f"{path}:4: the last line has no end and is left out"]


def test_a_log_that_is_written_anew_gives_each_row_once(tmp_path):
    path = tmp_path / "metrics.csv"
    reader = CsvLog(lambda: path, str(path))
    path.write_text("epoch,val_acc\n1,0.5\n2,0.6\n")
    assert len(reader.read()) == 2
    path.write_text("epoch,val_acc\n1,0.5\n2,0.6\n3,0.7\n")  # as Lightning does at each flush
    assert [row.values["epoch"] for row in reader.read()] == ["3"]
    path.write_text("epoch,val_acc,val_loss\n1,0.5,\n2,0.6,\n3,0.7,\n4,0.8,1.0\n")  # with one column more
    assert [row.values["epoch"] for row in reader.read()] == ["4"]


def test_what_an_earlier_stretch_wrote_is_skipped_and_a_new_log_is_not(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"epoch": 1, "val_acc": 0.5}\n')
    reader = JsonLinesLog(lambda: path, str(path))
    assert [row.values["epoch"] for row in reader.skip()] == [1]
    with path.open("a") as file:
        file.write('{"epoch": 2, "val_acc": 0.6}\n')
    assert [row.values["epoch"] for row in reader.read()] == [2]

    reader = JsonLinesLog(lambda: path, str(path))
    reader.skip()
    path.write_text('{"epoch": 1, "val_acc": 0.5}\n')  # a script that starts anew writes the same row again
    assert [row.values["epoch"] for row in reader.read()] == [1]


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.csv", "", "is empty"),
        ("a.csv", "epoch,acc,acc\n1,2,3\n", "the column 'acc' is there twice"),
        ("a.csv", "1,2\n3,4\n", "must name the columns, got '1,2'"),
        ("a.csv", "epoch,acc\n1,2,3\n", ":2: has 3 values for 2 columns"),
        ("a.csv", "epoch,val_acc\nx,0.5\n", ":2: epoch must be a number of 0 or more, got 'x'"),
        ("a.csv", "acc,val_acc\n1,0.5\n", ":2: has neither a step nor an epoch"),
        ("a.csv", "step,val_acc\n1.5,0.5\n", ":2: step must be a whole number, got 1.5"),
        ("a.jsonl", '{"epoch": 1, "val_acc": 0.5}\n{"epoch": 2, "val\n{"epoch": 3}\n', ":2: not valid JSON"),
        ("a.jsonl", '{"epoch": 1, "epoch": 2}\n{"epoch": 1, "epoch": 2}\n', "its format is not known"),
        ("a.jsonl", '{"epoch": 1}\n[1]\n', ":2: must be an object, got [1]"),
        ("trainer_state.json", '{"log_history": 3}', "log_history must be a list, got 3"),
        ("a.log", "just some words\n", "its format is not known"),
        ("a.bin", "a\0b", "is a binary file"),
        ("a.csv", "epoch,val_acc\n1,0.5\n2,0.6\n1,0.5\n", ":4: the epoch goes back from 2 to 1"),
        ("a.csv", "epoch,val_acc\n1,0.5\n1,0.6\n", ":3: a second value of acc for epoch 1"),
        (
            "a.csv",
            "epoch,val_top1\n1,78.4\n",
            ":2: top1 must be a fraction for top1, at most 1, got 78.4 (78.4 looks like",
        ),
        ("a.csv", "epoch,val_acc,acc/val\n1,0.5,0.6\n", ":2: two columns give the validation part's acc"),
    ],
)
def test_a_log_that_cannot_be_read_is_told_in_one_sentence(tmp_path, name, content, words):
    path = written(tmp_path, name, content)
    with pytest.raises(LogError) as error:
        records_from(tmp_path / "run", reader_for(path), metric="top1")
    assert words in str(error.value)
    assert "\n" not in str(error.value)


def test_a_log_with_bytes_that_are_no_text_is_told(tmp_path):
    path = tmp_path / "a.csv"
    path.write_bytes(b"epoch,val_acc\n1,\xff\n")
    with pytest.raises(LogError, match=r"a\.csv:2: must be UTF-8 text, got the byte 0xff"):
        reader_for(path).read()


def test_a_directory_without_a_log_says_what_was_looked_for(tmp_path):
    with pytest.raises(LogError, match=r"no log is here or below; looked for trainer_state\.json; "):
        format_of(tmp_path)
    with pytest.raises(LogError, match="there is no such file or directory"):
        format_of(tmp_path / "x")


def test_a_log_that_goes_back_after_a_resume_counts_the_later_rows(tmp_path):
    text = "epoch,val_acc\n1,0.1\n2,0.2\n3,0.3\n2,0.25\n3,0.35\n"
    records = records_from(tmp_path / "run", reader_for(written(tmp_path, "a.csv", text)), may_go_back=True)
    assert [(epoch, m["acc"]) for _, epoch, m in evaluations(records)] == [(1.0, 0.1), (2.0, 0.25), (3.0, 0.35)]
