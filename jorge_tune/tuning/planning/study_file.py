"""Study files, read with every fault reported in one go, and plans without a file."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from jorge_tune.errors import Fault, FaultyFileError, InputError
from jorge_tune.recipe.checks import Finding
from jorge_tune.recipe.decode import decode, hints_of
from jorge_tune.recipe.derivation import Derivation
from jorge_tune.recipe.io import read_recipe
from jorge_tune.recipe.nodes import node_of, read_tree
from jorge_tune.recipe.reader import parse, text_of
from jorge_tune.recipe.schema import Recipe
from jorge_tune.recipe.shipped import resolve_recipe
from jorge_tune.tuning.planning.build_plan import build_plan, centre_of
from jorge_tune.tuning.planning.default_space import default_space
from jorge_tune.tuning.planning.plan import StudyPlan
from jorge_tune.tuning.planning.study_schema import StudyFile

_KIND = "study file"


def read_study(path: str | Path, changes: Mapping[str, Any] | None = None) -> StudyPlan:
    """Read a study file, and the recipes it names.

    Recipes are looked for beside the study file, then as any command does: a path, or a shipped recipe's name.

    Args:
        path: the file.
        changes: fields to read in place of the file's, as plain data (`trials=20`), that options gave: messages name
            what is wrong with them as those (`--trials`).

    Raises:
        InputError: there is no such file, or it is no text file.
        FaultyFileError: the file, or a recipe that it names, has faults; all of them are in the message.
    """
    return parse_study(text_of(Path(path), _KIND), str(path), changes)


def parse_study(text: str, source: str, changes: Mapping[str, Any] | None = None) -> StudyPlan:
    """Read a study from a text; `source`, its file, names it in messages. Raises as `read_study` does."""
    plans: list[StudyPlan] = []
    of_options: list[str] = []
    changes = changes or {}

    def check(file: StudyFile) -> list[Finding]:
        findings: list[Finding] = []
        file = _changed(file, changes, findings)
        recipe, baseline, derivations = _recipes(file, Path(source).parent, findings)
        plan = None if recipe is None else build_plan(file, recipe, baseline, findings, derivations)
        plans.extend([] if plan is None else [plan])
        of_options.extend(_of_option(*finding) for finding in findings if _field(finding[0]) in changes)
        return [finding for finding in findings if _field(finding[0]) not in changes]

    try:
        parse(StudyFile, text, source, _KIND, check)
    except FaultyFileError as error:
        told = FaultyFileError(source, tuple(_hinted(fault) for fault in error.faults))
        raise (InputError("\n".join([*of_options, str(told)])) if of_options else told) from None
    if of_options:
        raise InputError("\n".join(of_options))
    return plans[0]


def _field(path: str) -> str:
    """The study file's own key that a path begins with."""
    return re.split(r"[.\[]", path, maxsplit=1)[0]


def _of_option(path: str, what: str) -> str:
    """What is wrong with a field that an option of the command line gave: no line of the file is to blame."""
    inside = path[len(_field(path)) :].lstrip(".")
    return f"--{_field(path).replace('_', '-')}: " + (f"{inside}: {what}" if inside else what)


def _hinted(fault: Fault) -> Fault:
    """A recipe's section written into the space, where fields stand by their dotted names, gets the way out."""
    nested = re.fullmatch(r"space\.(\w+)\.(\w+)", fault.path)
    if nested is None or not fault.what.startswith("unknown key") or nested[1] not in hints_of(Recipe):
        return fault
    return fault._replace(
        what=f"unknown key; write {nested[1]}.{nested[2]}: {{...}}, the field's whole name as one key"
    )


def default_study(
    recipe: str, name: str | None = None, trials: int | None = None, *, are_options: bool = False, **settings: Any
) -> StudyPlan:
    """A study without a file: rate, decay, interval and schedule around a recipe; SGD and AdamW are bootstrapped first.

    Args:
        recipe: a path or a shipped recipe's name.
        name: the study's; None: the bootstrapped recipe's.
        trials: in all; None: 40.
        are_options: all of these were given as options of the command line, and messages name them so (`--trials`).
        settings: further fields of a study file, as plain data (`sampler="gp"`, `seeds=[0, 1]`).

    Raises:
        InputError: the recipe cannot be read or searched, or a setting is wrong; all faults in the message.
    """
    centre, baseline, derivations = centre_of(read_recipe(resolve_recipe(recipe)))
    given = {"name": name, "trials": trials, **settings}
    return _around(centre, baseline, derivations, recipe, given, are_options=are_options)


