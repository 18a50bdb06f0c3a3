"""Recipe files: read, written, changed and found.

read     `load` and `parse_recipe` report every fault of a file at once; `recipe_of_run` reads a run directory's recipe
write    `write_recipe` and `copy_recipe` write a file whole or not at all
change   `override` (`--set path=value`) and `with_values` (plain values) make another recipe, judged by the same rules
edit     `write_interval` puts a measured refresh interval into a file and leaves comments and layout as they are
find     `shipped_recipes`, `resolve_recipe`, `resolve_shipped`: the recipes that come with the package
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jorge_tune
from jorge_tune.config.decode import decode, located, parse, text_of
from jorge_tune.config.tree import LARGEST_FILE, KeyedNode, Node, node_of, read_tree
from jorge_tune.config.unknown_keys import hints_of, suggestion
from jorge_tune.errors import Fault, FaultyFileError, InputError, RunDirectoryError, first_faults, shortened
from jorge_tune.files import read_regular_bytes, write_whole
from jorge_tune.recipe.checks import faults_of, untrainable_because, warnings_of
from jorge_tune.recipe.hints import RECIPE_WORDS
from jorge_tune.recipe.render import recipe_to_dict, render_recipe, scalar
from jorge_tune.recipe.schema import KroneckerFields, Recipe
from jorge_tune.recipe.user_code import bound_to
from jorge_tune.records import RunDirectory
from jorge_tune.untrusted import shown

if TYPE_CHECKING:
    from jorge_tune.recipe.derivation import Derivation

__all__ = [
    "RecipeFile",
    "copy_recipe",
    "load",
    "override",
    "parse_recipe",
    "read_recipe",
    "recipe_of_run",
    "recipe_to_dict",
    "render_recipe",
    "resolve_recipe",
    "resolve_shipped",
    "shipped_recipes",
    "with_interval",
    "with_values",
    "write_interval",
    "write_recipe",
]


@dataclass(frozen=True)
class RecipeFile:
    """A recipe, the warnings about its file, and why it cannot be trained, if it cannot."""

    recipe: Recipe
    warnings: tuple[Fault, ...] = ()
    untrainable: tuple[Fault, ...] = ()


def load(path: str | Path) -> RecipeFile:
    """Read a recipe file. Modules that it names are looked for in its own folder first.

    Raises:
        InputError: there is no such file, or it is no text file.
        FaultyFileError: the file has faults; all of them are in the message.
    """
    loaded = parse_recipe(text_of(Path(path), "recipe file"), str(path))
    return replace(loaded, recipe=bound_to(loaded.recipe, [Path(path).absolute().parent]))


def read_recipe(path: str | Path) -> Recipe:
    """Read a recipe file, its warnings left aside. Raises as `load` does."""
    return load(path).recipe


def parse_recipe(text: str, source: str) -> RecipeFile:
    """Read a recipe from a text; `source` names it in messages.

    Raises:
        FaultyFileError: the text has faults.
    """
    recipe, root = parse(Recipe, text, source, "recipe", faults_of)
    untrainable = untrainable_because(recipe)
    return RecipeFile(
        recipe,
        tuple(located(finding, root) for finding in warnings_of(recipe)),
        () if untrainable is None else (located(untrainable, root),),
    )


def recipe_of_run(run_directory: RunDirectory) -> Recipe:
    """The recipe that a run directory holds; jorge-tune wrote it, but somebody may have changed it since.

    Raises:
        RunDirectoryError: there is none, it is not a regular file, or it has faults. The message names them all.
    """
    path = run_directory.recipe
    try:
        text = read_regular_bytes(path, most=LARGEST_FILE, error=RunDirectoryError).decode("utf-8-sig")
        return parse_recipe(text, str(path)).recipe
    except FileNotFoundError as error:
        raise RunDirectoryError(f"{run_directory.root}: not a run directory (no {path.name})") from error
    except UnicodeDecodeError as error:
        raise RunDirectoryError(
            f"{path}: must be UTF-8 text, got the byte 0x{error.object[error.start]:02x}"
        ) from error
    except FaultyFileError as error:
        faults = [fault.located(str(path)) for fault in error.faults]
        raise RunDirectoryError(shortened(faults)) from error


def write_recipe(
    path: str | Path, recipe: Recipe, derivations: Sequence[Derivation] = (), *, force: bool = False
) -> None:
    """Write a recipe file, whole or not at all.

    Raises:
        InputError: the file exists and `force` is not set, or the directory cannot be written.
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
        InputError: an assignment is malformed, names no field, or gives a value that the field cannot have.

    Example:
        >>> override(recipe, ["optimizer.lr=0.2", "schedule.milestones=[30, 60]"])  # doctest: +SKIP
    """
    root = node_of(recipe_to_dict(recipe))
    complaints: list[str] = []
    for assignment in assignments:
        complaints += [f"--set {shown(assignment)}: {what}" for what in _assign(root, assignment)]

    changed, faults = (None, []) if complaints else _recipe_under(root)
    for fault in faults:
        complaints.append(f"{_blamed(fault.path, assignments)}: {fault.path}: {fault.what}".replace(": : ", ": "))
    if changed is None:
        raise InputError("\n".join(first_faults(complaints, f"recipe {recipe.name}")))
    return changed


def with_values(recipe: Recipe, values: Mapping[str, Any]) -> tuple[Recipe | None, list[Fault]]:
    """The recipe with plain values put in by dotted path, or None and what is wrong with them.

    A section may be given whole, as a mapping. None is a value here (`block_size: null`); it removes nothing.
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
    return _recipe_under(node_of(data))


