"""A study in its storage: made once, opened again only as the study that it was, and what its workers are told.

Everything that a worker needs is in the study's system attributes, so that one may join from anywhere by name.
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
from jorge_tune.study.runs_directory import RunsDirectory, enter, found, new_name
from jorge_tune.study.storage.claims import Claims
from jorge_tune.study.storage.open import claims_for
from jorge_tune.study.storage.optuna_private import storage_of, study_id_of
from jorge_tune.study.stored_plan import (
    STORED_NAME,
    StoredRecord,
    StoredWish,
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
_MAKING_SECONDS = 10.0  # that the process which makes a study may take for it

OnChange = Literal["refuse", "branch"]
How = Literal["finish", "checkpoint"]


@dataclass(frozen=True)
class StudyStopRequest:
    """Workers should leave: after their present trial (`finish`), or as soon as its run has a checkpoint."""

    how: How
    reason: str
    exit_code: int = 0


@dataclass(frozen=True)
class OpenStudy:
    """A study as it stands in a storage.

    `name` is random and this study's alone, `directory` that of the directory its first worker used. `version` of this
    package made it; others may read it.
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
        """Its number there."""
        return study_id_of(self.study)

    def enter(self, runs: Path) -> RunsDirectory:
        """Use a directory for its runs.

        Raises:
            InputError: the directory belongs to another study, or cannot be used.
        """
        return enter(runs, study=self.name, study_name=self.plan.name, first=self.folder)

    def check_version(self) -> None:
        """Refuse to add to a study that another version made: its trials would not be comparable.

        Raises:
            InputError: it is another version's.
        """
        if self.version == jorge_tune.__version__:
            return
        branch = "go on in a new one with `jorge-tune study run FILE --branch`"
        if is_comparison(self.plan):
            branch = "run `jorge-tune compare` under another --name"
        raise InputError(
            f"study {self.plan.name} was made by jorge-tune {self.version}, and this is {jorge_tune.__version__}, "
            f"which only reads it; install that version, or {branch}"
        )

    def for_display(self) -> OpenStudy:
        """The same study for looks at it that must not wait for a storage that is gone."""
        from optuna.study import Study

        from jorge_tune.study.storage.patient import PatientStorage

        if not isinstance(self.storage, PatientStorage):
            return self
        storage = self.storage.impatient()
        return replace(self, study=Study(self.plan.name, storage, self.study.sampler, self.study.pruner))

    def stop_wish(self) -> StudyStopRequest | None:
        """What `ask_to_stop` said last.

        Raises:
            InputError: what stands there is no such wish.
        """
        held = self._attributes().get(STOP)
        if not held:
            return None
        try:
            wish = read_stored(StoredWish, held)
            if wish.how not in get_args(How):
                raise InputError(f"how must be {' or '.join(get_args(How))}, got {shown(wish.how)}")
        except InputError as error:
            raise InputError(
                f"study {self.plan.name}: its attribute {STOP} cannot be read ({error}); "
                f"`jorge-tune study stop --name {self.plan.name}` writes it anew"
            ) from None
        return StudyStopRequest(cast("How", wish.how), wish.reason, wish.exit_code)

    def ask_to_stop(self, how: How, reason: str, *, exit_code: int = 0) -> None:
        """Let every worker leave; those that come later leave at once."""
        self._set(STOP, {"how": how, "reason": reason, "exit_code": exit_code})

    def let_go_on(self) -> None:
        """Take the wish to stop back, whatever it says."""
        if self._attributes().get(STOP):
            self._set(STOP, None)

    def _attributes(self) -> dict[str, Any]:
        return self.storage.get_study_system_attrs(self.study_id)

    def _set(self, key: str, value: Any) -> None:
        self.storage.set_study_system_attr(self.study_id, key, value)


