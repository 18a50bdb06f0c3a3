"""From timings to a refresh interval: pure, seeded, without torch.

With interval k, the mean step takes time(k) = plain + refresh / k, in units of the baseline's iteration. The answer is
the smallest k whose upper confidence bound is within the budget, and whose run then confirms it.

infeasible   no interval keeps within the budget
unstable     the timings are too noisy, or changed too much, for an answer
"""

from __future__ import annotations

import functools
import math
import random
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

from jorge_tune.calibration.timings import CarryOver, Measurements, Round, RoundSeconds, Verification, carry_over

LARGEST_INTERVAL = 1000
"""With a larger interval, preconditioners would be older than most phases of the learning rate: infeasible."""

LEAST_ROUNDS = 6
_FACTOR = 2  # an interval more than so many times what the medians ask for comes from noise
_PACE = 0.05  # after a larger change of the machine's pace, an answer must hold before and after the change
_UNCOUNTED = 0.1  # of the time that our step adds, pooled timings may miss this fraction: the budget keeps it free
_CORRECTIONS = 2  # so many verifications may run over the budget before the timings are called unstable

Outcome = Literal["interval", "infeasible", "unstable"]


@dataclass(frozen=True)
class IntervalChoice:
    """The interval, or the reason why there is none, in a sentence."""

    outcome: Outcome
    interval: int | None
    reason: str


@dataclass(frozen=True)
class Judgement:
    """Whether an interval that was run keeps within the budget; `unstable` if its timings cannot tell."""

    outcome: Literal["inside", "over", "unstable"]
    reason: str
    ratio: BoundedValue


def choose_interval(measurements: Measurements, overhead: float, *, largest: int = LARGEST_INTERVAL) -> IntervalChoice:
    """The smallest interval whose mean step keeps, by its upper confidence bound, within (1 + overhead) baselines.

    If the timings are pooled, a tenth of the time that our step adds is kept free as well: a carry-over of that size
    can be there without being seen.

    An interval that was run afterwards and was over the budget corrects the cost of a refresh (spread over steps, it
    can cost more than in one go), so that a larger interval is chosen.

    Args:
        measurements: The rounds in order of time, and the intervals that were run afterwards.
        overhead: The budget as a fraction, > 0.
        largest: The largest interval worth having.

    Raises:
        ValueError: an overhead that is not above 0.
    """
    if not overhead > 0:
        raise ValueError(f"overhead must be > 0, got {overhead!r}")
    if len(measurements.rounds) < LEAST_ROUNDS:
        return IntervalChoice("unstable", None, f"got {len(measurements.rounds)} rounds, but needs {LEAST_ROUNDS}")
    complaint = disturbance(references(measurements), overhead, measurements.longest_wait)
    if complaint is not None:
        return IntervalChoice("unstable", None, complaint)

    budget = 1 + overhead
    over_budget = [v for v in measurements.verifications if v.ratio > budget]
    if len(over_budget) > _CORRECTIONS:
        ran = ", ".join(f"interval {v.interval} ran at {percent(v.ratio - 1)}" for v in over_budget)
        return IntervalChoice("unstable", None, f"intervals predicted to be within the budget were not: {ran}")

    measured = step_cost(measurements.rounds, measurements.pools)
    cost = corrected(measured, over_budget)
    levels = [corrected(level, over_budget) for level in _levels(measurements, measured.counted)]
    return _choose(cost, levels, budget, largest, _UNCOUNTED if measurements.pools else 0.0)


def change_of_pace(measurements: Measurements) -> Shift | None:
    """The change of the machine's pace before and after which an answer must hold; None if there was none."""
    return largest_shift(_paces(measurements), _PACE)


def _levels(measurements: Measurements, counted: tuple[bool, bool]) -> list[StepCost]:
    """The cost before and the cost after a change of the machine's pace; empty if there was none."""
    shift, rounds = change_of_pace(measurements), measurements.rounds
    if shift is None:
        return []
    return [step_cost(part, measurements.pools, counted) for part in (rounds[: shift.after], rounds[shift.after :])]


def corrected(cost: StepCost, over_budget: Sequence[Verification]) -> StepCost:
    """The cost of a step after runs that were over the budget: the excess is charged to the refresh."""
    seen = [(v.ratio - cost.plain) * v.interval for v in over_budget]
    return cost.with_refresh(max([cost.refresh, *seen]))


