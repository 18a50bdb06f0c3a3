"""A lease says that a trial is being worked on: renewed by its owner, judged by everybody else's own clock.

An observer takes a lease that stood still for `lasts` seconds for lost. Its owner cannot know who looks, so it ends
its run before that: asked to stop (and to write a checkpoint) when the last renewal is `stop_after` seconds old, killed
at `kill_after`; a run that hears of no renewal does the same by itself, should its worker stand still. No clocks are
compared: the owner counts from before the renewal was sent, an observer from after it
was seen, so the owner is always the earlier one.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

from jorge_tune.config.ranges import FILE_NAME
from jorge_tune.errors import JorgeTuneError
from jorge_tune.hardware import machine_clock
from jorge_tune.study.runs_directory import RunsDirectory, forget, is_training, life_of, workers_in
from jorge_tune.study.storage.claims import ClaimedBy, Claims, owner_of


@dataclass(frozen=True, kw_only=True)
class LeaseTimes:
    """Seconds, in this order: renew < stop < kill < lasts."""

    lasts: float = 90.0
    renew_every: float = 20.0
    retry_every: float = 2.0
    stop_after: float = 60.0
    kill_after: float = 75.0

    def __post_init__(self) -> None:
        assert 0 < self.retry_every <= self.renew_every < self.stop_after < self.kill_after < self.lasts

    @classmethod
    def lasting(cls, seconds: float) -> LeaseTimes:
        """The same proportions for another length."""
        scale = seconds / cls.lasts
        return cls(
            lasts=seconds,
            renew_every=cls.renew_every * scale,
            retry_every=cls.retry_every * scale,
            stop_after=cls.stop_after * scale,
            kill_after=cls.kill_after * scale,
        )


owners_clock = machine_clock
"""The clock that leases are renewed by."""


class Lease:
    """One lease in its owner's hands, renewed by a thread while it is entered.

    `stop` and `kill` are called from that thread, each at most once: they must not wait for the storage. After either
    the trial is no longer this owner's to tell, whatever a later renewal says.

    Args:
        renew: sends a new beat; False: the lease is somebody else's. It may block and may raise our errors.
        since: the owner's clock before the claim was sent.
        times: when to renew, stop and kill.
        stop: asks the run to end soon, with the reason.
        kill: ends it now, with the reason.
        renewed: hears of every renewal.
        clock: seconds; another one in tests.
    """

    def __init__(
        self,
        renew: Callable[[], bool],
        *,
        since: float,
        times: LeaseTimes,
        stop: Callable[[str], None],
        kill: Callable[[str], None],
        renewed: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = owners_clock,
    ) -> None:
        self._renew, self._times, self._stop, self._kill, self._clock = renew, times, stop, kill, clock
        self._tell_renewed = renewed
        self._renewed = self._tried = since
        self._lapsed: str | None = None  # why it is no longer ours to tell
        self._killed = False
        self._trouble = ""
        self._under_way: threading.Thread | None = None
        self._closed = threading.Event()

    @property
    def lapsed(self) -> str | None:
        """Why the run was ended for the lease's sake; None while the trial is this owner's."""
        if self._lapsed is None and self.age >= self._times.stop_after:
            self._lapse(self._too_old())
        return self._lapsed

    @property
    def age(self) -> float:
        """Seconds since the last renewal that is known to have arrived was sent."""
        return self._clock() - self._renewed

    @property
    def seconds_left(self) -> float:
        """Until the run is asked to stop, unless it is renewed."""
        return max(0.0, self._times.stop_after - self.age)

    @property
    def stops_at(self) -> float:
        """When that is, by the owner's clock."""
        return self._renewed + self._times.stop_after

    @property
    def grace(self) -> float:
        """Seconds that the run then has."""
        return self._times.kill_after - self._times.stop_after

    def check(self) -> None:
        """Look at the clock once, and do what is due."""
        age = self.age
        if age >= self._times.kill_after:
            self._end(self._too_old())
        elif age >= self._times.stop_after:
            self._lapse(self._too_old())
        if age >= self._times.renew_every and self._clock() - self._tried >= self._times.retry_every:
            self._start_renewal()

    def __enter__(self) -> Lease:
        threading.Thread(target=self._watch, name="lease", daemon=True).start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        """Renews no longer; a renewal under way is left to itself, it may be waiting for the storage."""
        self._closed.set()

    def _watch(self) -> None:
        while not self._closed.wait(min(1.0, self._times.retry_every / 2)):
            self.check()

    def _start_renewal(self) -> None:
        if self._under_way is not None and self._under_way.is_alive():
            return
        self._tried = self._clock()
        self._under_way = threading.Thread(target=self._renew_once, args=(self._tried,), name="renewal", daemon=True)
        self._under_way.start()

    def _renew_once(self, sent: float) -> None:
        try:
            ours = self._renew()
        except JorgeTuneError as error:  # the storage is away; the next look tries again
            self._trouble = str(error)
            return
        if self._closed.is_set():
            return
        if ours:
            self._renewed = sent
            self._tell_renewed()
        else:
            self._end("another worker has taken the trial over")

    def _too_old(self) -> str:
        trouble = f": {self._trouble}" if self._trouble else ""
        return f"the lease could not be renewed for {self.age:.0f} s{trouble}"

    def _lapse(self, reason: str) -> None:
        if self._lapsed is None:
            self._lapsed = reason
            self._stop(reason)

    def _end(self, reason: str) -> None:
        self._lapsed = self._lapsed or reason
        if not self._killed:
            self._killed = True
            self._kill(reason)


class StillLeases:
    """Which leases stood still for too long, as one observer saw them.

    Args:
        lasts: seconds after which an unchanged lease is lost.
        clock: seconds; monotonic, so that a machine that slept does not take everybody else for dead.
    """

    def __init__(self, lasts: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._lasts, self._clock = lasts, clock
        self._seen: dict[int, tuple[Any, float]] = {}  # by trial: its lease, and since when it was seen so

    def look(self, leases: dict[int, Any]) -> set[int]:
        """See all running trials' leases once (None: a trial without one); the lost ones.

        Trials that are no longer there are forgotten.
        """
        now = self._clock()
        for trial, lease in leases.items():
            known = self._seen.get(trial)
            if known is None or known[0] != lease:
                self._seen[trial] = (lease, now)
        self._seen = {trial: seen for trial, seen in self._seen.items() if trial in leases}
        return {trial for trial, (_, since) in self._seen.items() if now - since >= self._lasts}


class Sweep(NamedTuple):
    """What one look at the running trials came to: how many there were, and the numbers of those that were lost."""

    running: int
    returned: tuple[int, ...]


class Reaper:
    """One observer of a study's running trials. It needs its own looks to judge a lease, so it is kept and not remade.

    A trial whose run still holds its directory is never taken, whatever its lease says.

    Args:
        claims: the study's.
        runs: its directory; None where there is none to look into.
        times: how long a lease may stand still.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        claims: Claims[Any],
        runs: RunsDirectory | None,
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

    def _is_lost(self, held: ClaimedBy, still: set[int]) -> bool:
        if held.trial_id not in still and not self._owner_is_dead(held):
            return False
        return self._runs is None or not any(
            is_training(folder) for folder in self._runs.trial(held.number).glob("seed-*")
        )

    def _owner_is_dead(self, held: ClaimedBy) -> bool:
        owner = worker_of(held.lease)
        return self._runs is not None and owner is not None and life_of(self._runs.path, owner) == "dead"

    def _forget_the_dead(self, running: list[ClaimedBy]) -> None:
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
