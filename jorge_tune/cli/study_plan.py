"""What `study run --dry-run` prints: the plan, and what it may take."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from jorge_tune.cli.output import say, tell
from jorge_tune.cli.progress import clock_time
from jorge_tune.cli.tables import print_json, print_table
from jorge_tune.cli.threads import share_the_cores
from jorge_tune.recipe.leaves import leaves
from jorge_tune.recipe.ranges import IMPORTABLE
from jorge_tune.recipe.render import recipe_to_dict, scalar

if TYPE_CHECKING:
    from jorge_tune.measure.pace import Pace
    from jorge_tune.recipe.schema import Recipe
    from jorge_tune.tuning.planning.estimate import Estimate
    from jorge_tune.tuning.planning.plan import StudyPlan
    from jorge_tune.tuning.storages.address import Address


def show_plan(plan: StudyPlan, workers: int, runs: Path, address: Address, output_format: str) -> None:
    """Print a plan; a few steps of its recipe are trained to time them, nothing is kept of them.

    Raises:
        InputError: the recipe cannot be trained here.
    """
    from jorge_tune.tuning.planning.estimate import estimate

    imported = ", ".join(_classes_of(plan.recipe))
    tell("a few steps are timed" + (f", which imports and runs {imported}" if imported else ""))
    pace = _pace(plan, workers)
    known: dict[str, Any] = {}
    if pace is not None:
        known = {
            "steps_per_epoch": pace.steps_per_epoch,
            "iteration_seconds": pace.step_seconds,
            "evaluation_seconds": pace.evaluation_seconds,
        }
    found = estimate(plan, workers=workers, **known)
    if output_format == "json":
        print_json(_as_data(plan, workers, runs, address, found))
        return
    print_table(["study", plan.name], _rows(plan, workers, runs, address))
    say()
    space = [(p.path, scalar(p.plain(p.bootstrap)), p.domain()) for p in plan.space]
    print_table(["searched", "bootstrapped", "space"], space)
    say()
    print_table(["runs", "number", "at most"], _costs(found))


def _classes_of(recipe: Recipe) -> list[str]:
    """What of a recipe is code of somebody's own, as `module:Class`."""
    named = {path: value for path, value in leaves(recipe_to_dict(recipe)).items() if path.endswith(".name")}
    return sorted({value for value in named.values() if isinstance(value, str) and IMPORTABLE.holds(value)})


def _pace(plan: StudyPlan, workers: int) -> Pace | None:
    share_the_cores()
    from jorge_tune.measure.pace import pace
    from jorge_tune.tuning.work.supervisor import shares

    device, threads = shares(workers, plan.device, plan.threads)[0]
    return pace(plan.recipe, device=device, threads=threads)


def _rows(plan: StudyPlan, workers: int, runs: Path, address: Address) -> list[tuple[str, str]]:
    overhead = "none" if plan.overhead is None else f"a step takes at most {1 + plan.overhead:g} times the baseline's"
    return [
        ("recipe", plan.recipe.name),
        ("baseline", "none" if plan.baseline is None else plan.baseline.name),
        ("objective", str(plan.objective)),
        ("constraint", overhead),
        ("sampler, pruner", f"{plan.sampler}, {plan.pruner}"),
        ("trials", str(plan.trials)),
        ("hours", "no limit" if plan.hours is None else f"{plan.hours:g}"),
        ("seeds", ", ".join(map(str, plan.seeds))),
        ("confirmation seeds", ", ".join(map(str, plan.confirm_seeds)) or "none"),
        ("workers", str(workers)),
        ("device", plan.device),
        ("storage", str(address)),
        ("runs", str(runs)),
    ]


def _costs(found: Estimate) -> list[tuple[str, str, str]]:
    total = "not known" if found.seconds is None else clock_time(found.seconds)
    steps = "not known" if found.steps_per_run is None else f"{found.steps_per_run} steps each"
    return [
        ("search", str(found.search_runs), steps),
        ("baseline", str(found.baseline_runs), steps),
        ("confirmation", str(found.confirmation_runs), steps),
        ("all", str(found.runs), total + (" (the search ends by its hours)" if found.is_capped else "")),
    ]


def _as_data(plan: StudyPlan, workers: int, runs: Path, address: Address, found: Estimate) -> dict[str, Any]:
    from dataclasses import asdict

    from jorge_tune.tuning.planning.plan_json import plan_to_json

    estimated = {**asdict(found), "runs": found.runs}
    return {
        "plan": plan_to_json(plan),
        "workers": workers,
        "runs": str(runs),
        "storage": str(address),
        "estimate": estimated,
    }
