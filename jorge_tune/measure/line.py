"""Losses along one step, sample by sample: their parabola, and how far another draw of samples would move it.

Legend: x a multiple of the step, 1 being the step as made; x* where the parabola is lowest, so lr* = x* lr.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from jorge_tune.optim import Parabola, fit_parabola

RESAMPLES = 1000
CONFIDENCE = 0.95
_MIN_POINTS = 3


class Interval(NamedTuple):
    """The middle 95 % of resampled values."""

    low: float
    high: float


@dataclass(frozen=True)
class LineReading:
    """Mean losses at each x, the parabola through them, and what resampling makes of x*.

    `fit` is None where fewer than three means are finite; `interval` where fewer than 95 % of the resamples were convex
    descents, whose share is `agreeing`.
    """

    multipliers: tuple[float, ...]
    losses: tuple[float, ...]
    samples: int
    batches: int
    fit: Parabola | None
    interval: Interval | None
    agreeing: float

    @property
    def optimum(self) -> float | None:
        """x*, where there is one."""
        return None if self.fit is None else self.fit.optimum


def read_line(multipliers: Sequence[float], losses: Tensor, *, batches: int) -> LineReading:
    """Fit the means, then the means of `RESAMPLES` draws of as many samples with replacement.

    Args:
        multipliers: x of each column.
        losses: float64 on the CPU, from float32 arithmetic.
        batches: From how many batches the samples are.

    Shape:
        losses: (samples, points).
    """
    means = losses.mean(0)
    kept = [i for i, mean in enumerate(means.tolist()) if math.isfinite(mean)]
    whole = LineReading(tuple(multipliers), tuple(means.tolist()), len(losses), batches, None, None, 0.0)
    if len(kept) < _MIN_POINTS:
        return whole
    xs = [multipliers[i] for i in kept]
    fit = _fit(xs, means[kept])
    optima = [again.optimum for again in _resampled(xs, losses[:, kept])]
    found = sorted(optimum for optimum in optima if optimum is not None)
    agreeing = len(found) / len(optima)
    interval = None
    if agreeing >= CONFIDENCE and fit.optimum is not None:
        tail = (1 - CONFIDENCE) / 2
        interval = Interval(found[int(tail * len(found))], found[-1 - int(tail * len(found))])
    return replace(whole, fit=fit, interval=interval, agreeing=agreeing)


def _resampled(xs: list[float], losses: Tensor) -> list[Parabola]:
    """Fits of fresh draws, from a generator of its own."""
    generator = torch.Generator().manual_seed(0)
    count = len(losses)
    draws = (torch.randint(count, (count,), generator=generator) for _ in range(RESAMPLES))
    return [_fit(xs, losses[draw].mean(0)) for draw in draws]


def _fit(xs: list[float], means: Tensor) -> Parabola:
    resolution = torch.finfo(torch.float32).eps * float(means.abs().max())
    return fit_parabola(xs, means.tolist(), resolution=resolution)