def write_interval(path: Path, recipe: Recipe) -> bool:
    """Put a recipe's interval and calibration into its file, whose other values must already be the recipe's.

    Returns:
        Whether the text was edited in place. Where its layout does not allow that, the file is written anew, and its
        comments are lost.

    Raises:
        InputError: the file cannot be read or written.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read ({error})") from error
    changed = with_interval(text, recipe)
    write_whole(path, render_recipe(recipe) if changed is None else changed, force=True)
    return changed is not None


def with_interval(text: str, recipe: Recipe) -> str | None:
    """The text with `recipe`'s interval and calibration in it; None where it cannot be edited to mean that recipe."""
    root = read_tree(text).root
    optimizer = (root.section or {}).get("optimizer") if root else None
    if root is None or optimizer is None or not isinstance(recipe.optimizer, KroneckerFields):
        return None

    edits = _interval_edits(text, optimizer.node, scalar(recipe.optimizer.refresh_interval))
    edits += _calibration_edits(text, root, recipe)
    for start, end, new in sorted(edits, reverse=True):
        text = text[:start] + new + text[end:]
    try:
        return text if parse_recipe(text, "edited").recipe == recipe else None
    except InputError:
        return None


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
        raise InputError(f"{shown(argument)}: no file can have this name") from error
    if exists and argument.removesuffix(".yaml") not in shipped_recipes():
        return Path(argument)  # a directory or device; the reader says so
    return resolve_shipped(argument, "neither a file nor a shipped recipe")


def resolve_shipped(argument: str, complaint: str = "not a shipped recipe") -> Path:
    """The file of a shipped recipe (`.yaml` may be left out).

    Raises:
        InputError: there is none of this name.
    """
    shipped = shipped_recipes()
    name = argument.removesuffix(".yaml")
    if name not in shipped:
        hint = suggestion(name, shipped) or "; `jorge-tune recipes ls` lists the shipped ones"
        raise InputError(f"{shown(argument)}: {complaint}{hint}")
    return shipped[name]


def _recipe_under(root: Node) -> tuple[Recipe | None, list[Fault]]:
    """The recipe that a tree holds, or None and its faults: those of fields, else those between fields."""
    faults: list[Fault] = []
    recipe = decode(Recipe, root, faults)
    if recipe is not None:
        faults += [Fault(1, 1, path, what) for path, what in faults_of(recipe)]
    return (None if faults else recipe), faults


