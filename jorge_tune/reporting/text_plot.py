"""The median curves of a comparison drawn with characters, for a terminal."""

from __future__ import annotations

import itertools

from jorge_tune.measure.comparison import Comparison
from jorge_tune.reporting.curves import AXIS_TITLES, Axis, Curve, contender_curves, interesting_range
from jorge_tune.reporting.summary import show_amount, show_value

_MARKS = "o*+x@%&"
_MARGIN = 9


def text_plot(comparison: Comparison, axis: Axis, *, width: int = 72, height: int = 14) -> str:
    """Each contender's median curve in its own mark, the target dotted; "" where nothing was read."""
    contenders = contender_curves(comparison)
    found = interesting_range(contenders, comparison.lower_is_better)
    if found is None:
        return ""
    shown = [comparison.target.value, *(value for contender in contenders for value in contender.median.values)]
    low, high = max(found[0], min(shown)), min(found[1], max(shown))
    low, high = min(low, comparison.target.value), max(high, comparison.target.value)
    if low == high:
        return ""
    columns = width - _MARGIN - 1
    right = max((x for contender in contenders for x in contender.median.along(axis)), default=0.0) or 1.0

    def row_of(value: float) -> int:
        return round((high - value) / (high - low) * (height - 1))

    canvas = [[" "] * columns for _ in range(height)]
    canvas[row_of(comparison.target.value)] = list(". " * columns)[:columns]
    for mark, contender in zip(_cycle(len(contenders)), contenders, strict=True):
        for column, value in _sampled(contender.median, axis, right, columns):
            if low <= value <= high:
                canvas[row_of(value)][column] = mark
    labels = {0: show_value(high), height - 1: show_value(low)}
    labels[row_of(comparison.target.value)] = show_value(comparison.target.value)
    lines = [f"{labels.get(row, ''):>{_MARGIN - 1}} |{''.join(cells).rstrip()}" for row, cells in enumerate(canvas)]
    end = f"{AXIS_TITLES[axis]} {show_amount(right)}"
    lines.append(" " * _MARGIN + "+" + "-" * columns)
    lines.append(" " * _MARGIN + "0" + end.rjust(columns))
    names = [f"{mark} {contender.name}" for mark, contender in zip(_cycle(len(contenders)), contenders, strict=True)]
    return "\n".join([f"{comparison.metric} ({comparison.part}):  " + "   ".join([*names, ". target"]), *lines])


def _cycle(number: int) -> list[str]:
    return [_MARKS[index % len(_MARKS)] for index in range(number)]


def _sampled(curve: Curve, axis: Axis, right: float, columns: int) -> list[tuple[int, float]]:
    """The curve's value in each column between its first and last point, on straight lines between points."""
    points = list(zip(curve.along(axis), curve.values, strict=True))
    sampled = []
    for column in range(columns):
        x = column / (columns - 1) * right
        for (x0, y0), (x1, y1) in itertools.pairwise(points):
            if x0 <= x <= x1:
                share = (x - x0) / (x1 - x0) if x1 > x0 else 1.0
                sampled.append((column, y0 + share * (y1 - y0)))
                break
    return sampled
