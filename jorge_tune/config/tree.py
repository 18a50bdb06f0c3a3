"""A file as a tree of nodes that know their place; only the safe part of YAML.

PyYAML composes (it never constructs objects here); every node is turned into one of ours at once. Scalars are
resolved by rules of our own: null, booleans, decimal integers, and floats that include `1e-4`, which YAML 1.1
reads as text. Whatever else some reader takes for a number (`0x10`, `010`, `1_000`, `1:30`) is text here, and refused
where a number is expected. Aliases, foreign tags, duplicate keys, deep nesting and files above `LARGEST_FILE` are
faults.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn, TypeAlias

import yaml

from jorge_tune.config.characters import (
    lookalike_faults,
    looks_like_number,
    opens_with_odd_quote,
    unseen_fault,
    unseen_in,
    without_odd_spaces,
)
from jorge_tune.errors import Fault
from jorge_tune.untrusted import shown

LARGEST_FILE = 64 * 1024  # bytes; the longest shipped recipe has under 2,000
DEEPEST = 20  # levels of nesting; the schema itself needs 6

Scalar: TypeAlias = bool | int | float | str | None


@dataclass(frozen=True)
class Node:
    """One value of the file: a scalar, a list of nodes or a mapping; line and column count from 1."""

    value: Scalar | list[Node] | dict[str, KeyedNode]
    line: int = 1
    column: int = 1
    shown: str = ""  # what messages quote
    is_quoted: bool = False  # in the file

    @property
    def section(self) -> dict[str, KeyedNode] | None:
        """The entries, if this is a mapping."""
        return self.value if isinstance(self.value, dict) else None

    def plain(self) -> Any:
        """The value as lists, dicts and scalars."""
        if isinstance(self.value, dict):
            return {key: entry.node.plain() for key, entry in self.value.items()}
        if isinstance(self.value, list):
            return [item.plain() for item in self.value]
        return self.value


@dataclass(frozen=True)
class KeyedNode:
    """A key's place and its value."""

    line: int
    column: int
    node: Node


@dataclass
class Tree:
    """What a text composed to: the root (None where there is none) and the faults found on the way."""

    root: Node | None = None
    faults: list[Fault] = field(default_factory=list)


def read_tree(text: str, kind: str = "recipe") -> Tree:
    """Compose a text, collecting faults; after a fault of syntax there is no root. `kind` is what it should be."""
    tree = Tree()
    unseen = unseen_in(text)
    tree.faults += [unseen_fault(text, run) for run in unseen]
    if not all(run.is_space for run in unseen):
        return tree  # invisible characters may split or join words, so the places after them would be wrong
    text = without_odd_spaces(text, unseen)
    try:
        composed = yaml.compose(text, Loader=_Loader)
        if composed is None:
            tree.faults.append(Fault(1, 1, "", f"the file is empty; a {kind} is expected"))
        else:
            tree.root = _Converter(tree.faults).convert(composed, "")
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line, column = (mark.line + 1, mark.column + 1) if mark else (1, 1)
        problem = _first_line(error.problem)
        tree.faults.append(Fault(line, column, "", f"not valid YAML: {problem}{_way_out(text, line, problem)}"))
        tree.faults += lookalike_faults(text)
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        column = error.position - (text.rfind("\n", 0, error.position) + 1) + 1
        tree.faults.append(Fault(line, column, "", f"the character U+{ord(text[error.position]):04X} is not allowed"))
    except (ValueError, OverflowError) as error:  # e.g. the escape "\UFFFFFFFF", beyond the last character
        tree.faults.append(Fault(1, 1, "", f"not valid YAML: {_first_line(str(error))}"))
    return tree


def node_of(value: Any, line: int = 1, column: int = 1) -> Node:
    """Plain data as nodes, all at one place."""
    if isinstance(value, Mapping):
        entries = {str(key): KeyedNode(line, column, node_of(item, line, column)) for key, item in value.items()}
        return Node(entries, line, column, "a mapping")
    if isinstance(value, Sequence) and not isinstance(value, str):
        return Node([node_of(item, line, column) for item in value], line, column, "a list")
    return Node(value, line, column, shown(str(value)), is_quoted=isinstance(value, str) and _needs_quotes(value))


def _needs_quotes(text: str) -> bool:
    """Whether a text would be, or look like, something else without them."""
    return resolved(text) != text or looks_like_number(text) or opens_with_odd_quote(text)


def _first_line(problem: str | None) -> str:
    first = (problem or "unreadable").split("\n")[0]
    return first if first.isprintable() else ascii(first)


_UNSPACED = re.compile(r"\s*(?:- )?([A-Za-z_]\w*)(?::(?=[^\s:])|\s*=)")


def _way_out(text: str, line: int, problem: str) -> str:
    """What most likely broke the file: searched in the line where the parser stopped and in the one before it."""
    lines = text.split("\n")
    if "\\t" in problem or "\t" in re.match(r"\s*", lines[min(line, len(lines)) - 1])[0]:  # type: ignore[index]
        return "; there is a tab: indent with spaces"
    for number in (line - 1, line):
        found = _UNSPACED.match(lines[number - 1]) if 0 < number <= len(lines) else None
        if found:
            return f"; in line {number}, write '{found[1]}: value', with a colon and a space"
    return ""


