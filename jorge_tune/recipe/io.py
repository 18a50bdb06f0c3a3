"""Recipe files: read with every fault reported in one go, written whole or not at all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from jorge_tune.errors import Fault, InputError, first_faults
from jorge_tune.files import write_whole
from jorge_tune.recipe.checks import faults_of, untrainable_because, warnings_of
from jorge_tune.recipe.decode import decode, hints_of
from jorge_tune.recipe.hints import meant_path
from jorge_tune.recipe.nodes import Entry, Node, node_of, quoted, read_tree
from jorge_tune.recipe.reader import located, parse, text_of
from jorge_tune.recipe.render import recipe_to_dict, render_recipe
from jorge_tune.recipe.schema import Recipe

if TYPE_CHECKING:
    from jorge_tune.recipe.derivation import Derivation

__all__ = [
    "Loaded",
    "copy_recipe",
    "load",
    "override",
    "parse_recipe",
    "read_recipe",
    "recipe_to_dict",
    "render_recipe",
    "write_recipe",
]


@dataclass(frozen=True)
class Loaded:
    """A recipe, what its file says that is allowed but most likely not meant, and why it cannot be trained, if so."""

    recipe: Recipe
    warnings: tuple[Fault, ...] = ()
    untrainable: tuple[Fault, ...] = ()


def load(path: str | Path) -> Loaded:
    """Read a recipe file.

    Raises:
        InputError: there is no such file, or it is no text file.
        FaultyFileError: the file has faults; all of them are in the message.
    """
    return parse_recipe(text_of(Path(path), "recipe file"), str(path))


def read_recipe(path: str | Path) -> Recipe:
    """Read a recipe file, its warnings left aside. Raises as `load` does."""
    return load(path).recipe


def parse_recipe(text: str, source: str) -> Loaded:
    """Read a recipe from a text; `source` names it in messages.

    Raises:
        FaultyFileError: the text has faults.
    """
    recipe, root = parse(Recipe, text, source, "recipe", faults_of)
    untrainable = untrainable_because(recipe)
    return Loaded(
        recipe,
        tuple(located(finding, root) for finding in warnings_of(recipe)),
        () if untrainable is None else (located(untrainable, root),),
    )


def write_recipe(
    path: str | Path, recipe: Recipe, derivations: Sequence[Derivation] = (), *, force: bool = False
) -> None:
    """Write a recipe file, whole or not at all.

    Raises:
        InputError: the file exists and `force` is not set, or the folder cannot be written.
    """
    write_whole(Path(path), render_recipe(recipe, derivations), force=force)


def copy_recipe(source: Path, path: Path, *, force: bool = False) -> None:
    """Copy a recipe file as it stands, comments included. Raises as `load` and `write_recipe` do."""
    text = text_of(source, "recipe file")
    parse_recipe(text, str(source))
    write_whole(path, text, force=force)


def override(recipe: Recipe, assignments: Sequence[str]) -> Recipe:
    """The recipe with some values replaced, each given as `dotted.path=value` (the value in YAML; null removes).

    Raises:
        InputError: an assignment is malformed, names no field, or gives a value the field cannot have.

    Example:
        >>> override(recipe, ["optimizer.lr=0.2", "schedule.milestones=[30, 60]"])  # doctest: +SKIP
    """
    root = node_of(recipe_to_dict(recipe))
    complaints: list[str] = []
    for assignment in assignments:
        complaints += [f"--set {quoted(assignment)}: {what}" for what in _assign(root, assignment)]
    faults: list[Fault] = []
    changed = decode(Recipe, root, faults) if not complaints else None
    if changed is not None:
        faults += [Fault(1, 1, path, what) for path, what in faults_of(changed)]
    for fault in faults:
        complaints.append(f"{_blamed(fault.path, assignments)}: {fault.path}: {fault.what}".replace(": : ", ": "))
    if complaints or changed is None:
        raise InputError("\n".join(first_faults(complaints, f"recipe {recipe.name}")))
    return changed


def _assign(root: Node, assignment: str) -> list[str]:
    """Put one assignment into the tree; what is wrong with it, if anything."""
    path, equals, text = assignment.partition("=")
    keys = path.strip().split(".")
    if not equals or not all(keys):
        return ["must be written as dotted.path=value, e.g. optimizer.lr=0.2"]
    meant = None if keys[0] in hints_of(Recipe) else meant_path(path)
    if meant is not None:
        return [f"no field of a recipe; write --set {quoted(f'{meant}={text.strip()}')}"]
    tree = read_tree(text) if text.strip() else read_tree('""')
    if tree.root is None or tree.faults:
        return [fault.what for fault in tree.faults]
    section = root.section
    for index, key in enumerate(keys[:-1]):
        assert section is not None
        entry = section.setdefault(key, Entry(1, 1, node_of({})))
        if entry.node.value is None:
            entry = section[key] = Entry(1, 1, node_of({}))
        section = entry.node.section
        if section is None:
            return [f"{'.'.join(keys[: index + 1])} is no section, it has no key {quoted(keys[index + 1])}"]
    assert section is not None
    if tree.root.value is None:
        section.pop(keys[-1], None)
    else:
        section[keys[-1]] = Entry(1, 1, tree.root)
    return []


def _blamed(path: str, assignments: Sequence[str]) -> str:
    """The last assignment that a fault's path points to, else all of them."""
    for assignment in reversed(assignments):
        target = assignment.partition("=")[0].strip()
        if path == target or path.startswith((target + ".", target + "[")):
            return f"--set {quoted(assignment)}"
    return "--set " + " ".join(quoted(assignment) for assignment in assignments)
