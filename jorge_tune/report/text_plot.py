"""The median curves of a comparison drawn with characters, for a terminal."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

from jorge_tune.compare.comparison import Comparison
from jorge_tune.compare.curves import AXIS_TITLES, Axis, Curve, contender_curves, interesting_range
from jorge_tune.compare.verdict import show_amount, show_value
from jorge_tune.recipe.render import number
from jorge_tune.recipe.schedule import lr_factor, total_steps
from jorge_tune.recipe.schema import Recipe

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


_WIDTH, _HEIGHT = 60, 10
_DECADES = 3  # rates below a thousandth of the highest are drawn on the lowest row
_STEPS_PER_EPOCH = 100  # for drawing only: the shape does not depend on it
_BEFORE, _AFTER, _BOTH = "o", "#", "@"


def lr_curves(before: Recipe, after: Recipe) -> str:
    """Both recipes' learning rates over the training, on a logarithmic scale of three decades."""
    curves = [_sampled_curve(before), _sampled_curve(after)]
    highest = max(max(curve) for curve in curves)
    columns = [[_row(rate, highest) for rate in curve] for curve in curves]
    labels = {
        row: number(float(f"{highest * 10 ** (-_DECADES * row / (_HEIGHT - 1)):.1e}")) for row in range(0, _HEIGHT, 3)
    }
    lines = [f"learning rate   {_BEFORE} before   {_AFTER} after   {_BOTH} both"]
    for row in range(_HEIGHT):
        marks = [_mark(old == row, new == row) for old, new in zip(*columns, strict=True)]
        lines.append(f"{labels.get(row, ''):>8} |{''.join(marks)}".rstrip())
    end = f"{after.steps} steps" if after.steps is not None else f"{after.epochs} epochs"
    return "\n".join([*lines, " " * 9 + "+" + "-" * _WIDTH, " " * 9 + "0" + end.rjust(_WIDTH)])


def _sampled_curve(recipe: Recipe) -> list[float]:
    """The rate in the middle of each of the plot's columns."""
    factor: Callable[[int], float] = lr_factor(recipe, _STEPS_PER_EPOCH)
    length = total_steps(recipe, _STEPS_PER_EPOCH)
    steps = (int((column + 0.5) / _WIDTH * length) for column in range(_WIDTH))
    return [recipe.optimizer.lr * factor(step) for step in steps]


def _row(rate: float, highest: float) -> int:
    if rate <= highest * 10**-_DECADES:
        return _HEIGHT - 1
    return round(-math.log10(rate / highest) / _DECADES * (_HEIGHT - 1))


def _mark(old: bool, new: bool) -> str:
    if old and new:
        return _BOTH
    return _BEFORE if old else _AFTER if new else " "
