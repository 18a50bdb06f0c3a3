"""The paired contest: one contender against another in one quantity, on the seeds that both have.

Comparisons and confirmations share it. A comparison holds one contest each for the epochs to the target, the training
seconds to it and the final value; a confirmation holds one for the objective of its study.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from jorge_tune.compare import statistics
from jorge_tune.compare.statistics import SIGNIFICANT, Spread

_RESAMPLES = 10_000
_TAIL = 0.025


@dataclass(frozen=True)
class SeedValues:
    """One contender's values in one quantity, by seed; infinite where its run diverged or did not reach the target."""

    name: str
    values: Mapping[int, float]

    @property
    def spread(self) -> Spread | None:
        """Median and range over the seeds; None if there is none."""
        return statistics.spread(list(self.values.values()))


@dataclass(frozen=True)
class PairedContest:
    """A contender against another in one quantity.

    `gains` has one value per common seed, in the order of the seeds; a positive gain speaks for the contender.
    `p_corrected` is `p` corrected for the number of contests, by `correct`.
    """

    contender: str
    against: str
    gains: tuple[float, ...]
    p_corrected: float | None = None

    @property
    def pairs(self) -> int:
        """The number of common seeds."""
        return len(self.gains)

    @property
    def wins(self) -> int:
        """The number of seeds on which the contender is better."""
        return sum(gain > 0 for gain in self.gains)

    @property
    def ties(self) -> int:
        """The number of seeds on which the two are level, to ten digits."""
        return sum(gain == 0 for gain in self.gains)

    @property
    def losses(self) -> int:
        """The number of seeds on which the contender is worse."""
        return sum(gain < 0 for gain in self.gains)

    @property
    def is_level(self) -> bool:
        """Whether the two are level on every seed."""
        return not any(self.gains)

    @property
    def median(self) -> float:
        """The median gain."""
        return statistics.median(self.gains)

    @cached_property
    def interval(self) -> tuple[float, float]:
        """The 95 % interval of the median gain; it takes thousands of resamples, so it is made on demand."""
        return interval(self.gains)

    @property
    def low(self) -> float:
        """The lower end of the interval."""
        return self.interval[0]

    @property
    def high(self) -> float:
        """The upper end of the interval."""
        return self.interval[1]

    @cached_property
    def p(self) -> float | None:
        """The p-value of the exact signed-rank test; None if there are too few pairs."""
        return statistics.signed_rank_p(self.gains)

    @cached_property
    def leaning(self) -> int:
        """1 if the ranks of that test speak for the contender, -1 if they speak against it, else 0."""
        return statistics.signed_rank_sign(self.gains)

    @property
    def outcome(self) -> int:
        """1 if the contender won, -1 if it lost, 0 if neither is settled.

        The corrected p-value decides, and the ranks say who is ahead, since few large gains can outweigh many small
        losses. With too few pairs for a p-value, a contender has won if it is better on more than half of the seeds and
        worse on none.
        """
        if self.p_corrected is not None:
            return self.leaning if self.p_corrected <= SIGNIFICANT else 0

        if min(self.wins, self.losses) > 0 or 2 * max(self.wins, self.losses) <= self.pairs:
            return 0
        return 1 if self.wins else -1

    def turned(self) -> PairedContest:
        """The same contest as the other contender sees it."""
        gains = tuple(-gain for gain in self.gains)
        return replace(self, contender=self.against, against=self.contender, gains=gains)

    def counts(self) -> dict[str, Any]:
        """Counts and p-values as plain data."""
        return {
            "wins": self.wins,
            "ties": self.ties,
            "losses": self.losses,
            "p": self.p,
            "p_corrected": self.p_corrected,
            "leaning": self.leaning,
        }


def pair(contender: SeedValues, other: SeedValues, *, lower_is_better: bool) -> PairedContest | None:
    """Compare a contender with another on their common seeds; None if they have none."""
    seeds = sorted(contender.values.keys() & other.values.keys())
    if not seeds:
        return None

    sign = -1 if lower_is_better else 1
    differences = statistics.differences([(contender.values[seed], other.values[seed]) for seed in seeds])
    return PairedContest(contender.name, other.name, tuple(sign * difference for difference in differences))


def round_robin(
    contenders: Sequence[SeedValues], *, lower_is_better: bool, question: tuple[str, str] | None = None
) -> tuple[PairedContest, ...]:
    """Compare each contender with every earlier one that shares a seed with it.

    Args:
        contenders: in an order in which earlier ones are what later ones are measured by.
        lower_is_better: the direction of their values.
        question: see `correct`.
    """
    contests = [
        contest
        for index, contender in enumerate(contenders)
        for other in contenders[:index]
        if (contest := pair(contender, other, lower_is_better=lower_is_better)) is not None
    ]
    return tuple(correct(contests, question=question))


def correct(contests: Sequence[PairedContest], *, question: tuple[str, str] | None = None) -> list[PairedContest]:
    """Correct the p-values for the number of tests, by Holm's method.

    Args:
        contests: all in one quantity. A contest that is there from both sides is one test.
        question: the one contest (contender, against) that was asked about before anything ran. Its p-value needs no
            correction, and it does not count for the others.
    """
    tests = {
        frozenset((contest.contender, contest.against)): contest.p
        for contest in contests
        if (contest.contender, contest.against) != question
    }
    corrected = dict(zip(tests, statistics.holm(list(tests.values())), strict=True))
    return [
        replace(contest, p_corrected=corrected.get(frozenset((contest.contender, contest.against)), contest.p))
        for contest in contests
    ]


def interval(values: Sequence[float]) -> tuple[float, float]:
    """The middle 95 % of the medians of resampled values; the same values give the same interval."""
    generator = random.Random(0)
    medians = sorted(statistics.median(generator.choices(values, k=len(values))) for _ in range(_RESAMPLES))
    outside = int(_TAIL * _RESAMPLES)
    return medians[outside], medians[-1 - outside]


def median_ratio(pairs: Sequence[tuple[float, float]]) -> float | None:
    """The median of paired ratios of epochs or seconds, which are infinite for runs that did not reach the target.

    If a ratio of 0 (only the other did not reach it) and a finite one share the middle, the finite one is taken, since
    a mean of the two means nothing. None if no pair has a ratio, or if a ratio of 0 and an infinite one share the
    middle.
    """
    ratios = sorted(value for a, b in pairs if (value := statistics.ratio(a, b)) is not None)
    if not ratios:
        return None

    lower, upper = ratios[(len(ratios) - 1) // 2], ratios[len(ratios) // 2]
    if lower == 0:
        return None if math.isinf(upper) else upper
    return statistics.median(ratios)
