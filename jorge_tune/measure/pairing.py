"""Which recipes one seed really pairs: those of equal initial weights, data and order of the data."""

from __future__ import annotations

from dataclasses import fields, replace

from jorge_tune.recipe.bootstrap import control
from jorge_tune.recipe.schema import Data, Jorge, Recipe, Task

_NOTED = ("epochs", "steps", "batch_size", "precision")


def unpaired_because(recipe: Recipe, other: Recipe) -> str | None:
    """Why equal seeds do not pair the two recipes; None where they do."""
    task, other_task = recipe.task, other.task
    if task is None or other_task is None:
        return None if task == other_task else "only one has a task"
    for field in fields(Task):
        mine, theirs = getattr(task, field.name), getattr(other_task, field.name)
        if field.name == "data":
            mine, theirs = _what_is_seen(mine), _what_is_seen(theirs)
        if mine != theirs:
            return f"task.{field.name} differs"
    return None


def worth_a_note(recipe: Recipe, other: Recipe) -> list[str]:
    """Differences of paired recipes that a reader of the race has to know of, as `field: a against b`."""
    notes = []
    for field in _NOTED:
        mine, theirs = getattr(recipe, field), getattr(other, field)
        if mine != theirs:
            notes.append(f"{field}: {_shown(mine)} against {_shown(theirs)}")
    mine, theirs = _evaluate_every(recipe), _evaluate_every(other)
    if mine != theirs:
        notes.append(f"task.data.evaluate_every: {mine} against {theirs}")
    return notes


def is_control(recipe: Recipe, jorge: Recipe) -> bool:
    """Whether a recipe is the control of a Jorge recipe: all the same, with the optimizer that Jorge grafts from."""
    if not isinstance(jorge.optimizer, Jorge) or jorge.optimizer.graft == "none":
        return False
    is_same_training = not worth_a_note(recipe, jorge)
    return is_same_training and (recipe.optimizer, recipe.schedule) == (control(jorge).optimizer, jorge.schedule)


def _what_is_seen(data: Data | None) -> Data | None:
    """The data section without what changes neither the examples nor their order."""
    return None if data is None else replace(data, root="", workers=0, evaluate_every=1)


def _evaluate_every(recipe: Recipe) -> int | None:
    return recipe.task.data.evaluate_every if recipe.task and recipe.task.data else None


def _shown(value: object) -> str:
    return "unset" if value is None else str(value)
