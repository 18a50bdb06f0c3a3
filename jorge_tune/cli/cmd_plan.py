"""`jorge-tune plan`: show an optimizer's memory and operations before any training."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from jorge_tune.cli.options import format_option, parsed_by, recipe_argument, set_option
from jorge_tune.cli.output import (
    print_json,
    print_table,
    print_text,
    say,
    share,
    show_bytes,
    show_operations,
    tell,
    warn,
)
from jorge_tune.errors import EXIT_NO_ANSWER, InputError
from jorge_tune.recipe.bootstrap import bootstrap
from jorge_tune.recipe.checks import check_has_model, has_model, warnings_of
from jorge_tune.recipe.recipe_files import load, override, resolve_recipe
from jorge_tune.recipe.schema import AdamWSection, Recipe, SGDSection

if TYPE_CHECKING:
    from jorge_tune.optim.costs import ParameterCost, Total
    from jorge_tune.training.memory_plan import Candidate, Fit, RecipePlan, Rival

_UNITS = {"b": 1} | {
    f"{letter}{kind}": base**power
    for power, letter in enumerate("kmgt", start=1)
    for kind, base in (("b", 1000), ("ib", 1024))
}


def parse_size(text: str) -> int:
    """Read `2GiB` or `1.5 GB` as bytes.

    Raises:
        InputError: The text is not a number above 0 and a unit.
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([a-z]+)\s*", text, flags=re.IGNORECASE)
    size = float(found[1]) * _UNITS.get(found[2].lower(), 0) if found else 0
    if size < 1:
        rule = "must be a number above 0 and a unit: B, KB, KiB, MB, MiB, GB, GiB, TB or TiB"
        raise InputError(f"{rule}, got {text!r}; write 2GiB or 500MB")
    return int(size)


@click.command()
@recipe_argument
@click.option(
    "--memory-budget",
    metavar="SIZE",
    callback=parsed_by(parse_size),
    help="Memory for the optimizer's state, written as 2GiB or 500MB.",
)
@click.option("--top", type=click.IntRange(min=1), help="Show only this number of rows, those with the most state.")
@click.option("--each", is_flag=True, help="Show one row per parameter, even if several are alike.")
@set_option("Replace a value of the recipe, after the bootstrap.")
@format_option
def plan_command(
    recipe: str,
    memory_budget: int | None,
    top: int | None,
    each: bool,
    assignments: tuple[str, ...],
    output_format: str,
) -> int:
    """Show the memory and the operations of RECIPE's optimizer, for each parameter.

    RECIPE is a file or a shipped name. The plan needs no data and no weights. An SGD or AdamW recipe is bootstrapped
    first. "State" is the memory that stays allocated between steps. "Refresh" and "apply" are floating-point
    operations: of one refresh of everything, and of one step.

    With --memory-budget, the plan says whether the recipe's block size (for sketchy: its rank) fits, and which is the
    largest one that fits.

    Exit codes: 4 if no block size or rank fits the budget.

    \b
    Example:
      jorge-tune plan imagenet/resnet50-256-jorge --memory-budget 450MiB
      jorge-tune plan digits/cnn-sgd --set optimizer.block_size=64
    """
    planned = _read(recipe, assignments)
    from jorge_tune.training.memory_plan import plan_recipe

    plan = plan_recipe(planned, budget=memory_budget)
    if plan.interval_is_assumed:
        tell(f"refresh_interval is not set; the plan assumes {plan.refresh_interval} steps")
    for head in plan.long_heads:
        rule = f"{{pattern: '^{re.escape(head.name)}$', precondition: false}}"
        warn(
            f"{head.name} has {head.shape[0]} rows, like an output layer over a vocabulary, and its L and R take "
            f"{show_bytes(head.preconditioner_bytes)}; tie it to the embedding, or leave it out by adding {rule} to "
            "optimizer.groups"
        )
    if output_format == "json":
        print_json(_as_data(planned.name, plan))
    else:
        _show(planned.name, plan, top, each)
    return EXIT_NO_ANSWER if plan.fit is not None and plan.fit.chosen is None else 0


def _read(argument: str, assignments: tuple[str, ...]) -> Recipe:
    """The recipe to plan: bootstrapped if it trains with SGD or AdamW, then changed by --set."""
    path = resolve_recipe(argument)
    recipe = load(path).recipe
    if isinstance(recipe.optimizer, (SGDSection, AdamWSection)):
        tell(f"{path}: trains with {recipe.optimizer.name}; planning the Jorge recipe that follows from it")
        recipe = bootstrap(recipe).recipe
    if assignments:
        recipe = override(recipe, assignments)
    check_has_model(recipe)
    if not has_model(recipe):
        way_out = "add one, for example `task: {kind: classification, model: {name: resnet18}}`"
        raise InputError(f"{path}: task.model: the recipe names no model to plan; {way_out}")
    for field, what in warnings_of(recipe):
        warn(f"{path}: {field}: {what}")
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
        f"\nThe parameters take {show_bytes(plan.total.parameter_bytes)}. State is the memory that stays allocated "
        "between steps. Refresh (of everything), apply (of one step) and per step (apply, and the mean cost of "
        "statistics and refreshes) count floating-point operations, not seconds: Shampoo and Sketchy refresh with "
        "decompositions, Jorge with matrix products."
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
    """Groups of parameters with the same shape and blocks, or with the same reason for no blocks."""
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
    """`5 of 512x1024`, one line per shape; says which side has the only preconditioner."""
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