def study_around(
    centre: Recipe, baseline: Recipe | None, derivations: Sequence[Derivation], *, recipe: str, **settings: Any
) -> StudyPlan:
    """The same around a recipe that is bootstrapped already.

    Args:
        centre: the bootstrapped recipe.
        baseline: what it came from; None: there is nothing to compare it with.
        derivations: how it came about.
        recipe: as the user named it.
        settings: as for `default_study`.

    Raises:
        InputError: as `default_study` does.
    """
    return _around(centre, baseline, derivations, recipe, settings)


def is_study(path: Path) -> bool:
    """Whether a file is meant as a study file: it names a recipe, or has a space, and has no optimizer of its own.

    One that holds nothing may yet become one.
    """
    root = read_tree(text_of(path, _KIND)).root
    if root is None:
        return True
    keys = set(root.section or {})
    return "optimizer" not in keys and bool(keys & {"recipe", "space"})


def _around(
    centre: Recipe,
    baseline: Recipe | None,
    derivations: Sequence[Derivation],
    recipe: str,
    settings: Mapping[str, Any],
    *,
    are_options: bool = False,
) -> StudyPlan:
    given = {key: value for key, value in settings.items() if value is not None}
    data = {"name": centre.name, "recipe": recipe, "space": default_space(centre, baseline or centre), **given}
    faults: list[Fault] = []
    file = decode(StudyFile, node_of(data), faults)
    findings: list[Finding] = []
    plan = None if file is None else build_plan(file, centre, baseline, findings, derivations)
    if plan is not None:
        return plan
    lines = []
    for path, what in [(fault.path, fault.what) for fault in faults] + findings:
        place = f"study of {recipe}: {path}: " if path else f"study of {recipe}: "
        lines.append(_of_option(path, what) if are_options and _field(path) in given else place + what)
    raise InputError("\n".join(lines))


def _changed(file: StudyFile, changes: Mapping[str, Any], findings: list[Finding]) -> StudyFile:
    """The file with some fields replaced; what is wrong with them is a finding."""
    if not changes:
        return file
    faults: list[Fault] = []
    made = decode(StudyFile, node_of({"name": file.name, "recipe": file.recipe, "space": {}, **changes}), faults)
    findings += [(fault.path, fault.what) for fault in faults]
    return file if made is None else replace(file, **{key: getattr(made, key) for key in changes})


def _recipes(
    file: StudyFile, folder: Path, findings: list[Finding]
) -> tuple[Recipe | None, Recipe | None, tuple[Derivation, ...]]:
    """What is searched around, the baseline, and how the first came about; None for a recipe with faults."""
    read = _recipe_at(file.recipe, "recipe", folder, findings)
    given = None if file.baseline is None else _recipe_at(file.baseline, "baseline", folder, findings)
    if read is None:
        return None, None, ()
    try:
        recipe, baseline, derivations = centre_of(read)
    except InputError as error:
        findings.append(("recipe", str(error)))
        return None, None, ()
    if baseline is not None and file.baseline is not None:
        findings.append(
            ("baseline", f"recipe {read.name} is bootstrapped here and is the baseline itself; leave it out")
        )
    return recipe, baseline or given, derivations


def _recipe_at(argument: str, key: str, folder: Path, findings: list[Finding]) -> Recipe | None:
    """The recipe of that name; None where it cannot be read, and then every fault of it is a finding."""
    try:
        beside = folder / argument
        return read_recipe(beside if _is_file(beside) else resolve_recipe(argument))
    except FaultyFileError as error:
        findings += [(key, fault.located(error.source)) for fault in error.faults]
    except InputError as error:
        findings.append((key, str(error)))
    return None


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # too long, a NUL character
        return False
