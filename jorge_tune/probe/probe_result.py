"""What a probe found, as values, and what may be concluded from it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from jorge_tune.optim import Parabola, fit_parabola
from jorge_tune.records import Outcome

OVERSHOT = 0.5
"""Below this x* a step passes the far side of its own batch's parabola and raises the loss it was computed from."""

Direction = Literal["raise", "lower", "keep"]


@dataclass(frozen=True)
class StepReading:
    """The losses along one step: on its own batch, and on batches that it has not seen.

    `step` counts the steps before it; `lr` is the rate that it was made at; `warming` says that the schedule's warm-up
    was not over. `missing` says why there is nothing where both lines are None.
    """

    step: int
    lr: float
    warming: bool
    own: LineReading | None = None
    fresh: LineReading | None = None
    missing: str = ""


@dataclass(frozen=True)
class Suggestion:
    """Which way the readings point, if any way, and why; which steps it rests on, and why not on the others."""

    direction: Direction | None
    reason: str
    rests_on: tuple[int, ...]
    left_out: tuple[str, ...]


@dataclass(frozen=True)
class ProbeResult:
    """A probe of one recipe: its readings, and the rates around them. `outcome` is "finished" if all was walked.

    `schedule` holds the recipe's rate at some steps of the whole training (a `gen` recipe's base), `walked` the rates
    in force at each step that was made.
    """

    recipe: str
    optimizer: str
    seed: int
    device: str
    points: int
    outcome: Outcome
    reason: str
    readings: tuple[StepReading, ...]
    schedule: tuple[tuple[int, float], ...]
    walked: tuple[tuple[int, float], ...]
    notes: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain data, with the suggestion."""
        return {**asdict(self), "suggestion": asdict(suggestion(self.readings))}


def suggestion(readings: Sequence[StepReading]) -> Suggestion:
    """What the readings after the warm-up say together; nothing where they cannot be trusted.

    A rate is too high where the step passes the far side of its own batch's parabola at any reading, beyond doubt. It
    is too low where even the greedy optimum on fresh batches is above it at every reading, beyond doubt: that optimum
    lies below the rates that train well, because it counts this step's loss alone. Between the two nothing is said
    against it.
    """
    doubts = [(reading, _doubt(reading)) for reading in readings]
    usable = [reading for reading, doubt in doubts if not doubt]
    rests_on = tuple(reading.step for reading in usable)
    left_out = tuple(f"step {reading.step}: {doubt}" for reading, doubt in doubts if doubt)
    overshot = [r.step for r in usable if r.own and r.own.interval and r.own.interval.high < OVERSHOT]
    direction: Direction | None = None
    if not usable:
        reason = "no reading supports one" if readings else "no step was read"
    elif overshot:
        where = ", ".join(map(str, overshot))
        direction, reason = "lower", f"the step passes the far side of its own batch's parabola at step {where}"
    elif all(r.fresh and r.fresh.interval and r.fresh.interval.low > 1 for r in usable):
        direction, reason = "raise", "even the greedy optimum on fresh batches is above the rate"
    else:
        direction, reason = "keep", "no reading is beyond doubt too high or too low"
    return Suggestion(direction, reason, rests_on, left_out)


def _doubt(reading: StepReading) -> str:
    """Why a reading supports no suggestion."""
    if reading.missing:
        return reading.missing
    if reading.warming:
        return "the warm-up is not over, so the rate is not the recipe's own"
    for name, line in (("its own batch", reading.own), ("fresh batches", reading.fresh)):
        if line is None:
            return f"there are no losses on {name}"
        if line.fit is None:
            return f"the loss on {name} is not finite at three points"
        if line.fit.optimum is None:
            return f"on {name}: {line.fit.sentence}"
        if line.interval is None:
            share = f"{100 * line.agreeing:.0f} %"
            return f"on {name} only {share} of the resampled fits have a lowest point ahead"
    return ""


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
