"""A study in its storage: it is made once, opened again only if it is the same study, and asked to stop.

The study's system attributes hold all that a worker needs, so that a worker may join from anywhere by the name alone.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast, get_args

import jorge_tune
from jorge_tune.errors import InputError, shortened
from jorge_tune.records import from_portable, portable
from jorge_tune.study.plan import StudyPlan, changes_between, comparison_changes, is_comparison
from jorge_tune.study.runs_directory import RunsDirectory, enter, mark_first, new_name
from jorge_tune.study.storage.claims import Claims
from jorge_tune.study.storage.open import claims_for
from jorge_tune.study.storage.optuna_private import storage_of, study_id_of
from jorge_tune.study.stored_plan import (
    STORED_NAME,
    StoredRecord,
    StoredStopRequest,
    is_study_name,
    plan_from_json,
    plan_to_json,
    read_stored,
)
from jorge_tune.untrusted import shown

if TYPE_CHECKING:
    from optuna.storages import BaseStorage
    from optuna.study import Study

RECORD, STOP = "jorge:study", "jorge:stop"
_MAKING_SECONDS = 10.0  # that another process may take to make a study

OnChange = Literal["refuse", "branch"]
How = Literal["finish", "checkpoint"]


@dataclass(frozen=True)
class StudyStopRequest:
    """Workers should stop: after their present trial (`finish`), or as soon as its run has written a checkpoint."""

    how: How
    reason: str
    exit_code: int = 0


@dataclass(frozen=True)
class OpenStudy:
    """A study as it is in a storage.

    `name` is a random name of this study alone. `folder` is the random name of the directory of runs that its first
    worker used. `version` is the version of this package that made the study; other versions may read it.
    """

    plan: StudyPlan
    study: Study
    claims: Claims[Any]
    name: str
    folder: str
    version: str

    @property
    def storage(self) -> BaseStorage:
        """The storage."""
        return storage_of(self.study)

    @property
    def study_id(self) -> int:
        """The study's number in the storage."""
        return study_id_of(self.study)

    def enter(self, runs: Path) -> RunsDirectory:
        """Use a directory for the study's runs.

        Raises:
            InputError: the directory belongs to another study, or cannot be used.
        """
        return enter(runs, study=self.name, study_name=self.plan.name, first=self.folder)

    def check_version(self) -> None:
        """Refuse to add to a study that another version made, since its trials would not be comparable.

        Raises:
            InputError: another version made it.
        """
        if self.version == jorge_tune.__version__:
            return

        branch = "continue in a new study with `jorge-tune study run FILE --branch`"
        if is_comparison(self.plan):
            branch = "run `jorge-tune compare` under another --name"
        raise InputError(
            f"study {self.plan.name} was made by jorge-tune {self.version}; this is {jorge_tune.__version__}, which "
            f"can only read it. Install that version, or {branch}"
        )

    def for_display(self) -> OpenStudy:
        """The same study for displays, which must not wait for a storage that is away."""
        from optuna.study import Study

        from jorge_tune.study.storage.patient import PatientStorage

        if not isinstance(self.storage, PatientStorage):
            return self

        storage = self.storage.impatient()
        return replace(self, study=Study(self.plan.name, storage, self.study.sampler, self.study.pruner))

    def stop_request(self) -> StudyStopRequest | None:
        """The present stop request; None while there is none.

        Raises:
            InputError: the attribute cannot be read.
        """
        stored = self._attributes().get(STOP)
        if not stored:
            return None

        try:
            request = read_stored(StoredStopRequest, stored)
            if request.how not in get_args(How):
                raise InputError(f"how must be {' or '.join(get_args(How))}, got {shown(request.how)}")
        except InputError as error:
            raise InputError(
                f"study {self.plan.name}: its attribute {STOP} cannot be read ({error}); "
                f"`jorge-tune study stop --name {self.plan.name}` replaces it"
            ) from None
        return StudyStopRequest(cast("How", request.how), request.reason, request.exit_code)

    def request_stop(self, how: How, reason: str, *, exit_code: int = 0) -> None:
        """Ask every worker to stop; those that come later stop at once."""
        self._set(STOP, {"how": how, "reason": reason, "exit_code": exit_code})

    def withdraw_stop_request(self) -> None:
        """Take the stop request back, whatever it says."""
        if self._attributes().get(STOP):
            self._set(STOP, None)

    def _attributes(self) -> dict[str, Any]:
        return self.storage.get_study_system_attrs(self.study_id)

    def _set(self, key: str, value: Any) -> None:
        self.storage.set_study_system_attr(self.study_id, key, value)


