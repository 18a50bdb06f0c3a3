"""What one optimizer's step does to the forward and backward passes that follow it. Pure, without torch.

Forward and backward are the same work under every optimizer, and most of an iteration's noise is theirs. So their
seconds are pooled over all kinds, unless the data show that they differ: an optimizer can leave other caches, or on a
GPU another queue, behind.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import NamedTuple

_CONFIDENCE = 0.99  # counting a difference that is none costs what pooling gains, so one has to be plain


class CarryOver(NamedTuple):
    """As a part of the rest (0.01: one per cent longer beside our optimizer), with bounds; `counted` if beyond 0."""

    value: float
    low: float
    high: float

    @property
    def counted(self) -> bool:
        """Whether the data show it."""
        return self.low > 0 or self.high < 0


def carry_over(logs: Sequence[float]) -> CarryOver:
    """From paired readings, each the logarithm of ours over the baseline's: the median and its exact bounds.

    The bounds are order statistics (a sign test turned round), so they assume no distribution; below 8 pairs they are
    infinite, and nothing is counted.
    """
    low, high = median_bounds(logs, _CONFIDENCE)
    return CarryOver(*(math.expm1(bound) for bound in (statistics.median(logs), low, high)))


def counted_log(logs: Sequence[float]) -> float:
    """The median where it is counted, else 0: the rests are then taken to be one."""
    return statistics.median(logs) if carry_over(logs).counted else 0.0


def median_bounds(values: Sequence[float], confidence: float) -> tuple[float, float]:
    """Bounds of a median, between two of the values; infinite where there are too few for the confidence."""
    ordered, count = sorted(values), len(values)
    outside, rank = 0.0, 0  # chance that fewer than `rank` values lie on one side of the median
    while outside + math.comb(count, rank) / 2**count <= (1 - confidence) / 2:
        outside += math.comb(count, rank) / 2**count
        rank += 1
    return (ordered[rank - 1], ordered[-rank]) if rank else (-math.inf, math.inf)
