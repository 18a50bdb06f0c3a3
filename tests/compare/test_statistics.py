"""The small exact statistics, against brute force and against hand-worked cases."""

import itertools
import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jorge_tune.compare.statistics import (
    MIN_PAIRS,
    Spread,
    differences,
    holm,
    mean_ranks,
    median,
    ranks,
    ratio,
    signed_rank_p,
    signed_rank_sign,
    spread,
)

INF = math.inf


def brute_force_p(differences):
    """Every sign pattern, written out: the share whose rank sum is at least as far from the middle."""
    kept = [value for value in differences if value != 0]
    sizes = ranks([abs(value) for value in kept])
    middle = sum(sizes) / 2
    seen = abs(sum(r for r, value in zip(sizes, kept, strict=True) if value > 0) - middle)
    patterns = list(itertools.product([0, 1], repeat=len(sizes)))
    far = [p for p in patterns if abs(sum(r for r, s in zip(sizes, p, strict=True) if s) - middle) >= seen]
    return len(far) / len(patterns)


@given(st.lists(st.sampled_from([-INF, -3.0, -2.0, -1.0, 0.0, 0.5, 1.0, 2.0, INF]), min_size=6, max_size=10))
def test_signed_rank_equals_brute_force(differences):
    assert signed_rank_p(differences) == pytest.approx(brute_force_p(differences), abs=1e-12)


def test_six_wins_of_six_is_two_in_sixty_four():
    assert signed_rank_p([1, 2, 3, 4, 5, INF]) == 2 / 64


def test_five_pairs_are_too_few_and_six_ties_say_nothing():
    assert MIN_PAIRS == 6
    assert signed_rank_p([1, 2, 3, 4, 5]) is None
    assert signed_rank_p([0.0] * 6) == 1.0


def test_infinite_values_share_the_last_rank():
    assert ranks([3.0, INF, 1.0, INF]) == [2.0, 3.5, 1.0, 3.5]
    assert mean_ranks([[2.0, 1.0], [INF, 4.0], [5.0, 5.0]]) == [pytest.approx(11 / 6), pytest.approx(7 / 6)]


@given(st.lists(st.floats(allow_nan=False), min_size=1, max_size=9))
def test_ranks_add_up_and_keep_the_order(values):
    got = ranks(values)
    assert sum(got) == pytest.approx(len(values) * (len(values) + 1) / 2)
    for (a, rank_a), (b, rank_b) in itertools.combinations(zip(values, got, strict=True), 2):
        assert (a < b) == (rank_a < rank_b)


def test_holm_corrects_only_what_was_tested():
    assert holm([0.01, None, 0.04, 0.03]) == [0.03, None, 0.06, 0.06]
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([None]) == [None]


def test_medians_of_infinite_values():
    assert median([3.0, INF, 1.0]) == 3.0
    assert median([1.0, INF]) == INF
    assert median([INF, INF]) == INF
    assert median([-INF, INF, -INF, -INF]) == -INF
    assert median([-INF, INF]) == 0.0
    assert spread([]) is None
    assert spread([2.0, 1.0]) == Spread(1.5, 1.0, 2.0, 2)


def test_ratios_and_differences_of_infinite_values():
    assert ratio(2.0, 4.0) == 0.5
    assert ratio(2.0, INF) == 0.0
    assert ratio(INF, 2.0) == INF
    assert ratio(INF, INF) is None
    assert ratio(1.0, 0.0) is None
    assert differences([(INF, INF), (-INF, 1.0), (3.0, 1.0)]) == [0.0, -INF, 2.0]


def test_the_ranks_lean_to_the_side_of_the_larger_differences():
    sizes = [-value for value in range(1, 13)] + list(range(13, 25))
    assert signed_rank_p(sizes) < 0.05
    assert (signed_rank_sign(sizes), signed_rank_sign([-value for value in sizes])) == (1, -1)
    assert (signed_rank_sign([]), signed_rank_sign([1.0, -1.0, 0.0])) == (0, 0)


def test_differences_of_equal_counts_are_equal_whatever_their_last_bits():
    """Accuracies k/359: 4,000 draws of seven pairs, ranked as floats and as the counts they come from."""
    generator = random.Random(0)
    torn = 0
    for _ in range(4_000):
        counts = [(generator.randint(340, 359), generator.randint(340, 359)) for _ in range(7)]
        floats = [(a / 359, b / 359) for a, b in counts]
        exact = signed_rank_p([a - b for a, b in counts])
        assert signed_rank_p(differences(floats)) == exact
        torn += signed_rank_p([a - b for a, b in floats]) != exact
    assert torn > 200  # so the rounding is needed
    assert differences([(1e-300, 0.0), (2e-300, 0.0)]) == [1e-300, 2e-300]
    assert differences([(1e9, 5.0), (5.01, 5.0)]) == [999999995.0, pytest.approx(0.01)]  # no other pair is drowned
    assert differences([(0.5, 0.5), (INF, 1.0)]) == [0.0, INF]