def open_study(
    storage: BaseStorage, plan: StudyPlan, runs: Callable[[str], Path], *, on_change: OnChange = "refuse"
) -> OpenStudy:
    """Make the study, or open it if it is there and is the same study.

    Sampler, pruner, number of trials, hours and confirmation seeds may change; the new ones hold from now on.

    Args:
        storage: from `open_storage`.
        plan: the study; its name is looked up.
        runs: the directory for the runs of a study of that name; a new study marks it.
        on_change: what to do if the recipe, the package version, the space, the objective, the seeds or the constraint
            are no longer those of the study: refuse, or make a new study under the next free name (`NAME-2`).

    Raises:
        InputError: another study has this name, fewer trials are asked for than are done, or the directory is taken.
    """
    from optuna.exceptions import DuplicatedStudyError

    named = plan
    for number in range(2, 1000):
        try:
            return _make(storage, named, runs(named.name))
        except DuplicatedStudyError:
            present = _open(storage, named.name, missing=partial(_fill, storage, plan=named, runs=runs(named.name)))

        changes = changes_between(_identity(storage, present.study_id), named.identity())
        if not changes:
            return _with_new_settings(present, named)
        if on_change == "refuse":
            raise InputError(_refusal(present.plan, named, changes))
        named = replace(plan, name=f"{plan.name}-{number}")
    raise InputError(f"study {plan.name} has been branched too often; give another --name")


def present_study(storage: BaseStorage, name: str) -> OpenStudy | None:
    """The study of that name; None if it is not there, or is only half made, which `open_study` repairs."""
    if name not in study_names(storage):
        return None
    if not is_study_name(name):
        raise InputError(_not_a_name(name))
    is_made = _record(storage, storage.get_study_id_from_name(name)) is not None
    return _open(storage, name) if is_made else None


def join_study(storage: BaseStorage, name: str) -> OpenStudy:
    """Open a study by its name, with the plan that it was made with.

    Raises:
        InputError: there is no study of that name (the message lists those there are), or jorge-tune did not make it.
    """
    return _open(storage, name)


def study_names(storage: BaseStorage) -> list[str]:
    """The names of all studies in a storage."""
    return sorted(study.study_name for study in storage.get_all_studies())


def add_point(opened: OpenStudy, point: Mapping[str, Any]) -> int:
    """Queue a point that the user chose; returns the number of its trial.

    Raises:
        InputError: the point is outside the space or gives no recipe, or another version made the study.
    """
    opened.check_version()
    opened.plan.space.recipe_of(point)
    return _enqueue(opened.storage, opened.study_id, point)


def _make(storage: BaseStorage, plan: StudyPlan, runs: Path) -> OpenStudy:
    """Make a new study with its directory, its record and trial 0."""
    from optuna.study import StudyDirection

    direction = StudyDirection.MINIMIZE if plan.objective.lower_is_better else StudyDirection.MAXIMIZE
    study_id = storage.create_new_study([direction], plan.name)
    try:
        return _fill(storage, study_id, plan=plan, runs=runs)
    except InputError:  # the directory is taken
        storage.delete_study(study_id)
        raise


def _fill(storage: BaseStorage, study_id: int, *, plan: StudyPlan, runs: Path) -> OpenStudy:
    """Give a study that was just created its directory, its record and trial 0."""
    name, folder = new_name(), new_name()
    mark_first(runs, study=name, study_name=plan.name, name=folder)
    record: dict[str, Any] = {
        "name": name,
        "folder": folder,
        "identity": portable(plan.identity()),
        "plan": plan_to_json(plan),
    }
    storage.set_study_system_attr(study_id, RECORD, record)
    storage.set_study_user_attr(study_id, "objective", str(plan.objective))
    _enqueue(storage, study_id, plan.space.bootstrap_point())
    return _opened(storage, study_id, record, plan)


def _open(storage: BaseStorage, name: str, *, missing: Callable[[int], OpenStudy] | None = None) -> OpenStudy:
    """Open a study that is there.

    Another process may be making it just now. If that process died, `missing` makes the study anew.
    """
    try:
        study_id = storage.get_study_id_from_name(name)
    except KeyError:
        known = [one if is_study_name(one) else shown(one) for one in study_names(storage)]
        there = f"there are {', '.join(known)}" if known else "it holds none yet"
        raise InputError(f"no study {name!r} in this storage; {there}") from None
    if not is_study_name(name):  # checked before it becomes the name of a directory
        raise InputError(_not_a_name(name))

    deadline = time.monotonic() + _MAKING_SECONDS
    while (record := _record(storage, study_id)) is None or not storage.get_n_trials(study_id):
        if time.monotonic() > deadline or (record is None and storage.get_n_trials(study_id)):
            break
        time.sleep(0.05)

    if record is None:
        if missing is None or storage.get_n_trials(study_id):
            raise InputError(f"study {name!r} was not made by this version of jorge-tune; give another --name")
        return missing(study_id)

    plan = plan_from_json(record["plan"], f"study {name}")
    if plan.name != name:
        raise InputError(
            f"study {name}: its plan is that of study {shown(plan.name)}; another program renamed or copied the study"
        )
    _check_direction(storage, study_id, plan)
    opened = _opened(storage, study_id, record, plan)
    if not storage.get_n_trials(study_id):
        _enqueue(storage, study_id, opened.plan.space.bootstrap_point())
    return opened


