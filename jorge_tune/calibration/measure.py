"""How a calibration measures: interleaved rounds, a choice of an interval, and a run of that interval to verify it.

The bench runs the iterations and reads the clock. What is here only plans, so tests can play it on scripted timings.
"""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, Protocol

from jorge_tune.calibration.choose_interval import (
    LARGEST_INTERVAL,
    LEAST_ROUNDS,
    IntervalChoice,
    Judgement,
    choose_interval,
    judge,
    step_cost,
)
from jorge_tune.calibration.timings import (
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
_WARM_SECONDS, _WARM_ITERATIONS = 0.5, 200  # until one of them is reached, and at least one burst of each kind
_WARM_BURST = 3
_PATIENCE = 1.5  # stop after so many times the planned seconds
_BURST_SECONDS, _LONGEST_BURST = 0.1, 25
_SLOW = 1.0  # seconds; iterations this long need no lead-in and no second reading
_MOST_STEPS = 240  # of a verification, unless one cycle is longer
_LEAST_STEPS = 12
_SEGMENTS = 10  # of a verification, at least, with the baseline in between; below 8 no carry-over can be counted
_LONGEST_SEGMENT = 25


class CalibrationProgress(NamedTuple):
    """The progress of a calibration; `part` is "warming up", "measuring" or "verifying"."""

    part: str
    done: int
    total: int


Report = Callable[[CalibrationProgress], None]


class Bench(Protocol):
    """A model, a loss, and the optimizers that are timed on them."""

    @property
    def period(self) -> int:
        """Steps after which the work of our optimizer besides refreshes repeats; 1 if it is the same at every step."""
        ...

    @property
    def pools(self) -> bool:
        """Whether data, forward and backward take the same time whatever optimizer follows, so that they are pooled.

        On a GPU they need not: the host runs ahead, and the time of an optimizer's launches shows in the laps after it.
        """
        ...

    def burst(self, kind: Kind, count: int) -> list[Iteration]:
        """Run `count` iterations back to back and read their times."""
        ...

    def schedule(self, interval: int) -> None:
        """Make a new optimizer of kind `scheduled`, with this interval and without warm refreshes."""
        ...

    def scheduling(self) -> Scheduling | None:
        """Seconds that the process has run, and has waited for a core, so far; None if they are not known."""
        ...


@dataclass(frozen=True)
class Effort:
    """How long to measure after the warm-up; a slow model takes longer, since it gets the least number of rounds."""

    measure_seconds: float = 20.0
    verify_seconds: float = 10.0


DEFAULT_EFFORT = Effort()


@dataclass(frozen=True)
class Calibration:
    """The interval that was chosen, what it was chosen from, and the median parts of an iteration by kind."""

    choice: IntervalChoice
    measurements: Measurements
    parts: Mapping[str, Iteration]


@dataclass(frozen=True)
class IntervalCheck:
    """An interval that was run, and whether it keeps within the budget."""

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
    """Measure, choose an interval and run it; choose again if it ran over the budget.

    Args:
        bench: What to measure on.
        overhead: The budget as a fraction of the baseline's iteration, > 0.
        effort: How long to measure.
        largest: The largest interval worth having.
        report: Called with the progress.

    Raises:
        ValueError: the overhead is not above 0; nothing was measured.
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
    """Run an interval, with the baseline in between, and judge it.

    Raises:
        ValueError: the overhead is not above 0; nothing was measured.
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
    """Measure interleaved rounds after a warm-up; also return the median parts of an iteration by kind.

    Each round reverses the order of the kinds, so that a steady drift affects all of them alike. The first round is
    dropped, and so is the first iteration of each burst: it finds the caches full of another optimizer's state.
    """
    seconds = {kind: _warm_up(bench, kind, report) for kind in _ROUND}
    periods = {kind: 1 if kind == "baseline" else bench.period for kind in _ROUND}
    sizes = {kind: periods[kind] * math.ceil(_burst_size(seconds[kind]) / periods[kind]) for kind in _ROUND}
    leads = {kind: _lead_in(seconds[kind]) for kind in _ROUND}
    round_seconds = sum((sizes[kind] + leads[kind]) * seconds[kind] for kind in _ROUND)
    total = min(max(round(effort.measure_seconds / round_seconds), LEAST_ROUNDS + 2), _MOST_ROUNDS)

    rounds: list[Round] = []
    before = bench.scheduling()
    gathered: dict[str, list[Iteration]] = defaultdict(list)
    spent = 0.0
    for number in range(total + 1):
        if number > LEAST_ROUNDS + 2 and spent > _PATIENCE * effort.measure_seconds:
            break  # the machine has become slower since the number of rounds was fixed
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
    """Run whole cycles of an interval, with the baseline in between."""
    bench.schedule(interval)
    bench.burst("scheduled", _WARM_BURST)  # the first step refreshes everything; after it the interval decides

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
    """The seconds of an iteration, once the libraries have chosen their algorithms and memory is allocated."""
    done, spent = 0, 0.0
    while True:
        report(CalibrationProgress("warming up", done, 0))
        iterations = bench.burst(kind, _WARM_BURST)
        done, spent = done + len(iterations), spent + sum(iteration.seconds for iteration in iterations)
        if spent >= _WARM_SECONDS or done >= _WARM_ITERATIONS:
            return min(iteration.seconds for iteration in iterations)


def _reading(iterations: Sequence[Iteration], period: int) -> IterationReading:
    """The medians of an iteration's two parts; if work differs within a period, the mean of each place's median."""
    rest = statistics.median(iteration.rest for iteration in iterations)
    own = [iteration.optimizer for iteration in iterations]
    return IterationReading(rest, statistics.fmean(statistics.median(own[place::period]) for place in range(period)))


def _waiting(before: Scheduling | None, after: Scheduling | None) -> float | None:
    """The fraction of the time between two readings that the process waited for a core."""
    if before is None or after is None:
        return None
    ran, waited = after.ran - before.ran, after.waited - before.waited
    return waited / (ran + waited) if ran > 0 and waited >= 0 else None


def _burst_size(seconds: float) -> int:
    """The number of iterations whose median makes one reading."""
    if seconds >= _SLOW:
        return 1
    return min(max(round(_BURST_SECONDS / seconds), 2), _LONGEST_BURST)


def _lead_in(seconds: float) -> int:
    """The number of iterations to drop at the start of a burst."""
    return 0 if seconds >= _SLOW else 1


def _cycles(cycle: int, step_seconds: float, seconds: float) -> int:
    """The number of whole cycles for the given seconds: at least one, and enough for a dozen steps."""
    wanted = round(seconds / (cycle * step_seconds))
    most = max(1, _MOST_STEPS // cycle)
    return max(math.ceil(_LEAST_STEPS / cycle), min(wanted, most), 1)