class _Loader(yaml.SafeLoader):
    """Composes with bounded depth, without aliases, and resolves plain scalars by the four rules below."""

    # Copied per class by PyYAML when a rule is added; an own empty table leaves SafeLoader's as it is.
    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self._depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        event = self.peek_event()  # type: ignore[no-untyped-call]
        if isinstance(event, yaml.AliasEvent):
            _refuse("aliases (*name) are not accepted; write the value out", event)
        if self._depth >= DEEPEST:
            _refuse(f"nested deeper than {DEEPEST} levels", event)
        self._depth += 1
        try:
            return super().compose_node(parent, index)
        finally:
            self._depth -= 1


def _refuse(problem: str, event: Any) -> NoReturn:
    raise yaml.composer.ComposerError(None, None, problem, event.start_mark)


_TAG = "tag:yaml.org,2002:"
_FLOAT = r"[-+]?(?:\.[0-9]+|[0-9]+\.[0-9]*(?:[eE][-+]?[0-9]+)?|[0-9]+[eE][-+]?[0-9]+|\.[0-9]+[eE][-+]?[0-9]+)"
_RESOLVERS = {
    "null": (r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    "bool": (r"true|True|TRUE|yes|Yes|YES|on|On|ON|false|False|FALSE|no|No|NO|off|Off|OFF", list("tTyYoOfFnN")),
    "int": (r"[-+]?(?:0|[1-9][0-9]*)", list("-+0123456789")),  # 010 is 8 to some readers of YAML, 10 to others
    "float": (rf"{_FLOAT}|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)", list("-+.0123456789")),
}
for _name, (_pattern, _first) in _RESOLVERS.items():
    _Loader.add_implicit_resolver(_TAG + _name, re.compile(rf"(?:{_pattern})\Z"), _first)

_SCALARS = {_TAG + name: name for name in ("null", "bool", "int", "float", "str")}


class _Converter:
    """PyYAML's nodes into ours."""

    def __init__(self, faults: list[Fault]) -> None:
        self._faults = faults

    def convert(self, node: yaml.Node, path: str) -> Node:
        line, column = node.start_mark.line + 1, node.start_mark.column + 1
        if isinstance(node, yaml.MappingNode) and node.tag == _TAG + "map":
            return Node(dict(self._entries(node, path)), line, column, "a mapping")
        if isinstance(node, yaml.SequenceNode) and node.tag == _TAG + "seq":
            return Node([self.convert(item, path) for item in node.value], line, column, "a list")
        if isinstance(node, yaml.ScalarNode) and node.tag in _SCALARS:
            return self._scalar(node, path)
        self._faults.append(Fault(line, column, path, f"the tag {shown(node.tag)} is not allowed"))
        return Node(None, line, column, "a tagged value")

    def _entries(self, node: yaml.MappingNode, path: str) -> Iterator[tuple[str, KeyedNode]]:
        first_lines: dict[str, int] = {}
        for key_node, value_node in node.value:
            line, column = key_node.start_mark.line + 1, key_node.start_mark.column + 1
            if not isinstance(key_node, yaml.ScalarNode) or not isinstance(key_node.value, str):
                self._faults.append(Fault(line, column, path, "a key must be a word"))
                continue
            key = key_node.value
            below = f"{path}.{shown_key(key)}" if path else shown_key(key)
            if not is_text(key):
                self._faults.append(Fault(line, column, below, "a key must be valid Unicode text"))
                continue
            entry = KeyedNode(line, column, self.convert(value_node, below))
            if key in first_lines:
                what = f"given twice (first on line {first_lines[key]}); keep one"
                self._faults.append(Fault(line, column, below, what))
                continue
            first_lines[key] = line
            yield key, entry

    def _scalar(self, node: yaml.ScalarNode, path: str) -> Node:
        line, column = node.start_mark.line + 1, node.start_mark.column + 1
        text: str = node.value
        kind = _SCALARS[node.tag]
        try:
            value = _construct(kind, text)
        except ValueError:
            self._faults.append(Fault(line, column, path, f"{shown(text)} is not a readable {kind}"))
            value = None
        written = shown(text) if text or node.style else "nothing"
        return Node(value, line, column, written, is_quoted=node.style in ("'", '"'))


def resolved(text: str) -> Scalar:
    """What a text would be without its quotes."""
    for kind, (pattern, _) in _RESOLVERS.items():
        if re.fullmatch(pattern, text):
            try:
                return _construct(kind, text)
            except ValueError:
                return text
    return text


def shown_key(key: str) -> str:
    """A key as dotted paths show it: printable, at most 40 characters."""
    printable = key if key.isprintable() else ascii(key)[1:-1]
    return printable if len(printable) <= 40 else printable[:37] + "..."


def is_text(value: str) -> bool:
    """Whether a string can be written as UTF-8 (an escape can smuggle half of a surrogate pair in)."""
    return not any("\ud800" <= character <= "\udfff" for character in value)


def _construct(kind: str, text: str) -> Scalar:
    """A scalar of the given kind.

    Raises:
        ValueError: the text is not one.
    """
    if kind == "str":
        if not is_text(text):
            raise ValueError(text)
        return text
    if kind == "null":
        return None
    if kind == "bool":
        word = text.lower()
        if word not in {"true", "yes", "on", "false", "no", "off"}:
            raise ValueError(text)
        return word in {"true", "yes", "on"}
    if kind == "int":
        return int(text)
    return float(text.replace(".", "", 1) if text.lower().lstrip("+-") in {".inf", ".nan"} else text)
