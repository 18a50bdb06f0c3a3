"""Whole calibrations on scripted timings: no real time passes, and the truth is known."""

from __future__ import annotations

import math
import statistics

import pytest

from jorge_tune.calibration.choose_interval import step_cost
from jorge_tune.calibration.measure import CalibrationProgress, Effort, calibrate, check, measure_rounds, verify
from jorge_tune.calibration.timings import Iteration
from tests.calibration.scripted_bench import (
    QueuedBench,
    ScriptedBench,
    bimodal,
    drifting,
    loaded_from,
    noisy,
    quiet,
    spiking,
)

BASE, EXTRA, REFRESH = (
    0.1,
    0.004,
    0.03,
)  # 1.04 + 0.3 / k: 10 % is kept from interval 5 on, with a tenth free from 6
SLOW_UNTIL = 1.8  # seconds into a script; the warm-up and the first round are over soon after
SEEDS = range(10)


def truth(bench: ScriptedBench, interval: int) -> float:
    """A step in baselines, by the script."""
    return (bench.baseline + bench.extra + bench.spread_factor * bench.refresh / interval) / bench.baseline


@pytest.mark.parametrize("staggered", [True, False])
def test_a_quiet_machine_gives_the_algebra_and_the_prediction_comes_true(staggered):
    bench = ScriptedBench(BASE, EXTRA, REFRESH, staggered=staggered)
    found = calibrate(bench, 0.1 + 1e-9)
    assert (found.choice.outcome, found.choice.interval) == ("interval", 6)
    ran = found.measurements.verified(6)
    assert ran.cycles >= 2
    assert ran.ratio == pytest.approx(truth(bench, 6))
    assert ran.longest_step == pytest.approx(BASE + EXTRA + (REFRESH / 6 if staggered else REFRESH))
    assert found.parts["plain"].optimizer == pytest.approx(0.001 + EXTRA)
    assert found.parts["baseline"].forward == pytest.approx(0.0495)


@pytest.mark.parametrize("spread", [0.005, 0.01, 0.02])
def test_on_a_machine_with_the_usual_noise_answers_agree_and_keep_the_budget(spread):
    answers = []
    for seed in SEEDS:
        bench = ScriptedBench(BASE, EXTRA, REFRESH, disturbance=noisy(spread), seed=seed)
        found = calibrate(bench, 0.1)
        assert found.choice.outcome == "interval", found.choice.reason
        assert truth(bench, found.choice.interval) <= 1.1
        assert found.measurements.verified(found.choice.interval).ratio <= 1.1
        answers.append(found.choice.interval)
    assert max(answers) <= 1.5 * statistics.median(answers)


@pytest.mark.parametrize(
    ("name", "disturbance"),
    [
        ("load from half-way", loaded_from(15, 1.5)),
        ("load near the end", loaded_from(21, 1.5)),
        ("load while verifying", loaded_from(28, 1.5)),
        ("load that ends", loaded_from(12, 0.6)),
        ("load on all the time", noisy(1.0)),
        ("clock that slows", drifting(0.02)),
    ],
)
def test_a_disturbed_machine_is_called_unstable(name, disturbance):
    for seed in SEEDS:
        found = calibrate(ScriptedBench(BASE, EXTRA, REFRESH, disturbance=disturbance, seed=seed), 0.1)
        assert (found.choice.outcome, found.choice.interval) == ("unstable", None), f"{name}, seed {seed}"
        assert found.choice.reason


@pytest.mark.parametrize(
    "disturbance",
    [spiking(0.03, 10), bimodal(1.03), drifting(0.0005), noisy(0.25)],
    ids=["spikes", "two speeds", "slow drift", "much noise"],
)
def test_what_pairing_and_medians_shrug_off_still_gives_an_answer(disturbance):
    answered = 0
    for seed in SEEDS:
        bench = ScriptedBench(BASE, EXTRA, REFRESH, disturbance=disturbance, seed=seed)
        found = calibrate(bench, 0.1)
        if found.choice.interval is not None:
            answered += 1
            assert truth(bench, found.choice.interval) <= 1.1
    assert answered >= 9


@pytest.mark.parametrize("disturbance", [bimodal(1.5), spiking(0.25, 10)], ids=["two far speeds", "spikes without end"])
def test_whatever_comes_alike_over_all_never_gives_an_interval_over_the_budget(disturbance):
    for seed in SEEDS:
        bench = ScriptedBench(BASE, EXTRA, REFRESH, disturbance=disturbance, seed=seed)
        found = calibrate(bench, 0.1)
        assert found.choice.interval is None or truth(bench, found.choice.interval) <= 1.1


