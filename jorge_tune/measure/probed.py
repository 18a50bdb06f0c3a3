"""What a probe found, as values, and what may be concluded from it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from jorge_tune.measure.line import LineReading
from jorge_tune.records import Outcome

OVERSHOT = 0.5
"""Below this x* a step passes the far side of its own batch's parabola and raises the loss it was computed from."""

Direction = Literal["raise", "lower", "keep"]


@dataclass(frozen=True)
class Reading:
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
class Probed:
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
    readings: tuple[Reading, ...]
    schedule: tuple[tuple[int, float], ...]
    walked: tuple[tuple[int, float], ...]
    notes: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain data, with the suggestion."""
        return {**asdict(self), "suggestion": asdict(suggestion(self.readings))}


def suggestion(readings: Sequence[Reading]) -> Suggestion:
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


def _doubt(reading: Reading) -> str:
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
