"""`jorge-tune recipes`: what comes with the package."""

from __future__ import annotations

from pathlib import Path

import click

from jorge_tune.cli.tables import format_option, print_json, print_table
from jorge_tune.errors import InputError
from jorge_tune.recipe.checks import untrainable_because
from jorge_tune.recipe.io import copy_recipe, read_recipe
from jorge_tune.recipe.schema import Recipe
from jorge_tune.recipe.shipped import resolve_shipped, shipped_recipes

_HEADINGS = ("name", "task", "optimizer", "schedule", "length", "batch_size", "lr")


@click.group()
def command() -> None:
    """List the shipped recipes, or copy one to start from.

    \b
    Example:
      jorge-tune recipes ls
      jorge-tune recipes cp digits/cnn-sgd my-sgd.yaml
    """


@command.command()
@format_option
def ls(output_format: str) -> None:
    """List the shipped recipes; each name can stand wherever a recipe file is asked for.

    "bootstrap only": this version cannot train such a task; `bootstrap` turns the recipe into Jorge's all the same.

    \b
    Example:
      jorge-tune recipes ls --format json
    """
    shipped = {name: read_recipe(path) for name, path in shipped_recipes().items()}
    rows = [_row(name, recipe) for name, recipe in shipped.items()]
    trained = [untrainable_because(recipe) is None for recipe in shipped.values()]
    if output_format == "json":
        pairs = zip(rows, trained, strict=True)
        print_json([{**dict(zip(_HEADINGS, row, strict=True)), "can_be_trained": can} for row, can in pairs])
        return
    for row, can in zip(rows, trained, strict=True):
        row[1] = row[1] if can else f"{row[1]} (bootstrap only)"
    print_table(_HEADINGS, rows, right=("batch_size", "lr"))


@command.command()
@click.argument("name")
@click.argument("out", type=click.Path(path_type=Path), required=False)
@click.option("--force", is_flag=True, help="Overwrite an existing file.")
def cp(name: str, out: Path | None, force: bool) -> None:
    """Copy the shipped recipe NAME, comments included, to OUT [default: its file name, in the current folder].

    \b
    Example:
      jorge-tune recipes cp cifar10/resnet18-sgd sgd.yaml
    """
    source = resolve_shipped(name)
    target = out or Path(source.name)
    if target.is_dir():
        target = target / source.name
    copy_recipe(source, target, force=force)
    click.echo(f"wrote {target}", err=True)


def _row(name: str, recipe: Recipe) -> list[object]:
    if recipe.task is None:
        raise InputError(f"{name}: a shipped recipe has a task")
    length = f"{recipe.epochs} epochs" if recipe.epochs is not None else f"{recipe.steps} steps"
    optimizer, schedule = recipe.optimizer, recipe.schedule
    return [name, recipe.task.kind, optimizer.name, schedule.name, length, recipe.batch_size, optimizer.lr]
