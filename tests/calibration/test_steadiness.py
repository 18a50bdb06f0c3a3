"""What counts as a disturbed machine, on series whose disturbance is known."""

from __future__ import annotations

import random

import pytest

from jorge_tune.calibration.choose_interval import disturbance, largest_shift, quartile_spread

_FALSE_ALARMS = 2  # of 400 quiet series; none were seen with noise of 1 %, one with 2 %


def series(count: int, spread: float, seed: int, *, factor: float = 1.0, start: int | None = None) -> list[float]:
    """Log-normal seconds around 0.1, `factor` times as long from `start` on."""
    generator = random.Random(seed)
    start = count if start is None else start
    return [0.1 * generator.lognormvariate(0, spread) * (factor if i >= start else 1) for i in range(count)]


@pytest.mark.parametrize("spread", [0.01, 0.02])
def test_a_quiet_machine_is_hardly_ever_accused(spread):
    accused = sum(disturbance(series(20, spread, seed), 0.1) is not None for seed in range(400))
    assert accused <= _FALSE_ALARMS


@pytest.mark.parametrize("start", [4, 10, 17])
@pytest.mark.parametrize("factor", [1.4, 2.0, 0.6])
def test_a_load_that_starts_or_ends_on_the_way_is_found_and_placed(start, factor):
    for seed in range(20):
        values = series(20, 0.02, seed, factor=factor, start=start)
        shift = largest_shift(values, 0.05)
        assert shift is not None
        assert abs(shift.after - start) <= 1
        assert shift.factor == pytest.approx(factor, rel=0.05)
        complaint = disturbance(values, 0.1)
        assert "became" in complaint
        assert ("slower" if factor > 1 else "faster") in complaint


def test_a_drift_is_found_and_a_slow_one_is_left_to_the_pairing():
    fast = [0.1 * (1 + 0.05 * i) for i in range(20)]
    slow = [0.1 * (1 + 0.002 * i) for i in range(20)]
    assert "slower" in disturbance(fast, 0.1)
    assert disturbance(slow, 0.1) is None


def test_one_spike_is_no_disturbance():
    values = series(20, 0.01, 0)
    values[7] *= 30
    assert disturbance(values, 0.1) is None


def test_a_small_change_within_noise_is_no_shift():
    assert largest_shift(series(20, 0.05, 3, factor=1.03, start=10), 0.01) is None
    assert largest_shift(series(20, 0.001, 3, factor=1.03, start=10), 0.01) is not None


def test_wide_quartiles_are_a_disturbance_of_their_own():
    values = [0.1 * (1.4 if i % 2 else 1.0) for i in range(20)]
    assert quartile_spread(values) == pytest.approx(0.4 / 1.2)
    assert "varies by 33% between its quartiles" in disturbance(values, 0.1)
    assert disturbance([0.1 * (1.3 if i % 2 else 1.0) for i in range(20)], 0.1) is None


@pytest.mark.parametrize("factor", [1.15, 0.87])
def test_a_pace_that_changes_a_little_is_left_to_the_answer(factor):
    """Neighbours on a virtual machine do that; see `intervals.change_of_pace`."""
    for seed in range(20):
        values = series(20, 0.02, seed, factor=factor, start=10)
        assert disturbance(values, 0.1) is None
        assert abs(largest_shift(values, 0.05).after - 10) <= 1


def test_waiting_for_a_core_is_a_disturbance():
    values = series(20, 0.01, 0)
    assert disturbance(values, 0.1, 0.04) is None
    assert "waited for a core for 38% of its time" in disturbance(values, 0.1, 0.38)