def judge(verification: Verification, overhead: float) -> Judgement:
    """Whether the mean step of an interval that was run keeps within the budget; its bounds resample the cycles.

    Raises:
        ValueError: an overhead that is not above 0.
    """
    if not overhead > 0:
        raise ValueError(f"overhead must be > 0, got {overhead!r}")
    ratio = ratio_estimate(verification)
    complaint = disturbance([reading.seconds for reading in verification.baseline], overhead, verification.waiting)
    if complaint is not None:
        return Judgement("unstable", complaint, ratio)

    what = f"interval {verification.interval} adds {bounded(ratio)} to the baseline's step"
    if ratio.low <= 1 + overhead < ratio.high and ratio.high - ratio.low > overhead:
        return Judgement("unstable", f"{what}; the spread is too wide for a budget of {percent(overhead)}", ratio)
    if ratio.value <= 1 + overhead:
        return Judgement("inside", f"{what}, within the budget of {percent(overhead)}", ratio)
    if percent(ratio.value - 1) == percent(overhead):
        what += f" (more exactly, {100 * (ratio.value - 1):.3f} %)"
    return Judgement("over", f"{what}, over the budget of {percent(overhead)}", ratio)


def references(measurements: Measurements) -> list[float]:
    """The baseline's seconds in order of time."""
    later = [reading.seconds for verification in measurements.verifications for reading in verification.baseline]
    return _paces(measurements) + later


def _paces(measurements: Measurements) -> list[float]:
    """The baseline's seconds in each round."""
    return [(row.pooled() if measurements.pools else row.whole).baseline for row in measurements.rounds]


def percent(fraction: float) -> str:
    """`+9.8 %`."""
    return f"{100 * fraction:+.1f} %"


def bounded(ratio: BoundedValue) -> str:
    """What a ratio adds to 1, with its bounds: `+9.8 % [+9.1, +10.4]`."""
    low, high = (100 * (bound - 1) for bound in (ratio.low, ratio.high))
    return f"{percent(ratio.value - 1)} [{low:+.1f}, {high:+.1f}]"


def _choose(
    cost: StepCost, levels: Sequence[StepCost], budget: float, largest: int, uncounted: float
) -> IntervalChoice:
    """The interval from the cost of a step.

    Args:
        cost: From all rounds.
        levels: Before and after a change of pace, if there was one.
        budget: 1 + overhead.
        largest: The largest interval worth having.
        uncounted: The fraction of the added time to keep free.
    """
    never = cost.at(float("inf"))
    allowed = percent(budget - 1)
    if never.low > budget:
        points = f"{100 * (never.value - budget):.1f} points"
        what = (
            f"even without a refresh, ours adds {bounded(never)} to the baseline's step, {points} over the budget of "
            f"{allowed}"
        )
        return IntervalChoice("infeasible", None, what)
    if never.high > budget:
        what = f"without a refresh, ours adds {bounded(never)}, and the budget of {allowed} lies within that spread"
        return IntervalChoice("unstable", None, what)
    if _smallest(lambda k: cost.at(k).value <= budget, largest) is None:
        return IntervalChoice("infeasible", None, _too_rare(cost, budget, largest))

    # What the medians alone ask for. Their spread must not ask for much more.
    by_medians = _smallest(lambda k: _with_uncounted(cost.at(k).value, cost.at(k).value, uncounted) <= budget, largest)
    if by_medians is None:
        what = (
            f"without a refresh, ours adds {bounded(never)}; with the {percent(uncounted * (never.value - 1))} that "
            f"pooled timings may miss, too little is left of a budget of {allowed}"
        )
        return IntervalChoice("unstable", None, what)

    def upper_bound(at: BoundedValue) -> float:
        return _with_uncounted(max(at.high, at.value), at.value, uncounted)

    interval = _smallest(lambda k: upper_bound(cost.at(k)) <= budget, largest)
    if interval is None or interval > _FACTOR * by_medians + 1:
        asked = f"more than {largest}" if interval is None else str(interval)
        what = (
            f"the medians ask for interval {by_medians}, their spread for {asked}: without a refresh, ours adds "
            f"{bounded(never)}, too wide a spread for a budget of {allowed}"
        )
        return IntervalChoice("unstable", None, what)

    # After a change of the machine's pace, the interval must keep within the budget on both sides of it.
    if levels:
        throughout = _smallest(lambda k: max(level.at(k).value for level in levels) <= budget, largest)
        if throughout is None or throughout > _FACTOR * by_medians + 1:
            asked = f"more than {largest}" if throughout is None else str(throughout)
            what = f"all rounds together ask for interval {interval}, but before or after the pace changed for {asked}"
            return IntervalChoice("unstable", None, what)
        interval = max(interval, throughout)

    reason = f"predicted to add {bounded(cost.at(interval))} to the baseline's step"
    return IntervalChoice("interval", interval, reason)