def open_study(
    storage: BaseStorage, plan: StudyPlan, runs: Callable[[str], Path], *, on_change: OnChange = "refuse"
) -> OpenStudy:
    """Make the study, or go on with it if it is there and the same.

    Sampler, pruner, number of trials, hours and confirmation seeds may change; what they are now holds from now on.

    Args:
        storage: from `open_storage`.
        plan: the study; its name is looked up.
        runs: the directory for the runs of a study of that name; a new study marks it.
        on_change: what to do where the recipe, the package version, the space, the objective, the seeds or the
            constraint are no longer those of the study: refuse, or go on under the next free name (`NAME-2`).

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
            return _go_on(present, named)
        if on_change == "refuse":
            raise InputError(_refusal(present.plan, named, changes))
        named = replace(plan, name=f"{plan.name}-{number}")
    raise InputError(f"study {plan.name} has been branched too often; give another --name")


def present_study(storage: BaseStorage, name: str) -> OpenStudy | None:
    """The study of that name; None where it is not there, or was left half made, which `open_study` mends."""
    if name not in study_names(storage):
        return None
    if not is_study_name(name):
        raise InputError(_not_a_name(name))
    made = _record(storage, storage.get_study_id_from_name(name)) is not None
    return _open(storage, name) if made else None


def join_study(storage: BaseStorage, name: str) -> OpenStudy:
    """Open a study by its name, with the plan that it was made with.

    Raises:
        InputError: there is none of that name (those there are, are named), or jorge-tune did not make it.
    """
    return _open(storage, name)


def study_names(storage: BaseStorage) -> list[str]:
    """The names of all studies in a storage."""
    return sorted(study.study_name for study in storage.get_all_studies())


def add_point(opened: OpenStudy, point: Mapping[str, Any]) -> int:
    """Queue a point of one's own; the number of its trial.

    Raises:
        InputError: it lies outside the space, or gives no recipe, or the study is another version's.
    """
    opened.check_version()
    opened.plan.space.recipe_of(point)
    return _enqueue(opened.storage, opened.study_id, point)


def _make(storage: BaseStorage, plan: StudyPlan, runs: Path) -> OpenStudy:
    """A new study with its directory, its record and trial 0."""
    from optuna.study import StudyDirection

    direction = StudyDirection.MINIMIZE if plan.objective.lower_is_better else StudyDirection.MAXIMIZE
    study_id = storage.create_new_study([direction], plan.name)
    try:
        return _fill(storage, study_id, plan=plan, runs=runs)
    except InputError:  # the directory is taken
        storage.delete_study(study_id)
        raise


def _fill(storage: BaseStorage, study_id: int, *, plan: StudyPlan, runs: Path) -> OpenStudy:
    name, folder = new_name(), new_name()
    found(runs, study=name, study_name=plan.name, name=folder)
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
    """A study that is there. Another process may be making it just now; if that one died, `missing` makes it anew."""
    try:
        study_id = storage.get_study_id_from_name(name)
    except KeyError:
        known = [one if is_study_name(one) else shown(one) for one in study_names(storage)]
        there = f"there are {', '.join(known)}" if known else "it holds none yet"
        raise InputError(f"no study {name!r} in this storage; {there}") from None
    if not is_study_name(name):  # before it becomes a directory
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
            f"study {name}: its plan is that of a study {shown(plan.name)}; it was renamed or copied by another program"
        )
    _check_direction(storage, study_id, plan)
    opened = _opened(storage, study_id, record, plan)
    if not storage.get_n_trials(study_id):
        _enqueue(storage, study_id, opened.plan.space.bootstrap_point())
    return opened


def _not_a_name(name: str) -> str:
    return f"the name of a study must be {STORED_NAME.words}, got {shown(name)}; jorge-tune did not make it"


def _check_direction(storage: BaseStorage, study_id: int, plan: StudyPlan) -> None:
    """Refuse a study whose values other programs would rank the other way round than its plan."""
    found = [direction.name.lower() for direction in storage.get_study_directions(study_id)]
    if found != [plan.objective.direction]:
        raise InputError(
            f"study {plan.name}: its direction must be {plan.objective.direction}, as its plan says, got "
            f"{', '.join(found) or 'none'}; another program changed it"
        )


def _refusal(present: StudyPlan, plan: StudyPlan, changes: Sequence[str]) -> str:
    there = f"study {plan.name} is there already, and is"
    if is_comparison(present) != is_comparison(plan):
        return f"{there} a {'comparison' if is_comparison(present) else 'search'}; give another --name"
    if is_comparison(plan):
        return f"{there} another one ({shortened(comparison_changes(present, plan, changes))}); give another --name"
    return (
        f"{there} another one ({shortened(changes)}); give another --name, or --branch to go on under the next free one"
    )


def _go_on(opened: OpenStudy, plan: StudyPlan) -> OpenStudy:
    """The same study under today's settings."""
    from optuna.trial import TrialState

    ended = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)
    done = min(opened.storage.get_n_trials(opened.study_id, ended), opened.plan.trials)  # points added come on top
    if plan.trials < done:
        raise InputError(f"trials must be at least {done}, as study {plan.name} has done, got {plan.trials}")
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
    """What a study's attribute holds of it; None where it has none.

    Raises:
        InputError: it is something else than `_fill` writes.
    """
    held = storage.get_study_system_attrs(study_id).get(RECORD)
    if held is None:
        return None
    try:
        record = read_stored(StoredRecord, held)
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
    """A waiting trial at a point; its number."""
    from optuna.trial import TrialState, create_trial

    waiting = create_trial(state=TrialState.WAITING, system_attrs={"fixed_params": dict(point)})
    return storage.get_trial_number_from_id(storage.create_new_trial(study_id, waiting))
