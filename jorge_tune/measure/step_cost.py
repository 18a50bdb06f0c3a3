"""What a step of interval k costs, from interleaved rounds: `time(k) = plain + refresh / k` iterations of the baseline.

`plain` is the optimizer's iteration without a refresh and `refresh` what refreshing every block once costs. Both are
medians of ratios taken within one round, forward and backward pooled over the kinds where that is right
(`carry_over.py`); their confidence bounds come from resampled rounds (the percentile method), the two kept together.
"""

from __future__ import annotations

import functools
import random
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from jorge_tune.measure.carry_over import CarryOver, carry_over
from jorge_tune.measure.timings import Round, RoundSeconds

DRAWS, SEED = 1000, 0  # of resampling
_CONFIDENCE = 0.95  # two-sided: the upper bound is exceeded in 2.5 % of cases


@dataclass(frozen=True)
class Estimate:
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

    def at(self, interval: float) -> Estimate:
        """time(k) with its bounds; infinity stands for no refresh at all."""
        return self._estimate(lambda plain, refresh: plain + refresh / interval)

    @property
    def counted(self) -> tuple[bool, bool]:
        """Which carry-overs the data show."""
        of_plain, of_refreshing = self.carry_overs
        return of_plain.counted, of_refreshing.counted

    @property
    def refresh_estimate(self) -> Estimate:
        """One refresh of every block."""
        return self._estimate(lambda plain, refresh: refresh)

    def with_refresh(self, refresh: float) -> StepCost:
        """The same with another refresh cost, the spread scaled along (moved, where there was no cost to scale)."""
        if self.refresh > 0:
            draws = tuple((p, r * refresh / self.refresh) for p, r in self.draws)
        else:
            draws = tuple((p, r + refresh) for p, r in self.draws)
        return replace(self, refresh=refresh, draws=draws)

    def _estimate(self, of: Callable[[float, float], float]) -> Estimate:
        return Estimate(of(self.plain, self.refresh), *percentiles([of(*draw) for draw in self.draws]))


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
