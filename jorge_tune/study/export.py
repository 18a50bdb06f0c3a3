"""Exports of a study: a table, plain data, the recipe of one trial with its reasons, an SQLite copy."""

from __future__ import annotations

import csv
import io
import json
import re
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jorge_tune.errors import InputError
from jorge_tune.files import write_whole
from jorge_tune.recipe.derivation import Derivation
from jorge_tune.recipe.render import render_recipe, scalar
from jorge_tune.recipe.schema import Recipe
from jorge_tune.records import portable
from jorge_tune.study.confirm import companion_studies, fresh_verdict
from jorge_tune.study.plan import CONTENDER, StudyPlan, is_comparison
from jorge_tune.study.space import FactorParameter, Parameter, SearchSpace
from jorge_tune.study.stored_plan import plan_to_json
from jorge_tune.study.study import OpenStudy
from jorge_tune.study.trial_rows import TrialRow, best_of, rows_of

if TYPE_CHECKING:
    from optuna.storages import BaseStorage, RDBStorage

_BY_TRIAL_ID = re.compile(r"dashboard:(artifacts:)?\d+:")
_ATTRIBUTES = ("diverged", "reason", "worker")


def to_csv(rows: Sequence[TrialRow], space: SearchSpace) -> str:
    """One line per trial: its parameters, the values of its recipe, its end. Infinities are `inf` and `-inf`."""
    text = io.StringIO()
    flat = [_flat(row, space) for row in rows]
    names = list(_flat(TrialRow(0, "waiting"), space))
    names += sorted({name for line in flat for name in line} - set(names))

    writer = csv.DictWriter(text, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(flat)
    return text.getvalue()


def trials_to_json(rows: Sequence[TrialRow], space: SearchSpace) -> list[dict[str, Any]]:
    """Plain data, trial by trial, with all recorded attributes."""
    return [
        portable(
            {
                "number": row.number,
                "state": row.state,
                "value": row.value,
                "point": dict(row.point),
                "values": values_of(row, space),
                "constraints": dict(row.constraints),
                "feasible": row.is_feasible,
                "started": row.started and row.started.isoformat(),
                "ended": row.ended and row.ended.isoformat(),
                "seconds": row.seconds,
                "attributes": dict(row.attributes),
            }
        )  # type: ignore[misc]
        for row in rows
    ]


def values_of(row: TrialRow, space: SearchSpace) -> dict[str, Any]:
    """The value of each searched field in the trial's recipe, by its path there; a contender is given by its name."""
    known = [p for p in space if p.name in row.point]
    return {p.path: row.point[p.name] if p.name == CONTENDER else p.plain(row.point[p.name]) for p in known}


def recipe_of(row: TrialRow, plan: StudyPlan) -> tuple[Recipe, tuple[Derivation, ...]]:
    """A trial's recipe under a name of its own, and the derivation of each value: bootstrapped, then searched.

    In a comparison it is the contender's recipe as it was given, with the trial's seed.

    Raises:
        InputError: the trial has no point yet.
    """
    if any(parameter.name not in row.point for parameter in plan.space):
        raise InputError(f"trial {row.number} of study {plan.name} is {row.state}: it has no values yet")

    recipe = plan.space.recipe_of(row.point)
    if is_comparison(plan):
        return recipe, ()

    named = replace(recipe, name=f"{recipe.name}-trial-{row.number}")
    searched = [_derivation(parameter, row, plan) for parameter in plan.space]
    changed = {derivation.field for derivation in searched if derivation.changed}
    unchanged = [derivation for derivation in plan.derivations if derivation.field not in changed]
    return named, (*(derivation for derivation in searched if derivation.changed), *unchanged)


def csv_of(opened: OpenStudy) -> str:
    """All trials as CSV."""
    return to_csv(rows_of(opened), opened.plan.space)


def json_of(opened: OpenStudy) -> str:
    """Plan, trials and, once there is one, the verdict, as JSON."""
    rows = rows_of(opened)
    data = {
        "study": opened.plan.name,
        "objective": str(opened.plan.objective),
        "plan": plan_to_json(opened.plan),
        "trials": trials_to_json(rows, opened.plan.space),
        "verdict": fresh_verdict(opened),
    }
    return json.dumps(portable(data), indent=2, allow_nan=False) + "\n"


def write_sqlite(opened: OpenStudy, path: Path, *, force: bool = False) -> None:
    """Write the study and its companion studies to an SQLite file. Raises as `copy_to_sqlite` does."""
    names = [study.plan.name for study in (opened, *companion_studies(opened))]
    copy_to_sqlite(opened.storage, names, path, force=force)


def write_trial(opened: OpenStudy, path: Path, number: int | None = None, *, force: bool = False) -> None:
    """Write the recipe of one trial, or of the best one. Raises as `trial_text` and `write_whole` do."""
    write_whole(path, trial_text(opened, number), force=force)


def trial_text(opened: OpenStudy, number: int | None = None) -> str:
    """The text of the recipe of one trial, or of the best one.

    Raises:
        InputError: there is no such trial, or it has no values yet.
    """
    rows, plan = rows_of(opened), opened.plan
    if number is None and is_comparison(plan):
        raise InputError(f"study {plan.name} is a comparison and has no best trial; give --trial")
    if number is None:
        row = best_of(rows, lower_is_better=plan.objective.lower_is_better)
        if row is None:
            raise InputError(f"study {plan.name} has no best trial yet; give --trial for the recipe of another trial")
    else:
        row = find_trial(rows, number, plan.name)
    recipe, derivations = recipe_of(row, plan)
    return render_recipe(recipe, derivations)


def find_trial(rows: Sequence[TrialRow], number: int, study: str) -> TrialRow:
    """The trial of that number.

    Raises:
        InputError: there is no such trial.
    """
    for row in rows:
        if row.number == number:
            return row
    last = f"0 to {len(rows) - 1}" if rows else "none yet"
    raise InputError(f"study {study} has no trial {number}; it has {last}")


def copy_to_sqlite(storage: BaseStorage, names: Sequence[str], path: Path, *, force: bool = False) -> None:
    """Copy studies into a new SQLite file that any Optuna tool opens; it appears whole or not at all.

    Raises:
        InputError: the file exists and `force` is not set, or it cannot be written.
    """
    from optuna import copy_study
    from optuna.storages import RDBStorage

    if path.exists() and not force:  # checked before the copying too; `write_whole` checks again
        raise InputError(f"{path}: exists already; give another name, or --force to overwrite it")

    with tempfile.TemporaryDirectory() as directory:
        partial = Path(directory) / "copy.db"
        target = RDBStorage(f"sqlite:///{partial}")
        for name in names:
            copy_study(from_study_name=name, from_storage=storage, to_storage=target)
        _forget_trial_ids(target)
        target.remove_session()
        target.engine.dispose()
        write_whole(path, partial.read_bytes(), force=force)


def _forget_trial_ids(storage: RDBStorage) -> None:
    """Remove what optuna-dashboard keeps in a study by the ids of trials, which are others in a copy."""
    from sqlalchemy import delete

    from jorge_tune.study.storage.optuna_private import models, study_id_of

    rows = models.StudySystemAttributeModel.__table__
    for study in storage.get_all_studies():
        keys = [key for key in study.system_attrs if _BY_TRIAL_ID.match(key)]
        with storage.engine.begin() as connection:
            for key in keys:
                connection.execute(delete(rows).where(rows.c.study_id == study_id_of(study), rows.c.key == key))


def _flat(row: TrialRow, space: SearchSpace) -> dict[str, Any]:
    values = values_of(row, space)
    return {
        "number": row.number,
        "state": row.state,
        "value": row.value,
        **{parameter.name: row.point.get(parameter.name) for parameter in space},
        **{parameter.path: values.get(parameter.path) for parameter in space},
        "feasible": row.is_feasible,
        **{f"constraint_{name}": excess for name, excess in row.constraints.items()},
        "started": row.started and row.started.isoformat(),
        "ended": row.ended and row.ended.isoformat(),
        "seconds": row.seconds,
        **{name: row.attributes.get(name) for name in _ATTRIBUTES},
    }


def _derivation(parameter: Parameter, row: TrialRow, plan: StudyPlan) -> Derivation:
    value = row.point[parameter.name]
    before, after = parameter.plain(parameter.bootstrap), parameter.plain(value)
    factor = f"bootstrapped {scalar(before)} x {value:g}" if isinstance(parameter, FactorParameter) else ""
    rule = f"searched, instead of the bootstrapped {scalar(before)}"
    return Derivation(parameter.path, before, after, rule, factor, f"trial {row.number} of study {plan.name}")