TOTALS = ("state", "x params", "refresh", "apply", "per step")


def total_cells(total: Total) -> list[str]:
    """One cell for each heading of `TOTALS`."""
    return [
        show_bytes(total.state_bytes),
        f"{share(total.state_bytes, total.parameter_bytes):.2f}",
        *(show_operations(number) for number in (total.refresh_flops, total.apply_flops, total.flops_per_step)),
    ]


def show_fit(fit: Fit, rivals: Sequence[Rival]) -> None:
    """Print the candidates and the conclusion."""
    headings = [fit.field, "blocks", *TOTALS, "fits"]
    rows = [[_name(c, fit), c.num_blocks, *total_cells(c.total), _fits(c, fit)] for c in fit.candidates]
    print_table(headings, rows, title=f"State within {show_bytes(fit.budget)}", right=headings[:-1])
    say()
    print_text("\n".join(_verdict(fit, rivals)))


def _fits(candidate: Candidate, fit: Fit) -> str:
    if candidate is fit.chosen and not fit.own.fits(fit.budget):
        return "chosen"
    return "yes" if candidate.fits(fit.budget) else "no"


def _verdict(fit: Fit, rivals: Sequence[Rival]) -> list[str]:
    """The conclusion: what to change, and what it costs."""
    own, chosen = fit.own, fit.chosen
    if chosen is None:
        return _nothing_fits(fit, rivals)
    lines = []
    if own.fits(fit.budget):
        lines.append(f"The recipe's own {fit.field}, {_value(own)}, fits; nothing to change.")
        if chosen is own:
            return lines
        lines.append(f"{fit.field} {_value(chosen)} fits too: {_price(own.total, chosen.total)}.")
    else:
        lines.append(f"Use {fit.field} {_value(chosen)} instead of {_value(own)}: {_price(own.total, chosen.total)}.")
    if chosen.bare_sides:
        lines.append(f"{chosen.bare_sides} sides are too long for it, so they get no preconditioner.")
    if chosen.value is None:
        return [*lines, f"Write `{fit.field}: null` into the recipe's optimizer section."]
    return [*lines, f"Apply it with --set optimizer.{fit.field}={chosen.value}"]


def _nothing_fits(fit: Fit, rivals: Sequence[Rival]) -> list[str]:
    """The smallest state, and the preconditioned optimizers that fit, the one with the most state first."""
    smallest, sketch = fit.smallest, fit.least_sketch
    bare = smallest.total.state_bytes - smallest.total.preconditioner_bytes
    lines = [
        f"No {fit.field} fits: the smallest state, with {fit.field} {_value(smallest)}, takes "
        f"{show_bytes(smallest.total.state_bytes)}.",
        f"The momenta alone take {show_bytes(bare)}, so no {fit.field} fits a smaller budget. The smallest sketch "
        f"({sketch.name}, rank {sketch.rank}) takes {show_bytes(sketch.total.state_bytes)}.",
    ]
    known = {(rival.name, rival.rank) for rival in rivals}
    others = [*rivals, *([] if (sketch.name, sketch.rank) in known else [sketch])]
    fitting = [r for r in others if r.total.preconditioner_bytes and r.total.state_bytes <= fit.budget]
    for rival in sorted(fitting, key=lambda rival: -rival.total.state_bytes):
        changes = f"--set optimizer.name={rival.name}" + (f" --set optimizer.rank={rival.rank}" if rival.rank else "")
        svd = ", and refreshes with an SVD" if rival.rank else ""
        lines.append(f"{rival.name} fits: it takes {show_bytes(rival.total.state_bytes)}{svd}; use {changes}")
    return lines


def _price(before: Total, after: Total) -> str:
    pairs = [
        ("state", show_bytes, before.state_bytes, after.state_bytes),
        ("refresh", show_operations, before.refresh_flops, after.refresh_flops),
        ("apply", show_operations, before.apply_flops, after.apply_flops),
        ("per step", show_operations, before.flops_per_step, after.flops_per_step),
    ]
    return ", ".join(f"{what} {text(a)} instead of {text(b)}" for what, text, b, a in pairs)


def _name(candidate: Candidate, fit: Fit) -> str:
    return _value(candidate) + (" (planned)" if candidate is fit.own else "")


def _value(candidate: Candidate) -> str:
    return "null" if candidate.value is None else str(candidate.value)
