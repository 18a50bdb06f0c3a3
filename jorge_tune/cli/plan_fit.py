"""The part of `jorge-tune plan` that answers a budget: what fits and what it costs, or what to do instead."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from jorge_tune.cli.amounts import share, show_bytes, show_operations
from jorge_tune.cli.output import say
from jorge_tune.cli.tables import print_table, print_text

if TYPE_CHECKING:
    from jorge_tune.measure.plan import Candidate, Fit, Rival
    from jorge_tune.optim.costs import Total

TOTALS = ("state", "x params", "refresh", "apply", "per step")


def total_cells(total: Total) -> list[str]:
    """A cell for each of `TOTALS`."""
    return [
        show_bytes(total.state_bytes),
        f"{share(total.state_bytes, total.parameter_bytes):.2f}",
        *(show_operations(number) for number in (total.refresh_flops, total.apply_flops, total.flops_per_step)),
    ]


def show_fit(fit: Fit, rivals: Sequence[Rival]) -> None:
    """The candidates, and what follows from them."""
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
    """What to do, and what it costs."""
    own, chosen = fit.own, fit.chosen
    if chosen is None:
        return _nothing_fits(fit, rivals)
    lines = []
    if own.fits(fit.budget):
        lines.append(f"{fit.field} {_value(own)}, the recipe's own, fits: nothing to change.")
        if chosen is own:
            return lines
        lines.append(f"{fit.field} {_value(chosen)} would fit too: {_price(own.total, chosen.total)}.")
    else:
        lines.append(f"{fit.field} {_value(chosen)} instead of {_value(own)}: {_price(own.total, chosen.total)}.")
    if chosen.bare_sides:
        lines.append(f"{chosen.bare_sides} sides are too long for it and have no preconditioner.")
    if chosen.value is None:
        return [*lines, f"Write `{fit.field}: null` into the recipe's optimizer section."]
    return [*lines, f"Apply it with --set optimizer.{fit.field}={chosen.value}"]


def _nothing_fits(fit: Fit, rivals: Sequence[Rival]) -> list[str]:
    """The floor, and the ways out: preconditioned rivals that fit, the one with the most state first."""
    smallest, sketch = fit.smallest, fit.least_sketch
    bare = smallest.total.state_bytes - smallest.total.preconditioner_bytes
    lines = [
        f"No {fit.field} fits: the smallest state is that of {_value(smallest)}, "
        f"{show_bytes(smallest.total.state_bytes)}.",
        f"The momenta alone take {show_bytes(bare)}: no {fit.field} meets a budget below that. The smallest sketch "
        f"({sketch.name}, rank {sketch.rank}) takes {show_bytes(sketch.total.state_bytes)}.",
    ]
    known = {(rival.name, rival.rank) for rival in rivals}
    others = [*rivals, *([] if (sketch.name, sketch.rank) in known else [sketch])]
    fitting = [r for r in others if r.total.preconditioner_bytes and r.total.state_bytes <= fit.budget]
    for rival in sorted(fitting, key=lambda rival: -rival.total.state_bytes):
        changes = f"--set optimizer.name={rival.name}" + (f" --set optimizer.rank={rival.rank}" if rival.rank else "")
        svd = ", its refresh an SVD" if rival.rank else ""
        lines.append(f"{rival.name} fits, with {show_bytes(rival.total.state_bytes)}{svd}: {changes}")
    return lines


def _price(before: Total, after: Total) -> str:
    pairs = [
        ("state", show_bytes, before.state_bytes, after.state_bytes),
        ("refresh", show_operations, before.refresh_flops, after.refresh_flops),
        ("apply", show_operations, before.apply_flops, after.apply_flops),
        ("per step", show_operations, before.flops_per_step, after.flops_per_step),
    ]
    return ", ".join(f"{what} {text(a)} for {text(b)}" for what, text, b, a in pairs)


def _name(candidate: Candidate, fit: Fit) -> str:
    return _value(candidate) + (" (planned)" if candidate is fit.own else "")


def _value(candidate: Candidate) -> str:
    return "null" if candidate.value is None else str(candidate.value)
