"""From a file's text to a dataclass, by the dataclass's own type hints, with every fault at its line and column.

`text_of` reads a file, `parse` turns its text into a dataclass and raises all faults at once. `decode` does the middle
step, from a tree of nodes to a dataclass, and collects faults instead of raising them.
"""

from __future__ import annotations

import dataclasses
import math
import re
import stat
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from jorge_tune.config.characters import bool_hint, lookalike_hint, looks_like_number, number_hint, opens_with_odd_quote
from jorge_tune.config.ranges import Rule
from jorge_tune.config.tree import LARGEST_FILE, Node, read_tree, resolved, shown_key
from jorge_tune.config.unknown_keys import alternatives, hints_of, key_of, nearest, suggestion, unknown_key
from jorge_tune.errors import Fault, FaultyFileError, Finding, InputError

T = typing.TypeVar("T")

FAULTY: Any = object()  # stands for a value that could not be read and whose fault is already noted


class KeyPosition(typing.NamedTuple):
    """Where a value stands: its key's line and column, and its dotted path."""

    line: int
    column: int
    path: str

    def below(self, key: str, line: int, column: int) -> KeyPosition:
        """The place of a key inside this section."""
        return KeyPosition(line, column, f"{self.path}.{shown_key(key)}" if self.path else shown_key(key))


def decode(cls: type[T], root: Node, faults: list[Fault]) -> T | None:
    """The `cls` (a dataclass) under `root`, or None where it has faults (they are appended to `faults`)."""
    before = len(faults)
    value: T = _Decoder(faults, cls).value(cls, root, KeyPosition(root.line, root.column, ""))
    return value if len(faults) == before else None


def is_required(field: dataclasses.Field[Any]) -> bool:
    """Whether a field has no default."""
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


