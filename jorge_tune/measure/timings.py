"""What a calibration reads off the clock, as plain values: iterations, rounds, verifications. No torch."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, NamedTuple, TypeAlias

Kind: TypeAlias = Literal["baseline", "plain", "refreshing", "scheduled"]
"""`baseline`: torch's form of the grafted optimizer. Ours: `plain` refreshes nothing, `refreshing` everything at each
step, `scheduled` what the timetable of an interval says."""


class Iteration(NamedTuple):
    """Seconds of one iteration by part; its whole is their sum, nothing lies between them."""

    data: float
    forward: float
    backward: float
    optimizer: float

    @property
    def seconds(self) -> float:
        """The whole iteration."""
        return sum(self)


class Round(NamedTuple):
    """Seconds per iteration in one round, the three kinds measured in turn."""

    baseline: float
    plain: float
    refreshing: float


@dataclass(frozen=True)
class Verification:
    """An interval as it ran: every step of whole cycles in order, and the baseline's iterations in between."""

    interval: int
    steps: tuple[float, ...]
    baseline: tuple[float, ...]
    waiting: float | None = None  # the part of its time that the process waited for a core, where that is known
    period: int = 1  # steps after which the work besides refreshes repeats (statistics of every so many steps)

    @property
    def cycle(self) -> int:
        """Steps after which all the work repeats."""
        return math.lcm(self.interval, self.period)

    @property
    def cycles(self) -> int:
        """Whole cycles that ran."""
        return len(self.steps) // self.cycle

    @property
    def mean_step(self) -> float:
        """Seconds of a step in the mean over the cycle (of each place's median, once there are three cycles)."""
        return statistics.fmean(self._places())

    @property
    def longest_step(self) -> float:
        """Seconds of the cycle's longest step."""
        return max(self._places())

    @property
    def reference(self) -> float:
        """Seconds of the baseline's iteration meanwhile."""
        return statistics.median(self.baseline)

    @property
    def ratio(self) -> float:
        """The mean step, in iterations of the baseline."""
        return self.mean_step / self.reference

    def _places(self) -> list[float]:
        """One value per place in the cycle: the median over cycles, or the mean of one or two."""
        of_place = [self.steps[place :: self.cycle] for place in range(self.cycle)]
        typical = statistics.median if self.cycles >= 3 else statistics.fmean
        return [typical(values) for values in of_place]


@dataclass(frozen=True)
class Measurements:
    """What a decision is made from: the rounds, and every interval that was run since."""

    rounds: tuple[Round, ...]
    verifications: tuple[Verification, ...] = ()
    waiting: float | None = None  # during the rounds, as in `Verification`

    def verified(self, interval: int) -> Verification | None:
        """The verification of an interval, if it was run."""
        return next((v for v in self.verifications if v.interval == interval), None)

    @property
    def longest_wait(self) -> float | None:
        """The largest `waiting` of the rounds and the verifications, of those that are known."""
        waits = [self.waiting, *(verification.waiting for verification in self.verifications)]
        return max((wait for wait in waits if wait is not None), default=None)


@dataclass(frozen=True)
class Memory:
    """Bytes: the optimizer's own state, and the peak (of the allocator on a GPU, else of the whole process)."""

    state: int
    peak: int | None


@dataclass(frozen=True)
class Profile:
    """What was measured besides: the parts of an iteration by kind (medians), memory, the device, the input."""

    parts: Mapping[str, Iteration]
    memory: Mapping[str, Memory]
    device: str
    input: str


def median_parts(iterations: Sequence[Iteration]) -> Iteration:
    """Each part's median."""
    return Iteration(*(statistics.median(values) for values in zip(*iterations, strict=True)))


def measurements_to_json(measurements: Measurements) -> dict[str, Any]:
    """Plain data, to the last digit: read back, it must lead to the same decision."""
    return {
        "rounds": [list(row) for row in measurements.rounds],
        "verifications": [
            {
                "interval": verification.interval,
                "steps": list(verification.steps),
                "baseline": list(verification.baseline),
                "waiting": verification.waiting,
                "period": verification.period,
            }
            for verification in measurements.verifications
        ],
        "waiting": measurements.waiting,
    }


def measurements_from_json(data: Any) -> Measurements:
    """Read what `measurements_to_json` wrote.

    Raises:
        ValueError, TypeError, KeyError: it is something else.
    """
    rounds = tuple(Round(*_seconds(row)) for row in data["rounds"])
    verifications = tuple(
        Verification(
            int(item["interval"]),
            _seconds(item["steps"]),
            _seconds(item["baseline"]),
            _part(item["waiting"]),
            int(item["period"]),
        )
        for item in data["verifications"]
    )
    for verification in verifications:
        counts = (verification.interval, verification.period, len(verification.baseline))
        if min(counts) < 1 or verification.cycles < 1 or len(verification.steps) % verification.cycle:
            raise ValueError(f"no whole cycles of interval {verification.interval}")
    return Measurements(rounds, verifications, _part(data["waiting"]))


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


def _part(value: Any) -> float | None:
    """A fraction, or None where it is not known."""
    if value is not None and not 0 <= float(value) <= 1:
        raise ValueError("waiting must be between 0 and 1")
    return None if value is None else float(value)


def _seconds(values: Any) -> tuple[float, ...]:
    """Positive finite numbers."""
    numbers = tuple(float(value) for value in values)
    if not all(math.isfinite(number) and number > 0 for number in numbers):
        raise ValueError("seconds must be finite and greater than 0")
    return numbers
