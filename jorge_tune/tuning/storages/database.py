"""Optuna's storage in a database, with three of its habits taken away.

The third: one attribute, parameter or value that cannot be read makes the whole study unreadable. Here it is that
one alone, see `contents.py`.
"""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Container, Mapping
from functools import partial
from typing import Any

from optuna.distributions import json_to_distribution
from optuna.storages import RDBStorage
from optuna.storages._rdb.models import (
    StudyDirectionModel,
    StudyModel,
    StudySystemAttributeModel,
    StudyUserAttributeModel,
    TrialIntermediateValueModel,
    TrialModel,
    TrialValueModel,
)
from optuna.storages._rdb.storage import _create_scoped_session
from optuna.study import StudyDirection
from optuna.study._frozen import FrozenStudy
from optuna.trial import FrozenTrial, TrialState, create_trial
from sqlalchemy import Integer, String, select, type_coerce

from jorge_tune.strict_json import shown
from jorge_tune.tuning.storages.contents import UNREAD, faults_in, parse_json, read_json

_TRIALS = TrialModel.__table__


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

    def get_study_user_attrs(self, study_id: int) -> dict[str, Any]:
        """All user attributes of a study; one that cannot be read is a text that says so."""
        return self._attributes_of(StudyUserAttributeModel, study_id)

    def get_study_system_attrs(self, study_id: int) -> dict[str, Any]:
        """All system attributes of a study; one that cannot be read is a text that says so."""
        return self._attributes_of(StudySystemAttributeModel, study_id)

    def get_all_studies(self) -> list[FrozenStudy]:
        """All studies, whatever their attributes hold."""
        attributes: dict[Any, dict[Any, dict[str, Any]]] = {}
        with _create_scoped_session(self.scoped_session) as session:
            names = session.query(StudyModel.study_id, StudyModel.study_name).order_by(StudyModel.study_id).all()
            directions: dict[Any, list[Any]] = defaultdict(list)
            for directed in session.query(StudyDirectionModel).all():
                directions[directed.study_id].append(directed.direction)
            for model in (StudyUserAttributeModel, StudySystemAttributeModel):
                held = attributes[model] = defaultdict(dict)
                rows: list[Any] = session.query(model).all()
                for row in rows:
                    held[row.study_id][row.key] = read_json(row.value_json)
        return [
            FrozenStudy(
                study_name=name,
                direction=None,
                directions=directions[identity] or [StudyDirection.NOT_SET],
                user_attrs=attributes[StudyUserAttributeModel][identity],
                system_attrs=attributes[StudySystemAttributeModel][identity],
                study_id=identity,
            )
            for identity, name in names
        ]

    def _attributes_of(self, model: Any, study_id: int) -> dict[str, Any]:
        with _create_scoped_session(self.scoped_session) as session:
            StudyModel.find_or_raise_by_id(study_id, session)
            return {row.key: read_json(row.value_json) for row in model.where_study_id(study_id, session)}

    def _get_trials(
        self,
        study_id: int,
        states: Container[TrialState] | None,
        included_trial_ids: set[int],
        trial_id_greater_than: int,
    ) -> list[FrozenTrial]:
        try:
            return super()._get_trials(study_id, states, included_trial_ids, trial_id_greater_than)
        except (LookupError, TypeError, ValueError) as error:
            if isinstance(error, KeyError):  # there is no such study
                raise
        trials = self._one_by_one(study_id)
        return [
            trial
            for trial in trials
            if (states is None or trial.state in states)
            and (trial._trial_id in included_trial_ids or trial._trial_id > trial_id_greater_than)
        ]

    def _one_by_one(self, study_id: int) -> list[FrozenTrial]:
        """Every trial, where the row of one cannot be read; that one has failed, as far as anybody here can tell."""
        identity, number = type_coerce(_TRIALS.c.trial_id, Integer), type_coerce(_TRIALS.c.number, String)
        with self.engine.begin() as connection:
            query = select(identity, number).where(_TRIALS.c.study_id == study_id).order_by(_TRIALS.c.trial_id)
            rows: list[Any] = list(connection.execute(query))
        trials = []
        for trial_id, numbered in rows:
            try:
                trials.append(self.get_trial(trial_id))
            except (LookupError, TypeError, ValueError) as error:
                failed = create_trial(state=TrialState.FAIL)
                failed._trial_id, failed.number = trial_id, int(numbered)
                failed.system_attrs = {UNREAD: [f"its row cannot be read ({_first_line(error)})"]}
                trials.append(failed)
        return trials

    def _build_frozen_trial_from_trial_model(self, trial: Any) -> FrozenTrial:
        """The trial, piece by piece; what cannot be read is left out, and told in its attribute `UNREAD`."""
        faults: list[str] = []

        def read(what: str, pieces: Mapping[str, Any]) -> dict[str, Any]:
            found = {}
            for name, piece, fault in faults_in(pieces):
                if fault:
                    faults.append(f"its {what} {shown(name)} cannot be read ({fault})")
                else:
                    found[name] = piece
            return found

        params = sorted(trial.params, key=lambda row: row.param_id)
        distributions = read("parameter", {row.param_name: _distribution(row) for row in params})
        held = {row.param_name: row.param_value for row in params if row.param_name in distributions}
        internal = read("parameter", {name: _external(distributions[name], value) for name, value in held.items()})
        values = read("value", {str(row.objective): _value(row) for row in trial.values})
        reports = read("report", {str(row.step): _report(row) for row in trial.intermediate_values})
        user = read("attribute", {row.key: partial(parse_json, row.value_json) for row in trial.user_attributes})
        system = read("attribute", {row.key: partial(parse_json, row.value_json) for row in trial.system_attributes})
        made = create_trial(state=TrialState.WAITING)
        made.number, made._trial_id, made.state = trial.number, trial.trial_id, trial.state
        made.values = list(values.values()) or None
        made.datetime_start, made.datetime_complete = trial.datetime_start, trial.datetime_complete
        made.params, made.distributions = internal, {name: distributions[name] for name in internal}
        made.user_attrs, made.system_attrs = user, {**system, UNREAD: faults} if faults else system
        made.intermediate_values = dict(reports.values())
        return made


def _distribution(row: Any) -> Any:
    return lambda: json_to_distribution(row.distribution_json)


def _external(distribution: Any, value: Any) -> Any:
    def read() -> Any:
        external = distribution.to_external_repr(float(value))
        if not distribution._contains(distribution.to_internal_repr(external)):
            raise ValueError(f"{shown(value)} is outside {distribution}")
        return external

    return read


def _value(row: Any) -> Any:
    return lambda: TrialValueModel.stored_repr_to_value(row.value, row.value_type)


def _report(row: Any) -> Any:
    model = TrialIntermediateValueModel
    return lambda: (
        row.step,
        model.stored_repr_to_intermediate_value(row.intermediate_value, row.intermediate_value_type),
    )


def _first_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:120]
