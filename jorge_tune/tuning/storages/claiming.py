"""Which claims a storage has."""

from __future__ import annotations

from typing import TYPE_CHECKING

from jorge_tune.tuning.storages.claims import Claims

if TYPE_CHECKING:
    from optuna.storages import BaseStorage


def claims_for(storage: BaseStorage, study_id: int) -> Claims:
    """The claims of one study in a storage that `open_storage` opened."""
    from optuna.storages import JournalStorage, _CachedStorage

    from jorge_tune.tuning.storages.claims_journal import JournalClaims
    from jorge_tune.tuning.storages.claims_rdb import DatabaseClaims
    from jorge_tune.tuning.storages.patient import PatientStorage

    assert isinstance(storage, PatientStorage), "a storage that open_storage opened"
    if isinstance(storage.inner, JournalStorage):
        return JournalClaims(storage.inner, study_id, storage.patience)
    assert isinstance(storage.inner, _CachedStorage)
    return DatabaseClaims(storage.inner, study_id, storage.patience)
