"""Every private name of Optuna that this package uses, under public names: what a new Optuna may change without a word.

Optuna is pinned below its next major version for their sake; look here first when that bound is raised.
"""

from __future__ import annotations

import contextlib
from collections.abc import Container, Iterator
from typing import Any

from optuna._transform import _SearchSpaceTransform as SearchSpaceTransform
from optuna.distributions import BaseDistribution
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages import _CachedStorage as CachedStorage
from optuna.storages._cached_storage import _StudyInfo
from optuna.storages._rdb import models
from optuna.storages._rdb.storage import _create_scoped_session as create_scoped_session
from optuna.storages.journal._base import BaseJournalBackend
from optuna.storages.journal._storage import JournalOperation
from optuna.study import Study
from optuna.study._frozen import FrozenStudy
from optuna.trial import FrozenTrial, Trial, TrialState, create_trial

__all__ = [
    "OVERRIDDEN",
    "SECTIONS",
    "CachedStorage",
    "FrozenStudy",
    "JournalOperation",
    "SearchSpaceTransform",
    "add_trial_row",
    "alone_in_journal",
    "append_to_journal",
    "cached_trial_of",
    "contains_internally",
    "create_scoped_session",
    "database_of",
    "forget_cached_trials",
    "journal_of",
    "models",
    "read_database_trials",
    "remember_running_trial",
    "replayed_trial",
    "replayed_trials",
    "set_identity",
    "storage_of",
    "study_id_of",
    "trial_id_of",
]

OVERRIDDEN = ("_build_frozen_trial_from_trial_model", "_create_new_trial", "_get_trials")
"""The private methods of Optuna's classes that ours override."""

SECTIONS = {
    "_user_attrs": "attributes",
    "_system_attrs": "system attributes",
    "_params": "parameters",
    "_distributions": "distributions",
    "intermediate_values": "reports",
}
"""The mappings that a trial consists of, by the names of its fields, in words."""


def storage_of(study: Study) -> BaseStorage:
    """The storage that a study is in."""
    return study._storage


def study_id_of(study: Study | FrozenStudy) -> int:
    """The number by which a storage knows a study."""
    return study._study_id


def trial_id_of(trial: Trial | FrozenTrial) -> int:
    """The number by which a storage knows a trial, over all its studies."""
    return trial._trial_id


def set_identity(trial: FrozenTrial, trial_id: int, number: int) -> FrozenTrial:
    """Give a trial that was just made the numbers of the one that the storage has."""
    trial._trial_id, trial.number = trial_id, number
    return trial


def cached_trial_of(trial: Trial) -> FrozenTrial:
    """What a running trial holds of itself, without asking the storage again."""
    return trial._cached_frozen_trial


def forget_cached_trials(study: Study) -> None:
    """Let the next sampler read the study's trials anew, as `Study.ask` does."""
    study._thread_local.cached_all_trials = None


def contains_internally(distribution: BaseDistribution, value: float) -> bool:
    """Whether a value, as storages keep it, lies within a distribution."""
    return distribution._contains(value)


def database_of(storage: CachedStorage) -> RDBStorage:
    """The database behind Optuna's cache."""
    return storage._backend


def remember_running_trial(storage: CachedStorage, study_id: int, trial_id: int, number: int) -> None:
    """Add a trial to the cache that was not created through it; the cache then accepts its parameters."""
    known = set_identity(create_trial(state=TrialState.RUNNING), trial_id, number)
    with storage._lock:
        storage._studies.setdefault(study_id, _StudyInfo())
        storage._add_trials_to_cache(study_id, [known])


def add_trial_row(storage: RDBStorage, study_id: int, trial: FrozenTrial, session: Any) -> Any:
    """Store a trial in the transaction of a session; its row."""
    return storage._get_prepared_new_trial(study_id, trial, session)


def read_database_trials(
    storage: RDBStorage,
    study_id: int,
    states: Container[TrialState] | None,
    included_trial_ids: set[int],
    trial_id_greater_than: int,
) -> list[FrozenTrial]:
    """Trials of a study as Optuna itself reads them."""
    return RDBStorage._get_trials(storage, study_id, states, included_trial_ids, trial_id_greater_than)


def journal_of(storage: JournalStorage) -> BaseJournalBackend:
    """The journal file, or what stands for it."""
    return storage._backend


@contextlib.contextmanager
def alone_in_journal(storage: JournalStorage, lock: contextlib.AbstractContextManager[object]) -> Iterator[None]:
    """No other thread of ours and, by `lock`, no other process writes, and we have read everything."""
    with storage._thread_lock, lock:
        storage._sync_with_backend()
        yield


def replayed_trial(storage: JournalStorage, trial_id: int) -> FrozenTrial:
    """A trial as the journal read so far says."""
    return storage._replay_result.get_trial(trial_id)


def replayed_trials(storage: JournalStorage, study_id: int) -> list[FrozenTrial]:
    """The trials of a study as the journal read so far says."""
    return storage._replay_result.get_all_trials(study_id, None)


def append_to_journal(storage: JournalStorage, logs: list[dict[str, Any]]) -> None:
    """Append entries in this process's name in one write, and read them back."""
    worker = storage._replay_result.worker_id
    storage._backend.append_logs([{"op_code": log["op_code"], "worker_id": worker, **log} for log in logs])
    storage._sync_with_backend()
