"""From timings to a refresh interval: pure, seeded, without torch.

One step of interval k takes, in the mean, `time(k) = plain + refresh / k` iterations of the baseline (`step_cost.py`);
the answer is the smallest k whose upper bound keeps inside the budget, and it must come true when it is run.
"""

from __future__ import annotations

import functools
import math
import random
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

from jorge_tune.calibrate.timings import CarryOver, Measurements, Round, RoundSeconds, Verification, carry_over

LARGEST_INTERVAL = 1000
"""Beyond it preconditioners are older than most learning-rate phases; "no interval" is then the honest answer."""

LEAST_ROUNDS = 6
_FACTOR = 2  # an answer this many times what the medians alone say is noise, not measurement
_PACE = 0.05  # a change of the machine's pace from which on an answer must hold before and after it
_UNCOUNTED = 0.1  # the part of what our step adds that pooled seconds may leave uncounted: kept free in the budget
_CORRECTIONS = 2  # verifications that may miss the budget before the timings are called unstable

Outcome = Literal["interval", "infeasible", "unstable"]


@dataclass(frozen=True)
class IntervalChoice:
    """What the timings say: an interval; or why there is none, in a sentence."""

    outcome: Outcome
    interval: int | None
    reason: str


@dataclass(frozen=True)
class Judgement:
    """Whether an interval that was run keeps inside the budget: `unstable` where the timings do not say."""

    outcome: Literal["inside", "over", "unstable"]
    reason: str
    ratio: BoundedValue


def choose_interval(measurements: Measurements, overhead: float, *, largest: int = LARGEST_INTERVAL) -> IntervalChoice:
    """The smallest interval whose upper confidence bound on the mean step keeps within (1 + overhead) baselines.

    Where seconds are pooled, a tenth of what our step adds is kept free besides: so much of a carry-over on the passes
    that follow can be there unseen (`carry_over.py`).

    Where intervals have been run since, theirs is the last word: one that ran over the budget corrects the cost of a
    refresh (spread over steps, it can cost more than in one go) and a larger interval is chosen.

    Args:
        measurements: rounds in the order of time, and what was run since.
        overhead: the budget as a fraction, > 0.
        largest: the largest interval worth having.

    Raises:
        ValueError: an overhead that is not above 0.
    """
    if not overhead > 0:
        raise ValueError(f"overhead must be > 0, got {overhead!r}")
    if len(measurements.rounds) < LEAST_ROUNDS:
        return IntervalChoice(
            "unstable", None, f"{len(measurements.rounds)} rounds are too few: {LEAST_ROUNDS} are needed"
        )
    complaint = disturbance(references(measurements), overhead, measurements.longest_wait)
    if complaint is not None:
        return IntervalChoice("unstable", None, complaint)
    budget = 1 + overhead
    measured = step_cost(measurements.rounds, measurements.pools)
    levels = _levels(measurements, measured.counted)
    missed = [v for v in measurements.verifications if v.ratio > budget]
    if len(missed) > _CORRECTIONS:
        ran = ", ".join(f"interval {v.interval} ran at {percent(v.ratio - 1)}" for v in missed)
        return IntervalChoice("unstable", None, f"predictions inside the budget did not come true: {ran}")
    cost, levels = corrected(measured, missed), [corrected(level, missed) for level in levels]
    return _choose(cost, levels, budget, largest, _UNCOUNTED if measurements.pools else 0.0)


def change_of_pace(measurements: Measurements) -> Shift | None:
    """Where the machine's pace changed so much that an answer must hold before and after."""
    return largest_shift(_paces(measurements), _PACE)


def _levels(measurements: Measurements, counted: tuple[bool, bool]) -> list[StepCost]:
    """The cost before and after a change of the machine's pace, where there was one; else nothing."""
    shift, rounds = change_of_pace(measurements), measurements.rounds
    if shift is None:
        return []
    return [step_cost(part, measurements.pools, counted) for part in (rounds[: shift.after], rounds[shift.after :])]


def corrected(cost: StepCost, missed: Sequence[Verification]) -> StepCost:
    """The cost of a step after runs that were slower than predicted: their excess is the refresh's."""
    seen = [(v.ratio - cost.plain) * v.interval for v in missed]
    return cost.with_refresh(max([cost.refresh, *seen]))


def judge(verification: Verification, overhead: float) -> Judgement:
    """Whether an interval as it ran keeps within the budget, by the mean step; its bounds resample the cycles.

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
        return Judgement("unstable", f"{what}, a spread that hides a budget of {percent(overhead)}", ratio)
    if ratio.value <= 1 + overhead:
        return Judgement("inside", f"{what}, inside the budget of {percent(overhead)}", ratio)
    if percent(ratio.value - 1) == percent(overhead):
        what += f" ({100 * (ratio.value - 1):.3f} % to the third digit)"
    return Judgement("over", f"{what}, over the budget of {percent(overhead)}", ratio)


def references(measurements: Measurements) -> list[float]:
    """The baseline's seconds in the order of time."""
    later = [reading.seconds for verification in measurements.verifications for reading in verification.baseline]
    return _paces(measurements) + later


