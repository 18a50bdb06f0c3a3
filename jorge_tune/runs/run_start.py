"""A run's directory before it trains: what it holds of which run, and how a new one is made and locked."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, replace
from enum import Enum
from pathlib import Path
from typing import Any

from jorge_tune.errors import InputError, RunDirectoryError, TrainingError
from jorge_tune.files import is_disk_full, write_whole
from jorge_tune.recipe.recipe_files import recipe_of_run, write_recipe
from jorge_tune.recipe.render import leaves
from jorge_tune.recipe.schema import Recipe
from jorge_tune.records import RunDirectory, outcome_of, read_records
from jorge_tune.runs.run_journal import RunJournal


class ResumeState(Enum):
    """What a directory that may be used holds: nothing, this run unfinished, or this run ended."""

    NOTHING = "nothing"
    UNFINISHED = "unfinished"
    ENDED = "ended"


def inspect_run_directory(run_directory: RunDirectory, recipe: Recipe, *, resume: bool) -> ResumeState:
    """What a directory holds of a run of `recipe`; asked before anything is read or written.

    Raises:
        RunDirectoryError: the directory holds another run, or something else, or this run and `resume` is not set.
    """
    root = run_directory.root
    if not root.exists():
        return ResumeState.NOTHING
    if not root.is_dir():
        raise RunDirectoryError(f"{root}: is a file; a run directory is expected (choose another --out)")
    if not os.path.lexists(run_directory.recipe):
        if all(_is_of_a_beginning(path, run_directory) for path in root.iterdir()):
            return ResumeState.NOTHING
        raise RunDirectoryError(f"{root}: is not empty and holds no run; choose another --out")

    try:
        held = recipe_of_run(run_directory)
        outcome = outcome_of(read_records(run_directory.records)) if os.path.lexists(run_directory.records) else None
    except RunDirectoryError as error:
        raise RunDirectoryError(f"{error}; repair it, or choose another --out") from error

    differences = what_differs(held, recipe)
    if differences:
        raise RunDirectoryError(f"{root}: holds another run ({'; '.join(differences)}); choose another --out")
    if not resume:
        state = f"which is {outcome}" if outcome else "which has not ended"
        raise RunDirectoryError(f"{root}: already holds this run, {state}; pass --resume, or choose another --out")
    return ResumeState.ENDED if outcome in ("finished", "diverged") else ResumeState.UNFINISHED


def what_differs(held: Recipe, asked: Recipe) -> list[str]:
    """The fields that make two recipes two runs, at most three; where the data lie and how they are loaded does not."""
    before, after = (_flat(recipe) for recipe in (held, asked))
    paths = [path for path in {**before, **after} if before.get(path) != after.get(path)]
    shown = [f"{path} is {before.get(path)!r} there, {after.get(path)!r} here" for path in paths[:3]]
    return shown + ([f"and {len(paths) - 3} more"] if len(paths) > 3 else [])


def create_run(run_directory: RunDirectory, recipe: Recipe, environment: Mapping[str, object]) -> RunJournal:
    """Make the directory with its recipe and environment, and lock it.

    Raises:
        InputError: it cannot be written.
        RunDirectoryError: another process has started a run there in the meantime.
    """
    try:
        run_directory.root.mkdir(parents=True, exist_ok=True)
        journal = RunJournal(run_directory)
    except OSError as error:
        raise InputError(f"{run_directory.root}: the run directory cannot be written ({error.strerror})") from error
    try:
        if inspect_run_directory(run_directory, recipe, resume=True) is not ResumeState.NOTHING:
            raise RunDirectoryError(
                f"{run_directory.root}: another process has just started this run; pass --resume to continue it"
            )
        write_recipe(run_directory.recipe, recipe, force=True)
        write_whole(run_directory.environment, json.dumps(environment, indent=2) + "\n", force=True)
    except BaseException:
        journal.close()
        raise
    return journal


@contextlib.contextmanager
def full_disk_in_words(run_directory: RunDirectory) -> Iterator[None]:
    """One message wherever the disk has no room for the run's files."""
    try:
        yield
    except OSError as error:
        if not is_disk_full(error):
            raise
        what = f"the disk is full ({error.strerror}); free some space and start again"
        raise TrainingError(
            f"{run_directory.root}: {what}: a run resumes from its checkpoint (train: --resume)"
        ) from error


def _is_of_a_beginning(path: Path, run_directory: RunDirectory) -> bool:
    """Whether a run that was killed before it wrote its recipe leaves such a file."""
    if path == run_directory.log:
        return not path.is_symlink() and path.is_file() and path.stat().st_size == 0
    return path.name.startswith(f".{run_directory.recipe.name}.") and path.suffix == ".partial"


def without_places(recipe: Recipe) -> Recipe:
    """The recipe without what does not change its run: the place of its data, loader workers, a command's patience."""
    task = recipe.task
    if task is None:
        return recipe
    data = None if task.data is None else replace(task.data, root="", workers=0)
    return replace(recipe, task=replace(task, data=data, grace_seconds=None, silence_seconds=None))


def _flat(recipe: Recipe) -> dict[str, Any]:
    return {path: _as_lists(value) for path, value in leaves(asdict(without_places(recipe))).items()}


def _as_lists(value: Any) -> Any:
    """Tuples and lists are one thing in a file."""
    return [_as_lists(item) for item in value] if isinstance(value, (list, tuple)) else value
