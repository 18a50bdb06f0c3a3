"""Claims in a journal file: the journal is read to its end and written to under one lock."""

from __future__ import annotations

import contextlib
import datetime
import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from optuna.storages import JournalStorage
from optuna.storages.journal._storage import JournalOperation
from optuna.trial import FrozenTrial, TrialState

from jorge_tune.tuning.storages.claims import LEASE, Claim, Held, lease_of, new_token, owner_of, returned_lease
from jorge_tune.tuning.storages.journal import JournalFile
from jorge_tune.tuning.storages.patience import Patience


class JournalClaims:
    """`Claims` of one study in a journal file.

    Args:
        storage: Optuna's own storage, over a `JournalFile`.
        study_id: the study.
        patience: does each step again if the disk was gone meanwhile.
    """

    def __init__(self, storage: JournalStorage, study_id: int, patience: Patience) -> None:
        assert isinstance(storage._backend, JournalFile)
        self._storage, self._backend = storage, storage._backend
        self._study_id, self._patience = study_id, patience

    def claim(self, worker: str, total: int) -> Claim | None:
        """See `Claims.claim`."""
        token = new_token(worker)
        lease = lease_of(token, 0)

        def step(attempt: int) -> Claim | None:
            with self._alone():
                trials = self._trials()
                ours = next((trial for trial in trials if attempt and _lease(trial) == lease), None)
                if ours is None:
                    ours = next((trial for trial in trials if trial.state is TrialState.WAITING), None)
                    if ours is not None:
                        self._append(_leased(ours, lease), _with_state(ours, TrialState.RUNNING))
                    elif len(trials) < total:
                        ours = self._create(lease)
                return None if ours is None else Claim(ours._trial_id, ours.number, token)

        return self._patience.run(step)

    def renew(self, claim: Claim) -> bool:
        """See `Claims.renew`."""

        def step(attempt: int) -> bool:
            with self._alone():
                trial = self._storage._replay_result.get_trial(claim.trial_id)
                token, beat = owner_of(_lease(trial))
                if trial.state is not TrialState.RUNNING or token != claim.token:
                    return False
                self._append(_leased(trial, lease_of(claim.token, beat + 1)))
                return True

        return self._patience.run(step)

    def hand_back(self, claim: Claim) -> bool:
        """See `Claims.hand_back`."""
        return self._let_wait(claim.trial_id, lambda lease: owner_of(lease)[0] == claim.token)

    def finish(self, claim: Claim, state: TrialState, values: Sequence[float] | None = None) -> bool:
        """See `Claims.finish`."""

        def step(attempt: int) -> bool:
            with self._alone():
                trial = self._storage._replay_result.get_trial(claim.trial_id)
                if owner_of(_lease(trial))[0] != claim.token:
                    return False
                if trial.state is TrialState.RUNNING:
                    self._append(_with_state(trial, state, values))
                    return True
                return bool(attempt) and trial.state is state

        return self._patience.run(step)

    def running(self) -> list[Held]:
        """See `Claims.running`."""
        trials = self._patience.run(
            lambda attempt: self._storage.get_all_trials(self._study_id, deepcopy=False, states=(TrialState.RUNNING,))
        )
        return [Held(trial._trial_id, trial.number, _lease(trial)) for trial in trials]

    def take_back(self, held: Held) -> bool:
        """See `Claims.take_back`."""
        return self._let_wait(held.trial_id, lambda lease: lease == held.lease)

    def _let_wait(self, trial_id: int, may: Callable[[str | None], bool]) -> bool:
        mark = returned_lease()

        def step(attempt: int) -> bool:
            with self._alone():
                trial = self._storage._replay_result.get_trial(trial_id)
                if attempt and _lease(trial) == mark:
                    return True
                if trial.state is not TrialState.RUNNING or not may(_lease(trial)):
                    return False
                self._append(_with_state(trial, TrialState.WAITING), _leased(trial, mark))
                return True

        return self._patience.run(step)

    def _create(self, lease: str) -> FrozenTrial:
        """The next trial, running and leased in one line of the journal."""
        self._append(
            {
                "op_code": JournalOperation.CREATE_TRIAL,
                "study_id": self._study_id,
                "datetime_start": _now(),
                "state": TrialState.RUNNING,
                "system_attrs": {LEASE: json.loads(lease)},
            }
        )
        return self._trials()[-1]

    def _trials(self) -> list[FrozenTrial]:
        return self._storage._replay_result.get_all_trials(self._study_id, None)

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Nobody else writes, and we have read everything."""
        with self._storage._thread_lock, self._backend.lock:
            self._storage._sync_with_backend()
            yield

    def _append(self, *logs: dict[str, Any]) -> None:
        """Write and read back. Should the write be torn between two, the first alone leaves a trial that comes back."""
        worker = self._storage._replay_result.worker_id
        self._backend.append_logs([{"op_code": log["op_code"], "worker_id": worker, **log} for log in logs])
        self._storage._sync_with_backend()


def _lease(trial: FrozenTrial) -> str | None:
    held = trial.system_attrs
    lease = held.get(LEASE) if isinstance(held, dict) else None
    return None if lease is None else json.dumps(lease)


def _leased(trial: FrozenTrial, lease: str) -> dict[str, Any]:
    return {
        "op_code": JournalOperation.SET_TRIAL_SYSTEM_ATTR,
        "trial_id": trial._trial_id,
        "system_attr": {LEASE: json.loads(lease)},
    }


def _with_state(trial: FrozenTrial, state: TrialState, values: Sequence[float] | None = None) -> dict[str, Any]:
    log: dict[str, Any] = {
        "op_code": JournalOperation.SET_TRIAL_STATE_VALUES,
        "trial_id": trial._trial_id,
        "state": state,
        "values": values,
    }
    if state is TrialState.RUNNING:
        log["datetime_start"] = _now()
    elif state.is_finished():
        log["datetime_complete"] = _now()
    return log


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="microseconds")