def _assign(root: Node, assignment: str) -> list[str]:
    """Put one assignment into the tree; what is wrong with it, if anything."""
    path, equals, text = assignment.partition("=")
    keys = path.strip().split(".")
    if not equals or not all(keys):
        return ["must be written as dotted.path=value, e.g. optimizer.lr=0.2"]

    meant = None if keys[0] in hints_of(Recipe) else RECIPE_WORDS.meant_path(path, Recipe)
    if meant is not None:
        return [f"not a field of a recipe; write --set {shown(f'{meant}={text.strip()}')}"]
    tree = read_tree(text) if text.strip() else read_tree('""')
    if tree.root is None or tree.faults:
        return [fault.what for fault in tree.faults]

    section = root.section
    for index, key in enumerate(keys[:-1]):
        assert section is not None
        entry = section.setdefault(key, KeyedNode(1, 1, node_of({})))
        if entry.node.value is None:
            entry = section[key] = KeyedNode(1, 1, node_of({}))
        section = entry.node.section
        if section is None:
            return [f"{'.'.join(keys[: index + 1])} is not a section, so it has no key {shown(keys[index + 1])}"]

    assert section is not None
    if tree.root.value is None:
        section.pop(keys[-1], None)
    else:
        section[keys[-1]] = KeyedNode(1, 1, tree.root)
    return []


def _blamed(path: str, assignments: Sequence[str]) -> str:
    """The last assignment that a fault's path points to, else all of them."""
    for assignment in reversed(assignments):
        target = assignment.partition("=")[0].strip()
        if path == target or path.startswith((target + ".", target + "[")):
            return f"--set {shown(assignment)}"
    return "--set " + " ".join(shown(assignment) for assignment in assignments)


_QUOTED = r"\"(?:[^\"\\]|\\.)*\"|'(?:[^']|'')*'"
_IN_FLOW = re.compile(_QUOTED + r"|[^\s,}#][^,}\n]*?(?=[ \t]*(?:[,}]|\s#|\r?$))", re.MULTILINE)
_IN_BLOCK = re.compile(_QUOTED + r"|[^\s#][^\n]*?(?=[ \t]*(?:\s#|\r?$))", re.MULTILINE)


def _interval_edits(text: str, optimizer: Node, value: str) -> list[tuple[int, int, str]]:
    """(start, end, replacement) of what must change for the interval."""
    section = optimizer.section or {}
    if "refresh_interval" in section:
        return [_scalar_edit(text, optimizer, "refresh_interval", value)]
    start = _offset(text, optimizer)
    if _is_flow(text, optimizer):
        return [(start + 1, start + 1, f"refresh_interval: {value}, ")]
    name = section["name"]
    below = _start_of_line(text, name.line + 1)
    newline = "" if text[:below].endswith("\n") else _newline(text)
    line = f"{newline}{' ' * (name.column - 1)}refresh_interval: {value}{_newline(text)}"
    return [(below, below, line)]


def _calibration_edits(text: str, root: Node, recipe: Recipe) -> list[tuple[int, int, str]]:
    wanted = recipe_to_dict(recipe).get("calibration")
    present = (root.section or {}).get("calibration")
    if wanted is None:
        return []
    if present is not None and present.node.section:
        return [_scalar_edit(text, present.node, key, scalar(value)) for key, value in wanted.items()]
    gap = "" if text.endswith("\n") else _newline(text)
    return [(len(text), len(text), f"{gap}calibration: {scalar(wanted)}{_newline(text)}")]


def _scalar_edit(text: str, section: Node, key: str, value: str) -> tuple[int, int, str]:
    """Replace the scalar of a key that the section has."""
    assert section.section is not None
    start = _offset(text, section.section[key].node)
    found = (_IN_FLOW if _is_flow(text, section) else _IN_BLOCK).match(text, start)
    return (start, found.end(), value) if found else (start, start, f" {value}")


def _is_flow(text: str, node: Node) -> bool:
    return text.startswith("{", _offset(text, node))


def _offset(text: str, node: Node) -> int:
    return _start_of_line(text, node.line) + node.column - 1


def _start_of_line(text: str, line: int) -> int:
    """Where a line, from 1, starts; the text's end for one beyond the last."""
    start = 0
    for _ in range(line - 1):
        end = text.find("\n", start)
        if end < 0:
            return len(text)
        start = end + 1
    return start


def _newline(text: str) -> str:
    return "\r\n" if "\r\n" in text else "\n"


def _root() -> Path:
    package = Path(jorge_tune.__file__).parent
    inside = package / "_shipped_recipes"
    return inside if inside.is_dir() else package.parent / "recipes"
