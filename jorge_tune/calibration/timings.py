"""The timings of a calibration as plain values: iterations, rounds, verifications. No torch.

rest         data, forward and backward of an iteration: the same work whatever optimizer follows
pooled       one rest for all kinds of iterations, since their work is the same; the differences are noise
carry-over   what an optimizer's step changes in the rest of the next iteration (caches, for instance), as a logarithm
             of ours over the baseline's; it is counted only if the data show it
"""

from __future__ import annotations

import functools
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, NamedTuple, TypeAlias

Kind: TypeAlias = Literal["baseline", "plain", "refreshing", "scheduled"]
"""`baseline` is torch's form of the grafted optimizer. The others are ours: `plain` refreshes nothing, `refreshing`
refreshes everything at each step, and `scheduled` follows a refresh interval."""


class Iteration(NamedTuple):
    """The seconds of one iteration by part; nothing lies between the parts."""

    data: float
    forward: float
    backward: float
    optimizer: float

    @property
    def seconds(self) -> float:
        """The whole iteration."""
        return sum(self)

    @property
    def rest(self) -> float:
        """Everything but the optimizer: the same work whatever optimizer follows."""
        return self.data + self.forward + self.backward


class IterationReading(NamedTuple):
    """The seconds of an iteration in two parts; only `optimizer` depends on the optimizer."""

    rest: float
    optimizer: float

    @property
    def seconds(self) -> float:
        """The whole iteration."""
        return self.rest + self.optimizer


class Round(NamedTuple):
    """One round: the three kinds, measured in turn."""

    baseline: IterationReading
    plain: IterationReading
    refreshing: IterationReading

    @property
    def log_carry_overs(self) -> tuple[float, float]:
        """The carry-overs of plain and of refreshing."""
        return math.log(self.plain.rest / self.baseline.rest), math.log(self.refreshing.rest / self.baseline.rest)

    def pooled(self, logs: Sequence[float] = (0.0, 0.0)) -> RoundSeconds:
        """The seconds with one pooled rest, the median of all three; `logs` are carry-overs that are kept apart."""
        factors = [math.exp(log - sum(logs) / 3) for log in (0.0, *logs)]
        rest = statistics.median(reading.rest / factor for reading, factor in zip(self, factors, strict=True))
        return RoundSeconds(*(rest * f + reading.optimizer for reading, f in zip(self, factors, strict=True)))

    @property
    def whole(self) -> RoundSeconds:
        """The seconds of whole iterations, with nothing pooled."""
        return RoundSeconds(*(reading.seconds for reading in self))


class RoundSeconds(NamedTuple):
    """The seconds of an iteration of each kind."""

    baseline: float
    plain: float
    refreshing: float