class _Decoder:
    def __init__(self, faults: list[Fault], root: type) -> None:
        self._faults = faults
        self._root = root

    def value(self, hint: Any, node: Node, place: KeyPosition) -> Any:
        """The node read as `hint` says, or `FAULTY`."""
        members = alternatives(hint)
        if node.value is None and type(None) in members:
            return None
        lists = [member for member in members if typing.get_origin(member) is tuple]
        if lists and len([member for member in members if member is not type(None)]) > 1:
            return self._items_or_one(lists[0], members, node, place)
        classes = [member for member in members if dataclasses.is_dataclass(member)]
        words = [member for member in members if typing.get_origin(member) is Literal]
        if classes and not (words and node.section is None):
            return self._section(classes, node, place)
        if len(members) == 2 and type(None) in members:
            hint = members[0] if members[1] is type(None) else members[1]
        bare, rule = typing.get_args(hint) if typing.get_origin(hint) is Annotated else (hint, None)
        if typing.get_origin(bare) is tuple:
            return self._items(bare, rule, node, place)
        if bare is Any or typing.get_origin(bare) is Mapping:
            return self._mapping(bare, node, place)
        reading = _read_any(tuple(member for member in members if member not in classes), node)
        if isinstance(reading, _Mismatch) and type(None) in members and node.value == "None" and not node.is_quoted:
            reading = dataclasses.replace(reading, hint=" (write null)")
        if isinstance(reading, _Mismatch) and classes:
            reading = dataclasses.replace(reading, expected=(*reading.expected, _SECTION))
        return self._fault(node, place.path, reading.sentence()) if isinstance(reading, _Mismatch) else reading

    def _fault(self, node: Node, path: str, what: str) -> Any:
        self._faults.append(Fault(node.line, node.column, path, what))
        return FAULTY

    def _items_or_one(self, items: Any, members: tuple[Any, ...], node: Node, place: KeyPosition) -> Any:
        """A list, or one value."""
        if isinstance(node.value, list):
            return self._items(items, None, node, place)
        reading = _read_any(tuple(member for member in members if member is not items), node)
        if isinstance(reading, _Mismatch):
            expected = reading.expected if reading.decisive else ("a list", *reading.expected)
            return self._fault(node, place.path, dataclasses.replace(reading, expected=expected).sentence())
        return reading

    def _items(self, hint: Any, rule: Rule | None, node: Node, place: KeyPosition) -> Any:
        arguments = typing.get_args(hint)
        count = None if arguments[-1] is Ellipsis else len(arguments)
        if not isinstance(node.value, list) or count not in (None, len(node.value)):
            expected = "a list" if count is None else f"a list of {count}"
            got = f"{len(node.value)} values" if isinstance(node.value, list) else node.shown
            return self._fault(node, place.path, f"must be {expected}, got {got}")
        items = tuple(
            self.value(arguments[0], item, KeyPosition(item.line, item.column, f"{place.path}[{index}]"))
            for index, item in enumerate(node.value)
        )
        if any(item is FAULTY for item in items):
            return FAULTY
        if rule is not None and not rule.holds(items):
            return self._fault(node, place.path, f"must be {rule.words}, got {node.plain()}")
        return items

    def _mapping(self, hint: Any, node: Node, place: KeyPosition) -> Any:
        """A section whose keys are the writer's own; with `Any` for its values, plain data."""
        if node.section is None and hint is not Any:
            return self._fault(node, place.path, f"must be {_SECTION}, got {node.shown}")
        if hint is not Any and typing.get_args(hint)[1] is not Any:
            items = {
                key: self.value(typing.get_args(hint)[1], entry.node, place.below(key, entry.line, entry.column))
                for key, entry in (node.section or {}).items()
            }
            return FAULTY if any(item is FAULTY for item in items.values()) else items
        faulty = False
        for scalar in _scalars(node):
            value = scalar.value
            if isinstance(value, float) and not math.isfinite(value):
                faulty = self._fault(scalar, place.path, f"must be finite, got {scalar.shown}")
            elif isinstance(value, str) and not scalar.is_quoted and looks_like_number(value):
                what = f"must be a number or a text in quotes, got {scalar.shown}{number_hint(value)}"
                faulty = self._fault(scalar, place.path, what)
        return FAULTY if faulty else node.plain()

    def _section(self, classes: list[Any], node: Node, place: KeyPosition) -> Any:
        if node.section is None:
            return self._fault(node, place.path, f"must be {_SECTION}, got {node.shown}")
        cls = classes[0] if len(classes) == 1 else self._chosen(classes, node, place)
        return self._fields(cls, node, place, classes)

    def _chosen(self, classes: list[Any], node: Node, place: KeyPosition) -> Any:
        """The class that the section's `name` asks for; where it asks for none, what its members share."""
        by_name = {c.name: c for c in classes if hasattr(c, "name")}
        custom = next((c for c in classes if not hasattr(c, "name")), None)
        known = [*by_name, "module:Class"] if custom else list(by_name)
        expected = ", ".join(known[:-1]) + f" or {known[-1]}"
        entry = (node.section or {}).get("name")
        if entry is None:
            self._faults.append(Fault(place.line, place.column, place.path, f"'name' is missing: {expected}"))
            return _shared_base(classes)
        name = entry.node.value
        if isinstance(name, str) and name in by_name:
            return by_name[name]
        if custom and isinstance(name, str) and ":" in name:
            return custom
        near = nearest(name, by_name) if isinstance(name, str) else None
        hint = f" (did you mean '{near}'?)" if near else ""
        path = place.below("name", 0, 0).path
        self._fault(entry.node, path, f"must be {expected}, got {entry.node.shown}{hint}")
        return by_name[near] if near else _shared_base(classes)

    def _fields(self, cls: Any, node: Node, place: KeyPosition, siblings: list[Any]) -> Any:
        hints = hints_of(cls)
        fields = {key_of(field.name): field for field in dataclasses.fields(cls)}
        undecided = cls not in siblings  # the section's name was wrong (and is noted), so its keys are not judged
        values: dict[str, Any] = {}
        for key, entry in (node.section or {}).items():
            below = place.below(key, entry.line, entry.column)
            if key == "name" and (undecided or typing.get_origin(hints.get(key)) is Literal):
                continue  # judged by _chosen
            if key in fields:
                values[key] = self.value(hints[key], entry.node, below)
            elif not undecided:
                values[key] = FAULTY
                owners = [c.name for c in siblings if hasattr(c, "name") and key in hints_of(c)]
                what = unknown_key(key, place.path, fields, owners, self._root)
                self._faults.append(Fault(below.line, below.column, below.path, what))
        for name, field in fields.items():
            if is_required(field) and name not in values and not (undecided and name == "name"):
                values[name] = FAULTY
                self._faults.append(Fault(place.line, place.column, place.path, f"'{name}' is missing"))
        if undecided or any(value is FAULTY for value in values.values()):
            return FAULTY
        return cls(**{fields[key].name: value for key, value in values.items()})


