"""A bench whose iterations take as long as a script says: calibrations without real time."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field

from jorge_tune.hardware import Scheduling
from jorge_tune.measure.timings import Iteration, Kind, Memory

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
