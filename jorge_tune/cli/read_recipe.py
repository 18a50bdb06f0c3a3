"""Reading the recipe that a command runs: the file, the values of --set, and the warnings about both."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from jorge_tune.cli.output import warn, warn_of_recipe

if TYPE_CHECKING:
    from jorge_tune.recipe.schema import Recipe


def read_with_overrides(argument: str, assignments: Sequence[str], seed: int | None = None) -> Recipe:
    """Read a file or a shipped recipe and apply `--set` and `--seed`; warnings go to stderr.

    Raises:
        InputError: The recipe is faulty, or this version cannot train its kind of task.
    """
    from jorge_tune.recipe.checks import check_trainable
    from jorge_tune.recipe.recipe_files import load, resolve_recipe

    path = resolve_recipe(argument)
    loaded = load(path)
    recipe = loaded.recipe
    if assignments:
        recipe = with_overrides(recipe, assignments, str(path))
    else:
        warn_of_recipe(loaded.warnings, path)
    check_trainable(recipe)  # here, before torch is imported
    return recipe if seed is None else replace(recipe, seed=seed)


def with_overrides(recipe: Recipe, assignments: Sequence[str], where: str) -> Recipe:
    """Apply `--set` to a recipe; warnings name `where`, and no line, because `--set` may be the cause."""
    from jorge_tune.recipe.checks import warnings_of
    from jorge_tune.recipe.recipe_files import override

    if not assignments:
        return recipe
    changed = override(recipe, assignments)
    for field, what in warnings_of(changed):
        warn(f"{where} with --set: {field}: {what}")
    return changed