def _paces(measurements: Measurements) -> list[float]:
    """The baseline's seconds in the rounds."""
    return [(row.pooled() if measurements.pools else row.whole).baseline for row in measurements.rounds]


def percent(fraction: float) -> str:
    """`+9.8 %`."""
    return f"{100 * fraction:+.1f} %"


def bounded(ratio: BoundedValue) -> str:
    """A ratio as what it adds, with its bounds: `+9.8 % [+9.1, +10.4]`."""
    low, high = (100 * (bound - 1) for bound in (ratio.low, ratio.high))
    return f"{percent(ratio.value - 1)} [{low:+.1f}, {high:+.1f}]"


def _choose(
    cost: StepCost, levels: Sequence[StepCost], budget: float, largest: int, uncounted: float
) -> IntervalChoice:
    never = cost.at(float("inf"))
    allowed = percent(budget - 1)
    if never.low > budget:
        points = f"{100 * (never.value - budget):.1f} points"
        what = f"even without a refresh {bounded(never)} is added to the baseline's step, {points} over {allowed}"
        return IntervalChoice("infeasible", None, what)
    if never.high > budget:
        what = f"without a refresh {bounded(never)} is added, and the budget of {allowed} lies within that spread"
        return IntervalChoice("unstable", None, what)
    if _smallest(lambda k: cost.at(k).value <= budget, largest) is None:
        return IntervalChoice("infeasible", None, _too_rare(cost, budget, largest))

    def most(at: BoundedValue) -> float:
        return _charged(max(at.high, at.value), at.value, uncounted)

    by_medians = _smallest(lambda k: _charged(cost.at(k).value, cost.at(k).value, uncounted) <= budget, largest)
    if by_medians is None:
        what = (
            f"without a refresh {bounded(never)} is added; beside the {percent(uncounted * (never.value - 1))} that "
            f"pooled timings may leave uncounted, too little is left of a budget of {allowed}"
        )
        return IntervalChoice("unstable", None, what)
    found = _smallest(lambda k: most(cost.at(k)) <= budget, largest)
    if found is None or found > _FACTOR * by_medians + 1:
        asked = f"more than {largest}" if found is None else str(found)
        what = (
            f"the medians ask for interval {by_medians}, their spread for {asked}: without a refresh {bounded(never)} "
            f"is added, too wide a spread for a budget of {allowed}"
        )
        return IntervalChoice("unstable", None, what)
    if levels:
        throughout = _smallest(lambda k: max(level.at(k).value for level in levels) <= budget, largest)
        if throughout is None or throughout > _FACTOR * by_medians + 1:
            asked = f"more than {largest}" if throughout is None else str(throughout)
            what = f"all rounds ask for interval {found}, and {asked} is needed before and after the pace changed"
            return IntervalChoice("unstable", None, what)
        found = max(found, throughout)
    return IntervalChoice(
        "interval", found, f"{bounded(cost.at(found))} is predicted to be added to the baseline's step"
    )


def _charged(bound: float, ratio: float, uncounted: float) -> float:
    """A bound of a ratio, with what may be uncounted of what that adds."""
    return bound + uncounted * max(0.0, ratio - 1)


def _too_rare(cost: StepCost, budget: float, largest: int) -> str:
    allowed, margin = percent(budget - 1), budget - cost.plain
    if margin * largest**2 < cost.refresh:
        return f"without a refresh the whole budget of {allowed} is used up"
    least = cost.refresh / margin
    return f"refreshes {least:.0f} steps apart would be needed for {allowed}, and {largest} is the most worth having"


def _smallest(holds: Callable[[int], bool], largest: int) -> int | None:
    """The smallest of 1..largest for which a condition holds that holds for all larger ones too."""
    if not holds(largest):
        return None
    low, high = 0, largest
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if holds(middle) else (middle, high)
    return high


def ratio_estimate(verification: Verification) -> BoundedValue:
    """Its ratio with bounds."""
    return _resampled(verification, lambda drawn: drawn.ratio)


def whole_estimate(verification: Verification) -> BoundedValue:
    """The same from whole iterations, nothing pooled: what a stopwatch says, with all its noise."""
    return _resampled(verification, lambda drawn: drawn.whole_ratio)


def _resampled(verification: Verification, of: Callable[[Verification], float]) -> BoundedValue:
    """Bounds from resampled cycles (steps, where there are fewer than three) and baseline iterations."""
    size = verification.cycle if verification.cycles >= 3 else 1
    cycles = [verification.steps[i : i + size] for i in range(0, len(verification.steps), size)]
    generator = random.Random(SEED)
    draws = []
    for _ in range(DRAWS):
        steps = tuple(step for cycle in generator.choices(cycles, k=len(cycles)) for step in cycle)
        baseline = tuple(generator.choices(verification.baseline, k=len(verification.baseline)))
        draws.append(of(verification.drawn(steps, baseline)))
    return BoundedValue(of(verification), *percentiles(draws))