def _shared_base(classes: list[Any]) -> Any:
    """The dataclass that they are made from in the end: the fields that such a section has, whatever its name."""
    return [base for base in classes[0].__mro__ if dataclasses.is_dataclass(base)][-1]


def _scalars(node: Node) -> Iterator[Node]:
    """Every scalar under a node."""
    if isinstance(node.value, dict):
        for entry in node.value.values():
            yield from _scalars(entry.node)
    elif isinstance(node.value, list):
        for item in node.value:
            yield from _scalars(item)
    else:
        yield node


_LARGEST = 10**15  # steps, bytes and seeds stay below, and below it floats still count one by one
_SECTION = "a section (key: value)"
_NULL = "null"  # never suggested: to leave the key out says the same


@dataclass(frozen=True)
class _Mismatch:
    """What a value should have been; `decisive` if its type was right, so that other readings are not mentioned."""

    expected: tuple[str, ...]
    got: str
    decisive: bool = False
    hint: str = ""

    def sentence(self) -> str:
        words = list(dict.fromkeys(self.expected))
        expected = words[0] if len(words) == 1 else ", ".join(words[:-1]) + f" or {words[-1]}"
        return f"must be {expected}, got {self.got}{self.hint}"


def _read_any(members: tuple[Any, ...], node: Node) -> Any:
    """A scalar read as the first member that fits, else a `_Mismatch` of them all."""
    mismatches = []
    for member in members:
        reading = _read(member, node)
        if not isinstance(reading, _Mismatch):
            return reading
        mismatches.append(reading)
    for mismatch in mismatches:
        if mismatch.decisive:
            return mismatch
    expected = tuple(words for mismatch in mismatches for words in mismatch.expected if words != _NULL)
    got = max((mismatch.got for mismatch in mismatches), key=len)  # one that says `the text` says more
    return _Mismatch(expected, got, hint="".join(dict.fromkeys(mismatch.hint for mismatch in mismatches)))


def _read(hint: Any, node: Node) -> Any:
    if typing.get_origin(hint) is Annotated:
        bare, rule = typing.get_args(hint)
        reading = _read(bare, node)
        if isinstance(reading, _Mismatch) or rule.holds(reading):
            return reading
        return _Mismatch((rule.words,), node.shown, decisive=True)
    if typing.get_origin(hint) is Literal:
        choices = typing.get_args(hint)
        if isinstance(node.value, str) and node.value in choices:
            return node.value
        hint_text = suggestion(node.value, choices) or lookalike_hint(node.value) if isinstance(node.value, str) else ""
        return _Mismatch(choices, node.shown, hint=hint_text)
    return _READERS[hint](node)


def _read_int(node: Node) -> Any:
    value = _whole(node.value)
    if isinstance(value, int) and not isinstance(value, bool):
        return value if abs(value) < _LARGEST else _Mismatch(("smaller than 10^15",), node.shown, decisive=True)
    return _no_scalar("a whole number", node, lambda plain: type(_whole(plain)) is int)


def _whole(value: Any) -> Any:
    """64e3 is a float to YAML and a whole number to its writer."""
    return int(value) if isinstance(value, float) and value.is_integer() and abs(value) < 2**53 else value


