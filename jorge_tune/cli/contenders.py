"""Who races in a `compare`: recipes and run folders as arguments, and what follows from the first recipe."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from jorge_tune.cli.calibration import settled
from jorge_tune.cli.output import tell
from jorge_tune.errors import InputError

if TYPE_CHECKING:
    from jorge_tune.measure.race import Settings
    from jorge_tune.measure.runs import Contender
    from jorge_tune.recipe.schema import Recipe

F = TypeVar("F", bound=Callable[..., Any])


def side_by_side_option(command: F) -> F:
    """Add `--side-by-side`; the command receives it as `side_by_side`."""
    text = "Run folders: they trained side by side on one machine, so do not compare their seconds."
    return click.option("--side-by-side", is_flag=True, help=text)(command)


def reference_option(command: F) -> F:
    """Add `--reference NAME`; the command receives it as `reference`, None where it is to be chosen."""
    text = "The contender that the others are compared with [default: see above]."
    return click.option("--reference", metavar="NAME", help=text)(command)


def parse_against(ctx: click.Context | None, param: click.Parameter | None, value: str | None) -> tuple[str, ...]:
    """`control,jorge` as kinds of contenders."""
    from jorge_tune.recipe.contenders import contender_kinds

    try:
        return () if value is None else contender_kinds(value)
    except InputError as error:
        raise click.BadParameter(str(error), ctx, param) from error


def read_arguments(
    arguments: Sequence[str],
    assignments: tuple[str, ...],
    against: Sequence[str] = (),
    leave_out: Callable[[str], None] | None = None,
) -> list[Contender]:
    """Folders as runs that are there, everything else as recipes to train, in the order given; then those derived.

    `leave_out` is told of damaged runs, as by `read_contenders`.

    Raises:
        InputError: a folder or recipe cannot be read, or nothing can be derived.
    """
    from jorge_tune.measure.runs import read_contenders, with_distinct_names

    folders = [Path(argument) for argument in arguments if Path(argument).is_dir()]
    if assignments and len(folders) == len(arguments):
        raise InputError("--set: changes recipes, and there are only run folders, which are read as they are")
    read = read_contenders(folders, leave_out)  # together: run folders side by side are one contender
    contenders: list[Contender] = []
    for argument in arguments:
        if Path(argument).is_dir():
            contenders, read = contenders + read, []
        else:
            contenders.append(_read_recipe(argument, assignments))
    return with_distinct_names([*contenders, *_derived(contenders, against)])


def settle(
    contenders: Sequence[Contender],
    assignments: Sequence[str],
    where: Settings,
    held: Callable[[Contender], Recipe | None],
) -> list[Contender] | None:
    """The contenders, `refresh_interval: auto` measured where they are to be trained; None where that has no answer.

    Args:
        contenders: those with runs are left as they are.
        assignments: what `--set` gave.
        where: they are trained.
        held: a contender's recipe as it was trained before.
    """
    ready = []
    for contender in contenders:
        if not contender.runs:
            before = held(contender)
            recipe = settled(contender.recipe, before, assignments, device=where.device, threads=where.threads)
            if recipe is None:
                return None
            contender = replace(contender, recipe=recipe)
        ready.append(contender)
    return ready


def _read_recipe(argument: str, assignments: tuple[str, ...]) -> Contender:
    from jorge_tune.measure.runs import Contender
    from jorge_tune.recipe.io import load, override
    from jorge_tune.recipe.shipped import resolve_recipe

    path = resolve_recipe(argument)
    loaded = load(path)
    for warning in loaded.warnings:
        tell(f"{warning.located(str(path))} (warning)")
    recipe = override(loaded.recipe, assignments) if assignments else loaded.recipe
    return Contender(recipe.name, recipe)


def _derived(contenders: Sequence[Contender], against: Sequence[str]) -> list[Contender]:
    from jorge_tune.measure.runs import Contender
    from jorge_tune.recipe.contenders import derive_contenders

    if not against:
        return []
    recipes = [contender.recipe for contender in contenders if not contender.runs]
    if not recipes:
        raise InputError("--against: follows from a recipe, and there are only run folders; give the recipe too")
    try:
        return [Contender(recipe.name, recipe) for recipe in derive_contenders(recipes, against)]
    except InputError as error:
        raise InputError(f"--against: {error}") from error
