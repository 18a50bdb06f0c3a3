"""Small exact statistics for a handful of paired seeds, where a miss is an infinite value.

Everything here takes plain floats, orders infinities as numbers and refuses NaN by assertion: the caller
decides what a NaN means before it gets here.
"""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

MIN_PAIRS = 6
"""Fewer pairs give no p-value: from 5 pairs the smallest is 2/32, above 0.05 whatever was measured."""
SIGNIFICANT = 0.05
"""The largest p-value, corrected where there is more than one test, that is called more than chance."""


@dataclass(frozen=True)
class Spread:
    """Where a few values lie: the median, and the smallest and largest."""

    median: float
    low: float
    high: float
    count: int


def spread(values: Sequence[float]) -> Spread | None:
    """Median and range of the values; None where there are none."""
    if not values:
        return None
    assert not any(math.isnan(value) for value in values)
    return Spread(median(values), min(values), max(values), len(values))


def median(values: Sequence[float]) -> float:
    """The median; of an even number, the mean of the middle two (infinite where one is, 0 between both)."""
    ordered = sorted(values)
    middle = len(ordered) // 2
    low, high = ordered[(len(ordered) - 1) // 2], ordered[middle]
    if low == high or (math.isinf(low) and math.isinf(high)):
        return low if low == high else 0.0
    return statistics.fmean((low, high))


def differences(pairs: Sequence[tuple[float, float]]) -> list[float]:
    """a - b of each pair, where equal infinities differ by nothing.

    Each is rounded to ten digits: accuracies are counts divided by n, and two pairs that differ by the same count
    differ by floats with other last bits, which would tear a tie of ranks apart.
    """
    return [0.0 if a == b else float(f"{a - b:.9e}") for a, b in pairs]


def ratio(a: float, b: float) -> float | None:
    """a / b with misses infinite; None where it says nothing (both missed, or b is zero)."""
    if b == 0 or (math.isinf(a) and math.isinf(b)):
        return None
    return a / b


def ranks(values: Sequence[float]) -> list[float]:
    """Rank 1 for the smallest; equal values (misses too) share the mean of their ranks."""
    ordered = sorted(values)
    first = {value: ordered.index(value) for value in set(ordered)}
    number = Counter(ordered)
    return [first[value] + (number[value] + 1) / 2 for value in values]


def mean_ranks(rows: Sequence[Sequence[float]]) -> list[float]:
    """The mean rank per column over rows (one row per seed, one column per contender)."""
    columns = zip(*(ranks(row) for row in rows), strict=True)
    return [statistics.fmean(column) for column in columns]


def signed_rank_p(differences: Sequence[float]) -> float | None:
    """The exact two-sided p-value of Wilcoxon's signed-rank test; None below `MIN_PAIRS` pairs.

    Zero differences are dropped (after the pairs were counted), equal sizes share their mean rank, and an
    infinite difference (one of the pair missed) is larger than any finite one. The distribution of the rank
    sum over all 2^n signs is counted, not approximated.
    """
    if len(differences) < MIN_PAIRS:
        return None
    doubled = _doubled_ranks(differences)
    if not doubled:
        return 1.0
    positive, total = sum(rank for rank in doubled if rank > 0), sum(map(abs, doubled))
    ways = Counter({0: 1})
    for rank in map(abs, doubled):
        ways = ways + Counter({reached + rank: number for reached, number in ways.items()})
    smaller = min(positive, total - positive)
    tail = sum(number for reached, number in ways.items() if reached <= smaller)
    return min(1.0, 2 * tail / (1 << len(doubled)))


def signed_rank_sign(differences: Sequence[float]) -> int:
    """To which side the ranks of that test lean: 1 where positive differences weigh more, -1 where negative ones do."""
    leaning = sum(_doubled_ranks(differences))
    return (leaning > 0) - (leaning < 0)


def _doubled_ranks(differences: Sequence[float]) -> list[int]:
    """Twice the rank of each difference that is not 0, since mean ranks are halves, with the difference's sign."""
    kept = [value for value in differences if value != 0]
    sizes = ranks([abs(value) for value in kept])
    return [round(2 * rank) * (1 if value > 0 else -1) for rank, value in zip(sizes, kept, strict=True)]


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Holm's step-down correction for the number of tests that were made; None stays None."""
    made = sorted((p, index) for index, p in enumerate(p_values) if p is not None)
    corrected: list[float | None] = [None] * len(p_values)
    floor = 0.0
    for place, (p, index) in enumerate(made):
        floor = max(floor, min(1.0, p * (len(made) - place)))
        corrected[index] = floor
    return corrected
