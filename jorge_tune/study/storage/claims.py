"""Who runs which trial: one mechanism for all storages.

A trial that runs holds a lease, a system attribute `jorge:lease` with the token of its claim and a beat that its owner
raises. To change the owner of a trial, a process compares the lease with the one that it has seen, and replaces it, in
one transaction: of two that try, one wins. Clocks of two machines are never compared: an observer regards a lease as
expired when it has not changed for 90 s of the observer's own clock (`leases.LeaseTimes`), and treats a running trial
without a lease in the same way.
"""

from __future__ import annotations

import json
import uuid
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Generic, NamedTuple, TypeVar

from optuna.trial import TrialState

from jorge_tune.study.storage.retry import Patience

LEASE = "jorge:lease"
_MOST_BEATS = 2**53


class Claim(NamedTuple):
    """A trial that is ours until we give it up or it is taken back."""

    trial_id: int
    number: int
    token: str
    """Of this claim alone: the worker's name and a random part."""


class ClaimedBy(NamedTuple):
    """A running trial as it was seen."""

    trial_id: int
    number: int
    lease: str | None
    """Its lease, which is what `take_back` compares; None: it runs without one."""


class LeasedTrial(NamedTuple):
    """A trial's state and lease, as a transaction sees them."""

    trial_id: int
    state: TrialState | None
    lease: str | None


T = TypeVar("T")


class Claims(ABC, Generic[T]):
    """The trials of one study and who runs them; every method is one transaction and may be called from any thread.

    The rules stand here; a storage adds what it does in a transaction `T` of its own.

    Args:
        study_id: the study.
        patience: runs each transaction, again if the storage was gone meanwhile.
    """

    def __init__(self, study_id: int, patience: Patience) -> None:
        self.study_id, self.patience = study_id, patience

    def claim(self, worker: str, total: int) -> Claim | None:
        """Take the waiting trial with the lowest number, or else create the next while there are fewer than `total`.

        The trial is running and leased when this returns. A waiting trial keeps its number, parameters and reports.

        Returns:
            None if `total` trials exist and none of them waits (some may still run and come back).
        """
        token = new_token(worker)

        def step(attempt: int) -> Claim | None:
            with self._transaction() as here:
                earlier = self._claimed_before(here, token) if attempt else None
                return earlier or self._take_next(here, token, total)

        return self.patience.run(step)

    def renew(self, claim: Claim) -> bool:
        """Raise the beat of our lease; False if the trial is no longer ours."""

        def step(attempt: int) -> bool:
            with self._transaction() as here:
                seen = self._look(here, claim.trial_id, to_end=False)
                token, beat = owner_of(seen.lease)
                if seen.state is not TrialState.RUNNING or token != claim.token:
                    return False
                return self._exchange(here, seen, lease_of(claim.token, beat + 1))

        return self.patience.run(step)

    def hand_back(self, claim: Claim) -> bool:
        """Let our trial wait for whoever claims it next; False if it is no longer ours."""
        return self._let_wait(claim.trial_id, lambda lease: owner_of(lease)[0] == claim.token)

    def finish(self, claim: Claim, state: TrialState, values: Sequence[float] | None = None) -> bool:
        """End our trial with its values, all in one transaction; False, with nothing stored, if it is no longer ours.

        This is `study.tell` for the owner alone; it does not call the sampler's `after_trial`, which belongs before it.
        """

        def step(attempt: int) -> bool:
            with self._transaction() as here:
                seen = self._look(here, claim.trial_id)
                if owner_of(seen.lease)[0] != claim.token:
                    return False
                if seen.state is TrialState.RUNNING:
                    self._end(here, seen, state, values)
                    return True
                return bool(attempt) and seen.state is state  # the answer to an earlier attempt was lost

        return self.patience.run(step)

    def take_back(self, held: ClaimedBy) -> bool:
        """Let anybody's trial wait again, if it still runs under exactly the lease that was seen."""
        return self._let_wait(held.trial_id, lambda lease: lease == held.lease)

    def _let_wait(self, trial_id: int, may: Callable[[str | None], bool]) -> bool:
        mark = returned_lease()

        def step(attempt: int) -> bool:
            with self._transaction() as here:
                seen = self._look(here, trial_id)
                if attempt and seen.lease == mark:
                    return True
                if seen.state is not TrialState.RUNNING or not may(seen.lease):
                    return False
                return self._give_up(here, seen, mark)

        return self.patience.run(step)

    @abstractmethod
    def running(self) -> list[ClaimedBy]:
        """The running trials with their leases, lowest number first."""

    @abstractmethod
    def _transaction(self) -> AbstractContextManager[T]:
        """What is done in it is done as a whole, or not at all."""

    @abstractmethod
    def _claimed_before(self, here: T, token: str) -> Claim | None:
        """What an earlier attempt claimed under this token, whose answer did not arrive."""

    @abstractmethod
    def _take_next(self, here: T, token: str, total: int) -> Claim | None:
        """The waiting trial with the lowest number, or a new one while there are fewer than `total`."""

    @abstractmethod
    def _look(self, here: T, trial_id: int, *, to_end: bool = True) -> LeasedTrial:
        """A trial as it is; with `to_end` nobody else changes its state until the transaction is over."""

    @abstractmethod
    def _exchange(self, here: T, seen: LeasedTrial, lease: str) -> bool:
        """Put a lease in place of the one that was seen; False if it is another by now."""

    @abstractmethod
    def _give_up(self, here: T, seen: LeasedTrial, mark: str) -> bool:
        """Let a running trial wait, `mark` in place of its lease; False if that is another than was seen."""

    @abstractmethod
    def _end(self, here: T, seen: LeasedTrial, state: TrialState, values: Sequence[float] | None) -> None:
        """End a running trial."""


def new_token(worker: str) -> str:
    """A token that no other claim has, also in a database that compares text without regard to case."""
    return f"{worker}:{uuid.uuid4().hex}"


def lease_of(token: str, beat: int) -> str:
    """The lease's text; the same for the same token and beat, since whole texts are compared."""
    return json.dumps({"token": token, "beat": beat})


def returned_lease() -> str:
    """The mark on a trial that nobody owns; different each time, so that the writer recognises its own."""
    return json.dumps({"token": None, "returned": uuid.uuid4().hex})


def owner_of(lease: str | None) -> tuple[str | None, int]:
    """Token and beat of a lease; no token if nobody owns the trial, or what stands there is no lease."""
    try:
        content = json.loads(lease) if lease is not None else {}
    except (RecursionError, TypeError, ValueError):
        return None, 0
    if not isinstance(content, dict):
        return None, 0
    token, beat = content.get("token"), content.get("beat", 0)
    if not isinstance(token, str) or isinstance(beat, bool) or not isinstance(beat, int) or not 0 <= beat < _MOST_BEATS:
        return None, 0
    return token, beat
