"""Bounds of a median, and when a difference counts."""

from __future__ import annotations

import math
import random

import pytest

from jorge_tune.calibration.timings import carry_over, counted_log, median_bounds


@pytest.mark.parametrize(("count", "rank"), [(7, 0), (8, 1), (12, 2), (20, 4), (50, 16)])
def test_the_bounds_are_the_sign_tests_order_statistics(count, rank):
    """Ranks of 99 % as in tables of the sign test."""
    low, high = median_bounds(range(1, count + 1), 0.99)
    assert (low, high) == ((rank, count + 1 - rank) if rank else (-math.inf, math.inf))


def test_the_bounds_leave_the_median_out_in_less_than_one_per_cent():
    generator = random.Random(1)
    missed = 0
    for _ in range(2000):
        low, high = median_bounds([generator.expovariate(1) for _ in range(20)], 0.99)
        missed += not low <= math.log(2) <= high
    assert 1 <= missed <= 15  # 5 of 2,000 by the exact level of 20 values (0.26 %); 3 seen


def test_a_difference_counts_where_all_agree_and_not_in_noise():
    assert counted_log([0.02 + 0.001 * i for i in range(10)]) == pytest.approx(0.0245)
    assert counted_log([-0.05, 0.06] * 10) == 0.0
    assert counted_log([0.3] * 7) == 0.0  # too few to tell
    found = carry_over([math.log(1.1)] * 9)
    assert (found.value, found.low, found.high, found.counted) == (*[pytest.approx(0.1)] * 3, True)
