"""Optuna's storage with patience: every call waits for a storage that is gone for a while.

An operation that must not happen twice first checks whether an earlier call, whose answer was lost, has arrived.
"""

from __future__ import annotations

import copy
import uuid
import weakref
from collections.abc import Callable, Container, Sequence
from typing import Any, TypeVar

from optuna.distributions import BaseDistribution
from optuna.exceptions import UpdateFinishedTrialError
from optuna.storages import BaseStorage, RDBStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState, create_trial

from jorge_tune.errors import InputError, first_line
from jorge_tune.study.storage.contents import CleanTrials
from jorge_tune.study.storage.optuna_private import CachedStorage, FrozenStudy, database_of, trial_id_of
from jorge_tune.study.storage.retry import Patience
from jorge_tune.untrusted import shown

T = TypeVar("T")

_UNREADABLE = (LookupError, TypeError, ValueError, AttributeError, AssertionError, RecursionError)
_DISTRIBUTIONS = BaseDistribution.__module__  # a KeyError from elsewhere is Optuna's word for a trial that is gone
_MOMENT = 1.0  # seconds that something impatient waits

CREATED = "jorge:created"
"""System attribute by which a trial is found again whose creation was not answered."""


class PatientStorage(BaseStorage):
    """A storage of Optuna's behind `Patience`.

    Args:
        inner: the storage itself.
        patience: how long to wait, and who hears of it.
    """

    def __init__(self, inner: BaseStorage, patience: Patience) -> None:
        self.inner = inner
        self.patience = patience
        self._clean = CleanTrials()
        self._close: Callable[[], object] = lambda: None
        if isinstance(inner, CachedStorage):  # a driver warns of connections that are left to the garbage collector
            self._close = weakref.finalize(self, _close, database_of(inner))

    def impatient(self) -> PatientStorage:
        """The same storage for something that must not wait, such as a display; closed with this one."""
        other = copy.copy(self)
        other.patience = Patience(self.patience.address, seconds=_MOMENT)
        return other

    def close(self) -> None:
        """Close all connections; a later call would open new ones."""
        self._close()

    def _do(self, call: Callable[[], T]) -> T:
        return self.patience.run(lambda attempt: call())

    def _read(self, call: Callable[[], T]) -> T:
        """Read something that others may have written.

        Raises:
            InputError: it is of no form that Optuna can read.
        """
        try:
            return self._do(call)
        except _UNREADABLE as error:
            if type(error) is KeyError or not _is_of_contents(error):  # Optuna's word for a study that is not there
                raise
            what = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise InputError(f"{self.patience.address}: what it holds cannot be read ({what}); another program wrote there")

    def create_new_study(self, directions: Sequence[StudyDirection], study_name: str | None = None) -> int:
        """A new study's id."""
        return self._do(lambda: self.inner.create_new_study(directions, study_name))

    def delete_study(self, study_id: int) -> None:
        """Delete a study and its trials; not an error if an earlier call, whose answer was lost, has deleted it."""

        def call(attempt: int) -> None:
            try:
                self.inner.delete_study(study_id)
            except KeyError:
                if not attempt:
                    raise

        self.patience.run(call)

    def set_study_user_attr(self, study_id: int, key: str, value: Any) -> None:
        """Set one user attribute of a study."""
        self._do(lambda: self.inner.set_study_user_attr(study_id, key, value))

    def set_study_system_attr(self, study_id: int, key: str, value: Any) -> None:
        """Set one system attribute of a study."""
        self._do(lambda: self.inner.set_study_system_attr(study_id, key, value))

    def get_study_id_from_name(self, study_name: str) -> int:
        """The study's id; KeyError if there is none of that name."""
        return self._do(lambda: self.inner.get_study_id_from_name(study_name))

    def get_study_name_from_id(self, study_id: int) -> str:
        """The study's name."""
        return self._read(lambda: self.inner.get_study_name_from_id(study_id))

    def get_study_directions(self, study_id: int) -> list[StudyDirection]:
        """Minimise or maximise, per objective."""
        return self._read(lambda: self.inner.get_study_directions(study_id))

    def get_study_user_attrs(self, study_id: int) -> dict[str, Any]:
        """All user attributes of a study."""
        return self._read(lambda: self.inner.get_study_user_attrs(study_id))

    def get_study_system_attrs(self, study_id: int) -> dict[str, Any]:
        """All system attributes of a study."""
        return self._read(lambda: self.inner.get_study_system_attrs(study_id))

    def get_all_studies(self) -> list[FrozenStudy]:
        """All studies."""
        return self._read(self.inner.get_all_studies)

    def create_new_trial(self, study_id: int, template_trial: FrozenTrial | None = None) -> int:
        """A new trial's id; the trial carries a mark by which a lost creation is found, not repeated."""
        template = create_trial(state=TrialState.RUNNING) if template_trial is None else copy.copy(template_trial)
        mark = uuid.uuid4().hex
        template.system_attrs = {**template.system_attrs, CREATED: mark}

        def call(attempt: int) -> int:
            if attempt:
                for trial in self.inner.get_all_trials(study_id, deepcopy=False):
                    if trial.system_attrs.get(CREATED) == mark:
                        return trial_id_of(trial)
            return self.inner.create_new_trial(study_id, template)

        return self.patience.run(call)

    def set_trial_param(
        self, trial_id: int, param_name: str, param_value_internal: float, distribution: BaseDistribution
    ) -> None:
        """Set one parameter of a running trial; ValueError if another trial has one of another kind.

        Raises:
            InputError: what another trial has of that name cannot be read.
        """
        try:
            self._do(lambda: self.inner.set_trial_param(trial_id, param_name, param_value_internal, distribution))
            return
        except (LookupError, TypeError, AttributeError, AssertionError, RecursionError) as error:
            if not _is_of_contents(error) or (type(error) is KeyError and _module_of(error) != _DISTRIBUTIONS):
                raise
            what = f"{type(error).__name__}: {first_line(error)[:100]}"
        raise InputError(
            f"{self.patience.address}: the parameter {shown(param_name)} of another trial cannot be read ({what}); "
            "another program wrote there"
        )

    def get_trial_id_from_study_id_trial_number(self, study_id: int, trial_number: int) -> int:
        """The id of the trial with this number."""
        return self._do(lambda: self.inner.get_trial_id_from_study_id_trial_number(study_id, trial_number))

    def set_trial_state_values(self, trial_id: int, state: TrialState, values: Sequence[float] | None = None) -> bool:
        """Set state and values; reporting the same end again after a lost answer is not an error."""

        def call(attempt: int) -> bool:
            try:
                return self.inner.set_trial_state_values(trial_id, state, values)
            except UpdateFinishedTrialError:
                trial = self.inner.get_trial(trial_id)
                if attempt and trial.state is state and (values is None or trial.values == list(values)):
                    return True
                raise

        return self.patience.run(call)

    def set_trial_intermediate_value(self, trial_id: int, step: int, intermediate_value: float) -> None:
        """Report one value of a running trial."""
        self._do(lambda: self.inner.set_trial_intermediate_value(trial_id, step, intermediate_value))

    def set_trial_user_attr(self, trial_id: int, key: str, value: Any) -> None:
        """Set one user attribute of a running trial."""
        self._do(lambda: self.inner.set_trial_user_attr(trial_id, key, value))

    def set_trial_system_attr(self, trial_id: int, key: str, value: Any) -> None:
        """Set one system attribute of a running trial."""
        self._do(lambda: self.inner.set_trial_system_attr(trial_id, key, value))

    def get_trial(self, trial_id: int) -> FrozenTrial:
        """One trial."""
        return self._clean(self._read(lambda: self.inner.get_trial(trial_id)))

    def get_all_trials(
        self, study_id: int, deepcopy: bool = True, states: Container[TrialState] | None = None
    ) -> list[FrozenTrial]:
        """The trials of a study by number, all or those in `states`."""
        trials = self._read(lambda: self.inner.get_all_trials(study_id, deepcopy=deepcopy))
        clean = [self._clean(trial) for trial in trials]
        return clean if states is None else [trial for trial in clean if trial.state in states]

    def get_best_trial(self, study_id: int) -> FrozenTrial:
        """The best completed trial; ValueError if there is none."""
        return self._do(lambda: self.inner.get_best_trial(study_id))

    def remove_session(self) -> None:
        """Close what the calling thread holds."""
        self.inner.remove_session()


def _is_of_contents(error: BaseException) -> bool:
    """Whether an error came up inside Optuna or SQLAlchemy: our own code's are to be seen as they are."""
    module = _module_of(error)
    return not module.startswith("jorge_tune.") or module.endswith((".contents", ".databases"))


def _module_of(error: BaseException) -> str:
    """The module in which an error came up."""
    last = error.__traceback__
    while last is not None and last.tb_next is not None:
        last = last.tb_next
    return "" if last is None else str(last.tb_frame.f_globals.get("__name__", ""))


def _close(storage: RDBStorage) -> None:
    storage.scoped_session.remove()
    storage.engine.dispose()
