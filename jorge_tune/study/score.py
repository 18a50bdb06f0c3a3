"""The value of a run by the objective of its study, and the values that pruners see while it trains."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from jorge_tune.compare.run_directories import Evaluation, Run
from jorge_tune.errors import RunDirectoryError
from jorge_tune.study.study_schema import Objective


@dataclass(frozen=True)
class RunScore:
    """One run's value; the objective's worst if the run diverged or did not reach the target."""

    seed: int
    value: float
    diverged: bool


def score_run(run: Run, objective: Objective, *, seconds: Callable[[int], float] | None = None) -> RunScore:
    """The value of a run that has ended.

    It is read on the validation part if there is one, else on the test part.

    Args:
        run: finished or diverged.
        objective: of the study.
        seconds: gives the seconds of so many steps by a calibration; None takes training seconds as measured.

    Raises:
        RunDirectoryError: the run never measured the objective's metric.
    """
    diverged = run.outcome == "diverged"
    readings = selecting(run)
    if not diverged and readings and not any(objective.metric in reading.metrics for reading in readings):
        has = ", ".join(dict.fromkeys(name for reading in readings for name in reading.metrics))
        raise RunDirectoryError(
            f"{run.folder}: no evaluation has {objective.metric}; the objective needs it; it has {has}"
        )
    return RunScore(run.seed, objective.worst if diverged else _value(readings, objective, seconds), diverged)


def selecting(run: Run) -> tuple[Evaluation, ...]:
    """The readings by which a run is judged."""
    return run.evaluations.get("validation") or run.evaluations.get("test", ())


def median_of(scores: Sequence[RunScore], objective: Objective) -> float:
    """A trial's value, the median of its runs; of an even number, the mean of the middle two."""
    return statistics.median([score.value for score in scores]) if scores else objective.worst


def is_decided(scores: Sequence[RunScore], objective: Objective, seeds: int) -> bool:
    """Whether the median over that many seeds is the worst value, whatever the remaining seeds bring."""
    return 2 * sum(score.value == objective.worst for score in scores) >= seeds + seeds % 2


def shown_to_pruners(readings: Sequence[Evaluation], objective: Objective) -> float:
    """The value that a pruner sees after the last of the readings.

    It is the metric itself. For an objective with a target, it is the distance of the best reading from the target, in
    units of the metric, and 0 once the target is reached.
    """
    values = [reading.metrics.get(objective.metric, math.nan) for reading in readings]
    if not objective.needs_target:
        return objective.worst if math.isnan(values[-1]) else values[-1]

    assert objective.target is not None
    sign = _sign(objective)
    gaps = [sign * (objective.target - value) for value in values if not math.isnan(value)]
    return max(0.0, min(gaps, default=math.inf))


def has_value(readings: Sequence[Evaluation], objective: Objective) -> bool:
    """Whether the readings so far decide the value, since the target is reached."""
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
    """1 if higher values of the metric are better, else -1."""
    return -1 if objective.is_metric_lower_better else 1