def _read_float(node: Node) -> Any:
    value = node.value
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return _no_scalar("a number", node, lambda plain: type(plain) in (int, float))
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    return number if math.isfinite(number) else _Mismatch(("finite",), node.shown, decisive=True)


def _read_bool(node: Node) -> Any:
    if isinstance(node.value, bool):
        return node.value
    mismatch = _no_scalar("true", node, lambda plain: isinstance(plain, bool))
    hint = mismatch.hint or bool_hint(str(node.value))
    return dataclasses.replace(mismatch, expected=("true", "false"), hint=hint)


def _no_scalar(expected: str, node: Node, would_do: typing.Callable[[Any], bool]) -> _Mismatch:
    """A value that should be a number or boolean and is not: because of its quotes, or of the way it is written."""
    if not isinstance(node.value, str):
        return _Mismatch((expected,), node.shown)
    if node.is_quoted:
        way_out = " (remove the quotes)" if would_do(resolved(node.value)) else ""
        return _Mismatch((expected,), f"the text {node.shown}", hint=way_out)
    hint = number_hint(node.value) if expected != "true" else ""
    return _Mismatch((expected,), node.shown, hint=hint or lookalike_hint(node.value))


def _read_text(node: Node) -> Any:
    if isinstance(node.value, str):
        if opens_with_odd_quote(node.value) and not node.is_quoted:
            return _Mismatch(("text",), node.shown, decisive=True, hint=lookalike_hint(node.value))
        if looks_like_number(node.value) and not node.is_quoted:
            return _Mismatch(("text",), node.shown, hint=" (put it in quotes)")
        return node.value
    scalar = isinstance(node.value, (bool, int, float))
    return _Mismatch(("text",), node.shown, hint=" (put it in quotes)" if scalar else "")


def _read_null(node: Node) -> Any:
    return None if node.value is None else _Mismatch((_NULL,), node.shown)


_READERS: dict[Any, typing.Callable[[Node], Any]] = {
    int: _read_int,
    float: _read_float,
    bool: _read_bool,
    str: _read_text,
    type(None): _read_null,
}


Document = TypeVar("Document")

_INDEX = re.compile(r"\[(\d+)\]\.?")


def parse(
    cls: type[Document], text: str, source: str, kind: str, check: Callable[[Document], Iterable[Finding]]
) -> tuple[Document, Node]:
    """A dataclass from a text, and the tree it was read from.

    Args:
        cls: the dataclass of the whole file.
        text: the file's content.
        source: names it in messages.
        kind: what it should be, in words: "recipe".
        check: finds faults between well-formed fields; called if there are no other faults.

    Raises:
        FaultyFileError: the text has faults.
    """
    if len(text) > LARGEST_FILE:
        raise InputError(f"{source}: longer than {LARGEST_FILE} characters, so this is not a {kind}")
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
        InputError: it cannot be read, is far too large, or is not a text file; `kind` says what it should be.
    """
    try:
        if path.is_dir():
            raise InputError(f"{path}: is a directory; a {kind} is expected")
        if path.exists() and not stat.S_ISREG(path.stat().st_mode):
            raise InputError(f"{path}: is not a regular file")
        with path.open("rb") as file:
            content = file.read(LARGEST_FILE + 1)
    except (OSError, ValueError) as error:  # ValueError: a NUL character in the name
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise InputError(f"{str(path)!r}: cannot be read ({reason})") from error
    if len(content) > LARGEST_FILE:
        raise InputError(f"{path}: larger than {LARGEST_FILE} bytes, so this is not a {kind}")
    if (encoding := _wide_encoding(content)) is not None:
        what = f"is {encoding} text, not UTF-8; save the file as UTF-8 (in Notepad: Save as, Encoding)"
        raise FaultyFileError(str(path), (Fault(1, 1, "", what),))
    if b"\x00" in content:
        raise InputError(f"{path}: is a binary file; a {kind} is a text file in YAML")
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
