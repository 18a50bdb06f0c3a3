"""A measured refresh interval put into a recipe file, its comments and layout left as they are."""

from __future__ import annotations

import re
from pathlib import Path

from jorge_tune.errors import InputError
from jorge_tune.files import write_whole
from jorge_tune.recipe.io import parse_recipe, render_recipe
from jorge_tune.recipe.nodes import Node, read_tree
from jorge_tune.recipe.render import recipe_to_dict, scalar
from jorge_tune.recipe.schema import KroneckerFields, Recipe

_QUOTED = r"\"(?:[^\"\\]|\\.)*\"|'(?:[^']|'')*'"
_IN_FLOW = re.compile(_QUOTED + r"|[^\s,}#][^,}\n]*?(?=[ \t]*(?:[,}]|\s#|\r?$))", re.MULTILINE)
_IN_BLOCK = re.compile(_QUOTED + r"|[^\s#][^\n]*?(?=[ \t]*(?:\s#|\r?$))", re.MULTILINE)


def write_interval(path: Path, recipe: Recipe) -> bool:
    """Put a recipe's interval and calibration into its file; everything else must be as the file has it.

    Returns:
        Whether the text was edited in place; where its layout does not allow it, it was written anew, without comments.

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