def test_on_a_gpu_what_launches_take_from_the_next_forward_is_counted():
    """15.3 ms by the device's work; 1.7 ms more to launch make 17.0 ms of host time, and backward hides none of it."""
    bench = QueuedBench(extra=0.0017, refresh=0.04, disturbance=noisy(0.002))
    found = calibrate(bench, 0.2)
    steady = {kind: bench.burst(kind, 200)[100:] for kind in ("baseline", "plain", "refreshing")}
    truth = {kind: statistics.fmean(iteration.seconds for iteration in run) for kind, run in steady.items()}
    cost = step_cost(found.measurements.rounds, found.measurements.pools)
    assert truth["plain"] / truth["baseline"] > 1.1
    assert cost.plain == pytest.approx(truth["plain"] / truth["baseline"], abs=0.004)
    assert cost.refresh == pytest.approx((truth["refreshing"] - truth["plain"]) / truth["baseline"], abs=0.02)
    by_laps = step_cost(found.measurements.rounds, counted=(False, False))  # forward taken to be the same
    assert cost.plain - by_laps.plain > 0.03
    bench.schedule(found.choice.interval)
    ran = statistics.fmean(iteration.seconds for iteration in bench.burst("scheduled", 200)[100:])
    assert ran <= 1.2 * truth["baseline"]


@pytest.mark.parametrize("seconds", [0.1, 0.8, 0.9, 3.0])
def test_a_verification_has_enough_stretches_to_count_a_carry_over(seconds):
    ran = verify(ScriptedBench(seconds), 1, seconds, seconds, Effort(verify_seconds=10.0))
    assert len(ran.log_carry_overs) >= 8


def test_waiting_for_a_core_is_called_unstable_whatever_the_ratios_say():
    found = calibrate(ScriptedBench(BASE, EXTRA, REFRESH, waits=0.3), 0.1)
    assert found.choice.outcome == "unstable"
    assert found.measurements.waiting == pytest.approx(0.3 / 1.3)
    assert calibrate(ScriptedBench(BASE, EXTRA, REFRESH, waits=None), 0.1).choice.outcome == "interval"


def test_infeasible_is_not_run():
    bench = ScriptedBench(BASE, 0.02, REFRESH, disturbance=noisy(0.01))
    found = calibrate(bench, 0.1)
    assert found.choice.outcome == "infeasible"
    assert found.measurements.verifications == ()
    assert not any(kind == "scheduled" for kind, _ in bench.bursts)


