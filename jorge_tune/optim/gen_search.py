"""The first learning rate: an exponential grid along one step's line, refined by a parabola (GeN, C.4.2)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

from jorge_tune.optim.gen_probe import Loss, fit_losses
from jorge_tune.optim.parabola import Parabola

RATES = tuple(10.0**k for k in range(-6, 3))
_REFINED = (10**-0.5, 10**0.5)  # how far the parabola may move the grid's best: half the way to its neighbours


class Search(NamedTuple):
    """The rate found, if any lowers the loss; the finite losses by rate; the parabola that refined it."""

    rate: float | None
    losses: dict[float, float]
    fit: Parabola | None


def search_rate(measure: Callable[[Sequence[float]], dict[float, Loss]]) -> Search:
    """The best of `RATES`, then the lowest point of the parabola through the losses at -rate, 0 and rate.

    Args:
        measure: Losses at learning rates along the line; 0 is where the step starts.
    """
    found = measure((0.0, *RATES))
    finite = {rate: loss for rate, loss in found.items() if math.isfinite(loss.value)}
    losses = {rate: loss.value for rate, loss in finite.items()}
    best = min(losses, key=losses.__getitem__, default=0.0)
    if best == 0 or 0.0 not in finite:
        return Search(None, losses, None)
    mirrored = measure((-best,))[-best]
    fit = None
    if math.isfinite(mirrored.value):
        fit = fit_losses({-1: mirrored, 0: finite[0.0], 1: finite[best]})
    if fit is None or fit.optimum is None:
        return Search(best, losses, fit)
    return Search(best * min(max(fit.optimum, _REFINED[0]), _REFINED[1]), losses, fit)
