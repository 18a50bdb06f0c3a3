"""Records read while they are written."""

from __future__ import annotations

import pytest

from jorge_tune.errors import RunDirectoryError
from jorge_tune.records import RecordWriter, RunDirectory
from jorge_tune.study.jobs.job import RunFollower


def evaluation(step: int, top1: float, part: str = "validation") -> dict:
    metrics = {"top1": top1, "loss": 1.0}
    return {"kind": "evaluation", "step": step, "epoch": 1.0, "train_seconds": 1.0, "part": part, "metrics": metrics}


def start(step: int) -> dict:
    return {"kind": "start", "step": step, "epoch": 0.0, "train_seconds": 0.0, "seed": 4, "resumed": step > 0}


def end(step: int, outcome: str) -> dict:
    return {"kind": "end", "step": step, "epoch": 1.0, "train_seconds": 1.0, "outcome": outcome, "reason": ""}


def test_only_what_is_new_is_read_and_half_a_line_waits(tmp_path):
    follower, path = RunFollower(tmp_path), RunDirectory(tmp_path).records
    assert not follower.read()
    with RecordWriter(path) as records:
        records.write(start(0))
        assert follower.read()
        assert (follower.seed, follower.furthest, follower.readings) == (4, 1, [])
        records.write(evaluation(10, 0.5))
        with path.open("ab") as file:
            file.write(b'{"kind":"evaluation","st')
    assert follower.read()
    assert [reading.metrics["top1"] for reading in follower.readings] == [0.5]
    assert not follower.read()
    with RecordWriter(path) as records:  # cuts the torn line off
        records.write(evaluation(20, 0.6))
    assert follower.read()
    assert [reading.step for reading in follower.readings] == [10, 20]


def test_a_resumed_run_supersedes_what_it_repeats_but_not_how_far_it_was(tmp_path):
    follower = RunFollower(tmp_path)
    with RecordWriter(RunDirectory(tmp_path).records) as records:
        for record in (start(0), evaluation(10, 0.5), evaluation(20, 0.6), end(20, "interrupted")):
            records.write(record)
        follower.read()
        assert follower.outcome == "interrupted"
        records.write(start(10))
        follower.read()
        assert follower.outcome is None
        assert [reading.step for reading in follower.readings] == [10]
        assert follower.furthest == 21
        records.write(evaluation(20, 0.7))
        records.write(end(20, "finished"))
    follower.read()
    assert [reading.metrics["top1"] for reading in follower.readings] == [0.5, 0.7]
    assert follower.outcome == "finished"


def test_the_part_that_selects_is_the_one_read_first(tmp_path):
    follower = RunFollower(tmp_path)
    with RecordWriter(RunDirectory(tmp_path).records) as records:
        for record in (start(0), evaluation(10, 0.5), evaluation(10, 0.4, "test")):
            records.write(record)
    follower.read()
    assert [reading.metrics["top1"] for reading in follower.readings] == [0.5]


@pytest.mark.parametrize("line", [b"not a record\n", b'{"kind":"evaluation","step":1}\n', b"[1]\n"])
def test_a_damaged_line_is_named(tmp_path, line):
    RunDirectory(tmp_path).records.write_bytes(line)
    with pytest.raises(RunDirectoryError, match=r"records\.jsonl:1: not a record"):
        RunFollower(tmp_path).read()
