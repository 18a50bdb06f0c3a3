"""The recipes that come with the package: inside it in a wheel, beside it in an editable install."""

from __future__ import annotations

from pathlib import Path

import jorge_tune
from jorge_tune.errors import InputError
from jorge_tune.recipe.decode import suggestion
from jorge_tune.recipe.nodes import quoted


def shipped_recipes() -> dict[str, Path]:
    """`dataset/model-optimizer` -> file, sorted by name."""
    root = _root()
    found = {path.relative_to(root).with_suffix("").as_posix(): path for path in root.glob("*/*.yaml")}
    return dict(sorted(found.items()))


def resolve_recipe(argument: str) -> Path:
    """The file that a recipe argument means: a path, else a shipped recipe's name (`.yaml` may be left out).

    Raises:
        InputError: it is neither.
    """
    try:
        if Path(argument).is_file():
            return Path(argument)
        exists = Path(argument).exists()
    except (OSError, ValueError) as error:  # too long, a NUL character
        raise InputError(f"{quoted(argument)}: no file can have this name") from error
    if exists and argument.removesuffix(".yaml") not in shipped_recipes():
        return Path(argument)  # a folder or device; the reader says so
    return resolve_shipped(argument, "neither a file nor a shipped recipe")


def resolve_shipped(argument: str, complaint: str = "no shipped recipe") -> Path:
    """The file of a shipped recipe (`.yaml` may be left out).

    Raises:
        InputError: there is none of this name.
    """
    shipped = shipped_recipes()
    name = argument.removesuffix(".yaml")
    if name not in shipped:
        hint = suggestion(name, shipped) or "; `jorge-tune recipes ls` lists those"
        raise InputError(f"{quoted(argument)}: {complaint}{hint}")
    return shipped[name]


def _root() -> Path:
    package = Path(jorge_tune.__file__).parent
    inside = package / "_shipped_recipes"
    return inside if inside.is_dir() else package.parent / "recipes"
