"""`jorge-tune recipes` and `jorge-tune validate`: list, copy and check recipes."""

from __future__ import annotations

from pathlib import Path

import click

from jorge_tune.cli.lazy import SuggestingGroup
from jorge_tune.cli.options import complete_recipe, force_option, format_option
from jorge_tune.cli.output import is_stdout, print_json, print_table, say, tell_written, write_out
from jorge_tune.errors import Fault, FaultyFileError, InputError, first_faults
from jorge_tune.recipe.checks import untrainable_because
from jorge_tune.recipe.recipe_files import (
    copy_recipe,
    load,
    read_recipe,
    resolve_recipe,
    resolve_shipped,
    shipped_recipes,
)
from jorge_tune.recipe.schema import Recipe

_HEADINGS = ("name", "task", "optimizer", "schedule", "length", "batch_size", "lr")


@click.group(cls=SuggestingGroup)
def recipes_command() -> None:
    """List or copy the shipped recipes.

    \b
    Example:
      jorge-tune recipes ls
      jorge-tune recipes cp digits/cnn-sgd my-sgd.yaml
    """


@recipes_command.command()
@format_option
def ls(output_format: str) -> None:
    """List the shipped recipes.

    Every command that takes a recipe file also takes one of these names. "bootstrap only" means that this version
    cannot train the task, but `bootstrap` can derive a Jorge recipe.

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


@recipes_command.command()
@click.argument("name", shell_complete=complete_recipe)
@click.argument("out", type=click.Path(path_type=Path), required=False)
@force_option()
def cp(name: str, out: Path | None, force: bool) -> None:
    """Copy the shipped recipe NAME to OUT, with its comments.

    The default for OUT is the recipe's file name, in the current directory. - prints the recipe to stdout.

    \b
    Example:
      jorge-tune recipes cp cifar10/resnet18-sgd sgd.yaml
      jorge-tune recipes cp cifar10/resnet18-sgd - | less
    """
    source = resolve_shipped(name)
    target = out or Path(source.name)
    if target.is_dir():
        target = target / source.name
    if is_stdout(target):
        write_out(target, source.read_text(encoding="utf-8"))
        return
    copy_recipe(source, target, force=force)
    tell_written(target)


def _row(name: str, recipe: Recipe) -> list[object]:
    if recipe.task is None:
        raise InputError(f"{name}: a shipped recipe must have a task")
    length = f"{recipe.epochs} epochs" if recipe.epochs is not None else f"{recipe.steps} steps"
    optimizer, schedule = recipe.optimizer, recipe.schedule
    return [name, recipe.task.kind, optimizer.name, schedule.name, length, recipe.batch_size, optimizer.lr]


@click.command()
@click.argument("recipes", metavar="RECIPE...", nargs=-1, required=True, shell_complete=complete_recipe)
@format_option
def validate_command(recipes: tuple[str, ...], output_format: str) -> int:
    """Check each RECIPE, a file or a shipped name, and list every fault.

    The command checks the form of a recipe: keys, types and ranges. `train` finds out whether its model, data and
    device exist. A task that this version cannot train is a fault; `bootstrap` accepts such a recipe all the same.

    Exit codes: 2 if a recipe has a fault.

    \b
    Example:
      jorge-tune validate digits/cnn-sgd digits/mlp-sgd
    """
    results = [_check(recipe) for recipe in recipes]
    if output_format == "json":
        print_json(results)
    else:
        for result in results:
            _show(result)
    return 2 if any(result["faults"] for result in results) else 0


def _check(recipe: str) -> dict[str, object]:
    result: dict[str, object] = {"recipe": recipe, "faults": [], "warnings": []}
    try:
        path = resolve_recipe(recipe)
        loaded = load(path)
        result["warnings"] = [_as_data(str(path), warning) for warning in loaded.warnings]
        result["faults"] = [_as_data(str(path), fault) for fault in loaded.untrainable]
    except FaultyFileError as error:
        result["faults"] = [_as_data(error.source, fault) for fault in error.faults]
    except InputError as error:
        result["faults"] = [{"message": str(error)}]
    return result


def _as_data(source: str, fault: Fault) -> dict[str, object]:
    return {**fault._asdict(), "message": fault.located(source)}


def _show(result: dict[str, object]) -> None:
    faults, warnings = result["faults"], result["warnings"]
    assert isinstance(faults, list)
    assert isinstance(warnings, list)
    for line in first_faults([fault["message"] for fault in faults], str(result["recipe"])):
        say(line)
    for warning in warnings:
        say(f"warning: {warning['message']}")
    if not faults:
        say(f"{result['recipe']}: fine" + (", with warnings" if warnings else ""))
