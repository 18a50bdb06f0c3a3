"""`jorge-tune validate`: every fault of every file, in one go."""

from __future__ import annotations

import click

from jorge_tune.cli.tables import format_option, print_json
from jorge_tune.errors import Fault, FaultyFileError, InputError, first_faults
from jorge_tune.recipe.io import load
from jorge_tune.recipe.shipped import resolve_recipe


@click.command()
@click.argument("recipes", metavar="RECIPE...", nargs=-1, required=True)
@format_option
def command(recipes: tuple[str, ...], output_format: str) -> int:
    """Check each RECIPE (a file or a shipped name) and report all faults of all of them; exit 2 if there is one.

    The form is checked, not whether its model, data or device exist: `train` finds that out. A recipe whose kind of
    task this version cannot train has a fault, and can still be bootstrapped.

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
        click.echo(line)
    for warning in warnings:
        click.echo(f"{warning['message']} (warning)")
    if not faults:
        click.echo(f"{result['recipe']}: fine" + (", with warnings" if warnings else ""))
