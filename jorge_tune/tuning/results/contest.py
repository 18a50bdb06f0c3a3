"""Confirmation runs set against each other, seed by seed: gains with intervals and exact p-values.

A value that is infinite is the worst there is (diverged, or the target missed); gains are medians, so that a few of
them do no harm.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from jorge_tune.measure import statistics
from jorge_tune.measure.statistics import Spread

_RESAMPLES = 10_000
_TAIL = 0.025


@dataclass(frozen=True)
class Contender:
    """One recipe under confirmation, and its objective's value per seed."""

    name: str
    values: Mapping[int, float]

    @property
    def spread(self) -> Spread | None:
        """Median and range over its seeds; None before the first."""
        return statistics.spread(list(self.values.values()))


@dataclass(frozen=True)
class Gain:
    """A contender against another on the seeds both have; a positive gain speaks for it.

    `median` of the paired gains with the middle 95 % of resampled medians; `p` of the exact signed-rank test, from
    six pairs, and `p_corrected` by Holm over the contests that were held beside the question that was asked. `leaning`
    is 1 where the test's ranks speak for the contender, -1 against it.
    """

    contender: str
    against: str
    pairs: int
    median: float
    low: float
    high: float
    wins: int
    ties: int
    losses: int
    p: float | None
    p_corrected: float | None = None
    leaning: int = 0


def gains(
    contenders: Sequence[Contender], *, lower_is_better: bool, question: tuple[str, str] | None = None
) -> tuple[Gain, ...]:
    """Each contender against every earlier one with which it shares a seed.

    Args:
        contenders: in an order in which earlier ones are what later ones are measured by.
        lower_is_better: of their values.
        question: the one contest (contender, against) that was asked about before anything ran, so that its p-value
            needs no correction; those of the others are corrected for their number.
    """
    found = [
        gain
        for index, contender in enumerate(contenders)
        for other in contenders[:index]
        if (gain := gain_of(contender, other, lower_is_better=lower_is_better)) is not None
    ]
    others = [gain for gain in found if (gain.contender, gain.against) != question]
    corrected = iter(statistics.holm([gain.p for gain in others]))
    return tuple(replace(gain, p_corrected=next(corrected) if gain in others else gain.p) for gain in found)


def gain_of(contender: Contender, other: Contender, *, lower_is_better: bool) -> Gain | None:
    """One contest; None where no seed pairs them."""
    sign = -1 if lower_is_better else 1
    seeds = sorted(contender.values.keys() & other.values.keys())
    paired = [sign * d for d in statistics.differences([(contender.values[s], other.values[s]) for s in seeds])]
    if not paired:
        return None
    low, high = interval(paired)
    return Gain(
        contender=contender.name,
        against=other.name,
        pairs=len(paired),
        median=statistics.median(paired),
        low=low,
        high=high,
        wins=sum(value > 0 for value in paired),
        ties=sum(value == 0 for value in paired),
        losses=sum(value < 0 for value in paired),
        p=statistics.signed_rank_p(paired),
        leaning=statistics.signed_rank_sign(paired),
    )


def interval(values: Sequence[float]) -> tuple[float, float]:
    """The middle 95 % of the medians of resampled values; the same values give the same interval."""
    generator = random.Random(0)
    medians = sorted(statistics.median(generator.choices(values, k=len(values))) for _ in range(_RESAMPLES))
    outside = int(_TAIL * _RESAMPLES)
    return medians[outside], medians[-1 - outside]
