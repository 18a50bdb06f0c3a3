from __future__ import annotations

from math import inf

import pytest

from jorge_tune.compare.contest import median_ratio


@pytest.mark.parametrize(
    ("pairs", "median"),
    [
        ([(5.0, 10.0), (8.0, 10.0)], 0.65),
        ([(5.0, inf), (8.0, 10.0)], 0.8),  # not the mean of 0 and 0.8
        ([(5.0, inf), (5.0, inf), (8.0, 10.0)], 0.0),
        ([(inf, 5.0), (8.0, 10.0)], inf),
        ([(inf, inf)], None),
        ([(4.0, inf), (inf, 4.0)], None),  # one run did not reach it as often as the other, in either order
        ([(inf, 4.0), (4.0, inf)], None),
    ],
)
def test_a_target_that_one_side_did_not_reach_is_not_averaged(pairs, median):
    assert median_ratio(pairs) == median