@dataclass(frozen=True)
class Verification:
    """The timings of an interval that was run.

    Attributes:
        interval: The refresh interval.
        steps: Every step of whole cycles, in order.
        baseline: The baseline's iterations in between.
        waiting: The fraction of the time that the process waited for a core; None if it is not known.
        period: Steps after which the work besides refreshes repeats (statistics have an interval of their own).
        log_carry_over: The carry-over to count; None takes what the readings show.
        pools: See `measure.Bench`.
    """

    interval: int
    steps: tuple[IterationReading, ...]
    baseline: tuple[IterationReading, ...]
    waiting: float | None = None
    period: int = 1
    log_carry_over: float | None = None
    pools: bool = True

    @property
    def cycle(self) -> int:
        """Steps after which all of the work repeats."""
        return math.lcm(self.interval, self.period)

    @property
    def cycles(self) -> int:
        """The number of whole cycles that ran."""
        return len(self.steps) // self.cycle

    @property
    def log_carry_overs(self) -> list[float]:
        """The carry-over of each stretch of steps, against the baseline's readings before and after the stretch."""
        size = math.ceil(len(self.steps) / max(1, len(self.baseline) - 1))
        stretches = [self.steps[start : start + size] for start in range(0, len(self.steps), size)]
        around = zip(self.baseline, self.baseline[1:] or self.baseline, strict=False)
        return [
            math.log(statistics.median(r.rest for r in stretch) / statistics.fmean((before.rest, after.rest)))
            for stretch, (before, after) in zip(stretches, around, strict=False)
        ]

    @property
    def mean_step(self) -> float:
        """The mean seconds of a step over the cycle (with three or more cycles, the mean of each place's median)."""
        return statistics.fmean(self._typical_steps)

    @property
    def longest_step(self) -> float:
        """The seconds of the cycle's longest step."""
        return max(self._typical_steps)

    @property
    def reference(self) -> float:
        """The seconds of the baseline's iteration during the verification."""
        if not self.pools:
            return statistics.median(reading.seconds for reading in self.baseline)
        return self._rests[1] + statistics.median(reading.optimizer for reading in self.baseline)

    @property
    def ratio(self) -> float:
        """The mean step, in units of the baseline's iteration."""
        return self.mean_step / self.reference

    @property
    def whole_ratio(self) -> float:
        """The same ratio from whole iterations, with nothing pooled."""
        whole = statistics.fmean(self._places([reading.seconds for reading in self.steps]))
        return whole / statistics.median(reading.seconds for reading in self.baseline)

    def with_readings(
        self, steps: tuple[IterationReading, ...], baseline: tuple[IterationReading, ...]
    ) -> Verification:
        """The same verification with resampled readings; the counted carry-over stays."""
        return replace(self, steps=steps, baseline=baseline, log_carry_over=self.counted_log_carry_over)

    @functools.cached_property
    def counted_log_carry_over(self) -> float:
        """The carry-over if the data show it, else 0."""
        return counted_log(self.log_carry_overs) if self.log_carry_over is None else self.log_carry_over

    @functools.cached_property
    def _rests(self) -> tuple[float, float]:
        """The rests of ours and of the baseline: equal unless the data show a carry-over."""
        medians = [statistics.median(r.rest for r in readings) for readings in (self.steps, self.baseline)]
        rest, half = statistics.fmean(medians), self.counted_log_carry_over / 2
        return rest * math.exp(half), rest * math.exp(-half)

    @property
    def _typical_steps(self) -> list[float]:
        """The seconds of a step at each place in the cycle."""
        if not self.pools:
            return self._places([reading.seconds for reading in self.steps])
        return [self._rests[0] + own for own in self._places([reading.optimizer for reading in self.steps])]

    def _places(self, seconds: Sequence[float]) -> list[float]:
        """One value per place in the cycle: the median over three or more cycles, else the mean."""
        typical = statistics.median if self.cycles >= 3 else statistics.fmean
        return [typical(seconds[place :: self.cycle]) for place in range(self.cycle)]


@dataclass(frozen=True)
class Measurements:
    """What an interval is chosen from: the rounds, and every interval that was run afterwards.

    `waiting` is that of the rounds, as in `Verification`. `pools`: see `measure.Bench`.
    """

    rounds: tuple[Round, ...]
    verifications: tuple[Verification, ...] = ()
    waiting: float | None = None
    pools: bool = True

    def verified(self, interval: int) -> Verification | None:
        """The verification of an interval, if it was run."""
        return next((v for v in self.verifications if v.interval == interval), None)

    @property
    def longest_wait(self) -> float | None:
        """The largest known `waiting` of the rounds and the verifications."""
        waits = [self.waiting, *(verification.waiting for verification in self.verifications)]
        return max((wait for wait in waits if wait is not None), default=None)


@dataclass(frozen=True)
class Memory:
    """The bytes of the optimizer's own state, and the peak: of the allocator on a GPU, else of the whole process."""

    state: int
    peak: int | None


@dataclass(frozen=True)
class Profile:
    """What else was measured: the median parts of an iteration by kind, memory, the device, the input."""

    parts: Mapping[str, Iteration]
    memory: Mapping[str, Memory]
    device: str
    input: str


def median_parts(iterations: Sequence[Iteration]) -> Iteration:
    """The median of each part."""
    return Iteration(*(statistics.median(values) for values in zip(*iterations, strict=True)))


def measurements_to_json(measurements: Measurements) -> dict[str, Any]:
    """Plain data, exact to the last digit, so that the same interval follows when it is read back."""
    return {
        "rounds": [[list(reading) for reading in row] for row in measurements.rounds],
        "verifications": [
            {
                "interval": verification.interval,
                "steps": [list(reading) for reading in verification.steps],
                "baseline": [list(reading) for reading in verification.baseline],
                "waiting": verification.waiting,
                "period": verification.period,
            }
            for verification in measurements.verifications
        ],
        "waiting": measurements.waiting,
        "pools": measurements.pools,
    }