DRAWS, SEED = 1000, 0  # of resampling
_CONFIDENCE = 0.95  # two-sided: the upper bound is exceeded in 2.5 % of cases


@dataclass(frozen=True)
class BoundedValue:
    """A value with its confidence bounds."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class StepCost:
    """Iteration time as a function of the interval, in iterations of the baseline."""

    plain: float
    refresh: float
    draws: tuple[tuple[float, float], ...]  # (plain, refresh) of resampled rounds
    base_seconds: float  # of the baseline's iteration
    carry_overs: tuple[CarryOver, CarryOver]  # of ours on forward and backward: plain, refreshing

    def at(self, interval: float) -> BoundedValue:
        """time(k) with its bounds; infinity stands for no refresh at all."""
        return self._estimate(lambda plain, refresh: plain + refresh / interval)

    @property
    def counted(self) -> tuple[bool, bool]:
        """Which carry-overs the data show."""
        of_plain, of_refreshing = self.carry_overs
        return of_plain.counted, of_refreshing.counted

    @property
    def refresh_estimate(self) -> BoundedValue:
        """One refresh of every block."""
        return self._estimate(lambda plain, refresh: refresh)

    def with_refresh(self, refresh: float) -> StepCost:
        """The same with another refresh cost, the spread scaled along (moved, where there was no cost to scale)."""
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
        rounds: in the order of time.
        pools: see `calibrate.Bench`.
        counted: which carry-overs count, plain and refreshing; None: those that these rounds show.
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
    """The bounds that leave out half of 1 - confidence on either side."""
    ordered = sorted(values)
    out = round((1 - _CONFIDENCE) / 2 * len(ordered))
    return ordered[out], ordered[-1 - out]


_LEAST = 3  # values on either side of a shift; fewer leave the medians alone
_ERRORS = 4.0  # a shift must exceed this many standard errors; tests/calibrate/test_steadiness.py counts false alarms
_MEDIAN_ERROR = 1.2533  # standard error of a median in that of a mean, of normal values
_LARGEST_SHIFT = 0.25  # smaller changes of pace come and go on virtual machines; answers must hold on both sides of one
_WIDEST = 0.3  # between quartiles; ratios within a round bear what is less (studies/LOG.md)
_MOST_WAITING = 0.2
_THIRD_QUARTILE = 1.1503  # of absolute deviations of normal values, in standard deviations; sees two alternating speeds


class Shift(NamedTuple):
    """A step or drift in a series: after how many values, and the later median over the earlier one."""

    after: int
    factor: float


def largest_shift(values: Sequence[float], least_change: float) -> Shift | None:
    """The change of level that fits best, of those beyond `least_change` (a fraction) and beyond noise; else None."""
    logs = [math.log(value) for value in values]
    found: tuple[float, Shift] | None = None
    for split in range(_LEAST, len(logs) - _LEAST + 1):
        before, after = statistics.median(logs[:split]), statistics.median(logs[split:])
        residuals = [abs(x - (before if i < split else after)) for i, x in enumerate(logs)]
        noise = statistics.quantiles(residuals, n=4, method="inclusive")[2] / _THIRD_QUARTILE
        error = _MEDIAN_ERROR * noise * math.sqrt(1 / split + 1 / (len(logs) - split))
        is_shift = abs(after - before) > max(math.log1p(least_change), _ERRORS * error)
        if is_shift and (found is None or sum(residuals) < found[0]):
            found = sum(residuals), Shift(split, math.exp(after - before))
    return found[1] if found else None


def quartile_spread(values: Sequence[float]) -> float:
    """The distance between the quartiles, in medians."""
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return (high - low) / middle


def disturbance(references: Sequence[float], overhead: float, waiting: float | None = None) -> str | None:
    """What speaks against trusting figures with these baseline seconds, in words; None where nothing does.

    A level that moved by more than a quarter, quartiles further apart than 30 %, or threads that waited for a core for
    more than half the overhead (or 10 %): the machine did something else meanwhile.

    Args:
        references: the baseline's seconds in the order of time.
        overhead: the budget that is to be told apart, as a fraction.
        waiting: the part of its time that the process waited for a core; None where the system does not say.
    """
    if waiting is not None and waiting > min(overhead, _MOST_WAITING) / 2:
        return f"the process waited for a core for {waiting:.0%} of its time: other programs are running"
    shift = largest_shift(references, _LARGEST_SHIFT)
    if shift is not None:
        return (
            f"the baseline's own step {changed_pace(shift, len(references))}: "
            "another program started or ended, or the clock moved"
        )
    spread = quartile_spread(references)
    if spread > _WIDEST:
        return (
            f"the baseline's own step varies by {spread:.0%} between its quartiles, and more than {_WIDEST:.0%} hides "
            "what is to be measured"
        )
    return None


def changed_pace(shift: Shift, count: int) -> str:
    """`became 14% faster after 7 of 30 readings`."""
    pace = "slower" if shift.factor > 1 else "faster"
    change = max(shift.factor, 1 / shift.factor) - 1
    return f"became {change:.0%} {pace} after {shift.after} of {count} readings"
