"""One reader for every file of ours: its text, its tree, its dataclass, and all faults in one go."""

from __future__ import annotations

import re
import stat
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypeVar

from jorge_tune.errors import Fault, FaultyFileError, InputError
from jorge_tune.recipe.checks import Finding
from jorge_tune.recipe.decode import decode
from jorge_tune.recipe.nodes import LARGEST_FILE, Node, read_tree

T = TypeVar("T")

_INDEX = re.compile(r"\[(\d+)\]\.?")


def parse(cls: type[T], text: str, source: str, kind: str, check: Callable[[T], Iterable[Finding]]) -> tuple[T, Node]:
    """A dataclass from a text, and the tree it was read from.

    Args:
        cls: the dataclass of the whole file.
        text: the file's content.
        source: names it in messages.
        kind: what it should be, in words: "recipe".
        check: what is wrong although every field is well formed; asked where nothing else is wrong.

    Raises:
        FaultyFileError: the text has faults.
    """
    if len(text) > LARGEST_FILE:
        raise InputError(f"{source}: longer than {LARGEST_FILE} characters, so this is no {kind}")
    tree = read_tree(text, kind)
    faults = tree.faults
    value = decode(cls, tree.root, faults) if tree.root is not None else None
    if value is not None and tree.root is not None:
        faults += [located(finding, tree.root) for finding in check(value)]
    if faults or value is None or tree.root is None:
        raise FaultyFileError(source, tuple(sorted(faults)))
    return value, tree.root


def located(finding: Finding, root: Node) -> Fault:
    """The finding at its key's place; a missing key is located at the nearest section that exists."""
    path, what = finding
    line, column, node, rest = root.line, root.column, root, path
    while rest:
        index = _INDEX.match(rest)
        if isinstance(node.value, list) and index is not None and int(index[1]) < len(node.value):
            node = node.value[int(index[1])]
            line, column, rest = node.line, node.column, rest[index.end() :]
            continue
        keys = [key for key in node.section or {} if rest == key or rest.startswith((f"{key}.", f"{key}["))]
        if not keys:
            break
        key = max(keys, key=len)  # a key may have dots itself
        entry = (node.section or {})[key]
        line, column, node, rest = entry.line, entry.column, entry.node, rest[len(key) :].removeprefix(".")
    return Fault(line, column, path, what)


def text_of(path: Path, kind: str) -> str:
    """A file's text.

    Raises:
        InputError: it cannot be read, is far too large, or is no text file; `kind` says what it should be.
    """
    try:
        if path.is_dir():
            raise InputError(f"{path}: is a folder; a {kind} is expected")
        if path.exists() and not stat.S_ISREG(path.stat().st_mode):
            raise InputError(f"{path}: is no regular file")
        with path.open("rb") as file:
            content = file.read(LARGEST_FILE + 1)
    except (OSError, ValueError) as error:  # ValueError: a NUL character in the name
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise InputError(f"{str(path)!r}: cannot be read ({reason})") from error
    if len(content) > LARGEST_FILE:
        raise InputError(f"{path}: larger than {LARGEST_FILE} bytes, so this is no {kind}")
    if (encoding := _wide_encoding(content)) is not None:
        what = f"{encoding} text, and not UTF-8; save the file as UTF-8 (in Notepad: Save as, Encoding)"
        raise FaultyFileError(str(path), (Fault(1, 1, "", what),))
    if b"\x00" in content:
        raise InputError(f"{path}: a binary file; a {kind} is a text file in YAML")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        column = len(content[content.rfind(b"\n", 0, error.start) + 1 : error.start].decode()) + 1
        byte = content[error.start : error.start + 1]
        meant = byte.decode("cp1252", errors="ignore")
        latin = f", which is {meant} in Latin-1" if meant.isprintable() and meant else ""
        what = f"not UTF-8 text (byte 0x{byte[0]:02x}{latin}); save the file as UTF-8"
        fault = Fault(line, column, "", what)
        raise FaultyFileError(str(path), (fault,)) from error


_MARKS = {b"\xff\xfe\x00\x00": "UTF-32", b"\x00\x00\xfe\xff": "UTF-32", b"\xff\xfe": "UTF-16", b"\xfe\xff": "UTF-16"}


def _wide_encoding(content: bytes) -> str | None:
    """UTF-16 or UTF-32, by its mark, or by where the zero bytes of its first letters are; None for anything else."""
    marked = next((encoding for mark, encoding in _MARKS.items() if content.startswith(mark)), None)
    if marked is not None or b"\x00" not in content[:8] or len(content) < 8:
        return marked
    zeros = tuple(byte == 0 for byte in content[:8])
    if zeros in ((False, True, True, True) * 2, (True, True, True, False) * 2):
        return "UTF-32"
    return "UTF-16" if zeros in ((False, True) * 4, (True, False) * 4) else None
