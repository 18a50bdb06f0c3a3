"""`jorge-tune bootstrap`: a Jorge recipe from a tuned one, with the reason for each value."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import click

from jorge_tune.cli.curves import lr_curves
from jorge_tune.cli.tables import format_option, print_json, print_table
from jorge_tune.recipe.bootstrap import Bootstrapped, bootstrap
from jorge_tune.recipe.derivation import OURS, Derivation
from jorge_tune.recipe.io import load, parse_recipe, render_recipe, write_recipe
from jorge_tune.recipe.render import scalar
from jorge_tune.recipe.schedule_rule import ScheduleChoice
from jorge_tune.recipe.schema import AdamW, Recipe
from jorge_tune.recipe.shipped import resolve_recipe


@click.command()
@click.argument("recipe", metavar="SGD")
@click.option(
    "-o",
    "--out",
    type=click.Path(path_type=Path),
    help="File to write [default: SGD's name with jorge for sgd, in the current folder].",
)
@click.option(
    "--schedule",
    type=click.Choice(["step", "keep"]),
    help="Replace the schedule by step decay, or keep it [default: step from SGD, keep if short or from AdamW].",
)
@click.option("--force", is_flag=True, help="Overwrite an existing file.")
@format_option
def command(recipe: str, out: Path | None, schedule: ScheduleChoice | None, force: bool, output_format: str) -> None:
    """Write the Jorge recipe that follows from SGD, a tuned SGD or AdamW recipe (a file or a shipped name).

    \b
    Example:
      jorge-tune bootstrap cifar10/resnet18-sgd -o resnet18-jorge.yaml
    """
    source = resolve_recipe(recipe)
    before = load(source)
    made = bootstrap(before.recipe, schedule=schedule)
    target = out or _default_out(source, before.recipe)
    write_recipe(target, made.recipe, made.derivations, force=force)
    written = parse_recipe(render_recipe(made.recipe, made.derivations), str(target))
    for warning, name in [(w, str(source)) for w in before.warnings] + [(w, str(target)) for w in written.warnings]:
        click.echo(f"{warning.located(name)} (warning)", err=True)
    if output_format == "json":
        print_json(_as_data(target, made))
    else:
        _show(before.recipe, made)
    click.echo(f"wrote {target}", err=True)


def _default_out(source: Path, recipe: Recipe) -> Path:
    old = recipe.optimizer.name
    stem = source.stem.replace(old, "jorge") if old in source.stem else f"{source.stem}-jorge"
    return Path(f"{stem}.yaml")


def _show(before: Recipe, made: Bootstrapped) -> None:
    if isinstance(before.optimizer, AdamW):
        click.echo("The paper has rules from SGD only; those from AdamW are ours.\n")
    rows = [_row(derivation) for derivation in made.derivations]
    print_table(["field", "before", "after", "why"], rows)
    replaced = next((d for d in made.derivations if d.field == "schedule" and d.changed), None)
    if replaced is not None:
        click.echo(
            f"\nThe schedule CHANGES: {_cell(replaced.before)} is replaced by {_cell(replaced.after)}"
            f" ({replaced.source}).\nKeep yours with --schedule keep.\n"
        )
        click.echo(lr_curves(before, made.recipe))
    by_convention = next((d for d in made.derivations if d.field == "schedule" and d.source == OURS), None)
    if by_convention is not None:
        click.echo(f"\nThe schedule is {by_convention.rule} (the paper replaces any; race both where you can).")


def _row(derivation: Derivation) -> list[str]:
    why = derivation.rule + (f": {derivation.formula}" if derivation.formula else "")
    why += f" ({derivation.source})" if derivation.source else ""
    return [derivation.field, _cell(derivation.before), _cell(derivation.after), why]


def _cell(value: object) -> str:
    return "-" if value is None else scalar(value)


def _as_data(target: Path, made: Bootstrapped) -> dict[str, object]:
    return {
        "written": str(target),
        "recipe": made.recipe.name,
        "derivations": [{**dataclasses.asdict(d), "changed": d.changed} for d in made.derivations],
    }
