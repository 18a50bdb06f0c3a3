"""Reading study files, with all faults reported at once, and making plans without a file."""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from jorge_tune.compare.run_directories import unpaired_because, worth_a_note
from jorge_tune.config.decode import decode, parse, text_of
from jorge_tune.config.ranges import LARGEST_SEED
from jorge_tune.config.tree import node_of, read_tree
from jorge_tune.config.unknown_keys import hints_of
from jorge_tune.errors import Fault, FaultyFileError, Finding, InputError
from jorge_tune.recipe.bootstrap import bootstrap
from jorge_tune.recipe.checks import unresolved_because, untrainable_because
from jorge_tune.recipe.derivation import Derivation
from jorge_tune.recipe.metrics import metric_fault, target_fault, usual_metric
from jorge_tune.recipe.recipe_files import read_recipe, resolve_recipe
from jorge_tune.recipe.schema import AdamWSection, KroneckerFields, Recipe, SGDSection
from jorge_tune.study.estimate import evaluations_of
from jorge_tune.study.plan import StudyPlan
from jorge_tune.study.space import SearchSpace
from jorge_tune.study.space_file import build_space, default_space
from jorge_tune.study.study_schema import ConstraintSection, Objective, ObjectiveSection, StudyFile, share_of

_KIND = "study file"


def read_study(path: str | Path, changes: Mapping[str, Any] | None = None) -> StudyPlan:
    """Read a study file, and the recipes that it names.

    Recipes are first looked for in the directory of the study file, and then as every command does: by a path, or by
    the name of a shipped recipe.

    Args:
        path: the file.
        changes: fields that options gave, which replace those of the file, as plain data (`trials=20`). Messages name
            their faults by the option (`--trials`).

    Raises:
        InputError: there is no such file, or it is not a text file.
        FaultyFileError: the file, or a recipe that it names, has faults; all of them are in the message.
    """
    return parse_study(text_of(Path(path), _KIND), str(path), changes)


def parse_study(text: str, source: str, changes: Mapping[str, Any] | None = None) -> StudyPlan:
    """Read a study from a text; `source` is its file. Raises as `read_study` does."""
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
        hinted = FaultyFileError(source, tuple(_hinted(fault) for fault in error.faults))
        raise (InputError("\n".join([*of_options, str(hinted)])) if of_options else hinted) from None

    if of_options:
        raise InputError("\n".join(of_options))
    return plans[0]


def _field(path: str) -> str:
    """The top-level key of a study file that a path begins with."""
    return re.split(r"[.\[]", path, maxsplit=1)[0]


def _of_option(path: str, what: str) -> str:
    """The fault of a field that an option of the command line gave, named by the option."""
    inside = path[len(_field(path)) :].lstrip(".")
    return f"--{_field(path).replace('_', '-')}: " + (f"{inside}: {what}" if inside else what)


def _hinted(fault: Fault) -> Fault:
    """Add a hint to the fault of a section of a recipe in the space, which needs dotted names of fields."""
    nested = re.fullmatch(r"space\.(\w+)\.(\w+)", fault.path)
    if nested is None or not fault.what.startswith("unknown key") or nested[1] not in hints_of(Recipe):
        return fault
    return fault._replace(
        what=f"unknown key; write {nested[1]}.{nested[2]}: {{...}}, with the field's whole name as one key"
    )


def default_study(
    recipe: str, name: str | None = None, trials: int | None = None, *, are_options: bool = False, **settings: Any
) -> StudyPlan:
    """The plan of a study without a file: it searches rate, decay, interval and schedule around a recipe.

    SGD and AdamW recipes are bootstrapped first.

    Args:
        recipe: a path, or the name of a shipped recipe.
        name: of the study; None: that of the bootstrapped recipe.
        trials: the number of trials; None: 40.
        are_options: these come from options of the command line, so messages name them as options (`--trials`).
        settings: further fields of a study file, as plain data (`sampler="gp"`, `seeds=[0, 1]`).

    Raises:
        InputError: the recipe cannot be read or searched, or a setting is wrong; the message has all faults.
    """
    centre, baseline, derivations = centre_of(read_recipe(resolve_recipe(recipe)))
    given = {"name": name, "trials": trials, **settings}
    return _plan_around(centre, baseline, derivations, recipe, given, are_options=are_options)


def study_around(
    centre: Recipe, baseline: Recipe | None, derivations: Sequence[Derivation], *, recipe: str, **settings: Any
) -> StudyPlan:
    """The plan of a study around a recipe that is bootstrapped already; else like `default_study`.

    Args:
        centre: the bootstrapped recipe.
        baseline: the recipe that it came from; None: there is nothing to compare it with.
        derivations: of the bootstrapped recipe.
        recipe: the name that the user gave.
        settings: as for `default_study`.

    Raises:
        InputError: as `default_study` does.
    """
    return _plan_around(centre, baseline, derivations, recipe, settings)


