"""The result of a probe as values, the suggestion that follows from it, and the fit of one line of losses.

Legend: x multiplies the step (x = 1 is the step as it was made); x* is where the parabola through the losses is lowest.
"""

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
"""With x* below this, the step overshoots: it raises the loss of the very batch that it was computed from."""

Direction = Literal["raise", "lower", "keep"]


@dataclass(frozen=True)
class StepReading:
    """The losses along one step.

    Attributes:
        step: The number of steps before this one.
        lr: The learning rate of the step.
        warming: Whether the schedule's warm-up was not over yet.
        own: The losses on the step's own batch.
        fresh: The losses on batches that the step was not computed from.
        missing: Why both are None.
    """

    step: int
    lr: float
    warming: bool
    own: LineReading | None = None
    fresh: LineReading | None = None
    missing: str = ""


@dataclass(frozen=True)
class Suggestion:
    """Which way to change the learning rate; None if the readings support no suggestion.

    Attributes:
        direction: Raise it, lower it, or keep it.
        reason: Why.
        rests_on: The steps that the suggestion rests on.
        left_out: The other steps, each with the reason.
    """

    direction: Direction | None
    reason: str
    rests_on: tuple[int, ...]
    left_out: tuple[str, ...]


@dataclass(frozen=True)
class ProbeResult:
    """A probe of one recipe: its readings, and the learning rates around them.

    Attributes:
        outcome: "finished" if the probe reached its last step; `reason` says why it did not.
        schedule: The recipe's rate at some steps of the whole training; for a `gen` recipe, that of its base schedule.
        walked: The rate in force at each step that was made.
        notes: What was left out.
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
    """The suggestion that all trustworthy readings after the warm-up support together.

    Lower the rate if, at any reading and beyond doubt, the step raises the loss of its own batch. Raise it if, at every
    reading and beyond doubt, even the greedy optimum on fresh batches is above it: that optimum lies below the rates
    that train well, because it counts the loss of this step alone. Between the two, the readings give no reason for a
    change.
    """
    doubts = [(reading, _doubt(reading)) for reading in readings]
    usable = [reading for reading, doubt in doubts if not doubt]
    rests_on = tuple(reading.step for reading in usable)
    left_out = tuple(f"step {reading.step}: {doubt}" for reading, doubt in doubts if doubt)

    overshot = [r.step for r in usable if r.own and r.own.interval and r.own.interval.high < OVERSHOT]
    direction: Direction | None = None
    if not usable:
        reason = "no reading supports a suggestion" if readings else "no step was read"
    elif overshot:
        where = ", ".join(map(str, overshot))
        direction, reason = "lower", f"the step is too long even for its own batch at step {where}"
    elif all(r.fresh and r.fresh.interval and r.fresh.interval.low > 1 for r in usable):
        direction, reason = "raise", "even the greedy optimum on fresh batches is longer than the step"
    else:
        direction, reason = "keep", "no reading shows beyond doubt that the step is too long or too short"
    return Suggestion(direction, reason, rests_on, left_out)


def _doubt(reading: StepReading) -> str:
    """Why a reading supports no suggestion; empty if it does."""
    if reading.missing:
        return reading.missing
    if reading.warming:
        return "the warm-up is not over, so the rate is not the recipe's own"
    for name, line in (("its own batch", reading.own), ("fresh batches", reading.fresh)):
        if line is None:
            return f"no losses were read on {name}"
        if line.fit is None:
            return f"on {name}, fewer than three points have a finite loss"
        if line.fit.optimum is None:
            return f"on {name}: {line.fit.sentence}"
        if line.samples == 1:
            return f"on {name}, the loss is known for whole batches only, so there is no interval"
        if line.interval is None:
            share = f"{100 * line.agreeing:.0f} %"
            return f"on {name}, only {share} of the resampled fits have a lowest point ahead"
    return ""


RESAMPLES = 1000
CONFIDENCE = 0.95
_MIN_POINTS = 3


class Interval(NamedTuple):
    """The range of the middle 95 % of resampled values."""

    low: float
    high: float


@dataclass(frozen=True)
class LineReading:
    """Mean losses at each x, the parabola through them, and the interval of x* by resampling.

    Attributes:
        multipliers: x of each point.
        losses: The mean loss at each point.
        samples: The number of samples.
        batches: The number of batches that they came from.
        fit: The parabola; None if fewer than three means are finite.
        interval: The interval of x*; None if fewer than 95 % of the resampled fits have a lowest point ahead, or if
            there is a single sample, the mean of a batch whose loss cannot be divided.
        agreeing: The share of the resampled fits that have one.
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
        """x*; None if the parabola has no lowest point ahead."""
        return None if self.fit is None else self.fit.optimum


def read_line(multipliers: Sequence[float], losses: Tensor, *, batches: int) -> LineReading:
    """Fit a parabola to the mean losses, then to the means of `RESAMPLES` draws of the samples with replacement.

    Args:
        multipliers: x of each column.
        losses: float64 on the CPU, computed in float32.
        batches: The number of batches that the samples came from.

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
    ordered = sorted(optimum for optimum in optima if optimum is not None)
    agreeing = len(ordered) / len(optima)

    interval = None
    if len(losses) > 1 and agreeing >= CONFIDENCE and fit.optimum is not None:
        tail = (1 - CONFIDENCE) / 2
        interval = Interval(ordered[int(tail * len(ordered))], ordered[-1 - int(tail * len(ordered))])
    return replace(whole, fit=fit, interval=interval, agreeing=agreeing)


def _resampled(xs: list[float], losses: Tensor) -> list[Parabola]:
    """The fits of resampled losses; the generator has its own seed."""
    generator = torch.Generator().manual_seed(0)
    count = len(losses)
    draws = (torch.randint(count, (count,), generator=generator) for _ in range(RESAMPLES))
    return [_fit(xs, losses[draw].mean(0)) for draw in draws]


def _fit(xs: list[float], means: Tensor) -> Parabola:
    """Fit a parabola, told that float32 arithmetic resolves no less than eps times the largest mean."""
    resolution = torch.finfo(torch.float32).eps * float(means.abs().max())
    return fit_parabola(xs, means.tolist(), resolution=resolution)
