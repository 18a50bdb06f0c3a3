"""Lost trials wait again: at once where this machine's kernel proves the death, else when the lease stood still."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple

from jorge_tune.recipe.ranges import FILE_NAME
from jorge_tune.tuning.runs.presence import forget, is_training, life_of, workers_in
from jorge_tune.tuning.runs.runs_folder import RunsFolder
from jorge_tune.tuning.storages.claims import Claims, Held, owner_of
from jorge_tune.tuning.work.leases import LeaseTimes, StillLeases


class Sweep(NamedTuple):
    """What one look at the running trials came to: how many there were, and the numbers of those that were lost."""

    running: int
    returned: tuple[int, ...]


class Reaper:
    """One observer of a study's running trials. It needs its own looks to judge a lease, so it is kept and not remade.

    A trial whose run still holds its folder is never taken, whatever its lease says.

    Args:
        claims: the study's.
        runs: its folder; None where there is none to look into.
        times: how long a lease may stand still.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        claims: Claims,
        runs: RunsFolder | None,
        times: LeaseTimes,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._claims, self._runs = claims, runs
        self._still = StillLeases(times.lasts, clock)

    def sweep(self) -> Sweep:
        """Look once, and put back what is lost."""
        running = self._claims.running()
        still = self._still.look({held.trial_id: held.lease for held in running})
        lost = [held for held in running if self._is_lost(held, still)]
        returned = tuple(held.number for held in lost if self._claims.take_back(held))
        self._forget_the_dead(running)
        return Sweep(len(running) - len(returned), returned)

    def _is_lost(self, held: Held, still: set[int]) -> bool:
        if held.trial_id not in still and not self._owner_is_dead(held):
            return False
        return self._runs is None or not any(
            is_training(folder) for folder in self._runs.trial(held.number).glob("seed-*")
        )

    def _owner_is_dead(self, held: Held) -> bool:
        owner = worker_of(held.lease)
        return self._runs is not None and owner is not None and life_of(self._runs.path, owner) == "dead"

    def _forget_the_dead(self, running: list[Held]) -> None:
        """Clean up after dead workers that own nothing any more, as far as this look knows."""
        if self._runs is None:
            return
        owners = {worker_of(held.lease) for held in running}
        for seen in workers_in(self._runs.path):
            if seen.life == "dead" and seen.worker not in owners:
                forget(self._runs.path, seen.worker)


def worker_of(lease: str | None) -> str | None:
    """The worker that a lease names; None where nobody owns the trial, or the name is none that a worker has."""
    token, _ = owner_of(lease)
    name = "" if token is None else token.rpartition(":")[0]
    return name if FILE_NAME.holds(name) else None
