"""The curves of a comparison as plain numbers: one curve per run, and the median curve of each contender."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from jorge_tune.compare.comparison import Comparison
from jorge_tune.compare.run_directories import Evaluation
from jorge_tune.compare.statistics import median

CurveAxis = Literal["epoch", "train_seconds"]
AXIS_TITLES: dict[CurveAxis, str] = {"epoch": "epoch", "train_seconds": "training seconds"}


@dataclass(frozen=True)
class Curve:
    """One curve: entry i of each list belongs to point i."""

    label: str
    epochs: list[float]
    seconds: list[float]
    values: list[float]

    def along(self, axis: CurveAxis) -> list[float]:
        """The points' positions on one axis."""
        return self.epochs if axis == "epoch" else self.seconds


@dataclass(frozen=True)
class ContenderCurves:
    """The curves of one contender's runs, and their median. Its place in the comparison decides its colour."""

    name: str
    place: int
    runs: list[Curve]
    median: Curve


def contender_curves(comparison: Comparison) -> list[ContenderCurves]:
    """The curves of every contender that has some, in the order of the comparison."""
    found = [_curves(comparison, place) for place in range(len(comparison.standings))]
    return [curves for curves in found if curves.runs]


def not_finite(comparison: Comparison) -> list[str]:
    """One sentence per contender with runs whose last value is not finite: their curves end early or are missing."""
    sentences = []
    for standing in comparison.standings:
        measured = {score.seed for score in standing.scores}
        last = [
            readings[-1]
            for run in standing.contender.runs
            if run.seed in measured and (readings := run.evaluations.get(comparison.part))
        ]
        bad = sum(not _finite(reading, comparison.metric) for reading in last)
        if bad:
            sentences.append(
                f"{standing.name}: {bad} of {len(last)} runs did not end with a finite {comparison.metric}."
            )
    return sentences


def interesting_range(curves: list[ContenderCurves], lower_is_better: bool) -> tuple[float, float] | None:
    """The range of values to show first, without the steep beginning; None where all values are equal."""
    values = sorted(value for contender in curves for run in contender.runs for value in run.values)
    if not values or values[0] == values[-1]:
        return None
    fifth = len(values) // 5
    low, high = (values[0], values[-1 - fifth]) if lower_is_better else (values[fifth], values[-1])
    margin = 0.06 * (high - low) or 0.01 * abs(high)
    return low - margin, high + margin


def _curves(comparison: Comparison, place: int) -> ContenderCurves:
    standing = comparison.standings[place]
    measured = {score.seed for score in standing.scores}
    runs = []
    for run in standing.contender.runs:
        readings = [r for r in run.evaluations.get(comparison.part, ()) if _finite(r, comparison.metric)]
        if run.seed in measured and readings:
            runs.append(_curve(f"{standing.name}, seed {run.seed}", readings, comparison.metric))
    return ContenderCurves(standing.name, place, runs, _median_curve(standing.name, runs))


def _finite(reading: Evaluation, metric: str) -> bool:
    return math.isfinite(reading.metrics.get(metric, math.nan))


def _curve(label: str, readings: list[Evaluation], metric: str) -> Curve:
    return Curve(
        label,
        [reading.epoch for reading in readings],
        [reading.train_seconds for reading in readings],
        [reading.metrics[metric] for reading in readings],
    )


def _median_curve(name: str, runs: list[Curve]) -> Curve:
    """Median value and median seconds at each epoch that more than half of the runs reached."""
    points: dict[float, list[tuple[float, float]]] = defaultdict(list)
    for run in runs:
        for epoch, seconds, value in zip(run.epochs, run.seconds, run.values, strict=True):
            points[round(epoch, 6)].append((seconds, value))
    epochs = sorted(epoch for epoch, found in points.items() if 2 * len(found) > len(runs))
    return Curve(
        name,
        epochs,
        [median([seconds for seconds, _ in points[epoch]]) for epoch in epochs],
        [median([value for _, value in points[epoch]]) for epoch in epochs],
    )


class Banded(NamedTuple):
    """The points of a median curve, and the lowest and highest value at each of them."""

    x: list[float]
    y: list[float]
    low: list[float]
    high: list[float]


def banded_curves(contender: ContenderCurves, axis: CurveAxis) -> Banded:
    """A contender's median curve along one axis, with the range of its runs at the same epochs."""
    found: dict[float, list[float]] = defaultdict(list)
    for run in contender.runs:
        for epoch, value in zip(run.epochs, run.values, strict=True):
            found[round(epoch, 6)].append(value)
    at = [found[epoch] for epoch in contender.median.epochs]
    line = contender.median
    return Banded(list(line.along(axis)), list(line.values), [min(v) for v in at], [max(v) for v in at])


def banded(lines: Sequence[Sequence[tuple[float, float]]]) -> Banded:
    """Median and range at every x that more than half of the lines have."""
    found: dict[float, list[float]] = defaultdict(list)
    for line in lines:
        for x, y in line:
            found[round(x, 6)].append(y)
    places = sorted(x for x, values in found.items() if 2 * len(values) > len(lines))
    at = [found[x] for x in places]
    return Banded(places, [median(v) for v in at], [min(v) for v in at], [max(v) for v in at])
