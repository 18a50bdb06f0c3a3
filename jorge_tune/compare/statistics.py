"""Exact statistics for a few paired seeds, where a target that was not reached is an infinite value.

All functions take plain floats and order infinities as numbers. NaN is refused by assertion: the caller decides what it
means.
"""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

MIN_PAIRS = 6
"""Fewer pairs give no p-value: the smallest of 5 pairs is 2/32, which is above 0.05."""
SIGNIFICANT = 0.05
"""The largest p-value that is called significant; it is corrected if there is more than one test."""


@dataclass(frozen=True)
class Spread:
    """The median of a few values, and the smallest and largest of them."""

    median: float
    low: float
    high: float
    count: int


def spread(values: Sequence[float]) -> Spread | None:
    """Median and range of the values; None if there are none."""
    if not values:
        return None
    assert not any(math.isnan(value) for value in values)
    return Spread(median(values), min(values), max(values), len(values))


def median(values: Sequence[float]) -> float:
    """The median; of an even number, the mean of the middle two.

    That is infinite if one of the two is, and 0 if they are opposite infinities.
    """
    ordered = sorted(values)
    middle = len(ordered) // 2
    low, high = ordered[(len(ordered) - 1) // 2], ordered[middle]
    if low == high or (math.isinf(low) and math.isinf(high)):
        return low if low == high else 0.0
    return statistics.fmean((low, high))


def differences(pairs: Sequence[tuple[float, float]]) -> list[float]:
    """a - b of each pair, rounded to ten digits; equal infinities have the difference 0.

    Accuracies are counts divided by n. Two pairs that differ by the same count can have differences that are unequal in
    their last bits, and without rounding these would not share a rank.
    """
    return [0.0 if a == b else float(f"{a - b:.9e}") for a, b in pairs]


def ratio(a: float, b: float) -> float | None:
    """a / b; None if it has no meaning (both are infinite, or b is 0)."""
    if b == 0 or (math.isinf(a) and math.isinf(b)):
        return None
    return a / b


def ranks(values: Sequence[float]) -> list[float]:
    """The ranks of the values, 1 for the smallest; equal values, infinite ones too, share the mean of their ranks."""
    ordered = sorted(values)
    first = {value: ordered.index(value) for value in set(ordered)}
    number = Counter(ordered)
    return [first[value] + (number[value] + 1) / 2 for value in values]


def mean_ranks(rows: Sequence[Sequence[float]]) -> list[float]:
    """The mean rank of each column; there is one row per seed and one column per contender."""
    columns = zip(*(ranks(row) for row in rows), strict=True)
    return [statistics.fmean(column) for column in columns]


def signed_rank_p(differences: Sequence[float]) -> float | None:
    """The exact two-sided p-value of Wilcoxon's signed-rank test; None below `MIN_PAIRS` pairs.

    Differences of 0 are dropped after the pairs were counted. Differences of equal size share their mean rank, and an
    infinite one (only one of the pair reached the target) is larger than every finite one. The distribution of the rank
    sum over all 2^n signs is counted and not approximated.
    """
    if len(differences) < MIN_PAIRS:
        return None

    doubled = _doubled_ranks(differences)
    if not doubled:
        return 1.0

    # For each rank sum, the number of sign combinations that give it.
    positive, total = sum(rank for rank in doubled if rank > 0), sum(map(abs, doubled))
    ways = Counter({0: 1})
    for rank in map(abs, doubled):
        ways = ways + Counter({rank_sum + rank: number for rank_sum, number in ways.items()})

    smaller = min(positive, total - positive)
    tail = sum(number for rank_sum, number in ways.items() if rank_sum <= smaller)
    return min(1.0, 2 * tail / (1 << len(doubled)))


def signed_rank_sign(differences: Sequence[float]) -> int:
    """1 if the ranks of positive differences outweigh those of negative ones, -1 if the reverse, else 0."""
    leaning = sum(_doubled_ranks(differences))
    return (leaning > 0) - (leaning < 0)


def _doubled_ranks(differences: Sequence[float]) -> list[int]:
    """Twice the rank of each difference that is not 0, with its sign; mean ranks can be halves."""
    nonzero = [value for value in differences if value != 0]
    sizes = ranks([abs(value) for value in nonzero])
    return [round(2 * rank) * (1 if value > 0 else -1) for rank, value in zip(sizes, nonzero, strict=True)]


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Holm's step-down correction for the number of tests; None stays None and is no test."""
    tests = sorted((p, index) for index, p in enumerate(p_values) if p is not None)
    corrected: list[float | None] = [None] * len(p_values)

    floor = 0.0
    for place, (p, index) in enumerate(tests):
        floor = max(floor, min(1.0, p * (len(tests) - place)))
        corrected[index] = floor
    return corrected