def _with_uncounted(bound: float, ratio: float, uncounted: float) -> float:
    """A bound of a ratio, plus what pooled timings may have missed of the time that the ratio adds."""
    return bound + uncounted * max(0.0, ratio - 1)


def _too_rare(cost: StepCost, budget: float, largest: int) -> str:
    """Why no interval up to `largest` keeps within the budget."""
    allowed, margin = percent(budget - 1), budget - cost.plain
    if margin * largest**2 < cost.refresh:
        return f"even without a refresh, ours uses up the whole budget of {allowed}"
    least = cost.refresh / margin
    return (
        f"a budget of {allowed} needs refreshes {least:.0f} steps apart, and {largest} is the largest interval allowed"
    )


def _smallest(holds: Callable[[int], bool], largest: int) -> int | None:
    """The smallest of 1..largest that meets a condition which, once met, all larger ones meet too."""
    if not holds(largest):
        return None
    low, high = 0, largest
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if holds(middle) else (middle, high)
    return high


def ratio_estimate(verification: Verification) -> BoundedValue:
    """The mean step in units of the baseline's iteration, with bounds."""
    return _resampled(verification, lambda resample: resample.ratio)


def whole_estimate(verification: Verification) -> BoundedValue:
    """The same from whole iterations, with nothing pooled: what a stopwatch shows, with all its noise."""
    return _resampled(verification, lambda resample: resample.whole_ratio)


def _resampled(verification: Verification, of: Callable[[Verification], float]) -> BoundedValue:
    """A value with bounds from resampled cycles (resampled steps below three cycles) and baseline iterations."""
    size = verification.cycle if verification.cycles >= 3 else 1
    cycles = [verification.steps[i : i + size] for i in range(0, len(verification.steps), size)]
    generator = random.Random(SEED)
    draws = []
    for _ in range(DRAWS):
        steps = tuple(step for cycle in generator.choices(cycles, k=len(cycles)) for step in cycle)
        baseline = tuple(generator.choices(verification.baseline, k=len(verification.baseline)))
        draws.append(of(verification.with_readings(steps, baseline)))
    return BoundedValue(of(verification), *percentiles(draws))


DRAWS, SEED = 1000, 0  # of resampling
_CONFIDENCE = 0.95  # two-sided: 2.5 % of the cases lie above the upper bound


