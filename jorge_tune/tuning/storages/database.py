"""Optuna's storage in a database, with two of its habits taken away."""

from __future__ import annotations

import copy
from typing import Any

from optuna.storages import RDBStorage
from optuna.storages._rdb.models import StudyModel
from optuna.storages._rdb.storage import _create_scoped_session
from optuna.trial import FrozenTrial, TrialState, create_trial


class Database(RDBStorage):
    """Optuna's own, but it leaves no connection open if it cannot be opened, and creates a trial in one attempt.

    Optuna makes five attempts, and so stores a trial twice if the first one's commit arrived without an answer.
    Whoever calls this decides whether there is to be another attempt.

    Args:
        url: what SQLAlchemy reads.
        arguments: of its `create_engine`.
    """

    def __init__(self, url: str, arguments: dict[str, Any]) -> None:
        try:
            super().__init__(url.replace("{", "{{").replace("}", "}}"), arguments)  # Optuna fills a template
        except BaseException:
            if hasattr(self, "engine"):
                self.engine.dispose()
            raise

    def _create_new_trial(self, study_id: int, template_trial: FrozenTrial | None = None) -> FrozenTrial:
        trial = create_trial(state=TrialState.RUNNING) if template_trial is None else copy.deepcopy(template_trial)
        with _create_scoped_session(self.scoped_session) as session:
            StudyModel.find_or_raise_by_id(
                study_id, session, for_update=True
            )  # the lock under which trials are counted
            row = self._get_prepared_new_trial(study_id, trial, session)
            trial.number, trial._trial_id = int(row.number), int(row.trial_id)
            trial.datetime_start = row.datetime_start
        return trial
