"""Rounds, iterations and verifications as values."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest

from jorge_tune.calibration.timings import (
    Iteration,
    IterationReading,
    Measurements,
    Memory,
    Profile,
    Round,
    Verification,
    measurements_from_json,
    measurements_to_json,
    median_parts,
    profile_from_json,
    profile_to_json,
)

REST = 2.0


def of(*seconds: float) -> tuple[IterationReading, ...]:
    """Readings of one rest, the optimizer's part as given."""
    return tuple(IterationReading(REST, part) for part in seconds)


def test_an_iteration_is_the_sum_of_its_parts():
    assert Iteration(1, 2, 3, 4).seconds == 10
    assert median_parts([Iteration(1, 5, 1, 1), Iteration(2, 4, 1, 7), Iteration(9, 6, 1, 3)]) == Iteration(2, 5, 1, 3)


def test_the_mean_step_takes_each_places_median_over_cycles():
    own = (1.0, 2.0, 6.0, 1.2, 2.0, 6.0, 1.1, 50.0, 6.0)  # three cycles of three, one spike
    ran = Verification(3, of(*own), of(2.0, 2.0, 90.0))
    assert ran.cycles == 3
    assert ran.mean_step == pytest.approx(REST + (1.1 + 2.0 + 6.0) / 3)
    assert ran.longest_step == REST + 6.0
    assert ran.reference == REST + 2.0
    assert ran.ratio == ran.whole_ratio == pytest.approx((REST + 9.1 / 3) / (REST + 2))


def test_rests_are_pooled_in_a_run_too_and_the_stopwatch_is_kept():
    """Half the weight each: (1.0 + 1.2) / 2; four stretches are too few to count a difference."""
    ran = Verification(1, (IterationReading(1.2, 0.5),) * 12, (IterationReading(1.0, 0.1),) * 5)
    assert ran.ratio == pytest.approx((1.1 + 0.5) / (1.1 + 0.1))
    assert ran.whole_ratio == pytest.approx(1.7 / 1.1)
    assert ran.log_carry_overs == pytest.approx([math.log(1.2)] * 4)


def test_a_difference_that_ten_stretches_agree_on_is_counted():
    ran = Verification(1, (IterationReading(1.2, 0.5),) * 30, (IterationReading(1.0, 0.1),) * 11)
    middle = math.sqrt(1.2)
    assert ran.counted_log_carry_over == pytest.approx(math.log(1.2))
    assert ran.mean_step == pytest.approx(1.1 * middle + 0.5)
    assert ran.reference == pytest.approx(1.1 / middle + 0.1)


def test_where_nothing_is_pooled_a_run_is_read_by_whole_steps():
    ran = Verification(
        2, (IterationReading(1.2, 0.5), IterationReading(1.2, 0.7)) * 6, (IterationReading(1.0, 0.1),) * 5, pools=False
    )
    assert (ran.mean_step, ran.longest_step, ran.reference) == pytest.approx((1.8, 1.9, 1.1))
    assert ran.ratio == ran.whole_ratio == pytest.approx(1.8 / 1.1)


def test_a_round_pools_its_rests_and_puts_a_carry_over_back():
    row = Round(IterationReading(1.0, 0.1), IterationReading(1.1, 0.2), IterationReading(1.2, 0.5))
    assert row.pooled() == pytest.approx((1.2, 1.3, 1.6))
    assert Round(*of(0.1, 0.2), IterationReading(50.0, 0.5)).pooled() == (REST + 0.1, REST + 0.2, REST + 0.5)
    assert row.log_carry_overs == pytest.approx((math.log(1.1), math.log(1.2)))
    base, plain, refreshing = row.pooled(row.log_carry_overs)
    assert (plain - 0.2) / (base - 0.1) == pytest.approx(1.1)
    assert (refreshing - 0.5) / (base - 0.1) == pytest.approx(1.2)
    assert row.whole == pytest.approx((1.1, 1.3, 1.7))


def test_one_or_two_cycles_are_averaged():
    assert Verification(4, of(1.0, 1.0, 1.0, 5.0), of(1.0)).mean_step == REST + 2.0
    two = Verification(2, of(1.0, 5.0, 3.0, 7.0), of(1.0))
    assert (two.mean_step, two.longest_step) == (REST + 4.0, REST + 6.0)


def measurements() -> Measurements:
    rounds = tuple(Round(*of(0.1 + i / 1000, 0.104, 0.134)) for i in range(8))
    return Measurements(
        rounds, (Verification(2, of(0.1, 0.2), of(0.1), None), Verification(1, of(0.1, 0.3), of(0.2), 0.25, 2)), 0.5
    )


def test_whether_rests_are_pooled_survives_json_in_all_parts():
    unpooled = [replace(verification, pools=False) for verification in measurements().verifications]
    measured = replace(measurements(), verifications=tuple(unpooled), pools=False)
    assert measurements_from_json(json.loads(json.dumps(measurements_to_json(measured)))) == measured


def test_measurements_survive_json():
    stored = json.loads(json.dumps(measurements_to_json(measurements())))
    assert measurements_from_json(stored) == measurements()
    assert measurements().longest_wait == 0.5
    assert measurements().verified(2).steps == of(0.1, 0.2)
    assert measurements().verified(3) is None


def test_a_profile_survives_json():
    parts = {"baseline": Iteration(0.0, 0.1, 0.2, 0.3)}
    profile = Profile(parts, {"optimizer": Memory(12, None)}, "a device", "3x32x32")
    assert profile_from_json(json.loads(json.dumps(profile_to_json(profile)))) == profile


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data.pop("rounds"),
        lambda data: data.pop("pools"),
        lambda data: data["rounds"][0].append([1.0, 1.0]),
        lambda data: data["rounds"][0].__setitem__(0, [-1.0, 1.0]),
        lambda data: data["rounds"][0].__setitem__(0, [0.0, 1.0]),
        lambda data: data["rounds"][0].__setitem__(0, [1.0, -1.0]),
        lambda data: data["rounds"][0].__setitem__(0, [1.0, math.nan]),
        lambda data: data["rounds"][0].__setitem__(0, 1.0),
        lambda data: data["rounds"].__setitem__(0, None),
        lambda data: data["verifications"][0].__setitem__("steps", [[0.1, 0.1]]),
        lambda data: data["verifications"][0].__setitem__("interval", 0),
        lambda data: data["verifications"][0].__setitem__("period", 0),
        lambda data: data["verifications"][0]["steps"].append([0.1, 0.1]),
        lambda data: data["verifications"][0].__setitem__("baseline", []),
        lambda data: data.__setitem__("waiting", 3),
    ],
)
def test_what_is_no_measurement_is_refused(damage):
    data = measurements_to_json(measurements())
    damage(data)
    with pytest.raises((ValueError, TypeError, KeyError)):
        measurements_from_json(data)
