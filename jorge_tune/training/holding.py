"""What a run folder holds already, and whether a run may use it."""

from __future__ import annotations

import os
from dataclasses import asdict, replace
from enum import Enum
from pathlib import Path
from typing import Any

from jorge_tune.errors import RunFolderError
from jorge_tune.recipe.leaves import leaves
from jorge_tune.recipe.of_run import recipe_of_run
from jorge_tune.recipe.schema import Recipe
from jorge_tune.records import RunFolder, outcome_of, read_records


class Holding(Enum):
    """A folder that may be used holds nothing, this run unfinished, or this run ended."""

    NOTHING = "nothing"
    UNFINISHED = "unfinished"
    ENDED = "ended"


def inspect_folder(folder: RunFolder, recipe: Recipe, *, resume: bool) -> Holding:
    """Look before anything is read or written.

    Raises:
        RunFolderError: the folder holds another run, or something else, or this run and `resume` is not set.
    """
    root = folder.root
    if not root.exists():
        return Holding.NOTHING
    if not root.is_dir():
        raise RunFolderError(f"{root}: is a file; a run folder is expected (choose another --out)")
    if not os.path.lexists(folder.recipe):
        if all(_is_of_a_beginning(path, folder) for path in root.iterdir()):
            return Holding.NOTHING
        raise RunFolderError(f"{root}: is not empty and holds no run; choose another --out")
    try:
        held = recipe_of_run(folder)
        outcome = outcome_of(read_records(folder.records)) if os.path.lexists(folder.records) else None
    except RunFolderError as error:
        raise RunFolderError(f"{error}; mend it, or choose another --out") from error
    differences = what_differs(held, recipe)
    if differences:
        raise RunFolderError(f"{root}: holds another run ({'; '.join(differences)}); choose another --out")
    if not resume:
        state = f"which is {outcome}" if outcome else "which has not ended"
        raise RunFolderError(f"{root}: holds this run already, {state}; give --resume, or choose another --out")
    return Holding.ENDED if outcome in ("finished", "diverged") else Holding.UNFINISHED


def _is_of_a_beginning(path: Path, folder: RunFolder) -> bool:
    """Whether a run that was killed before it had its recipe leaves this."""
    if path == folder.log:
        return not path.is_symlink() and path.is_file() and path.stat().st_size == 0
    return path.name.startswith(f".{folder.recipe.name}.") and path.suffix == ".partial"


def what_differs(held: Recipe, asked: Recipe) -> list[str]:
    """What makes two recipes two runs, at most three of them; where the data lie and who loads them does not."""
    before, after = (_flat(recipe) for recipe in (held, asked))
    paths = [path for path in {**before, **after} if before.get(path) != after.get(path)]
    shown = [f"{path} is {before.get(path)!r} there, {after.get(path)!r} here" for path in paths[:3]]
    return shown + ([f"and {len(paths) - 3} more"] if len(paths) > 3 else [])


def _without_places(recipe: Recipe) -> Recipe:
    if recipe.task is None or recipe.task.data is None:
        return recipe
    data = replace(recipe.task.data, root="", workers=0)
    return replace(recipe, task=replace(recipe.task, data=data))


def _flat(recipe: Recipe) -> dict[str, Any]:
    return {path: _as_lists(value) for path, value in leaves(asdict(_without_places(recipe))).items()}


def _as_lists(value: Any) -> Any:
    """Tuples and lists are one thing in a file."""
    return [_as_lists(item) for item in value] if isinstance(value, (list, tuple)) else value
