"""How a calibration measures: interleaved rounds, a choice, the chosen interval run as it will be, a second look.

The bench does the iterations and reads the clock; everything here is a plan and can be played on scripted timings.
"""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, Protocol

from jorge_tune.calibrate.choose_interval import (
    LARGEST_INTERVAL,
    LEAST_ROUNDS,
    IntervalChoice,
    Judgement,
    choose_interval,
    judge,
    step_cost,
)
from jorge_tune.calibrate.timings import (
    Iteration,
    IterationReading,
    Kind,
    Measurements,
    Round,
    Verification,
    median_parts,
)
from jorge_tune.hardware import Scheduling

_ROUND: tuple[Kind, ...] = ("baseline", "plain", "refreshing")
_MOST_ROUNDS = 40
_WARM_SECONDS, _WARM_ITERATIONS = 0.5, 200  # until either, but at least one burst of each kind
_WARM_BURST = 3
_PATIENCE = 1.5  # times the seconds that were planned
_BURST_SECONDS, _LONGEST_BURST = 0.1, 25
_SLOW = 1.0  # seconds; iterations this long need no lead-in and no second reading
_MOST_STEPS = 240  # of a verification, unless one cycle is longer
_LEAST_STEPS = 12
_SEGMENTS = 10  # of a verification at least, with the baseline in between; fewer than 8 would count no carry-over
_LONGEST_SEGMENT = 25


class CalibrationProgress(NamedTuple):
    """Where a calibration is; `part` is warming up, measuring or verifying."""

    part: str
    done: int
    total: int


Report = Callable[[CalibrationProgress], None]


class Bench(Protocol):
    """A model, a loss, and the optimizers that are compared on them."""

    @property
    def period(self) -> int:
        """Steps after which our optimizer's work besides refreshes repeats; 1 where every step has the same."""
        ...

    @property
    def pools(self) -> bool:
        """Whether the laps before the optimizer's take the same time whatever optimizer steps.

        On a GPU they need not: the host runs ahead, and what an optimizer's launches take shows in the laps after it.
        """
        ...

    def burst(self, kind: Kind, count: int) -> list[Iteration]:
        """Run `count` iterations back to back and read their times."""
        ...

    def schedule(self, interval: int) -> None:
        """Make the optimizer of kind `scheduled` anew, with this interval and no warm refreshes left."""
        ...

    def scheduling(self) -> Scheduling | None:
        """What the process has run and waited for a core so far; None where that is not known."""
        ...


@dataclass(frozen=True)
class Effort:
    """How long to measure, in seconds, after warming up; a slow model takes the least number of rounds."""

    measure_seconds: float = 20.0
    verify_seconds: float = 10.0


DEFAULT_EFFORT = Effort()


@dataclass(frozen=True)
class Calibration:
    """What was measured, what it says, and the parts of an iteration by kind."""

    choice: IntervalChoice
    measurements: Measurements
    parts: Mapping[str, Iteration]


@dataclass(frozen=True)
class IntervalCheck:
    """An interval that was run, and whether it keeps inside the budget."""

    judgement: Judgement
    verification: Verification


def calibrate(
    bench: Bench,
    overhead: float,
    *,
    effort: Effort = DEFAULT_EFFORT,
    largest: int = LARGEST_INTERVAL,
    report: Report = lambda progress: None,
) -> Calibration:
    """Measure, choose, run what was chosen, and choose again where it ran over the budget.

    Args:
        bench: what to measure on.
        overhead: the budget as a fraction of the baseline's iteration, > 0.
        effort: how long to measure.
        largest: the largest interval worth having.
        report: told about progress.

    Raises:
        ValueError: an overhead that is not above 0; nothing was measured.
    """
    if not overhead > 0:
        raise ValueError(f"overhead must be > 0, got {overhead!r}")
    measurements, parts = measure_rounds(bench, effort, report)
    while True:
        choice = choose_interval(measurements, overhead, largest=largest)
        if choice.interval is None or measurements.verified(choice.interval) is not None:
            return Calibration(choice, measurements, parts)
        cost = step_cost(measurements.rounds, measurements.pools)
        seconds = cost.base_seconds * cost.at(choice.interval).value
        ran = verify(bench, choice.interval, cost.base_seconds, seconds, effort, report)
        measurements = replace(measurements, verifications=(*measurements.verifications, ran))


def check(
    bench: Bench,
    interval: int,
    overhead: float,
    *,
    effort: Effort = DEFAULT_EFFORT,
    report: Report = lambda progress: None,
) -> IntervalCheck:
    """Run an interval as it is, beside the baseline, and judge it.

    Raises:
        ValueError: an overhead that is not above 0; nothing was measured.
    """
    if not overhead > 0:
        raise ValueError(f"overhead must be > 0, got {overhead!r}")
    base = _warm_up(bench, "baseline", report)
    bench.schedule(interval)
    seconds = _warm_up(bench, "scheduled", report)
    ran = verify(bench, interval, base, seconds, replace(effort, verify_seconds=effort.measure_seconds), report)
    return IntervalCheck(judge(ran, overhead), ran)


