"""What an objective makes of a run's evaluations, and what pruners see meanwhile."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from jorge_tune.compare.run_directories import Evaluation, Run
from jorge_tune.study.score import RunScore, has_value, is_decided, median_of, score_run, shown_to_pruners
from jorge_tune.study.study_schema import Objective
from tests.training.small_recipes import digits_recipe

BEST, FINAL = Objective(kind="best", metric="top1"), Objective(kind="final", metric="top1")
LOSS = Objective(kind="best", metric="loss")
EPOCHS = Objective(kind="epochs-to-target", metric="top1", target=0.5)
SECONDS = Objective(kind="time-to-target", metric="loss", target=0.9)


def readings(*values: tuple[float, float]) -> tuple[Evaluation, ...]:
    return tuple(
        Evaluation(10 * number, float(number), 2.0 * number, {"top1": top1, "loss": loss})
        for number, (top1, loss) in enumerate(values, start=1)
    )


def run_of(*values: tuple[float, float], outcome: str = "finished", part: str = "validation") -> Run:
    evaluations = {part: readings(*values)}
    if part == "validation":
        evaluations["test"] = readings((0.99, 0.01))
    return Run(Path("run"), digits_recipe(), 3, outcome, "", 1.0, evaluations, "cpu")


COURSE = ((0.3, 1.0), (0.6, 0.8), (0.5, 0.9))


@pytest.mark.parametrize(
    ("objective", "value"), [(BEST, 0.6), (FINAL, 0.5), (LOSS, 0.8), (EPOCHS, 2.0), (SECONDS, 4.0)]
)
def test_a_finished_run_has_its_value_and_the_test_part_no_say(objective, value):
    assert score_run(run_of(*COURSE), objective) == RunScore(3, value, False)


def test_a_run_without_a_validation_part_is_judged_by_its_test_part():
    assert score_run(run_of(*COURSE, part="test"), BEST).value == 0.6


@pytest.mark.parametrize(("objective", "worst"), [(BEST, -math.inf), (LOSS, math.inf), (EPOCHS, math.inf)])
def test_a_diverged_run_is_the_worst_whatever_it_reached(objective, worst):
    assert score_run(run_of(*COURSE, outcome="diverged"), objective) == RunScore(3, worst, True)


def test_a_miss_is_infinite_and_no_divergence():
    assert score_run(run_of((0.1, 2.0), (0.2, 1.5)), EPOCHS) == RunScore(3, math.inf, False)


def test_what_is_not_a_number_is_worst():
    assert score_run(run_of((0.3, 1.0), (math.nan, math.nan)), FINAL).value == -math.inf
    assert score_run(run_of((0.3, 1.0), (math.nan, math.nan)), BEST).value == 0.3
    assert score_run(run_of((math.nan, math.nan)), EPOCHS).value == math.inf


def test_seconds_come_from_a_calibration_where_there_is_one():
    assert score_run(run_of(*COURSE), SECONDS, seconds=lambda steps: 0.5 * steps).value == 20 * 0.5
    assert score_run(run_of(*COURSE), EPOCHS, seconds=lambda steps: 0.5 * steps).value == 2.0


def scores(*values: float) -> list[RunScore]:
    return [RunScore(seed, value, False) for seed, value in enumerate(values)]


def test_a_trials_value_is_the_median_over_its_seeds():
    assert median_of(scores(0.3, 0.9, 0.5), BEST) == 0.5
    assert median_of(scores(3.0, math.inf, 5.0), EPOCHS) == 5.0
    assert median_of(scores(3.0, math.inf), EPOCHS) == math.inf
    assert median_of([], BEST) == -math.inf


@pytest.mark.parametrize(
    ("values", "seeds", "decided"),
    [
        ((math.inf,), 1, True),
        ((math.inf,), 2, True),
        ((math.inf,), 3, False),
        ((math.inf, math.inf), 3, True),
        ((math.inf, 2.0), 4, False),
        ((math.inf, 2.0, math.inf), 4, True),
        ((1.0,), 1, False),
    ],
)
def test_remaining_seeds_are_spared_only_where_they_cannot_matter(values, seeds, decided):
    assert is_decided(scores(*values), EPOCHS, seeds) is decided
    if decided:
        best = [RunScore(9, 0.0, False)] * (seeds - len(values))
        assert median_of([*scores(*values), *best], EPOCHS) == math.inf


def test_pruners_see_the_metric_itself():
    assert shown_to_pruners(readings(*COURSE), BEST) == 0.5
    assert shown_to_pruners(readings((0.3, 1.0), (math.nan, 1.0)), BEST) == -math.inf


def test_of_a_way_to_a_target_pruners_see_what_is_missing():
    assert shown_to_pruners(readings((0.3, 1.0)), EPOCHS) == pytest.approx(0.2)
    assert shown_to_pruners(readings((0.3, 1.0), (0.2, 1.2)), EPOCHS) == pytest.approx(0.2)
    assert shown_to_pruners(readings(*COURSE), EPOCHS) == 0
    assert shown_to_pruners(readings((0.3, 1.2)), SECONDS) == pytest.approx(0.3)
    assert not has_value(readings((0.3, 1.0)), EPOCHS)
    assert has_value(readings(*COURSE), EPOCHS)
    assert not has_value(readings(*COURSE), BEST)
