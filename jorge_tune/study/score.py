"""A run's number: what the objective makes of its evaluations, and what pruners are shown meanwhile."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from jorge_tune.compare.run_directories import Evaluation, Run
from jorge_tune.recipe.metrics import is_lower_better
from jorge_tune.study.study_schema import Objective


@dataclass(frozen=True)
class RunScore:
    """One run's value. The objective's worst where it diverged or missed the target."""

    seed: int
    value: float
    diverged: bool


def score_run(run: Run, objective: Objective, *, seconds: Callable[[int], float] | None = None) -> RunScore:
    """The value of a run that has ended.

    It is read on the part that selects: the validation part, where there is one.

    Args:
        run: finished or diverged.
        objective: what is asked of it.
        seconds: of so many steps, by an exclusive calibration; None: training seconds as they were measured.
    """
    diverged = run.outcome == "diverged"
    readings = selecting(run)
    return RunScore(run.seed, objective.worst if diverged else _value(readings, objective, seconds), diverged)


def selecting(run: Run) -> tuple[Evaluation, ...]:
    """The readings by which a run is judged."""
    return run.evaluations.get("validation") or run.evaluations.get("test", ())


def median_of(scores: Sequence[RunScore], objective: Objective) -> float:
    """A trial's value; of an even number the mean of the middle two, and the worst where that has an infinity."""
    return statistics.median([score.value for score in scores]) if scores else objective.worst


def is_decided(scores: Sequence[RunScore], objective: Objective, seeds: int) -> bool:
    """Whether the median over that many seeds is the worst, whatever the remaining ones bring."""
    return 2 * sum(score.value == objective.worst for score in scores) >= seeds + seeds % 2


def shown_to_pruners(readings: Sequence[Evaluation], objective: Objective) -> float:
    """The last reading as a pruner of this direction may compare it.

    The metric itself; for an objective that is a way to a target, how far the best reading is away from the target,
    in units of the metric, 0 once it is reached.
    """
    values = [reading.metrics.get(objective.metric, math.nan) for reading in readings]
    if not objective.needs_target:
        return objective.worst if math.isnan(values[-1]) else values[-1]
    assert objective.target is not None
    sign = _sign(objective)
    gaps = [sign * (objective.target - value) for value in values if not math.isnan(value)]
    return max(0.0, min(gaps, default=math.inf))


def has_value(readings: Sequence[Evaluation], objective: Objective) -> bool:
    """Whether later readings cannot change a value that the readings so far decide: the target is reached."""
    return objective.needs_target and _hit(readings, objective) is not None


def _value(readings: Sequence[Evaluation], objective: Objective, seconds: Callable[[int], float] | None) -> float:
    if objective.needs_target:
        hit = _hit(readings, objective)
        if hit is None:
            return objective.worst
        if objective.kind == "epochs-to-target":
            return hit.epoch
        return hit.train_seconds if seconds is None else seconds(hit.step)
    values = [reading.metrics.get(objective.metric, math.nan) for reading in readings]
    if objective.kind == "final":
        return objective.worst if not values or math.isnan(values[-1]) else values[-1]
    read = [value for value in values if not math.isnan(value)]
    return (min if objective.lower_is_better else max)(read, default=objective.worst)


def _hit(readings: Sequence[Evaluation], objective: Objective) -> Evaluation | None:
    """The first reading that reaches the target."""
    assert objective.target is not None
    sign, target = _sign(objective), objective.target
    return next((r for r in readings if sign * r.metrics.get(objective.metric, math.nan) >= sign * target), None)


def _sign(objective: Objective) -> int:
    """1 for a metric of which more is better."""
    return -1 if is_lower_better(objective.metric) else 1
