"""A lease says that a worker runs a trial: its owner renews it, and every other worker judges it by a clock of its own.

A lease has expired for an observer who saw it unchanged for `lasts` seconds. The owner cannot know who observes, so it
ends its run before that: when the last renewal is `stop_after` seconds old, the run is asked to stop and to write a
checkpoint, and after `kill_after` seconds it is killed. A run that hears of no renewal does the same by itself, in case
its worker stands still. No clocks are compared: the owner counts from before the renewal was sent, an observer from
after it was seen, so the owner is always the first to act.
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
    """The times of a lease in seconds: renew < stop < kill < lasts."""

    lasts: float = 90.0
    renew_every: float = 20.0
    retry_every: float = 2.0
    stop_after: float = 60.0
    kill_after: float = 75.0

    def __post_init__(self) -> None:
        assert 0 < self.retry_every <= self.renew_every < self.stop_after < self.kill_after < self.lasts

    @classmethod
    def lasting(cls, seconds: float) -> LeaseTimes:
        """The same proportions for a lease of another length."""
        scale = seconds / cls.lasts
        return cls(
            lasts=seconds,
            renew_every=cls.renew_every * scale,
            retry_every=cls.retry_every * scale,
            stop_after=cls.stop_after * scale,
            kill_after=cls.kill_after * scale,
        )


owners_clock = machine_clock
"""The clock by which owners renew their leases."""


class Lease:
    """A lease as its owner holds it; a thread renews it while it is entered.

    That thread calls `stop` and `kill`, each at most once; they must not wait for the storage. After either, the owner
    may no longer report the trial, whatever a later renewal says.

    Args:
        renew: sends a renewal, and returns False if another worker has the lease. It may block, and it may raise our
            errors.
        since: the time of the owner's clock before the claim was sent.
        times: when to renew, stop and kill.
        stop: asks the run to end soon, with the reason.
        kill: ends it now, with the reason.
        renewed: called after every renewal.
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
        self._on_renewal = renewed
        self._renewed = self._tried = since
        self._expired: str | None = None  # why the owner may no longer report the trial
        self._killed = False
        self._trouble = ""
        self._under_way: threading.Thread | None = None
        self._closed = threading.Event()

    @property
    def expired(self) -> str | None:
        """Why the lease no longer holds for its owner; None while the owner may report the trial."""
        if self._expired is None and self.age >= self._times.stop_after:
            self._expire(self._too_old())
        return self._expired

    @property
    def age(self) -> float:
        """Seconds since the last successful renewal was sent."""
        return self._clock() - self._renewed

    @property
    def seconds_left(self) -> float:
        """Seconds until the run is asked to stop, unless the lease is renewed."""
        return max(0.0, self._times.stop_after - self.age)

    @property
    def stops_at(self) -> float:
        """The time at which the run is asked to stop, by the owner's clock."""
        return self._renewed + self._times.stop_after

    @property
    def grace(self) -> float:
        """Seconds from then until the run is killed."""
        return self._times.kill_after - self._times.stop_after

    def check(self) -> None:
        """Look at the clock once, and do what is due: renew, stop or kill."""
        age = self.age
        if age >= self._times.kill_after:
            self._end(self._too_old())
        elif age >= self._times.stop_after:
            self._expire(self._too_old())

        if age >= self._times.renew_every and self._clock() - self._tried >= self._times.retry_every:
            self._start_renewal()

    def __enter__(self) -> Lease:
        threading.Thread(target=self._watch, name="lease", daemon=True).start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        """Renew no longer. A renewal under way is not waited for, since it may be waiting for the storage."""
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
            is_ours = self._renew()
        except JorgeTuneError as error:  # the storage is away; the next check tries again
            self._trouble = str(error)
            return

        if self._closed.is_set():
            return
        if is_ours:
            self._renewed = sent
            self._on_renewal()
        else:
            self._end("another worker has taken the trial over")

    def _too_old(self) -> str:
        trouble = f": {self._trouble}" if self._trouble else ""
        return f"the lease could not be renewed for {self.age:.0f} s{trouble}"

    def _expire(self, reason: str) -> None:
        if self._expired is None:
            self._expired = reason
            self._stop(reason)

    def _end(self, reason: str) -> None:
        self._expired = self._expired or reason
        if not self._killed:
            self._killed = True
            self._kill(reason)


class LeaseObserver:
    """The leases that have not changed for too long, as one observer saw them.

    Args:
        lasts: seconds after which an unchanged lease has expired.
        clock: seconds; monotonic, so that a machine that slept does not take all others for dead.
    """

    def __init__(self, lasts: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._lasts, self._clock = lasts, clock
        self._seen: dict[int, tuple[Any, float]] = {}  # by trial: its lease, and since when it is unchanged

    def look(self, leases: dict[int, Any]) -> set[int]:
        """Look at the leases of all running trials once; trials that no longer run are forgotten.

        Args:
            leases: by trial; None for a trial without one.

        Returns:
            The trials whose leases have expired.
        """
        now = self._clock()
        for trial, lease in leases.items():
            known = self._seen.get(trial)
            if known is None or known[0] != lease:
                self._seen[trial] = (lease, now)

        self._seen = {trial: seen for trial, seen in self._seen.items() if trial in leases}
        return {trial for trial, (_, since) in self._seen.items() if now - since >= self._lasts}


class Sweep(NamedTuple):
    """One look at the running trials: how many still run, and the numbers of the lost ones that wait again."""

    running: int
    returned: tuple[int, ...]


class Reaper:
    """One observer of a study's running trials, which puts lost trials back.

    It needs its own earlier looks to judge a lease, so keep one and do not make it anew. A trial whose run still holds
    its directory is never put back, whatever its lease says.

    Args:
        claims: the study's.
        runs: the directory of its runs; None if this machine does not see it.
        times: of the leases.
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
        self._observer = LeaseObserver(times.lasts, clock)

    def sweep(self) -> Sweep:
        """Look once, and put lost trials back."""
        running = self._claims.running()
        expired = self._observer.look({trial.trial_id: trial.lease for trial in running})
        lost = [trial for trial in running if self._is_lost(trial, expired)]
        returned = tuple(trial.number for trial in lost if self._claims.take_back(trial))

        self._forget_dead_workers(running)
        return Sweep(len(running) - len(returned), returned)

    def _is_lost(self, trial: ClaimedBy, expired: set[int]) -> bool:
        if trial.trial_id not in expired and not self._owner_is_dead(trial):
            return False
        return self._runs is None or not any(
            is_training(directory) for directory in self._runs.trial(trial.number).glob("seed-*")
        )

    def _owner_is_dead(self, trial: ClaimedBy) -> bool:
        owner = worker_of(trial.lease)
        return self._runs is not None and owner is not None and life_of(self._runs.path, owner) == "dead"

    def _forget_dead_workers(self, running: list[ClaimedBy]) -> None:
        """Remove the files of dead workers that own no running trial."""
        if self._runs is None:
            return

        owners = {worker_of(trial.lease) for trial in running}
        for seen in workers_in(self._runs.path):
            if seen.life == "dead" and seen.worker not in owners:
                forget(self._runs.path, seen.worker)


def worker_of(lease: str | None) -> str | None:
    """The worker that a lease names; None if no worker owns the trial, or if no worker can have that name."""
    token, _ = owner_of(lease)
    name = "" if token is None else token.rpartition(":")[0]
    return name if FILE_NAME.holds(name) else None
