"""Curves drawn with characters, for a terminal: of a comparison, of two learning rates, of a calibration."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from jorge_tune.compare.comparison import Comparison
from jorge_tune.compare.curves import AXIS_TITLES, Curve, CurveAxis, contender_curves, interesting_range
from jorge_tune.compare.verdict import show_amount, show_value
from jorge_tune.recipe.render import number
from jorge_tune.recipe.schedule import lr_factor, total_steps
from jorge_tune.recipe.schema import Recipe

if TYPE_CHECKING:
    from jorge_tune.calibration.calibrate_recipe import RecipeCalibration

_MARKS = "o*+x@%&"


class TextCanvas:
    """Characters in rows and columns, and a linear scale from `low` in the last row to `high` in the first.

    Args:
        low: the value of the last row.
        high: the value of the first row, above `low`.
        columns: of the part that is drawn on.
        rows: likewise.
        margin: characters to the left of it, for the scale.
    """

    def __init__(self, low: float, high: float, *, columns: int, rows: int, margin: int = 9) -> None:
        self._low, self._high = low, high
        self.columns, self.rows, self._margin = columns, rows, margin
        self._cells = [[" "] * columns for _ in range(rows)]

    def row_of(self, value: float) -> int:
        """The row of a value; what lies outside the scale goes to the nearest one."""
        row = round((self._high - value) / (self._high - self._low) * (self.rows - 1))
        return min(max(row, 0), self.rows - 1)

    def level(self, value: float) -> None:
        """A dotted line across."""
        self._cells[self.row_of(value)] = list(". " * self.columns)[: self.columns]

    def put(self, column: int, value: float, mark: str, *, over: Mapping[str, str] | None = None) -> None:
        """A mark at a value; `over` names the mark for both where it meets another one."""
        cells = self._cells[self.row_of(value)]
        cells[column] = (over or {}).get(cells[column], mark)

    def lines(self, labels: Mapping[int, str]) -> list[str]:
        """The rows, those of `labels` with a text beside them, and the line of the lower axis."""
        drawn = [
            f"{labels.get(row, ''):>{self._margin - 1}} |{''.join(cells)}".rstrip()
            for row, cells in enumerate(self._cells)
        ]
        return [*drawn, self.below("+" + "-" * self.columns)]

    def below(self, text: str) -> str:
        """A line of text under the drawn part."""
        return " " * self._margin + text


def race_curves(comparison: Comparison, axis: CurveAxis, *, width: int = 72, height: int = 14) -> str:
    """Each contender's median curve in its own mark, the target dotted; "" where nothing was read."""
    contenders = contender_curves(comparison)
    target = comparison.target.value
    found = interesting_range(contenders, comparison.lower_is_better)
    if found is None:
        return ""
    shown = [target, *(value for contender in contenders for value in contender.median.values)]
    low, high = min(max(found[0], min(shown)), target), max(min(found[1], max(shown)), target)
    if low == high:
        return ""

    canvas = TextCanvas(low, high, columns=width - 10, rows=height)
    canvas.level(target)
    right = max((x for contender in contenders for x in contender.median.along(axis)), default=0.0) or 1.0
    marks = [_MARKS[place % len(_MARKS)] for place in range(len(contenders))]
    for mark, contender in zip(marks, contenders, strict=True):
        for column, value in _sampled(contender.median, axis, right, canvas.columns):
            if low <= value <= high:
                canvas.put(column, value, mark)

    labels = {0: show_value(high), height - 1: show_value(low), canvas.row_of(target): show_value(target)}
    names = [f"{mark} {contender.name}" for mark, contender in zip(marks, contenders, strict=True)]
    title = f"{comparison.metric} ({comparison.part}):  " + "   ".join([*names, ". target"])
    end = f"{AXIS_TITLES[axis]} {show_amount(right)}"
    return "\n".join([title, *canvas.lines(labels), canvas.below("0" + end.rjust(canvas.columns))])


