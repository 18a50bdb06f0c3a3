"""Run directories read back: what belongs together, what is refused, what a killed run leaves."""

import math
import re

import pytest

from jorge_tune.compare.run_directories import find_runs, read_contenders, read_run
from jorge_tune.errors import RunDirectoryError
from tests.compare.race_folders import JORGE, write_run


def test_a_finished_run(tmp_path):
    run = read_run(write_run(tmp_path / "run", [0.5, 0.9], seed=3, test=0.88, device="cpu"))
    assert (run.seed, run.outcome, run.ended, run.device) == (3, "finished", True, "cpu")
    assert [reading.epoch for reading in run.evaluations["validation"]] == [1.0, 2.0]
    assert run.evaluations["validation"][1].metrics["top1"] == 0.9
    assert run.evaluations["test"][0].metrics == {"top1": 0.88}
    assert run.train_seconds == 4.0


def test_a_killed_run_with_a_torn_last_line_is_not_ended(tmp_path):
    folder = write_run(tmp_path / "run", [0.5, 0.9], outcome=None)
    with (folder / "records.jsonl").open("a") as records:
        records.write('{"kind": "evaluation", "st')
    run = read_run(folder)
    assert run.outcome is None
    assert not run.ended
    assert len(run.evaluations["validation"]) == 2


def test_nan_comes_back_as_nan(tmp_path):
    run = read_run(write_run(tmp_path / "run", [math.nan]))
    assert math.isnan(run.evaluations["validation"][0].metrics["top1"])


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda folder: (folder / "records.jsonl").unlink(), "not a run directory"),
        (lambda folder: (folder / "recipe.yaml").unlink(), "no recipe.yaml"),
        (lambda folder: (folder / "records.jsonl").write_text("[1]\n"), "records.jsonl:1: not a record"),
        (
            lambda folder: (folder / "records.jsonl").write_text('{"kind": "evaluation", "step": 1}\n'),
            "records.jsonl:1: not a record: epoch is missing",
        ),
        (lambda folder: (folder / "recipe.yaml").write_bytes(b"\xff"), "recipe.yaml: must be UTF-8 text"),
        (
            lambda folder: (folder / "recipe.yaml").write_text("version: 1\nname: x\n"),
            "recipe.yaml:1:1: .*is missing; ",
        ),
    ],
)
def test_damaged_folders_are_refused_by_name(tmp_path, spoil, message):
    folder = write_run(tmp_path / "run", [0.5])
    spoil(folder)
    with pytest.raises(RunDirectoryError, match=message) as caught:
        read_run(folder)
    assert str(folder) in str(caught.value)


def test_an_environment_file_that_is_no_json_is_no_obstacle(tmp_path):
    folder = write_run(tmp_path / "run", [0.5])
    (folder / "environment.json").write_text("{")
    assert read_run(folder).device is None


def test_seeds_in_order_of_number(tmp_path):
    for seed in (10, 2, 0):
        write_run(tmp_path / f"seed-{seed}", [0.5], seed=seed)
    assert [path.name for path in find_runs(tmp_path)] == ["seed-0", "seed-2", "seed-10"]


def test_no_runs_below(tmp_path):
    with pytest.raises(RunDirectoryError, match="no run directory here or below"):
        find_runs(tmp_path)


def test_a_folder_of_two_recipes_is_two_contenders(tmp_path):
    for seed in (0, 1):
        write_run(tmp_path / "a" / f"seed-{seed}", [0.5], seed=seed)
        write_run(tmp_path / "b" / f"seed-{seed}", [0.6], name="jorge", optimizer=JORGE, seed=seed)
    contenders = read_contenders([tmp_path])
    assert [(c.name, [run.seed for run in c.runs]) for c in contenders] == [("sgd", [0, 1]), ("jorge", [0, 1])]


def test_run_folders_side_by_side_are_one_contender(tmp_path):
    paths = [write_run(tmp_path / f"seed-{seed}", [0.5], seed=seed) for seed in (1, 0)]
    (contender,) = read_contenders([*paths, paths[0]])
    assert [run.seed for run in contender.runs] == [0, 1]


def test_one_recipe_in_two_places_is_two_contenders_with_numbers(tmp_path):
    paths = [write_run(tmp_path / place / "seed-0", [0.5]) for place in ("old", "new")]
    assert [c.name for c in read_contenders(paths)] == ["sgd-1", "sgd-2"]
    assert [c.name for c in read_contenders([tmp_path / "old", tmp_path / "new"])] == ["sgd-1", "sgd-2"]


def test_a_seed_twice_in_one_contender_is_refused(tmp_path):
    for place in ("old", "new"):
        write_run(tmp_path / place / "seed-0", [0.5])
    with pytest.raises(RunDirectoryError, match="a second run of seed 0"):
        read_contenders([tmp_path])


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ('"train_seconds":2.0', '"train_seconds":"nan"'),
        ('"train_seconds":2.0', '"train_seconds":null'),
        ('"epoch":1.0', '"epoch":"nan"'),
        ('"seed":0', '"seed":null'),
        ('"seed":0', '"sed":0'),
        ('"part":"validation"', '"part":null'),
    ],
)
def test_a_damaged_record_is_one_message_and_no_crash(tmp_path, before, after):
    records = write_run(tmp_path / "run", [0.5, 0.7]) / "records.jsonl"
    assert before in records.read_text()
    records.write_text(records.read_text().replace(before, after))
    with pytest.raises(RunDirectoryError, match=re.escape(str(records))):
        read_run(tmp_path / "run")
