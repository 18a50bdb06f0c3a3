"""A recipe with some of its values replaced, judged by the reader's own rules."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jorge_tune.errors import Fault
from jorge_tune.recipe.checks import faults_of
from jorge_tune.recipe.decode import decode
from jorge_tune.recipe.nodes import node_of
from jorge_tune.recipe.render import recipe_to_dict
from jorge_tune.recipe.schema import Recipe


def with_values(recipe: Recipe, values: Mapping[str, Any]) -> tuple[Recipe | None, list[Fault]]:
    """The recipe with plain values put in by dotted path, or None and what is wrong with them.

    A section may be given whole, as a mapping; None is a value here (`block_size: null`), it removes nothing.
    """
    data = recipe_to_dict(recipe)
    for path, value in values.items():
        *sections, key = path.split(".")
        section = data
        owner: Any = recipe
        for name in sections:
            owner = getattr(owner, name, None)
            kind = getattr(owner, "name", None)
            section = section.setdefault(name, {"name": kind} if kind else {})
        section[key] = value
    faults: list[Fault] = []
    changed = decode(Recipe, node_of(data), faults)
    if changed is not None:
        faults += [Fault(1, 1, path, what) for path, what in faults_of(changed)]
    return (None if faults else changed), faults