def is_study(path: Path) -> bool:
    """Whether a file is meant as a study file: it names a recipe or has a space, and it has no optimizer.

    An empty file may become a study file.
    """
    root = read_tree(text_of(path, _KIND)).root
    if root is None:
        return True
    keys = set(root.section or {})
    return "optimizer" not in keys and bool(keys & {"recipe", "space"})


def _plan_around(
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
    """The file with some fields replaced; their faults are findings."""
    if not changes:
        return file
    faults: list[Fault] = []
    made = decode(StudyFile, node_of({"name": file.name, "recipe": file.recipe, "space": {}, **changes}), faults)
    findings += [(fault.path, fault.what) for fault in faults]
    return file if made is None else replace(file, **{key: getattr(made, key) for key in changes})


def _recipes(
    file: StudyFile, directory: Path, findings: list[Finding]
) -> tuple[Recipe | None, Recipe | None, tuple[Derivation, ...]]:
    """The recipe at the centre, the baseline, and the derivations of the first; None for a recipe with faults."""
    read = _recipe_at(file.recipe, "recipe", directory, findings)
    given = None if file.baseline is None else _recipe_at(file.baseline, "baseline", directory, findings)
    if read is None:
        return None, None, ()

    try:
        recipe, baseline, derivations = centre_of(read)
    except InputError as error:
        findings.append(("recipe", str(error)))
        return None, None, ()

    if baseline is not None and file.baseline is not None:
        findings.append(
            ("baseline", f"recipe {read.name} is bootstrapped here, so it is the baseline itself; leave 'baseline' out")
        )
    return recipe, baseline or given, derivations


def _recipe_at(argument: str, key: str, directory: Path, findings: list[Finding]) -> Recipe | None:
    """Read the recipe of that name; None if it cannot be read, and then each of its faults is a finding."""
    try:
        local = directory / argument
        return read_recipe(local if _is_file(local) else resolve_recipe(argument))
    except FaultyFileError as error:
        findings += [(key, fault.located(error.source)) for fault in error.faults]
    except InputError as error:
        findings.append((key, str(error)))
    return None


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # the name is too long, or has a NUL character
        return False


WILCOXON_SEEDS = 4  # with fewer pairs, no one-sided signed-rank test has a p-value below 0.1
HALVING_EVALUATIONS = 3  # the first rung and one reading beyond it
_LARGEST_GRID = 100_000
_DEFAULT_TRIALS = 40


def build_plan(
    file: StudyFile,
    recipe: Recipe,
    baseline: Recipe | None,
    findings: list[Finding],
    derivations: Sequence[Derivation] = (),
) -> StudyPlan | None:
    """The plan around a bootstrapped recipe; None if there are faults, which become findings with paths in the file."""
    before = len(findings)
    if recipe.task is None:
        findings.append(("recipe", f"recipe {recipe.name} has no task, so it cannot be trained"))
    if (untrainable := untrainable_because(recipe)) is not None:
        findings.append(("recipe", f"recipe {recipe.name}: {untrainable[0]}: {untrainable[1]}"))
    if (unresolved := unresolved_because(recipe)) is not None:
        findings.append(("recipe", f"recipe {recipe.name}: {unresolved[0]}: {unresolved[1]}"))
    if baseline is not None and (why := unpaired_because(baseline, recipe)) is not None:
        findings.append(("baseline", f"recipe {baseline.name} cannot be compared with {recipe.name}: {why}"))

    space = build_space(file.space, recipe, findings)
    objective = _objective(file, recipe, findings)
    _check_pruner(file, recipe, findings)
    trials = _trials(file, space, findings)
    overhead = _overhead(file, recipe, findings)
    if len(findings) > before or space is None:
        return None

    return StudyPlan(
        name=file.name,
        recipe=recipe,
        baseline=baseline,
        space=space,
        objective=objective,
        sampler=file.sampler,
        pruner=file.pruner,
        trials=trials,
        hours=file.hours,
        seeds=file.seeds,
        confirm_seeds=confirmation_seeds(file.seeds, file.confirm_seeds),
        overhead=overhead,
        device=file.device,
        threads=file.threads,
        sampler_seed=file.sampler_seed,
        derivations=tuple(derivations),
        notes=tuple(_notes(file, recipe, baseline)),
    )


def centre_of(recipe: Recipe) -> tuple[Recipe, Recipe | None, tuple[Derivation, ...]]:
    """The recipe at the centre of a search, its baseline and its derivations; SGD and AdamW are bootstrapped first.

    Raises:
        InputError: the rules of the bootstrap do not apply to the recipe.
    """
    if isinstance(recipe.optimizer, (SGDSection, AdamWSection)):
        made = bootstrap(recipe)
        return made.recipe, recipe, made.derivations
    return recipe, None, ()


def confirmation_seeds(seeds: Sequence[int], count: int) -> tuple[int, ...]:
    """The next seeds after the largest one of the search, without those that the search has."""
    after = itertools.chain(range(max(seeds) + 1, LARGEST_SEED + 1), range(max(seeds)))
    free = (seed for seed in after if seed not in seeds)
    return tuple(itertools.islice(free, count))


def _objective(file: StudyFile, recipe: Recipe, findings: list[Finding]) -> Objective:
    section = file.objective
    wanted = section if isinstance(section, ObjectiveSection) else ObjectiveSection(kind=section)
    of_recipe = recipe.target
    metric = wanted.metric or usual_metric(recipe)
    is_command = recipe.task is not None and recipe.task.kind == "command"
    if is_command and of_recipe is None and wanted.metric is None:
        what = "needs the name of a metric that the command reports: give a target in the recipe"
        findings.append(("objective", f"{what}, or objective: {{kind: {wanted.kind}, metric: ...}}"))
    target = wanted.target
    if target is None and of_recipe is not None and of_recipe.metric == metric:
        target = of_recipe.value

    stated = None if recipe.task is None else recipe.task.higher_is_better.get(metric)
    made = Objective(kind=wanted.kind, metric=metric, target=target, higher_is_better=stated)
    if made.needs_target and target is None:
        what = f"{wanted.kind} needs a target: give objective: {{kind: {wanted.kind}, metric: {metric}, target: ...}}"
        findings.append(("objective", f"{what}, or a target for {metric} in the recipe"))

    complaints = {
        "objective.metric": metric_fault(recipe, metric),
        "objective.target": None if target is None else target_fault(metric, target, recipe),
    }
    findings += [(path, complaint) for path, complaint in complaints.items() if complaint is not None]
    return made if made.needs_target else replace(made, target=None)


def _check_pruner(file: StudyFile, recipe: Recipe, findings: list[Finding]) -> None:
    if file.pruner == "wilcoxon" and len(file.seeds) < WILCOXON_SEEDS:
        what = (
            f"wilcoxon compares trials seed by seed and needs {WILCOXON_SEEDS} seeds or more, got {len(file.seeds)}; "
            "list more under 'seeds', or use another pruner"
        )
        findings.append(("pruner", what))
    evaluations = evaluations_of(recipe)
    if file.pruner in ("hyperband", "asha") and evaluations is not None and evaluations < HALVING_EVALUATIONS:
        what = (
            f"{file.pruner} needs {HALVING_EVALUATIONS} evaluations in a run, and this recipe has {evaluations}; "
            "use another pruner, or evaluate more often (task.data.evaluate_every)"
        )
        findings.append(("pruner", what))


def _trials(file: StudyFile, space: SearchSpace | None, findings: list[Finding]) -> int:
    if file.sampler != "grid":
        return file.trials or _DEFAULT_TRIALS

    missing = [path for path, section in file.space.items() if section.factor is not None and section.steps is None]
    for path in missing:
        findings.append((f"space.{path}", "needs steps for a grid, e.g. {factor: [0.25, 4], steps: 5}"))
    if missing or space is None:
        return 1

    size = space.grid_size()
    if size > _LARGEST_GRID:
        findings.append(
            ("space", f"has a grid of {size} points, more than {_LARGEST_GRID}; take fewer steps or choices")
        )
    elif file.trials is not None and file.trials > size:
        findings.append(("trials", f"must be at most {size}, the points of the grid, got {file.trials}; leave it out"))
    return file.trials or size


def _overhead(file: StudyFile, recipe: Recipe, findings: list[Finding]) -> float | None:
    if isinstance(file.constraint, str):
        return None
    is_command = recipe.task is not None and recipe.task.kind == "command"
    can_be_calibrated = isinstance(recipe.optimizer, KroneckerFields) and not is_command
    if file.constraint is not None and not can_be_calibrated:
        whose = "a command" if is_command else recipe.optimizer.name
        what = f"the step of {whose} cannot be calibrated against a baseline's; write constraint: none"
        findings.append(("constraint", what))
    return share_of((file.constraint or ConstraintSection()).overhead) if can_be_calibrated else None


def _notes(file: StudyFile, recipe: Recipe, baseline: Recipe | None) -> list[str]:
    notes = []
    if baseline is None:
        notes.append(
            "no baseline: the recipe is bootstrapped already; give its SGD recipe as 'baseline' to compare with it"
        )
    else:
        notes += [f"the bootstrap and its baseline differ in {note}" for note in worth_a_note(recipe, baseline)]
    if file.pruner == "wilcoxon" and len(file.seeds) == WILCOXON_SEEDS:
        notes.append(
            f"with {WILCOXON_SEEDS} seeds, wilcoxon cannot prune a trial before its last run; more seeds save time"
        )
    if file.sampler == "cmaes" and any(section.choices for section in file.space.values()):
        notes.append("cmaes treats choices as positions on a line, in the order in which they are listed")
    return notes