@dataclass(frozen=True)
class BoundedValue:
    """A value with its confidence bounds."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class StepCost:
    """The time of a step as a function of the interval, in units of the baseline's iteration.

    Attributes:
        plain: A step without a refresh.
        refresh: What one refresh of every block adds.
        draws: (plain, refresh) of resampled rounds.
        base_seconds: Seconds of the baseline's iteration.
        carry_overs: Of plain and of refreshing.
    """

    plain: float
    refresh: float
    draws: tuple[tuple[float, float], ...]
    base_seconds: float
    carry_overs: tuple[CarryOver, CarryOver]

    def at(self, interval: float) -> BoundedValue:
        """time(k) with bounds; an infinite interval means no refresh at all."""
        return self._estimate(lambda plain, refresh: plain + refresh / interval)

    @property
    def counted(self) -> tuple[bool, bool]:
        """Which carry-overs the data show."""
        of_plain, of_refreshing = self.carry_overs
        return of_plain.counted, of_refreshing.counted

    @property
    def refresh_estimate(self) -> BoundedValue:
        """One refresh of every block, with bounds."""
        return self._estimate(lambda plain, refresh: refresh)

    def with_refresh(self, refresh: float) -> StepCost:
        """The same with another cost of a refresh; its spread is scaled along, or shifted if the cost was 0."""
        if self.refresh > 0:
            draws = tuple((p, r * refresh / self.refresh) for p, r in self.draws)
        else:
            draws = tuple((p, r + refresh) for p, r in self.draws)
        return replace(self, refresh=refresh, draws=draws)

    def _estimate(self, of: Callable[[float, float], float]) -> BoundedValue:
        return BoundedValue(of(self.plain, self.refresh), *percentiles([of(*draw) for draw in self.draws]))


@functools.lru_cache(maxsize=4)
def step_cost(rounds: tuple[Round, ...], pools: bool = True, counted: tuple[bool, bool] | None = None) -> StepCost:
    """The cost of a step from interleaved rounds.

    Args:
        rounds: In order of time.
        pools: See `measure.Bench`.
        counted: Which carry-overs to count, plain and refreshing; None counts those that these rounds show.
    """
    logs = [row.log_carry_overs for row in rounds]
    of_plain, of_refreshing = (carry_over([pair[side] for pair in logs]) for side in (0, 1))
    counted = counted or (of_plain.counted, of_refreshing.counted)

    def seconds(chosen: Sequence[int]) -> list[RoundSeconds]:
        if not pools:
            return [rounds[i].whole for i in chosen]
        shown = [statistics.median(logs[i][side] for i in chosen) if counted[side] else 0.0 for side in (0, 1)]
        return [rounds[i].pooled(shown) for i in chosen]

    everything = range(len(rounds))
    generator = random.Random(SEED)
    draws = tuple(_parts(seconds(generator.choices(everything, k=len(rounds)))) for _ in range(DRAWS))
    measured = seconds(everything)
    base = statistics.median(row.baseline for row in measured)
    return StepCost(*_parts(measured), draws, base, (of_plain, of_refreshing))


def _parts(rounds: Sequence[RoundSeconds]) -> tuple[float, float]:
    """(plain, refresh), medians over rounds."""
    plain = statistics.median(row.plain / row.baseline for row in rounds)
    return plain, max(0.0, statistics.median((row.refreshing - row.plain) / row.baseline for row in rounds))


def percentiles(values: Sequence[float]) -> tuple[float, float]:
    """The bounds that leave out 2.5 % of the values on either side."""
    ordered = sorted(values)
    out = round((1 - _CONFIDENCE) / 2 * len(ordered))
    return ordered[out], ordered[-1 - out]


_LEAST = 3  # values on either side of a shift; fewer do not move a median
_ERRORS = 4.0  # a shift must exceed this many standard errors; tests/calibration/test_steadiness.py counts false alarms
_MEDIAN_ERROR = 1.2533  # standard error of a median in that of a mean, of normal values
_LARGEST_SHIFT = 0.25  # virtual machines change their pace by less all the time; such changes are dealt with above
_WIDEST = 0.3  # between quartiles; less does not disturb the ratios within a round (studies/LOG.md)
_MOST_WAITING = 0.2
_THIRD_QUARTILE = 1.1503  # of the absolute deviations of normal values; unlike a median it sees two alternating speeds


class Shift(NamedTuple):
    """A change of level in a series: the number of values before it, and the later median over the earlier one."""

    after: int
    factor: float


def largest_shift(values: Sequence[float], least_change: float) -> Shift | None:
    """The best-fitting change of level above both `least_change` (a fraction) and the noise; None if there is none."""
    logs = [math.log(value) for value in values]
    best: tuple[float, Shift] | None = None
    for split in range(_LEAST, len(logs) - _LEAST + 1):
        before, after = statistics.median(logs[:split]), statistics.median(logs[split:])
        residuals = [abs(x - (before if i < split else after)) for i, x in enumerate(logs)]
        noise = statistics.quantiles(residuals, n=4, method="inclusive")[2] / _THIRD_QUARTILE
        error = _MEDIAN_ERROR * noise * math.sqrt(1 / split + 1 / (len(logs) - split))
        is_shift = abs(after - before) > max(math.log1p(least_change), _ERRORS * error)
        if is_shift and (best is None or sum(residuals) < best[0]):
            best = sum(residuals), Shift(split, math.exp(after - before))
    return best[1] if best else None


def quartile_spread(values: Sequence[float]) -> float:
    """The distance between the quartiles, as a fraction of the median."""
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return (high - low) / middle


def disturbance(references: Sequence[float], overhead: float, waiting: float | None = None) -> str | None:
    """Why timings with these baseline seconds cannot be trusted, in words; None if they can.

    The machine did something else meanwhile if the level moved by more than a quarter, if the quartiles are more than
    30 % apart, or if the threads waited for a core for more than half of the overhead (or more than 10 %).

    Args:
        references: The baseline's seconds in order of time.
        overhead: The budget, as a fraction.
        waiting: The fraction of the time that the process waited for a core; None if the system does not say.
    """
    if waiting is not None and waiting > min(overhead, _MOST_WAITING) / 2:
        return f"the process waited for a core for {waiting:.0%} of its time: other programs are running"

    shift = largest_shift(references, _LARGEST_SHIFT)
    if shift is not None:
        return (
            f"the baseline's own step {changed_pace(shift, len(references))}: "
            "another program started or ended, or the processor changed its clock rate"
        )

    spread = quartile_spread(references)
    if spread > _WIDEST:
        return (
            f"the baseline's own step varies by {spread:.0%} between its quartiles, and more than {_WIDEST:.0%} is too "
            "much to measure anything"
        )
    return None


def changed_pace(shift: Shift, count: int) -> str:
    """`became 14% faster after 7 of 30 readings`."""
    pace = "slower" if shift.factor > 1 else "faster"
    change = max(shift.factor, 1 / shift.factor) - 1
    return f"became {change:.0%} {pace} after {shift.after} of {count} readings"
