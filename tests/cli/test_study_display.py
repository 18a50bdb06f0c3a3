"""What the progress of a study says, line by line."""

from __future__ import annotations

import math

import pytest

from jorge_tune.cli.study_display import Board, display_lines
from jorge_tune.study.jobs.client import ProcessEnd
from jorge_tune.study.runs_directory import Presence
from jorge_tune.study.status import read_status
from jorge_tune.study.study import add_point
from jorge_tune.study.study_schema import Objective
from jorge_tune.study.worker import WorkerMessage
from tests.study.empty_runs import EmptyRuns
from tests.study.searched import Searched, by_rate, searched


def reader(made, opened=None):
    opened = opened or made.opened
    return lambda: read_status(opened, made.runs(opened.plan.name), made.address)


@pytest.fixture
def board(tmp_path):
    return Board("search", reader(searched(tmp_path)))


def test_a_finished_trial_is_a_line_with_the_best_so_far(board):
    assert board.line_of(WorkerMessage("0.05", 2, "complete"), 0) == "[4/4] search: trial 2: 0.05 (best 0.2, trial 1)"
    assert board.line_of(WorkerMessage("0.2", 1, "complete"), 1) == "[4/4] search: trial 1: 0.2, the best so far"
    assert board.line_of(WorkerMessage("at evaluation 3", 3, "pruned"), 0).startswith(
        "[4/4] search: trial 3: pruned, at evaluation 3"
    )


def test_what_is_no_end_of_a_trial_is_told_as_it_is(board):
    assert board.line_of(WorkerMessage("began", 2, "running"), 0) is None
    assert (
        board.line_of(WorkerMessage("stopped by SIGTERM", 2, "waiting"), 0)
        == "search: trial 2: stopped by SIGTERM (waiting)"
    )
    assert board.line_of(WorkerMessage("waiting for the database"), None) == "waiting for the database"
    assert board.line_of(WorkerMessage("ended and is started again"), 1) == "worker 2: ended and is started again"


@pytest.mark.parametrize(
    ("end", "plan", "words"),
    [
        ("finished", {}, "ended without a number"),
        ("diverged", {}, "diverged"),
        (
            "finished",
            {"objective": Objective(kind="epochs-to-target", metric="top1", target=0.9)},
            "did not reach the target",
        ),
    ],
)
def test_an_infinite_value_is_told_in_words(tmp_path, end, plan, words):
    made = Searched(tmp_path, trials=1, **plan)
    made.work(made.opened, EmptyRuns(lambda *run: math.nan, lambda name, start: ProcessEnd(end, "")))
    line = Board("search", reader(made)).line_of(WorkerMessage("-inf", 0, "complete"), 0)
    assert line == f"[1/1] search: trial 0: {words}"


def test_a_confirmations_trial_is_named_by_contender_and_seed_and_has_no_best(tmp_path):
    made = searched(tmp_path, confirm_seeds=(1, 2))
    confirmation = made.confirmation()
    made.work(confirmation, EmptyRuns(by_rate))
    board = Board("confirmation", reader(made, confirmation))
    lines = [board.line_of(WorkerMessage("0.1", number, "complete"), 0) for number in range(6)]
    named = sorted(line.partition("(")[2].partition(")")[0] for line in lines)
    assert named == [f"{who}, seed {seed}" for who in ("baseline", "best", "bootstrap") for seed in (1, 2)]
    assert not any("best 0" in line or "the best so far" in line for line in lines)


def test_the_display_shows_a_bar_the_best_and_every_running_trial_within_80_columns(tmp_path):
    made = Searched(tmp_path, trials=4)
    add_point(made.opened, {"lr_factor": 2.0, "refresh_interval": 5})
    made.opened.enter(made.runs("small"))
    with Presence(made.runs("small"), "w-one") as worker:
        made.opened.claims.claim("w-one", 4)
        worker.update(trial=0, seed=0, epoch=1.5, metrics={"loss": 0.25, "top1": 0.9321})
        lines = display_lines("search", reader(made)())
    assert lines == [
        "search [------------------------] 0/4, 4 remaining",
        "  trial 0  seed 0  epoch 1.5  loss 0.25  top1 0.9321",
    ]
    assert all(len(line) <= 80 for line in lines)


def test_the_display_of_a_finished_search(board):
    assert display_lines("search", board.look()) == [
        "search [########################] 4/4, 0 remaining  ETA 0:00:00",
        "  best 0.2, trial 1: lr 0.2, refresh_interval 10",
    ]
