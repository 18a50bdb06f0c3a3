"""Median lines with their range over seeds, from lines of single runs."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

from jorge_tune.measure.statistics import median
from jorge_tune.reporting.curves import Axis, ContenderCurves


class Banded(NamedTuple):
    """Points of a median line, and the lowest and highest value at each."""

    x: list[float]
    y: list[float]
    low: list[float]
    high: list[float]


def banded_curves(contender: ContenderCurves, axis: Axis) -> Banded:
    """A contender's median over epochs, with the range of its runs at those epochs, against one of the axes."""
    found: dict[float, list[float]] = defaultdict(list)
    for run in contender.runs:
        for epoch, value in zip(run.epochs, run.values, strict=True):
            found[round(epoch, 6)].append(value)
    at = [found[epoch] for epoch in contender.median.epochs]
    line = contender.median
    return Banded(list(line.along(axis)), list(line.values), [min(v) for v in at], [max(v) for v in at])


def banded(lines: Sequence[Sequence[tuple[float, float]]]) -> Banded:
    """Median and range at every place that more than half of the lines have."""
    found: dict[float, list[float]] = defaultdict(list)
    for line in lines:
        for x, y in line:
            found[round(x, 6)].append(y)
    places = sorted(x for x, values in found.items() if 2 * len(values) > len(lines))
    at = [found[x] for x in places]
    return Banded(places, [median(v) for v in at], [min(v) for v in at], [max(v) for v in at])