def _not_a_name(name: str) -> str:
    return f"the name of a study must be {STORED_NAME.words}, got {shown(name)}; jorge-tune did not make it"


def _check_direction(storage: BaseStorage, study_id: int, plan: StudyPlan) -> None:
    """Refuse a study whose direction in the storage is not that of its plan."""
    directions = [direction.name.lower() for direction in storage.get_study_directions(study_id)]
    if directions != [plan.objective.direction]:
        raise InputError(
            f"study {plan.name}: its direction must be {plan.objective.direction}, as its plan says, got "
            f"{', '.join(directions) or 'none'}; another program changed it"
        )


def _refusal(present: StudyPlan, plan: StudyPlan, changes: Sequence[str]) -> str:
    there = f"study {plan.name} exists already and"
    if is_comparison(present) != is_comparison(plan):
        return f"{there} is a {'comparison' if is_comparison(present) else 'search'}; give another --name"
    if is_comparison(plan):
        return f"{there} differs ({shortened(comparison_changes(present, plan, changes))}); give another --name"
    return f"{there} differs ({shortened(changes)}); give another --name, or --branch to use the next free name"


def _with_new_settings(opened: OpenStudy, plan: StudyPlan) -> OpenStudy:
    """The same study with the settings of a new plan, which are stored."""
    from optuna.trial import TrialState

    ended = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)
    # Points that users added come on top of the plan's number, and do not count here.
    done = min(opened.storage.get_n_trials(opened.study_id, ended), opened.plan.trials)
    if plan.trials < done:
        raise InputError(
            f"trials must be at least {done}, the number that study {plan.name} has ended, got {plan.trials}"
        )

    record = _record(opened.storage, opened.study_id)
    assert record is not None
    if record["plan"] != (now := plan_to_json(plan)):
        opened._set(RECORD, {**record, "plan": now})
    return replace(opened, plan=plan)


def _opened(storage: BaseStorage, study_id: int, record: Mapping[str, Any], plan: StudyPlan) -> OpenStudy:
    from optuna.pruners import NopPruner
    from optuna.samplers import RandomSampler
    from optuna.study import Study

    study = Study(plan.name, storage, RandomSampler(), NopPruner())
    claims, version = claims_for(storage, study_id), str(record["identity"]["version"])
    return OpenStudy(plan, study, claims, record["name"], record["folder"], version)


def _identity(storage: BaseStorage, study_id: int) -> Mapping[str, Any]:
    record = _record(storage, study_id)
    assert record is not None
    identity: Mapping[str, Any] = from_portable(record["identity"])
    return identity


def _record(storage: BaseStorage, study_id: int) -> dict[str, Any] | None:
    """The record in a study's attribute; None if there is none.

    Raises:
        InputError: it is not what `_fill` writes.
    """
    stored = storage.get_study_system_attrs(study_id).get(RECORD)
    if stored is None:
        return None

    try:
        record = read_stored(StoredRecord, stored)
        version = record.identity.get("version") if isinstance(record.identity, dict) else None
        if not isinstance(version, str):
            raise InputError(f"identity.version must be text, got {shown(version)}")
    except InputError as error:
        name = storage.get_study_name_from_id(study_id)
        raise InputError(
            f"study {shown(name)}: its attribute {RECORD} cannot be read ({error}); another version of jorge-tune made "
            "it, or another program wrote there"
        ) from None
    return {"name": record.name, "folder": record.folder, "identity": record.identity, "plan": record.plan}


def _enqueue(storage: BaseStorage, study_id: int, point: Mapping[str, Any]) -> int:
    """Make a waiting trial at a point; returns its number."""
    from optuna.trial import TrialState, create_trial

    waiting = create_trial(state=TrialState.WAITING, system_attrs={"fixed_params": dict(point)})
    return storage.get_trial_number_from_id(storage.create_new_trial(study_id, waiting))
