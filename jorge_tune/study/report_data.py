"""A study as plain data for its report, read from its storage without writing to it; and the runs of comparisons."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from jorge_tune.compare.run_directories import Contender, Run, read_run
from jorge_tune.errors import JorgeTuneError
from jorge_tune.recipe.derivation import Derivation
from jorge_tune.recipe.schema import Recipe
from jorge_tune.records import from_portable
from jorge_tune.study.confirm import Runs, companion_studies, contender_of, queue_missing, stored_form
from jorge_tune.study.constraint import stored_costs, why_dropped
from jorge_tune.study.export import recipe_of, trials_to_json
from jorge_tune.study.plan import (
    BASELINE_SUFFIX,
    CONFIRM_SUFFIX,
    CONTENDER,
    SEED,
    ComparisonSpace,
    StudyPlan,
    comparison_points,
    is_comparison,
)
from jorge_tune.study.runs_directory import is_folder_of, run_path
from jorge_tune.study.space import FactorParameter, Parameter
from jorge_tune.study.study import OpenStudy, open_study, present_study
from jorge_tune.study.study_verdict import BASELINE, BEST, BOOTSTRAP, Evidence, judge
from jorge_tune.study.trial_rows import TrialRow, best_of, overlap, rows_of

if TYPE_CHECKING:
    from optuna.storages import BaseStorage


class TrainedRecipe(NamedTuple):
    """A recipe that the report shows, with the derivations of its values."""

    name: str
    recipe: Recipe
    derivations: tuple[Derivation, ...]


class RunPlaces(NamedTuple):
    """The directories of a contender's runs, which this machine may not see."""

    name: str
    recipe: Recipe
    folders: tuple[Path, ...]


class ShownRuns(NamedTuple):
    """The runs that a study's curves show, and which they are in words; `notes` say what is not shown."""

    places: list[RunPlaces]
    whose: str
    notes: list[str]
    is_side_by_side: bool  # if so, seconds are not compared


def study_data(opened: OpenStudy, evidence: Evidence, address: object) -> dict[str, Any]:
    """All that the report of a study shows, except its recipes and the records of its runs.

    Args:
        opened: the search.
        evidence: from `gather`.
        address: of its storage, without the password.
    """
    plan = opened.plan
    attributes = opened.storage.get_study_system_attrs(opened.study_id)
    workers = {row.number: row.worker for row in evidence.rows}
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
        "parameters": [
            _parameter(parameter) for parameter in plan.space if parameter.name != SEED
        ],  # seeds are not searched
        "trials": [{**one, "worker": one["attributes"].get("worker") or workers[one["number"]]} for one in trials],
        "costs": {key: dict(cost) for key, cost in stored_costs(attributes).items()},
        "constraint_dropped": why_dropped(attributes),
    }


def recipes_of(plan: StudyPlan, rows: Sequence[TrialRow]) -> list[TrainedRecipe]:
    """The recipes of the best trial (if it is not the bootstrap), of the bootstrap, and of the baseline."""
    best = best_of(rows, lower_is_better=plan.objective.lower_is_better)
    trained = [TrainedRecipe("bootstrap", plan.recipe, plan.derivations)]
    if best is not None and best.number != 0:
        trained.insert(0, TrainedRecipe(f"trial {best.number}", *recipe_of(best, plan)))
    if plan.baseline is not None:
        trained.append(TrainedRecipe("baseline", plan.baseline, ()))
    return trained


def run_places(opened: OpenStudy, rows: Sequence[TrialRow], runs: Callable[[str], Path]) -> ShownRuns:
    """The runs that the curves show: those of the confirmation if there are any, else those of the search.

    Args:
        opened: the search.
        rows: its trials.
        runs: gives the directory of the runs of a study of that name.

    Raises:
        InputError: the marker of a directory of runs is damaged.
    """
    plan = opened.plan
    studies = {plan.name: opened, **{one.plan.name: one for one in companion_studies(opened)}}
    best = best_of(rows, lower_is_better=plan.objective.lower_is_better)
    recipes = {one.name: one.recipe for one in recipes_of(plan, rows)}

    confirmation = studies.get(plan.name + CONFIRM_SUFFIX)
    if confirmation is not None:
        confirmation_rows = rows_of(confirmation)
        numbers = _confirmation_runs(confirmation_rows, plan.space.bootstrap_point(), best)
        if any(numbers.values()):
            confirmed = {name: [(confirmation, *run) for run in runs_of] for name, runs_of in numbers.items()}
            whose = "the confirmation's runs, on seeds that the search did not see"
            return _shown(recipes, confirmed, runs, whose, is_side_by_side=overlap(confirmation_rows))

    trials = {"baseline": (studies.get(plan.name + BASELINE_SUFFIX), 0), "bootstrap": (opened, 0)}
    if best is not None and best.number != 0:
        trials[f"trial {best.number}"] = (opened, best.number)
    searched = {
        name: [(study, number, seed) for seed in plan.seeds]
        for name, (study, number) in trials.items()
        if study is not None
    }
    companion_rows = [row for study in studies.values() if study is not opened for row in rows_of(study)]
    whose = "the search's runs: the best of many looks better than it is"
    return _shown(recipes, searched, runs, whose, is_side_by_side=overlap([*rows, *companion_rows]))


