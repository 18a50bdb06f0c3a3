"""Every private name of Optuna that this package uses, under public names: what a new Optuna may change without a word.

Optuna is pinned below its next major version for their sake; look here first when that bound is raised.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from optuna._transform import _SearchSpaceTransform as SearchSpaceTransform
from optuna.storages import _CachedStorage as CachedStorage
from optuna.storages._cached_storage import _StudyInfo as StudyInfo
from optuna.storages._rdb import models
from optuna.storages._rdb.storage import _create_scoped_session as create_scoped_session
from optuna.storages.journal._storage import JournalOperation
from optuna.study._frozen import FrozenStudy

__all__ = [
    "CachedStorage",
    "FrozenStudy",
    "JournalOperation",
    "SearchSpaceTransform",
    "StudyInfo",
    "create_scoped_session",
    "models",
    "trial_id_of",
]

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial, Trial


def trial_id_of(trial: Trial | FrozenTrial) -> int:
    """The number by which a storage knows a trial, over all its studies."""
    return trial._trial_id
