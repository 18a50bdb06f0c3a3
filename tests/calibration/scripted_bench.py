"""A bench whose iterations take as long as a script says: calibrations without real time."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable
from dataclasses import dataclass, field

from jorge_tune.calibration.timings import Iteration, Kind, Memory
from jorge_tune.hardware import Scheduling

Disturbance = Callable[[float, random.Random], float]
"""(seconds since the start, generator) -> factor on what an iteration takes."""


def quiet(now: float, generator: random.Random) -> float:
    return 1.0


def noisy(spread: float) -> Disturbance:
    """Log-normal noise: what a machine does that runs nothing else (1 or 2 %), or much else."""
    return lambda now, generator: generator.lognormvariate(0, spread)


def loaded_from(start: float, factor: float, spread: float = 0.02) -> Disturbance:
    """A competing program that starts after `start` seconds."""
    return lambda now, generator: generator.lognormvariate(0, spread) * (factor if now > start else 1)


def drifting(per_second: float, spread: float = 0.01) -> Disturbance:
    """A clock that slows steadily."""
    return lambda now, generator: generator.lognormvariate(0, spread) * (1 + per_second * now)


def spiking(chance: float, factor: float, spread: float = 0.01) -> Disturbance:
    """Now and then one iteration takes many times as long."""
    return lambda now, generator: generator.lognormvariate(0, spread) * (factor if generator.random() < chance else 1)


def bimodal(factor: float, spread: float = 0.01) -> Disturbance:
    """Iterations of two speeds, half of them each."""
    return lambda now, generator: generator.lognormvariate(0, spread) * (factor if generator.random() < 0.5 else 1)


@dataclass
class ScriptedBench:
    """A baseline's step, what ours adds, and what a refresh adds; `spread_factor` is what staggering makes it cost."""

    baseline: float = 0.1
    extra: float = 0.004
    refresh: float = 0.03
    spread_factor: float = 1.0
    staggered: bool = True
    disturbance: Disturbance = quiet
    seed: int = 0
    waits: float | None = 0.0
    pools: bool = True
    period: int = 1
    statistics: float = 0.0  # what every period-th step of ours takes longer
    now: float = 0.0
    bursts: list[tuple[str, int]] = field(default_factory=list)
    interval: int = 10
    step: int = 0
    device: str = "a scripted device"
    memory: dict[str, Memory] = field(
        default_factory=lambda: {"baseline": Memory(1000, 5000), "optimizer": Memory(3000, 9000)}
    )

    def __post_init__(self) -> None:
        self.generator = random.Random(self.seed)
        self.turns = 0

    def schedule(self, interval: int) -> None:
        self.interval, self.step = interval, 0

    def burst(self, kind: Kind, count: int) -> list[Iteration]:
        self.bursts.append((kind, count))
        return [self.iteration(kind) for _ in range(count)]

    def scheduling(self) -> Scheduling | None:
        return None if self.waits is None else Scheduling(self.now, self.waits * self.now)

    def iteration(self, kind: Kind) -> Iteration:
        factor = self.disturbance(self.now, self.generator)
        optimizer = {"baseline": 0.001, "plain": self.extra, "refreshing": self.extra + self.refresh}.get(kind)
        if optimizer is None:
            self.step += 1
            optimizer = self.extra + self.scheduled_refresh()
        if kind != "baseline":
            self.turns += 1
            optimizer += self.statistics * (self.turns % self.period == 0)
        part = (self.baseline - 0.001) / 2
        iteration = Iteration(0.0, part * factor, part * factor, (0.001 + optimizer * (kind != "baseline")) * factor)
        self.now += iteration.seconds
        return iteration

    def scheduled_refresh(self) -> float:
        if self.staggered:
            return self.spread_factor * self.refresh / self.interval
        return self.spread_factor * self.refresh if self.step % self.interval == 0 else 0.0


@dataclass
class QueuedBench(ScriptedBench):
    """A GPU: the host launches ahead, the device works in order, and laps are read off the device.

    A part is (host seconds, device seconds); forward is held up by its launches, backward by its work.
    """

    pools: bool = False
    forward: tuple[float, float] = (0.010, 0.005)
    backward: tuple[float, float] = (0.005, 0.010)
    kernels: int = 40

    def burst(self, kind: Kind, count: int) -> list[Iteration]:
        host = device = 0.0
        iterations = []
        for _ in range(count):
            marks = [device]
            for of_host, of_device in (self.forward, self.backward, self.stepping(kind)):
                factor = self.disturbance(self.now, self.generator) / self.kernels
                for _ in range(self.kernels):
                    host += of_host * factor
                    device = max(device, host) + of_device * factor
                marks.append(device)
            iterations.append(Iteration(0.0, *(end - start for start, end in itertools.pairwise(marks))))
        self.now += device
        return iterations

    def stepping(self, kind: Kind) -> tuple[float, float]:
        refreshed = {"baseline": 0.0, "plain": 0.0, "refreshing": 1.0, "scheduled": 1 / self.interval}[kind]
        own = 0.0 if kind == "baseline" else self.extra
        return 0.0003 + own + 0.2 * self.refresh * refreshed, 0.0003 + own / 4 + self.refresh * refreshed