def test_refreshes_that_cost_more_when_spread_are_found_out_by_running_them():
    bench = ScriptedBench(BASE, EXTRA, REFRESH, spread_factor=3.0, disturbance=noisy(0.005))
    found = calibrate(bench, 0.1)
    assert found.choice.outcome == "interval"
    assert truth(bench, found.choice.interval) <= 1.1 < truth(bench, found.choice.interval // 2)
    first, *_, last = found.measurements.verifications
    assert first.ratio > 1.1 >= last.ratio


def test_kinds_are_interleaved_in_turns_and_the_first_round_is_dropped():
    bench = ScriptedBench(BASE, EXTRA, REFRESH)
    measured, _ = measure_rounds(bench, Effort(4.0))
    order = [kind for kind, count in bench.bursts if count == 3]  # one lead-in and two readings of 0.1 seconds
    rounds = order[-3 * (len(measured.rounds) + 1) :]
    forward = ["baseline", "plain", "refreshing"]
    assert rounds[:12] == forward + forward[::-1] + forward + forward[::-1]
    assert len(rounds) == 3 * (len(measured.rounds) + 1)


class SlowStart(ScriptedBench):
    """The first iterations, and the first of each burst, take twice as long."""

    def burst(self, kind, count):
        first, *others = super().burst(kind, count)
        slow = 2 if self.now < SLOW_UNTIL else 1
        return [Iteration(*(2 * part for part in first)), *(Iteration(*(slow * p for p in it)) for it in others)]


def test_warm_up_and_the_first_of_a_burst_leave_no_trace():
    measured, parts = measure_rounds(SlowStart(BASE, EXTRA, REFRESH), Effort(6.0))
    for row in measured.rounds:
        assert row.pooled() == pytest.approx((BASE, BASE + EXTRA, BASE + EXTRA + REFRESH))
    assert parts["baseline"].seconds == pytest.approx(BASE)


@pytest.mark.parametrize(
    ("seconds", "burst", "least_rounds"), [(0.002, 26, 40), (0.1, 3, 15), (3.0, 1, 8)], ids=["tiny", "usual", "slow"]
)
def test_bursts_suit_the_length_of_an_iteration(seconds, burst, least_rounds):
    bench = ScriptedBench(seconds, seconds / 50, seconds / 3)
    measured, _ = measure_rounds(bench, Effort(15.0))
    assert bench.bursts[-1][1] == burst
    assert len(measured.rounds) >= least_rounds


def test_a_refresh_that_takes_minutes_is_measured_a_few_times_only():
    bench = ScriptedBench(0.1, 0.002, 60.0)
    measured, _ = measure_rounds(bench, Effort(15.0))
    assert len(measured.rounds) == 8
    assert sum(count for kind, count in bench.bursts if kind == "refreshing") == 3 + 9


@pytest.mark.parametrize("interval", [1, 2, 5, 7, 50, 300])
def test_a_verification_runs_whole_cycles_with_the_baseline_in_between(interval):
    bench = ScriptedBench(BASE, EXTRA, REFRESH, staggered=False)
    ran = verify(bench, interval, BASE, BASE + EXTRA, Effort(verify_seconds=10.0))
    assert len(ran.steps) == ran.cycles * interval
    assert len(ran.steps) >= 12
    assert len(ran.baseline) >= 6
    assert ran.ratio == pytest.approx(truth(bench, interval))
    kinds = [kind for kind, _ in bench.bursts]
    assert kinds.count("baseline") == len(ran.baseline)
    assert "scheduled" in kinds[2:-1]


@pytest.mark.parametrize("period", [2, 5, 7])
def test_statistics_with_a_timetable_of_their_own_are_counted_in_the_mean(period):
    """1.04 + 0.08 / period + 0.3 / k, and runs of whole cycles of both."""
    bench = ScriptedBench(BASE, EXTRA, REFRESH, period=period, statistics=0.008, staggered=False)
    found = calibrate(bench, 0.15)
    plain = 1.04 + 0.08 / period
    for row in found.measurements.rounds:
        assert row.pooled().plain == pytest.approx(BASE * plain)
    ran = found.measurements.verified(found.choice.interval)
    assert ran.period == period
    assert len(ran.steps) % math.lcm(period, found.choice.interval) == 0
    assert ran.ratio == pytest.approx(plain + 0.3 / found.choice.interval)


def test_checking_an_interval():
    def outcome(interval: int, **more) -> str:
        return check(ScriptedBench(BASE, EXTRA, REFRESH, **more), interval, 0.1).judgement.outcome

    assert outcome(10) == "inside"
    assert outcome(3) == "over"
    assert outcome(10, disturbance=noisy(0.01)) == "inside"
    assert outcome(3, disturbance=noisy(0.01)) == "over"
    assert outcome(10, disturbance=loaded_from(10, 1.5)) == "unstable"
    assert outcome(10, waits=0.5) == "unstable"


def test_a_budget_that_is_none_measures_nothing():
    bench = ScriptedBench()
    for measure in (lambda: calibrate(bench, 0.0), lambda: check(bench, 3, -1.0)):
        with pytest.raises(ValueError, match="overhead must be > 0"):
            measure()
    assert bench.bursts == []


def test_progress_is_told_and_ends():
    told: list[CalibrationProgress] = []
    calibrate(ScriptedBench(BASE, EXTRA, REFRESH, disturbance=quiet), 0.1, report=told.append)
    assert list(dict.fromkeys(progress.part for progress in told)) == ["warming up", "measuring", "verifying"]
    assert all(progress.done < progress.total for progress in told if progress.total)


def test_a_machine_that_becomes_slow_is_not_measured_for_ever():
    slow = ScriptedBench(BASE, EXTRA, REFRESH, disturbance=loaded_from(5, 10, spread=0.01))
    measured, _ = measure_rounds(slow, Effort(10.0))
    assert 8 <= len(measured.rounds) < 12
    assert slow.now < 120
    usual, _ = measure_rounds(ScriptedBench(BASE, EXTRA, REFRESH), Effort(10.0))
    assert len(usual.rounds) > len(measured.rounds)


def test_it_takes_less_than_a_minute_where_a_step_takes_a_tenth_of_a_second():
    bench = ScriptedBench(BASE, EXTRA, REFRESH, disturbance=noisy(0.02), seed=1)
    calibrate(bench, 0.1)
    assert bench.now < 60
