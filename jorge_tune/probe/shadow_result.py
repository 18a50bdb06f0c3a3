"""What a shadow probe read, as values, as a table and as one sentence.

Legend: w the weights before a step; s the step that the run's optimizer made there; j the step that the recipe's
optimizer would have made, scaled to the length of s. A decrease is loss(w) - loss(w + a s) on a fresh batch, where a is
the length at which the loss was read.
"""

from __future__ import annotations

import json
import math
import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

from jorge_tune.compare.verdict import Table
from jorge_tune.files import write_whole
from jorge_tune.records import portable

RESAMPLES: Final = 2000
CONFIDENCE: Final = 0.95
CAUTION: Final = (
    "This is no forecast: over 11 pairs of a model and a rate on the digits the ratio did not predict the race (rank "
    "correlation with the ratio of epochs to the target -0.02, 10 pairs; studies/shadow)."
)
MIN_READINGS: Final = 5  # fewer give an interval that resampling cannot support


class Decrease(NamedTuple):
    """Mean decrease of the loss on the fresh batches, along both steps, at one length."""

    length: float
    run: float
    recipe: float
    better: int  # fresh batches on which the recipe's step lowered the loss further


@dataclass(frozen=True)
class ShadowReading:
    """One reading. `missing` says why there is nothing to read, where `decreases` is empty.

    `gradient_cosine` compares the gradients of two consecutive batches, `direction_cosine` the same two gradients after
    preconditioning; both are over the preconditioned parameters. `step_cosine` compares the two steps.
    """

    step: int
    lr: float
    batches: int
    loss: float
    decreases: tuple[Decrease, ...] = ()
    gradient_cosine: float | None = None
    direction_cosine: float | None = None
    step_cosine: float | None = None
    missing: str = ""


class Ratio(NamedTuple):
    """How much further the recipe's step lowers the loss than the run's own, over all readings; with its interval."""

    value: float
    low: float | None
    high: float | None
    ahead: int  # readings on which the recipe's step lowered the loss further
    readings: int


@dataclass(frozen=True, kw_only=True)
class ShadowResult:
    """All readings of one run.

    Attributes:
        recipe: Name of the recipe whose optimizer rode along.
        proposed: Name of that optimizer.
        stepped: Class name of the run's own optimizer.
        steps: Steps that were followed.
        every: Steps between two readings.
        readings: The readings, in order.
    """

    recipe: str
    proposed: str
    stepped: str
    steps: int
    every: int
    readings: tuple[ShadowReading, ...]

    @property
    def usable(self) -> tuple[ShadowReading, ...]:
        """The readings that hold decreases."""
        return tuple(reading for reading in self.readings if reading.decreases)

    @property
    def lengths(self) -> tuple[float, ...]:
        """The lengths at which the loss was read."""
        return tuple(decrease.length for decrease in self.usable[0].decreases) if self.usable else ()

    def ratio(self, length: float = 1.0) -> Ratio | None:
        """The recipe's total decrease over the run's own at one length; None where the run's own is not positive.

        The interval holds the middle 95 % of ratios over readings drawn again with replacement; it is left out below
        five readings. A draw in which the run's own steps lower nothing counts as infinite, so `high` may be None.
        """
        pairs = [(d.run, d.recipe) for reading in self.usable for d in reading.decreases if d.length == length]
        value = _ratio_of(pairs)
        if value is None:
            return None
        low, high = _interval_of(pairs)
        return Ratio(value, low, high, sum(recipe > run for run, recipe in pairs), len(pairs))

    def table(self) -> Table:
        """One row for each reading."""
        at = [f"{name} at {length:g}x" for length in self.lengths for name in ("run", self.proposed)]
        headings = ["step", "lr", "loss", *at, "cos(g, g')", "cos(P, P')", "cos(steps)"]
        rows = [[*_cells(reading, len(at))] for reading in self.readings]
        return Table(headings, rows, headings)

    def sentence(self) -> str:
        """What the readings say together, and what they do not."""
        count = len(self.usable)
        if not count:
            reasons = {reading.missing for reading in self.readings}
            why = "; ".join(sorted(reasons)) or f"the run made {self.steps} steps, and the first reading needs more"
            return f"The shadow probe has no reading: {why}."
        ratio = self.ratio()
        if ratio is None:
            return (
                f"On {_count(count, 'reading')} the run's own steps did not lower the loss of fresh batches on the "
                "whole, so there is nothing to compare with: the rate may be too high, or the batches too small."
            )
        top = "no upper bound" if ratio.high is None else f"{ratio.high:.2f}"
        span = "" if ratio.low is None else f" [95 %: {ratio.low:.2f} to {top}]"
        even = (ratio.low or 0.0) <= 1 <= (ratio.high or math.inf)
        doubt = ", so the readings cannot tell the two apart" if even else ""
        return (
            f"A step of {self.proposed}, as long as {self.stepped}'s own, lowered the loss of fresh batches "
            f"{ratio.value:.2f} times as far{span}; it was ahead on {ratio.ahead} of {_count(count, 'reading')}{doubt}."
        )

    def to_json(self) -> dict[str, Any]:
        """Plain data, with the sentence."""
        readings = [
            {**asdict(reading), "decreases": [decrease._asdict() for decrease in reading.decreases]}
            for reading in self.readings
        ]
        ratios = {f"{length:g}": ratio._asdict() if (ratio := self.ratio(length)) else None for length in self.lengths}
        data = {**asdict(self), "readings": readings, "ratios": ratios, "sentence": self.sentence(), "caution": CAUTION}
        return {"shadow": portable(data)}

    def save(self, path: str | Path) -> None:
        """Write the result as JSON; `jorge-tune report PATH` draws it. An existing file is replaced."""
        write_whole(Path(path), json.dumps(self.to_json(), indent=2) + "\n", force=True)


def _ratio_of(pairs: Sequence[tuple[float, float]]) -> float | None:
    run = sum(one for one, _ in pairs)
    return sum(recipe for _, recipe in pairs) / run if run > 0 else None


def _interval_of(pairs: Sequence[tuple[float, float]]) -> tuple[float | None, float | None]:
    if len(pairs) < MIN_READINGS:
        return None, None
    generator = random.Random(0)
    drawn = [_ratio_of(generator.choices(pairs, k=len(pairs))) for _ in range(RESAMPLES)]
    ratios = sorted(math.inf if ratio is None else ratio for ratio in drawn)
    tail = int((1 - CONFIDENCE) / 2 * RESAMPLES)
    low, high = (ratio if math.isfinite(ratio) else None for ratio in (ratios[tail], ratios[-1 - tail]))
    return low, high


def _cells(reading: ShadowReading, width: int) -> list[str]:
    start = [str(reading.step), f"{reading.lr:.3g}"]
    if not reading.decreases:
        return [*start, reading.missing, *["-"] * (width + 3)]
    decreases = [f"{value:.3g}" for one in reading.decreases for value in (one.run, one.recipe)]
    cosines = [reading.gradient_cosine, reading.direction_cosine, reading.step_cosine]
    return [*start, f"{reading.loss:.4g}", *decreases, *("-" if c is None else f"{c:.2f}" for c in cosines)]


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
