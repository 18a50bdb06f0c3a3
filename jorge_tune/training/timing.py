"""Seconds that mean something: of training alone, and of the two halves of a step that is looked at."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

Clock = Callable[[], float]


class Stopwatch:
    """Seconds of training so far; runs only inside `running`. The device is waited for before the clock is read."""

    def __init__(self, device: torch.device, seconds: float = 0.0, clock: Clock = time.perf_counter) -> None:
        self._device, self._seconds, self._clock = device, seconds, clock
        self._since: float | None = None

    @property
    def seconds(self) -> float:
        """Seconds until now, without waiting for the device."""
        return self._seconds + (0.0 if self._since is None else self._clock() - self._since)

    @contextmanager
    def running(self) -> Iterator[None]:
        """Count what happens inside."""
        assert self._since is None, "a stopwatch runs once at a time"
        self._since = self._clock()
        try:
            yield
        finally:
            synchronize(self._device)
            self._seconds, self._since = self.seconds, None


class PhaseTimer:
    """Seconds of named phases of one step: CUDA events on a GPU, the clock elsewhere; reads nothing until asked."""

    def __init__(self, device: torch.device, clock: Clock = time.perf_counter) -> None:
        self._device, self._clock = device, clock
        self._marks: dict[str, tuple[Any, Any]] = {}

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Time what happens inside, under `name`."""
        start = _mark(self._device, self._clock)
        yield
        self._marks[name] = (start, _mark(self._device, self._clock))

    def read(self) -> dict[str, float]:
        """Seconds by phase; waits for the device."""
        if self._device.type != "cuda":
            return {name: end - start for name, (start, end) in self._marks.items()}
        seconds = {}
        for name, (start, end) in self._marks.items():
            end.synchronize()
            seconds[name] = start.elapsed_time(end) / 1000
        return seconds


class LapTimer:
    """Seconds between one mark and the next, so that nothing lies between two laps; read when all is done.

    CUDA events on a GPU, so that the host need not wait within a burst; the clock elsewhere.
    """

    def __init__(self, device: torch.device, clock: Clock = time.perf_counter) -> None:
        self._device, self._clock = device, clock
        self._marks: list[Any] = []

    def mark(self) -> None:
        """End a lap and start the next."""
        self._marks.append(_mark(self._device, self._clock))

    def read(self) -> list[float]:
        """Seconds of each lap since the first mark; waits for the device and starts anew."""
        marks, self._marks = self._marks, []
        if self._device.type != "cuda":
            return [end - start for start, end in itertools.pairwise(marks)]
        synchronize(self._device)
        return [start.elapsed_time(end) / 1000 for start, end in itertools.pairwise(marks)]


def _mark(device: torch.device, clock: Clock) -> Any:
    """Now, on the device's own clock."""
    if device.type != "cuda":
        return clock()
    event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
    event.record(torch.cuda.current_stream(device))
    return event


def synchronize(device: torch.device) -> None:
    """Wait until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