def _sampled(curve: Curve, axis: CurveAxis, right: float, columns: int) -> list[tuple[int, float]]:
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


_DECADES = 3  # rates below a thousandth of the highest are drawn on the lowest row
_STEPS_PER_EPOCH = 100  # for drawing only: the shape does not depend on it
_BEFORE, _AFTER, _BOTH = "o", "#", "@"


def lr_curves(before: Recipe, after: Recipe, *, width: int = 70, height: int = 10) -> str:
    """Both recipes' learning rates over the training, on a logarithmic scale of three decades."""
    columns = width - 10
    rates = {mark: _sampled_rates(recipe, columns) for mark, recipe in ((_BEFORE, before), (_AFTER, after))}
    highest = max(max(curve) for curve in rates.values())

    canvas = TextCanvas(-_DECADES, 0.0, columns=columns, rows=height)
    for mark, curve in rates.items():
        for column, rate in enumerate(curve):
            decades = math.log10(rate / highest) if rate > 0 else -math.inf
            canvas.put(column, max(decades, -_DECADES), mark, over={_BEFORE: _BOTH})

    scale = {row: highest * 10 ** (-_DECADES * row / (height - 1)) for row in range(0, height, 3)}
    labels = {row: number(float(f"{rate:.1e}")) for row, rate in scale.items()}
    title = f"learning rate   {_BEFORE} before   {_AFTER} after   {_BOTH} both"
    end = f"{after.steps} steps" if after.steps is not None else f"{after.epochs} epochs"
    return "\n".join([title, *canvas.lines(labels), canvas.below("0" + end.rjust(columns))])


def _sampled_rates(recipe: Recipe, columns: int) -> list[float]:
    """The rate in the middle of each of the plot's columns."""
    factor: Callable[[int], float] = lr_factor(recipe, _STEPS_PER_EPOCH)
    length = total_steps(recipe, _STEPS_PER_EPOCH)
    steps = (int((column + 0.5) / columns * length) for column in range(columns))
    return [recipe.optimizer.lr * factor(step) for step in steps]


def interval_curve(calibrated: RecipeCalibration, *, width: int = 72, height: int = 12) -> str:
    """Time against interval, the interval's axis logarithmic; the budget dotted, the chosen interval as X."""
    from jorge_tune.calibration import calibration_words as words  # learning rates are drawn without it

    cost, base = words.cost_of(calibrated), words.base_seconds(calibrated)
    intervals = words.curve_intervals(calibrated)
    budget, right = base * (1 + calibrated.overhead), math.log(intervals[-1])
    columns = width - 11
    values = [base * cost.at(math.exp(column / (columns - 1) * right)).value for column in range(columns)]
    low, high = min(base, values[-1]), max(*values, budget)

    canvas = TextCanvas(low, high, columns=columns, rows=height, margin=10)
    canvas.level(budget)
    for column, value in enumerate(values):
        canvas.put(column, value, "o")
    title = f"time of a step:  o predicted   . {words.baseline_name(calibrated)} {100 * calibrated.overhead:+g} %"
    chosen = calibrated.choice.interval
    if chosen is not None:
        canvas.put(round(math.log(chosen) / right * (columns - 1)), base * cost.at(chosen).value, "X")
        title += f"   X interval {chosen}"

    seconds = {0: high, height - 1: low, canvas.row_of(budget): budget}
    labels = {row: words.show_seconds(value) for row, value in seconds.items()}
    return "\n".join([title, *canvas.lines(labels), canvas.below(_interval_ticks(intervals, columns))])


def _interval_ticks(intervals: Sequence[int], columns: int) -> str:
    """The intervals under their columns, those that fit."""
    cells = [" "] * columns
    free = 0
    for interval in intervals:
        text = str(interval)
        place = min(round(math.log(interval) / math.log(intervals[-1]) * (columns - 1)), columns - len(text))
        if place >= free:
            cells[place : place + len(text)] = text
            free = place + len(text) + 1
    return " " + "".join(cells).rstrip() + "  interval"
