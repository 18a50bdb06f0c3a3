"""Learning-rate curves drawn with characters, for a terminal."""

from __future__ import annotations

import math
from collections.abc import Callable

from jorge_tune.recipe.render import number
from jorge_tune.recipe.schedule import lr_factor, total_steps
from jorge_tune.recipe.schema import Recipe

_WIDTH, _HEIGHT = 60, 10
_DECADES = 3  # rates below a thousandth of the highest are drawn on the lowest row
_STEPS_PER_EPOCH = 100  # for drawing only: the shape does not depend on it
_BEFORE, _AFTER, _BOTH = "o", "#", "@"


def lr_curves(before: Recipe, after: Recipe) -> str:
    """Both recipes' learning rates over the training, on a logarithmic scale of three decades."""
    curves = [_sampled(before), _sampled(after)]
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


def _sampled(recipe: Recipe) -> list[float]:
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