def measurements_from_json(data: Any) -> Measurements:
    """Read what `measurements_to_json` wrote.

    Raises:
        ValueError, TypeError, KeyError: the data is something else.
    """
    rounds, pools = tuple(Round(*_readings(row)) for row in data["rounds"]), bool(data["pools"])
    verifications = tuple(
        Verification(
            int(item["interval"]),
            _readings(item["steps"]),
            _readings(item["baseline"]),
            _fraction(item["waiting"]),
            int(item["period"]),
            pools=pools,
        )
        for item in data["verifications"]
    )
    for verification in verifications:
        counts = (verification.interval, verification.period, len(verification.baseline))
        if min(counts) < 1 or verification.cycles < 1 or len(verification.steps) % verification.cycle:
            raise ValueError(f"steps must be whole cycles of interval {verification.interval}")
    return Measurements(rounds, verifications, _fraction(data["waiting"]), pools)


def profile_to_json(profile: Profile) -> dict[str, Any]:
    """Plain data."""
    return {
        "parts": {kind: part._asdict() for kind, part in profile.parts.items()},
        "memory": {kind: asdict(memory) for kind, memory in profile.memory.items()},
        "device": profile.device,
        "input": profile.input,
    }


def profile_from_json(data: Any) -> Profile:
    """Read what `profile_to_json` wrote. Raises as `measurements_from_json` does."""
    return Profile(
        parts={str(kind): Iteration(**part) for kind, part in data["parts"].items()},
        memory={str(kind): Memory(**memory) for kind, memory in data["memory"].items()},
        device=str(data["device"]),
        input=str(data["input"]),
    )


def _fraction(value: Any) -> float | None:
    """A number from 0 to 1; None if it is not known."""
    if value is not None and not 0 <= float(value) <= 1:
        raise ValueError(f"waiting must be between 0 and 1, got {value!r}")
    return None if value is None else float(value)


def _readings(values: Any) -> tuple[IterationReading, ...]:
    """Pairs of finite numbers: a rest above 0, and an optimizer's part of 0 or more."""
    readings = tuple(IterationReading(*(float(part) for part in pair)) for pair in values)
    if not all(math.isfinite(r.seconds) and r.rest > 0 and r.optimizer >= 0 for r in readings):
        raise ValueError("seconds must be finite and greater than 0")
    return readings


_CONFIDENCE = 0.99  # counting a difference that is only noise would cost what pooling gains


class CarryOver(NamedTuple):
    """A carry-over as a fraction of the rest, with bounds: 0.01 means a rest that is 1 % longer with our optimizer."""

    value: float
    low: float
    high: float

    @property
    def counted(self) -> bool:
        """Whether the data show it: the bounds leave 0 out."""
        return self.low > 0 or self.high < 0


def carry_over(logs: Sequence[float]) -> CarryOver:
    """The median of paired readings, each the logarithm of ours over the baseline's, with exact bounds.

    The bounds are order statistics (an inverted sign test), so they assume no distribution. Below 8 pairs they are
    infinite, and nothing is counted.
    """
    low, high = median_bounds(logs, _CONFIDENCE)
    return CarryOver(*(math.expm1(bound) for bound in (statistics.median(logs), low, high)))


def counted_log(logs: Sequence[float]) -> float:
    """The median if it is counted, else 0: the rests are then taken as equal."""
    return statistics.median(logs) if carry_over(logs).counted else 0.0


def median_bounds(values: Sequence[float], confidence: float) -> tuple[float, float]:
    """Bounds of the median, each one of the values; infinite if there are too few values for the confidence."""
    ordered, count = sorted(values), len(values)
    outside, rank = 0.0, 0  # chance that fewer than `rank` values lie on one side of the median
    while outside + math.comb(count, rank) / 2**count <= (1 - confidence) / 2:
        outside += math.comb(count, rank) / 2**count
        rank += 1
    return (ordered[rank - 1], ordered[-rank]) if rank else (-math.inf, math.inf)
