"""Who runs which trial: one mechanism for all storages.

A trial that runs holds a lease, a system attribute `jorge:lease` with the token of its claim and a beat that its owner
raises. Whoever wants to change who owns a trial compares the lease with the one it has seen, and changes it, in one
transaction: of two that try, one wins. Nobody's clock is compared with another's: an observer takes a lease that stood
still for 90 s (`leases.LeaseTimes`) of its own clock for lost, and so it does a running trial without one.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from optuna.trial import TrialState

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


class Claims(Protocol):
    """The trials of one study and who runs them; every method is one transaction and may be called from any thread."""

    def claim(self, worker: str, total: int) -> Claim | None:
        """Take the waiting trial with the lowest number, or else create the next while there are fewer than `total`.

        The trial is running and leased when this returns. A waiting trial keeps its number, parameters and reports.

        Returns:
            None if `total` trials exist and none of them waits (some may still run and come back).
        """
        ...

    def renew(self, claim: Claim) -> bool:
        """Raise the beat of our lease; False if the trial is no longer ours."""
        ...

    def hand_back(self, claim: Claim) -> bool:
        """Let our trial wait for whoever claims it next; False if it is no longer ours."""
        ...

    def finish(self, claim: Claim, state: TrialState, values: Sequence[float] | None = None) -> bool:
        """End our trial with its values, all in one transaction; False, with nothing stored, if it is no longer ours.

        The fenced form of `study.tell`, without the sampler's `after_trial`, which belongs before it.
        """
        ...

    def running(self) -> list[ClaimedBy]:
        """The running trials with their leases, lowest number first."""
        ...

    def take_back(self, held: ClaimedBy) -> bool:
        """Let anybody's trial wait again, if it still runs under exactly the lease that was seen."""
        ...


def new_token(worker: str) -> str:
    """A token that no other claim has, also in a database that compares text without regard to case."""
    return f"{worker}:{uuid.uuid4().hex}"


def lease_of(token: str, beat: int) -> str:
    """The lease's text; the same for the same token and beat, since whole texts are compared."""
    return json.dumps({"token": token, "beat": beat})


def returned_lease() -> str:
    """What is left on a trial that nobody owns; different each time, so that who wrote it can tell."""
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