def measure_rounds(
    bench: Bench, effort: Effort, report: Report = lambda progress: None
) -> tuple[Measurements, dict[str, Iteration]]:
    """Interleaved rounds after a warm-up, the first of them dropped, and each kind's parts of an iteration.

    The order within a round is turned round every time, so that a steady drift meets all kinds alike. The first
    iteration of a burst is dropped too: it finds the caches full of another optimizer's state.
    """
    seconds = {kind: _warm_up(bench, kind, report) for kind in _ROUND}
    periods = {kind: 1 if kind == "baseline" else bench.period for kind in _ROUND}
    sizes = {kind: periods[kind] * math.ceil(_burst_size(seconds[kind]) / periods[kind]) for kind in _ROUND}
    leads = {kind: _lead_in(seconds[kind]) for kind in _ROUND}
    of_round = sum((sizes[kind] + leads[kind]) * seconds[kind] for kind in _ROUND)
    total = min(max(round(effort.measure_seconds / of_round), LEAST_ROUNDS + 2), _MOST_ROUNDS)
    rounds: list[Round] = []
    before = bench.scheduling()
    gathered: dict[str, list[Iteration]] = defaultdict(list)
    spent = 0.0
    for number in range(total + 1):
        if number > LEAST_ROUNDS + 2 and spent > _PATIENCE * effort.measure_seconds:
            break  # everything became slower than it was when the rounds were counted
        report(CalibrationProgress("measuring", number, total + 1))
        readings: dict[str, IterationReading] = {}
        for kind in _ROUND if number % 2 == 0 else reversed(_ROUND):
            iterations = bench.burst(kind, leads[kind] + sizes[kind])
            spent += sum(iteration.seconds for iteration in iterations)
            iterations = iterations[leads[kind] :]
            readings[kind] = _reading(iterations, periods[kind])
            if number:
                gathered[kind] += iterations
        if number:
            rounds.append(Round(**readings))
    measurements = Measurements(tuple(rounds), pools=bench.pools, waiting=_waiting(before, bench.scheduling()))
    return measurements, {kind: median_parts(iterations) for kind, iterations in gathered.items()}


def verify(
    bench: Bench,
    interval: int,
    base_seconds: float,
    step_seconds: float,
    effort: Effort,
    report: Report = lambda progress: None,
) -> Verification:
    """Run whole cycles of an interval, the baseline in between."""
    bench.schedule(interval)
    bench.burst("scheduled", _WARM_BURST)  # the first step refreshes everything; from then on the timetable turns
    cycle = math.lcm(interval, bench.period)
    total = cycle * _cycles(cycle, step_seconds, effort.verify_seconds)
    segment = min(max(total // _SEGMENTS, 1), _LONGEST_SEGMENT)
    size, lead = _burst_size(base_seconds), _lead_in(base_seconds)
    steps: list[IterationReading] = []
    baseline: list[IterationReading] = []
    before = bench.scheduling()

    def read_baseline() -> None:
        baseline.append(_reading(bench.burst("baseline", lead + size)[lead:], 1))

    while len(steps) < total:
        report(CalibrationProgress("verifying", len(steps), total))
        read_baseline()
        count = min(segment, total - len(steps))
        steps += [IterationReading(it.rest, it.optimizer) for it in bench.burst("scheduled", count)]
    read_baseline()
    waiting = _waiting(before, bench.scheduling())
    return Verification(interval, tuple(steps), tuple(baseline), waiting, bench.period, pools=bench.pools)


def _warm_up(bench: Bench, kind: Kind, report: Report) -> float:
    """Seconds of an iteration once the libraries have chosen their ways and the memory is there."""
    done, spent = 0, 0.0
    while True:
        report(CalibrationProgress("warming up", done, 0))
        iterations = bench.burst(kind, _WARM_BURST)
        done, spent = done + len(iterations), spent + sum(iteration.seconds for iteration in iterations)
        if spent >= _WARM_SECONDS or done >= _WARM_ITERATIONS:
            return min(iteration.seconds for iteration in iterations)


def _reading(iterations: Sequence[Iteration], period: int) -> IterationReading:
    """An iteration's two parts, medians; of work that differs within a period, the mean of its places' medians."""
    rest = statistics.median(iteration.rest for iteration in iterations)
    own = [iteration.optimizer for iteration in iterations]
    return IterationReading(rest, statistics.fmean(statistics.median(own[place::period]) for place in range(period)))


def _waiting(before: Scheduling | None, after: Scheduling | None) -> float | None:
    """The part of the time between two readings that was spent waiting for a core."""
    if before is None or after is None:
        return None
    ran, waited = after.ran - before.ran, after.waited - before.waited
    return waited / (ran + waited) if ran > 0 and waited >= 0 else None


def _burst_size(seconds: float) -> int:
    """Iterations whose median is one reading."""
    if seconds >= _SLOW:
        return 1
    return min(max(round(_BURST_SECONDS / seconds), 2), _LONGEST_BURST)


def _lead_in(seconds: float) -> int:
    return 0 if seconds >= _SLOW else 1


def _cycles(cycle: int, step_seconds: float, seconds: float) -> int:
    """Whole cycles for the time there is: at least one, and enough for a dozen steps."""
    wanted = round(seconds / (cycle * step_seconds))
    most = max(1, _MOST_STEPS // cycle)
    return max(math.ceil(_LEAST_STEPS / cycle), min(wanted, most), 1)
