from __future__ import annotations

import torch

from jorge_tune.training.device import LapTimer, PhaseTimer, Stopwatch

_CPU = torch.device("cpu")


class _Clock:
    """A clock that is told what time it is."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_stopwatch_counts_only_while_it_runs() -> None:
    clock = _Clock()
    watch = Stopwatch(_CPU, seconds=5.0, clock=clock)
    clock.now += 10
    assert watch.seconds == 5
    with watch.running():
        clock.now += 2
        assert watch.seconds == 7
    clock.now += 50
    with watch.running():
        clock.now += 1
    assert watch.seconds == 8


def test_phases_are_timed_apart() -> None:
    clock = _Clock()
    timer = PhaseTimer(_CPU, clock=clock)
    with timer.phase("forward"):
        clock.now += 3
    clock.now += 100
    with timer.phase("optimizer"):
        clock.now += 4
    assert timer.read() == {"forward": 3, "optimizer": 4}


def test_between_two_laps_nothing_is_lost() -> None:
    clock = _Clock()
    laps = LapTimer(_CPU, clock=clock)
    for seconds in (0, 3, 4, 50):
        clock.now += seconds
        laps.mark()
    assert laps.read() == [3, 4, 50]
    assert laps.read() == []
