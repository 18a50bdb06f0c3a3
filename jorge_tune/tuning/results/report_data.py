"""A study as plain data for its report, read fresh from its storage and never written to it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jorge_tune.recipe.derivation import Derivation
from jorge_tune.recipe.schema import Recipe
from jorge_tune.records import from_portable
from jorge_tune.tuning.planning.parameters import FactorParameter, Parameter
from jorge_tune.tuning.planning.parts import BASELINE_SUFFIX, CONFIRM_SUFFIX, SEED
from jorge_tune.tuning.planning.plan import StudyPlan
from jorge_tune.tuning.results.confirm import beside, contender_of, stored_form
from jorge_tune.tuning.results.export import recipe_of, trials_to_json
from jorge_tune.tuning.results.history import TrialRow, best_of, read_rows
from jorge_tune.tuning.results.verdict import BASELINE, BEST, BOOTSTRAP, Evidence, judge
from jorge_tune.tuning.runs.runs_folder import run_path
from jorge_tune.tuning.study import OpenStudy
from jorge_tune.tuning.work.constraint import stored_costs, why_dropped


class TrainedRecipe(NamedTuple):
    """A recipe that the report shows, with the reason for each value that has one."""

    name: str
    recipe: Recipe
    derivations: tuple[Derivation, ...]


class RunPlaces(NamedTuple):
    """Where a contender's runs lie, if this machine sees them."""

    name: str
    recipe: Recipe
    folders: tuple[Path, ...]


def study_data(opened: OpenStudy, evidence: Evidence, address: object) -> dict[str, Any]:
    """Everything that the report of a study shows, but its recipes and what its runs recorded.

    Args:
        opened: the search.
        evidence: from `gather`.
        address: of its storage, as it may be printed.
    """
    plan = opened.plan
    attributes = opened.storage.get_study_system_attrs(opened.study_id)
    held = {row.number: row.worker for row in evidence.rows}
    trials: list[dict[str, Any]] = from_portable(trials_to_json(evidence.rows, plan.space))
    return {
        "name": plan.name,
        "storage": str(address),
        "objective": evidence.objective,
        "metric": plan.objective.metric,
        "target": plan.objective.target,
        "lower_is_better": evidence.lower_is_better,
        "worst": evidence.worst,
        "total": evidence.total,
        "constraint": evidence.constraint,
        "overhead": plan.overhead,
        "facts": _facts(opened),
        "verdict": from_portable(stored_form(judge(evidence))),
        "baseline": evidence.baseline,
        "confirmation": {name: dict(values) for name, values in evidence.confirmation.items()},
        "parameters": [_parameter(parameter) for parameter in plan.space],
        "trials": [{**one, "worker": one["attributes"].get("worker") or held[one["number"]]} for one in trials],
        "costs": {key: dict(held) for key, held in stored_costs(attributes).items()},
        "constraint_dropped": why_dropped(attributes),
    }


def recipes_of(plan: StudyPlan, rows: Sequence[TrialRow]) -> list[TrainedRecipe]:
    """The best trial's recipe, if there is one that is not the bootstrap, the bootstrap's, and the baseline's."""
    best = best_of(rows, lower_is_better=plan.objective.lower_is_better)
    found = [TrainedRecipe("bootstrap", plan.recipe, plan.derivations)]
    if best is not None and best.number != 0:
        found.insert(0, TrainedRecipe(f"trial {best.number}", *recipe_of(best, plan)))
    if plan.baseline is not None:
        found.append(TrainedRecipe("baseline", plan.baseline, ()))
    return found


def run_places(opened: OpenStudy, rows: Sequence[TrialRow], runs: Callable[[str], Path]) -> tuple[list[RunPlaces], str]:
    """Whose runs the curves show, and which these are in words: those of the confirmation, else of the search.

    Args:
        opened: the search.
        rows: its trials.
        runs: the folder of the runs of a study of that name.
    """
    plan = opened.plan
    studies = {one.plan.name: one for one in beside(opened)}
    best = best_of(rows, lower_is_better=plan.objective.lower_is_better)
    recipes = {one.name: one.recipe for one in recipes_of(plan, rows)}
    confirmation = studies.get(plan.name + CONFIRM_SUFFIX)
    if confirmation is not None:
        numbers = _confirmation_runs(read_rows(confirmation.study), plan.space.bootstrap_point(), best)
        if any(numbers.values()):
            folder = runs(confirmation.plan.name)
            found = {
                name: tuple(run_path(folder, number, seed) for number, seed in places)
                for name, places in numbers.items()
            }
            return _places(recipes, found), "the confirmation's runs, on seeds that the search did not see"
    numbers_of = {"baseline": (BASELINE_SUFFIX, 0), "bootstrap": ("", 0)}
    if best is not None and best.number != 0:
        numbers_of[f"trial {best.number}"] = ("", best.number)
    found = {
        name: tuple(run_path(runs(plan.name + suffix), number, seed) for seed in plan.seeds)
        for name, (suffix, number) in numbers_of.items()
    }
    return _places(recipes, found), "the search's runs: the best of many looks better than it is"


def _confirmation_runs(
    rows: Sequence[TrialRow], bootstrap: Mapping[str, Any], best: TrialRow | None
) -> dict[str, list[tuple[int, int]]]:
    """(Trial, seed) of each contender's completed runs."""
    found: dict[str, list[tuple[int, int]]] = {BASELINE: [], BOOTSTRAP: []}
    for row in rows:
        if row.state != "complete":
            continue
        name = contender_of(row.point, bootstrap, None if best is None else best.point)
        if best is not None and name == BEST:
            name = f"trial {best.number}"
        if name is not None:
            found.setdefault(name, []).append((row.number, row.point[SEED]))
    return found


def _places(recipes: Mapping[str, Recipe], found: Mapping[str, tuple[Path, ...]]) -> list[RunPlaces]:
    return [RunPlaces(name, recipes[name], folders) for name, folders in found.items() if name in recipes]


def _facts(opened: OpenStudy) -> dict[str, Any]:
    plan = opened.plan
    return {
        "sampler": plan.sampler,
        "pruner": plan.pruner,
        "trials": plan.trials,
        "hours": plan.hours,
        "seeds": list(plan.seeds),
        "confirmation seeds": list(plan.confirm_seeds),
        "sampler's seed": plan.sampler_seed,
        "device": plan.device,
        "threads": plan.threads,
        "identity": plan.digest(),
    }


def _parameter(parameter: Parameter) -> dict[str, Any]:
    shared = {"name": parameter.name, "path": parameter.path, "bootstrap": parameter.plain(parameter.bootstrap)}
    if isinstance(parameter, FactorParameter):
        ends = [parameter.plain(end) for end in (parameter.low, parameter.high)]
        return {**shared, "kind": "factor", "low": ends[0], "high": ends[1]}
    return {**shared, "kind": "choice", "labels": list(parameter.labels), "held": parameter.bootstrap}
