import itertools
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jorge_tune.compare import statistics
from jorge_tune.compare.contest import SeedValues, interval, pair, round_robin


def contender(name, *values, first=1):
    return SeedValues(name, dict(enumerate(values, start=first)))


def test_a_gain_is_paired_by_seeds_and_speaks_for_the_contender_in_either_direction():
    low = contender("a", 1.0, 2.0, 3.0)
    high = contender("b", 2.0, 2.0, 9.0, 7.0)
    up = pair(high, low, lower_is_better=False)
    assert (up.pairs, up.median, up.wins, up.ties, up.losses, up.p) == (3, 1.0, 2, 1, 0, None)
    down = pair(high, low, lower_is_better=True)
    assert (down.median, down.wins, down.losses) == (-1.0, 0, 2)
    assert pair(low, contender("c", 1.0, first=7), lower_is_better=True) is None


def test_the_interval_is_that_of_all_resamples():
    """Against the exact distribution: all 5^5 resamples of five values."""
    values = [0.0, 1.0, 2.5, 4.0, 7.0]
    medians = sorted(statistics.median(sample) for sample in itertools.product(values, repeat=5))
    outside = int(0.025 * len(medians))
    assert interval(values) == (medians[outside], medians[-1 - outside])
    assert interval(values) == interval(values)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.floats(-5, 5) | st.sampled_from([math.inf, -math.inf]), min_size=1, max_size=8))
def test_the_interval_lies_around_the_median_and_within_the_values(values):
    low, high = interval(values)
    assert min(values) <= low <= high <= max(values)
    if len(values) % 2:  # of an even number, the middle of two infinities is none of the resamples' business
        assert low <= statistics.median(values) <= high


def test_an_infinite_value_is_worse_than_any_other_and_two_are_level():
    infinite = contender("infinite", math.inf, math.inf, 4.0)
    other = contender("other", 3.0, math.inf, 3.0)
    gain = pair(infinite, other, lower_is_better=True)
    assert (gain.wins, gain.ties, gain.losses) == (0, 1, 2)
    assert gain.median == -1.0
    assert gain.low == -math.inf


def test_six_pairs_give_exact_p_values_corrected_for_the_number_of_contests():
    base = contender("baseline", *range(6))
    good = contender("bootstrap", *(n + 1 + n / 10 for n in range(6)))
    best = contender("best", *(n + 3 + n / 7 for n in range(6)))
    found = {(gain.contender, gain.against): gain for gain in round_robin([base, good, best], lower_is_better=False)}
    assert list(found) == [("bootstrap", "baseline"), ("best", "baseline"), ("best", "bootstrap")]
    assert {gain.p for gain in found.values()} == {2 / 64}
    assert [gain.p_corrected for gain in found.values()] == pytest.approx([6 / 64] * 3)


def test_below_six_pairs_there_is_no_p_value():
    found = round_robin([contender("a", *range(5)), contender("b", *range(1, 6))], lower_is_better=False)
    assert [(gain.p, gain.p_corrected) for gain in found] == [(None, None)]