def _shown(
    recipes: Mapping[str, Recipe],
    trained: Mapping[str, Sequence[tuple[OpenStudy, int, int]]],
    runs: Callable[[str], Path],
    whose: str,
    *,
    is_side_by_side: bool,
) -> ShownRuns:
    """The directories of each contender's runs (study, trial, seed), without those of another study."""
    studies = {study.plan.name: study for several in trained.values() for study, _, _ in several}
    strange = {
        name for name, study in studies.items() if runs(name).is_dir() and not is_folder_of(runs(name), study.name)
    }

    places = []
    for name, several in trained.items():
        kept = [run_path(runs(s.plan.name), number, seed) for s, number, seed in several if s.plan.name not in strange]
        if name in recipes and kept:
            places.append(RunPlaces(name, recipes[name], tuple(kept)))
    notes = [f"{runs(name)} holds no runs of study {name}, so none of its runs are shown." for name in sorted(strange)]
    return ShownRuns(places, whose, notes, is_side_by_side)


def _confirmation_runs(
    rows: Sequence[TrialRow], bootstrap: Mapping[str, Any], best: TrialRow | None
) -> dict[str, list[tuple[int, int]]]:
    """The completed runs of each contender, as (trial, seed)."""
    numbers: dict[str, list[tuple[int, int]]] = {BASELINE: [], BOOTSTRAP: []}
    for row in rows:
        if row.state != "complete" or SEED not in row.point or CONTENDER not in row.point:
            continue

        name = contender_of(row.point, bootstrap, None if best is None else best.point)
        if best is not None and name == BEST:
            name = f"trial {best.number}"
        if name is not None:
            numbers.setdefault(name, []).append((row.number, row.point[SEED]))
    return numbers


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


_ELSEWHERE = "trained elsewhere; this machine does not see its run directory (give a --runs that all machines see)"


class CollectedRuns(NamedTuple):
    """Contenders with their runs, in the order in which they were first queued; and notes on them."""

    contenders: list[Contender]
    notes: list[str]
    is_side_by_side: bool  # if so, seconds are not compared


def open_comparison(
    storage: BaseStorage, plan: StudyPlan, contenders: Sequence[str], seeds: Sequence[int], runs: Runs
) -> OpenStudy:
    """Make or open the study of a comparison, and queue each run that is missing or has failed.

    A study that is there keeps its objective, since tables are made from the runs in any case.

    Args:
        storage: from `open_storage`.
        plan: from `comparison_plan`.
        contenders: names, in the order in which they run.
        seeds: the seeds to run; other seeds of the study stay.
        runs: gives the directory for the runs of a study of that name.

    Raises:
        InputError: another study has this name, with other recipes, or the directory is taken.
    """
    there = present_study(storage, plan.name)
    if there is not None and is_comparison(there.plan):
        plan = replace(plan, objective=there.plan.objective)
    done = 1 if there is None else len(rows_of(there))  # a new study has its first run queued
    opened = open_study(storage, replace(plan, trials=done), runs)
    return queue_missing(opened, comparison_points(contenders, seeds), runs)


def collect(opened: OpenStudy, runs: Path, seeds: Sequence[int] | None = None) -> CollectedRuns:
    """Every contender with those of its runs that have ended and that this machine sees.

    Args:
        opened: the comparison.
        runs: the directory of its runs.
        seeds: of the runs; None: all that were ever queued.

    Raises:
        InputError: the marker of the directory is damaged.
    """
    assert isinstance(opened.plan.space, ComparisonSpace)
    rows, is_ours = rows_of(opened), is_folder_of(runs, opened.name)
    names = dict.fromkeys(str(row.point[CONTENDER]) for row in rows if CONTENDER in row.point)
    wanted = sorted({row.point[SEED] for row in rows if SEED in row.point}) if seeds is None else seeds

    recipes, contenders, notes = opened.plan.space.recipes(), [], []
    for name in names:
        ended: list[Run] = []
        missing: dict[str, list[int]] = {}
        for seed in wanted:
            of_seed = [row for row in rows if row.point == {CONTENDER: name, SEED: seed}]
            run = _ended_run(of_seed, runs, seed) if is_ours else _ELSEWHERE
            if isinstance(run, Run):
                ended.append(run)
            else:
                missing.setdefault(_why_missing(of_seed, seed, run), []).append(seed)
        contenders.append(Contender(name, recipes[name], tuple(ended)))
        notes += [f"{name}: {_seeds(which)}: {why}" for why, which in missing.items()]
    return CollectedRuns(contenders, notes, overlap(rows))


def _ended_run(rows: Sequence[TrialRow], runs: Path, seed: int) -> Run | str:
    """The first run of these trials that completed and can be read here; else the reason why there is none."""
    why = _ELSEWHERE
    for row in rows:
        directory = run_path(runs, row.number, seed)
        if row.state != "complete" or not directory.is_dir():
            continue

        try:
            run = read_run(directory)
        except JorgeTuneError as error:
            why = str(error)
            continue
        if run.ended:
            return run
        why = f"{directory}: the study knows that the run ended, but its records stop before the end"
    return why


def _why_missing(rows: Sequence[TrialRow], seed: int, unread: str) -> str:
    if any(row.state == "complete" for row in rows):
        return unread
    if not rows or rows[-1].state != "failed":
        return "has not ended yet"
    reason = str(rows[-1].attributes.get("reason") or "no reason is known")
    return f"failed: {reason.rpartition(f'trial-{rows[-1].number}/seed-{seed}: ')[2]}"  # without the run directory


def _seeds(seeds: Sequence[int]) -> str:
    return f"seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, seeds))}"
