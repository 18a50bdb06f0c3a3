"""A plan from a study file and the recipes it names; what does not fit together is a finding."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from jorge_tune.measure.pairing import unpaired_because, worth_a_note
from jorge_tune.recipe.bootstrap import bootstrap
from jorge_tune.recipe.checks import Finding, untrainable_because
from jorge_tune.recipe.derivation import Derivation
from jorge_tune.recipe.metrics import metric_fault, target_fault, usual_metric
from jorge_tune.recipe.schema import SGD, AdamW, KroneckerFields, Recipe
from jorge_tune.tuning.planning.estimate import evaluations_of
from jorge_tune.tuning.planning.objective import Objective
from jorge_tune.tuning.planning.plan import StudyPlan
from jorge_tune.tuning.planning.space import Space
from jorge_tune.tuning.planning.space_file import build_space
from jorge_tune.tuning.planning.study_schema import ConstraintSection, ObjectiveSection, StudyFile, share_of

WILCOXON_SEEDS = 4  # of fewer pairs no one-sided signed-rank test falls below 0.1
HALVING_EVALUATIONS = 3  # the first rung and one reading beyond it
_LARGEST_GRID = 100_000
_DEFAULT_TRIALS = 40
_LAST_SEED = 2**32 - 1


def build_plan(
    file: StudyFile,
    recipe: Recipe,
    baseline: Recipe | None,
    findings: list[Finding],
    derivations: Sequence[Derivation] = (),
) -> StudyPlan | None:
    """The plan around a bootstrapped recipe, or None and what is wrong with it, with paths in the study file."""
    before = len(findings)
    if recipe.task is None:
        findings.append(("recipe", f"recipe {recipe.name} has no task, so it cannot be trained"))
    if (untrainable := untrainable_because(recipe)) is not None:
        findings.append(("recipe", f"recipe {recipe.name}: {untrainable[0]}: {untrainable[1]}"))
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
    """The recipe that is searched around, its baseline, and how it came about: SGD and AdamW are bootstrapped first.

    Raises:
        InputError: the rules do not apply to it.
    """
    if isinstance(recipe.optimizer, (SGD, AdamW)):
        made = bootstrap(recipe)
        return made.recipe, recipe, made.derivations
    return recipe, None, ()


def confirmation_seeds(seeds: Sequence[int], count: int) -> tuple[int, ...]:
    """The next seeds after the largest of the search, none of which the search has."""
    after = itertools.chain(range(max(seeds) + 1, _LAST_SEED + 1), range(max(seeds)))
    free = (seed for seed in after if seed not in seeds)
    return tuple(itertools.islice(free, count))


def _objective(file: StudyFile, recipe: Recipe, findings: list[Finding]) -> Objective:
    section = file.objective
    asked = section if isinstance(section, ObjectiveSection) else ObjectiveSection(kind=section)
    of_recipe = recipe.target
    metric = asked.metric or usual_metric(recipe)
    target = asked.target
    if target is None and of_recipe is not None and of_recipe.metric == metric:
        target = of_recipe.value
    made = Objective(kind=asked.kind, metric=metric, target=target)
    if made.needs_target and target is None:
        what = f"{asked.kind} needs a target: give objective: {{kind: {asked.kind}, metric: {metric}, target: ...}}"
        findings.append(("objective", f"{what}, or a target for {metric} in the recipe"))
    complaints = {
        "objective.metric": metric_fault(recipe, metric),
        "objective.target": None if target is None else target_fault(metric, target),
    }
    findings += [(path, complaint) for path, complaint in complaints.items() if complaint is not None]
    return made


def _check_pruner(file: StudyFile, recipe: Recipe, findings: list[Finding]) -> None:
    if file.pruner == "wilcoxon" and len(file.seeds) < WILCOXON_SEEDS:
        what = (
            f"wilcoxon compares trials seed by seed and needs {WILCOXON_SEEDS} seeds or more, got {len(file.seeds)}; "
            "list more under 'seeds', or take another pruner"
        )
        findings.append(("pruner", what))
    evaluations = evaluations_of(recipe)
    if file.pruner in ("hyperband", "asha") and evaluations is not None and evaluations < HALVING_EVALUATIONS:
        what = (
            f"{file.pruner} needs {HALVING_EVALUATIONS} evaluations in a run, and this recipe has {evaluations}; "
            "take another pruner, or evaluate more often (task.data.evaluate_every)"
        )
        findings.append(("pruner", what))


def _trials(file: StudyFile, space: Space | None, findings: list[Finding]) -> int:
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
    can_be_calibrated = isinstance(recipe.optimizer, KroneckerFields)
    if file.constraint is not None and not can_be_calibrated:
        what = f"the step of {recipe.optimizer.name} cannot be calibrated against a baseline's; say constraint: none"
        findings.append(("constraint", what))
    return share_of((file.constraint or ConstraintSection()).overhead) if can_be_calibrated else None


def _notes(file: StudyFile, recipe: Recipe, baseline: Recipe | None) -> list[str]:
    notes = []
    if baseline is None:
        notes.append(
            "no baseline: the recipe is bootstrapped already; name its SGD recipe as 'baseline' to compare with"
        )
    else:
        notes += [f"the bootstrap and its baseline differ in {note}" for note in worth_a_note(recipe, baseline)]
    if file.pruner == "wilcoxon" and len(file.seeds) == WILCOXON_SEEDS:
        notes.append(
            f"with {WILCOXON_SEEDS} seeds wilcoxon cannot end a trial before its last run; more seeds save time"
        )
    if file.sampler == "cmaes" and any(section.choices for section in file.space.values()):
        notes.append("cmaes reads choices as places on a line, in the order in which they are listed")
    return notes
