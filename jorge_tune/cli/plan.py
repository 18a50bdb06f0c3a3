"""`jorge-tune plan`: what a recipe's optimizer will keep and compute, before any training."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from jorge_tune.cli.tables import format_option, print_json, print_table, print_text
from jorge_tune.errors import InputError
from jorge_tune.recipe.bootstrap import bootstrap
from jorge_tune.recipe.checks import warnings_of
from jorge_tune.recipe.io import load, override
from jorge_tune.recipe.schema import SGD, AdamW, Recipe
from jorge_tune.recipe.shipped import resolve_recipe

if TYPE_CHECKING:
    from jorge_tune.measure.plan import Candidate, Fit, RecipePlan, Rival
    from jorge_tune.optim.costs import ParameterCost, Total

_EXIT_INFEASIBLE = 4
_TOTALS = ("state", "x params", "refresh", "apply", "per step")
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
@click.argument("recipe")
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
    everything and of each step. With --memory-budget the largest block size (of sketchy, the largest rank)
    whose state fits is chosen and its price told; exit code 4 if none fits.

    \b
    Example:
      jorge-tune plan imagenet/resnet50-256-jorge --memory-budget 450MiB
      jorge-tune plan digits/cnn-sgd --set optimizer.block_size=64
    """
    planned = _read(recipe, assignments)
    from jorge_tune.measure.plan import plan_recipe

    plan = plan_recipe(planned, budget=memory_budget)
    if plan.interval_is_assumed:
        click.echo(f"refresh_interval is not set: means are taken over {plan.refresh_interval} steps", err=True)
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
        click.echo(f"{path} trains with {recipe.optimizer.name}: planning what bootstrap makes of it", err=True)
        recipe = bootstrap(recipe).recipe
    if assignments:
        recipe = override(recipe, assignments)
    for field, what in warnings_of(recipe):
        click.echo(f"{path}: {field}: {what} (warning)", err=True)
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
    click.echo("")
    headings = ["optimizer", "rank", "preconditioners", *_TOTALS]
    print_table(headings, [_rival_row(rival) for rival in plan.rivals], title="The same model with", right=headings[1:])
    print_text(
        f"\nThe parameters take {_bytes(plan.total.parameter_bytes)}. State is what stays allocated between steps. "
        "Refresh (of everything), apply and per step (apply and the mean of refreshes and statistics) are "
        "floating-point operations, not seconds: Shampoo's and Sketchy's refreshes are decompositions, Jorge's are "
        "matrix products."
    )
    if plan.fit is not None:
        click.echo("")
        _show_fit(plan.fit, plan.rivals)


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
        _bytes(summed.state_bytes),
        f"{_share(summed.state_bytes, whole.state_bytes):.1%}",
        _operations(summed.refresh_flops),
        _operations(summed.apply_flops),
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
    return [name, rival.rank, _bytes(rival.total.preconditioner_bytes), *_cells(rival.total)]


def _cells(total: Total) -> list[str]:
    return [
        _bytes(total.state_bytes),
        f"{_share(total.state_bytes, total.parameter_bytes):.2f}",
        *(_operations(number) for number in (total.refresh_flops, total.apply_flops, total.flops_per_step)),
    ]


def _show_fit(fit: Fit, rivals: Sequence[Rival]) -> None:
    chosen = fit.chosen
    headings = [fit.field, "blocks", *_TOTALS, "fits"]
    rows = [
        [_value(c), c.num_blocks, *_cells(c.total), "chosen" if c is chosen else "yes" if c.fits(fit.budget) else "no"]
        for c in fit.candidates
    ]
    print_table(headings, rows, title=f"State within {_bytes(fit.budget)}", right=headings[:-1])
    print_text("\n" + "\n".join(_verdict(fit, rivals)))


def _verdict(fit: Fit, rivals: Sequence[Rival]) -> list[str]:
    """What to do, and what it costs."""
    own, chosen, smallest = fit.own, fit.chosen, fit.smallest
    if chosen is None:
        needs = _bytes(smallest.total.state_bytes)
        return [
            f"No {fit.field} fits: the smallest state is that of {_value(smallest)}, {needs}.",
            *_ways_out(fit, rivals),
        ]
    if chosen is own:
        return [f"{fit.field} {_value(own)}, the recipe's own, fits: nothing to change."]
    lines = [f"{fit.field} {_value(chosen)} instead of {_value(own)}: {_price(own.total, chosen.total)}."]
    if chosen.bare_sides:
        lines.append(f"{chosen.bare_sides} sides are too long for it and have no preconditioner.")
    if chosen.value is None:
        return [*lines, f"Write `{fit.field}: null` into the recipe's optimizer section."]
    return [*lines, f"Apply it with --set optimizer.{fit.field}={chosen.value}"]


def _ways_out(fit: Fit, rivals: Sequence[Rival]) -> list[str]:
    """Preconditioned rivals that fit, the one with the most state first."""
    fitting = [r for r in rivals if r.total.preconditioner_bytes and r.total.state_bytes <= fit.budget]
    lines = []
    for rival in sorted(fitting, key=lambda rival: -rival.total.state_bytes):
        changes = f"--set optimizer.name={rival.name}" + (f" --set optimizer.rank={rival.rank}" if rival.rank else "")
        lines.append(f"{rival.name} fits, with {_bytes(rival.total.state_bytes)}: {changes}")
    return lines


def _price(before: Total, after: Total) -> str:
    pairs = [
        ("state", _bytes, before.state_bytes, after.state_bytes),
        ("refresh", _operations, before.refresh_flops, after.refresh_flops),
        ("apply", _operations, before.apply_flops, after.apply_flops),
        ("per step", _operations, before.flops_per_step, after.flops_per_step),
    ]
    return ", ".join(f"{what} {text(a)} for {text(b)}" for what, text, b, a in pairs)


def _value(candidate: Candidate) -> str:
    return "null" if candidate.value is None else str(candidate.value)


def _bytes(number: float) -> str:
    for unit in ("B", "KiB", "MiB", "GiB"):
        if number < 999.5:
            return f"{number:.3g} {unit}"
        number /= 1024
    return f"{number:.3g} TiB"


def _operations(number: float) -> str:
    for unit in ("", " k", " M", " G", " T"):
        if number < 999.5:
            return f"{number:.3g}{unit}"
        number /= 1000
    return f"{number:.3g} P"


def _share(part: float, whole: float) -> float:
    return part / whole if whole else 0.0


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
    share = _share(cost.state_bytes, whole.state_bytes)
    return {**vars(cost), "blocks": blocks, **derived, "share_of_state": share}


def _fit_data(fit: Fit) -> dict[str, Any]:
    chosen = fit.chosen
    return {
        "budget": fit.budget,
        "field": fit.field,
        "own": asdict(fit.own),
        "chosen": None if chosen is None else asdict(chosen),
        "smallest": asdict(fit.smallest),
        "candidates": [{**asdict(c), "fits": c.fits(fit.budget)} for c in fit.candidates],
    }
