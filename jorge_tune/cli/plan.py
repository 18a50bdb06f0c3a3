"""`jorge-tune plan`: what a recipe's optimizer will keep and compute, before any training."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from jorge_tune.cli.amounts import share, show_bytes, show_operations
from jorge_tune.cli.options import complete_recipe
from jorge_tune.cli.output import say, tell
from jorge_tune.cli.plan_fit import TOTALS, show_fit, total_cells
from jorge_tune.cli.tables import format_option, print_json, print_table, print_text
from jorge_tune.errors import InputError
from jorge_tune.recipe.bootstrap import bootstrap
from jorge_tune.recipe.checks import warnings_of
from jorge_tune.recipe.io import load, override
from jorge_tune.recipe.schema import SGD, AdamW, Recipe
from jorge_tune.recipe.shipped import resolve_recipe

if TYPE_CHECKING:
    from jorge_tune.measure.plan import Fit, RecipePlan, Rival
    from jorge_tune.optim.costs import ParameterCost, Total

_EXIT_INFEASIBLE = 4
_UNITS = {"b": 1} | {
    f"{letter}{kind}": base**power
    for power, letter in enumerate("kmgt", start=1)
    for kind, base in (("b", 1000), ("ib", 1024))
}


def parse_size(ctx: click.Context | None, param: click.Parameter | None, value: str | None) -> int | None:
    """`2GiB` or `1.5 GB` as bytes."""
    if value is None:
        return None
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([a-z]+)\s*", value, flags=re.IGNORECASE)
    size = float(found[1]) * _UNITS.get(found[2].lower(), 0) if found else 0
    if size < 1:
        rule = "must be a number above 0 and a unit: B, KB, KiB, MB, MiB, GB, GiB, TB or TiB"
        raise InputError(f"--memory-budget {rule}, got {value!r}; write 2GiB or 500MB")
    return int(size)


@click.command()
@click.argument("recipe", shell_complete=complete_recipe)
@click.option("--memory-budget", metavar="SIZE", callback=parse_size, help="Bytes for the optimizer's state, as 2GiB.")
@click.option("--top", type=click.IntRange(min=1), help="Only the rows with the most state.")
@click.option("--each", is_flag=True, help="A row for every parameter, also where several are alike.")
@click.option(
    "--set", "assignments", multiple=True, metavar="KEY=VALUE", help="Replace a value, of a bootstrapped recipe too."
)
@format_option
def command(
    recipe: str,
    memory_budget: int | None,
    top: int | None,
    each: bool,
    assignments: tuple[str, ...],
    output_format: str,
) -> int:
    """Show what the optimizer of RECIPE (a file or a shipped name) will keep and compute for each parameter.

    Neither data nor weights are needed. An SGD or AdamW recipe is bootstrapped first. State is what stays
    allocated between steps, in bytes; refresh and apply are floating-point operations, of one refresh of
    everything and of each step. With --memory-budget it is said whether the recipe's own block size (of
    sketchy, rank) fits and, with its price, the largest whose state does; exit code 4 if none does.

    \b
    Example:
      jorge-tune plan imagenet/resnet50-256-jorge --memory-budget 450MiB
      jorge-tune plan digits/cnn-sgd --set optimizer.block_size=64
    """
    planned = _read(recipe, assignments)
    from jorge_tune.measure.plan import plan_recipe

    plan = plan_recipe(planned, budget=memory_budget)
    if plan.interval_is_assumed:
        tell(f"refresh_interval is not set: means are taken over {plan.refresh_interval} steps")
    for head in plan.long_heads:
        way_out = "tie it to the embedding, or put it into a group with precondition=False in a loop of your own"
        tell(
            f"{head.name} has {head.shape[0]} rows, as an output layer over a vocabulary, and its L and R take "
            f"{show_bytes(head.preconditioner_bytes)}: {way_out} (warning)"
        )
    if output_format == "json":
        print_json(_as_data(planned.name, plan))
    else:
        _show(planned.name, plan, top, each)
    return _EXIT_INFEASIBLE if plan.fit is not None and plan.fit.chosen is None else 0


def _read(argument: str, assignments: tuple[str, ...]) -> Recipe:
    """The recipe to be planned: bootstrapped if need be, then overridden."""
    path = resolve_recipe(argument)
    recipe = load(path).recipe
    if isinstance(recipe.optimizer, (SGD, AdamW)):
        tell(f"{path} trains with {recipe.optimizer.name}: planning what bootstrap makes of it")
        recipe = bootstrap(recipe).recipe
    if assignments:
        recipe = override(recipe, assignments)
    if recipe.task is None or recipe.task.model is None:
        way_out = "add task.model, as `task: {kind: classification, model: {name: resnet18}}`"
        raise InputError(f"{path}: task.model: the recipe names no model, so there is nothing to plan; {way_out}")
    for field, what in warnings_of(recipe):
        tell(f"{path}: {field}: {what} (warning)")
    return recipe


# Tables.


def _show(name: str, plan: RecipePlan, top: int | None, each: bool) -> None:
    blocks = "uncut" if plan.block_size is None else f"blocks up to {plan.block_size}"
    rank = f", rank {plan.rank}" if plan.rank else ""
    steps = "every step" if plan.refresh_interval == 1 else f"every {plan.refresh_interval} steps"
    headings = ["parameter", "n", "blocks", "state", "share", "refresh", "apply"]
    print_table(
        headings,
        _parameter_rows(plan, top, each),
        title=f"{name}: {plan.optimizer}, {blocks}{rank}, refreshed {steps}",
        right=("n", "state", "share", "refresh", "apply"),
    )
    say("")
    headings = ["optimizer", "rank", "L and R", *TOTALS]
    print_table(headings, [_rival_row(rival) for rival in plan.rivals], title="The same model with", right=headings[1:])
    print_text(
        f"\nThe parameters take {show_bytes(plan.total.parameter_bytes)}. State is what stays allocated between steps. "
        "Refresh (of everything), apply and per step (apply and the mean of refreshes and statistics) are "
        "floating-point operations, not seconds: Shampoo's and Sketchy's refreshes are decompositions, Jorge's are "
        "matrix products."
    )
    if plan.fit is not None:
        say("")
        show_fit(plan.fit, plan.rivals)


def _parameter_rows(plan: RecipePlan, top: int | None, each: bool) -> list[list[object]]:
    alike = [[cost] for cost in plan.parameters] if each else _alike(plan.parameters)
    rest: list[list[ParameterCost]] = []
    if top is not None:
        alike = sorted(alike, key=lambda costs: -_state(costs))
        alike, rest = alike[:top], alike[top:]
    rows = [_row(costs, plan.total) for costs in alike]
    if rest:
        rows.append(_row([cost for costs in rest for cost in costs], plan.total, "all others"))
    rows.append(_row(plan.parameters, plan.total, "total"))
    return rows


def _alike(parameters: Iterable[ParameterCost]) -> list[list[ParameterCost]]:
    """Parameters of one shape and one fate together, those without blocks by their reason; in order of the first."""
    together: dict[object, list[ParameterCost]] = {}
    for cost in parameters:
        together.setdefault(cost.reason or (cost.shape, cost.blocks, cost.state_bytes), []).append(cost)
    return list(together.values())


def _row(costs: Sequence[ParameterCost], whole: Total, name: str = "") -> list[object]:
    from jorge_tune.optim.costs import total

    first, summed = costs[0], total(costs)
    return [
        name or first.name,
        len(costs),
        "" if name else first.reason or _blocks(first),
        show_bytes(summed.state_bytes),
        f"{share(summed.state_bytes, whole.state_bytes):.1%}",
        show_operations(summed.refresh_flops),
        show_operations(summed.apply_flops),
    ]


def _blocks(cost: ParameterCost) -> str:
    """`5 of 512x1024`, a line for each shape; a side without preconditioner is named."""
    lines = []
    for shape, number in Counter(cost.blocks).items():
        bare = "" if shape.left and shape.right else f", {'left' if shape.left else 'right'} only"
        lines.append(f"{number} of {shape.rows}x{shape.columns}{bare}")
    return "\n".join(lines)


def _rival_row(rival: Rival) -> list[object]:
    name = f"{rival.name} (planned)" if rival.is_planned else rival.name
    return [name, rival.rank, show_bytes(rival.total.preconditioner_bytes), *total_cells(rival.total)]


def _state(costs: Iterable[ParameterCost]) -> int:
    return sum(cost.state_bytes for cost in costs)


# JSON.


def _as_data(name: str, plan: RecipePlan) -> dict[str, Any]:
    data = {
        "recipe": name,
        "optimizer": plan.optimizer,
        "block_size": plan.block_size,
        "rank": plan.rank,
        "refresh_interval": plan.refresh_interval,
        "interval_is_assumed": plan.interval_is_assumed,
        "parameters": [_parameter_data(cost, plan.total) for cost in plan.parameters],
        "total": asdict(plan.total),
        "optimizers": [asdict(rival) for rival in plan.rivals],
    }
    return data if plan.fit is None else {**data, "fit": _fit_data(plan.fit)}


def _parameter_data(cost: ParameterCost, whole: Total) -> dict[str, Any]:
    blocks = [{**shape._asdict(), "count": count} for shape, count in Counter(cost.blocks).items()]
    derived = {"state_bytes": cost.state_bytes, "flops_per_step": cost.flops_per_step}
    part = share(cost.state_bytes, whole.state_bytes)
    return {**vars(cost), "blocks": blocks, **derived, "share_of_state": part}


def _fit_data(fit: Fit) -> dict[str, Any]:
    chosen = fit.chosen
    return {
        "budget": fit.budget,
        "field": fit.field,
        "own": asdict(fit.own),
        "chosen": None if chosen is None else asdict(chosen),
        "smallest": asdict(fit.smallest),
        "least_sketch": asdict(fit.least_sketch),
        "candidates": [{**asdict(c), "fits": c.fits(fit.budget)} for c in fit.candidates],
    }
