"""The retry policy, by cause."""

from __future__ import annotations

import json

import pytest

from jorge_tune.study.jobs.client import ProcessEnd
from jorge_tune.study.jobs.faults import FIRST, MOST_STARTS, Reach, Starts, decide, starts_from_json, too_many
from jorge_tune.study.jobs.job import cause_of, was_busy


@pytest.mark.parametrize(
    ("ended", "cause"),
    [
        (ProcessEnd("interrupted", "stopped by SIGTERM"), "preempted"),
        (ProcessEnd("killed", "killed by SIGKILL"), "killed"),
        (ProcessEnd("killed", "killed by SIGKILL out of memory", out_of_memory=True), "out of memory"),
        (ProcessEnd("failed", "CUDA out of memory", out_of_memory=True), "out of memory"),
        (ProcessEnd("failed", "data/x: there is no such directory", input_error=True), "bad input"),
        (ProcessEnd("failed", "ValueError: singular"), "broke off"),
        (ProcessEnd("failed", "runs/0: the run broke off: OSError: [Errno 28] No space left on device"), "disk full"),
        (ProcessEnd("failed", "OSError: [Errno 122] Disk quota exceeded", input_error=True), "disk full"),
    ],
)
def test_the_cause_is_read_off_the_end(ended, cause):
    assert cause_of(ended) == cause


def test_what_is_killed_or_preempted_is_resumed():
    for cause in ("killed", "preempted"):
        assert decide(cause, FIRST, "killed by SIGKILL").action == "again"


def test_memory_gets_one_more_try_alone():
    first = decide("out of memory", FIRST, "CUDA out of memory")
    assert first.action == "again alone"
    second = decide("out of memory", Starts(in_vain=2, out_of_memory=1), "CUDA out of memory")
    assert second.action == "fail"
    assert "out of memory again" in second.reason


def test_what_raises_fails_its_trial_and_what_cannot_work_stops_the_study():
    assert decide("broke off", FIRST, "ValueError: singular") == ("fail", "ValueError: singular")
    for cause in ("bad input", "disk full"):
        assert decide(cause, FIRST, "why") == ("stop the study", "why")
    assert decide("bad input", FIRST, "why", own_recipe=True) == ("fail", "why")
    assert decide("disk full", FIRST, "why", own_recipe=True).action == "stop the study"


def test_five_starts_in_a_row_may_be_in_vain_and_no_more():
    starts = Starts()
    for _ in range(MOST_STARTS):
        starts = starts.another(Reach(0, 40))
        assert not starts.spent
    starts = starts.another(Reach(0, 40))
    assert starts.spent
    assert too_many(starts, "killed by SIGKILL") == (
        "5 starts in a row ended without a new record (the last: killed by SIGKILL)"
    )


@pytest.mark.parametrize("further", [Reach(0, 41), Reach(1, 0)])
def test_a_new_record_begins_the_count_anew(further):
    starts = Starts()
    for _ in range(MOST_STARTS):
        starts = starts.another(Reach(0, 40))
    starts = starts.another(further)
    assert starts.in_vain == 1
    for _ in range(MOST_STARTS - 1):
        starts = starts.another(further)
    assert not starts.spent
    assert starts.another(further).spent


def test_records_that_only_repeat_what_was_there_are_no_progress():
    """Each try trains 40 steps again and dies before its checkpoint: the same records come, none is new."""
    starts = Starts().another(Reach(0, 0))
    for _ in range(MOST_STARTS):
        starts = starts.another(Reach(0, 40))
    assert starts.in_vain == MOST_STARTS
    assert starts.another(Reach(0, 40)).spent


def test_the_first_start_waits_for_nothing_and_later_ones_longer():
    pauses, starts = [], Starts()
    for _ in range(MOST_STARTS):
        starts = starts.another(Reach())
        pauses.append(starts.pause)
    assert pauses == [0, 1, 2, 4, 8]


def test_starts_travel_as_plain_data():
    starts = Starts(in_vain=3, reach=Reach(1, 50), out_of_memory=1, changes=("alone",))
    assert starts_from_json(json.loads(json.dumps(starts.to_json()))) == starts


def test_a_folder_in_other_hands_is_no_fault():
    assert was_busy(ProcessEnd("failed", "runs/0: another process is training in it; wait", input_error=True))
    assert not was_busy(ProcessEnd("failed", "runs/0: holds another run", input_error=True))
