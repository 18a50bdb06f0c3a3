"""A recipe as text: readable numbers, a comment for each reason, and a line per field where there are comments.

What is written is read back as the same recipe, to the last bit.
"""

from __future__ import annotations

import dataclasses
import re
import textwrap
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from jorge_tune.config.decode import is_required
from jorge_tune.config.unknown_keys import key_of
from jorge_tune.recipe.schema import Recipe, Warmup

if TYPE_CHECKING:
    from jorge_tune.recipe.derivation import Derivation

_WIDTH = 110
_BLOCKS = ("task", "optimizer")  # sections that always have one field per line
_PLAIN = re.compile(r"[A-Za-z_][A-Za-z0-9_./-]*(?::[A-Za-z0-9_./-]+)?")
_WORDS_OF_YAML = frozenset({"null", "true", "false", "yes", "no", "on", "off", "y", "n"})
_ESCAPES = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\t": "\\t", "\r": "\\r"}


def recipe_to_dict(recipe: Recipe) -> dict[str, Any]:
    """The recipe as plain data, defaults left out as in a file."""
    return _plain(recipe, "", frozenset())


def render_recipe(recipe: Recipe, derivations: Sequence[Derivation] = ()) -> str:
    """The recipe as YAML, each derivation that has a reason as a comment where its field stands (or stood)."""
    notes = {d.field: d.comment() for d in derivations if d.comment()}
    data = _plain(recipe, "", frozenset(notes))
    lines: list[str] = []
    for key, value in data.items():
        lines += _entry(key, value, key, 0, notes)
    present = set(_paths(data, ""))
    for field, note in notes.items():  # top-level fields that the recipe no longer has
        if field not in present and "." not in field:
            lines += _comment(f"{field}: {note}", 0)
    return "\n".join(lines) + "\n"


def number(value: float) -> str:
    """The shortest digits that read back as `value`, in a form that every YAML reader takes as a number.

    Example:
        >>> number(0.1), number(0.0005), number(3e10)
        ('0.1', '5.0e-4', '3.0e+10')
    """
    shortest = Decimal(repr(float(value)))
    if value == 0 or 0.01 <= abs(value) < 1e6:
        return f"{shortest:f}" if "." in f"{shortest:f}" else f"{shortest:f}.0"
    sign, digits, _ = shortest.normalize().as_tuple()
    mantissa = f"{digits[0]}." + ("".join(str(digit) for digit in digits[1:]) or "0")
    return f"{'-' if sign else ''}{mantissa}e{shortest.adjusted():+d}"


def scalar(value: object) -> str:
    """One value in flow style: scalars, lists and mappings alike."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return number(value)
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{scalar(key)}: {scalar(item)}" for key, item in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(scalar(item) for item in value) + "]"
    return _text(value) if isinstance(value, str) else str(value)


def _text(value: str) -> str:
    if _PLAIN.fullmatch(value) and value.lower() not in _WORDS_OF_YAML:
        return value
    return '"' + "".join(_escaped(character) for character in value) + '"'


def _escaped(character: str) -> str:
    if character in _ESCAPES:
        return _ESCAPES[character]
    if character.isprintable() and character != "\ufeff":
        return character
    return f"\\U{ord(character):08X}"


def _plain(section: Any, path: str, kept: frozenset[str]) -> dict[str, Any]:
    """A section's fields without its defaults, except those whose dotted path is in `kept`."""
    data: dict[str, Any] = {}
    for field in dataclasses.fields(section):
        key = key_of(field.name)
        below = f"{path}.{key}" if path else key
        value = getattr(section, field.name)
        asked_for = value is not None and any(keep == below or keep.startswith(below + ".") for keep in kept)
        always = is_required(field) or (key in ("name", "version", "gamma", "from") and value is not None)
        if always or asked_for or value != _default(field):
            data[key] = _plain_value(value, below, kept)
    if isinstance(section, Warmup) and section.epochs is not None and float(section.epochs).is_integer():
        data["epochs"] = int(section.epochs)  # a warm-up of 5 epochs reads better than one of 5.0
    return data


def _plain_value(value: Any, path: str, kept: frozenset[str]) -> Any:
    if dataclasses.is_dataclass(value):
        return _plain(value, path, kept)
    if isinstance(value, Mapping):
        return {key: _plain_value(item, path, frozenset()) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain_value(item, path, frozenset()) for item in value]
    return value


def _default(field: dataclasses.Field[Any]) -> Any:
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return field.default


def _paths(data: Mapping[str, Any], path: str) -> list[str]:
    """The dotted path of every key."""
    found = []
    for key, value in data.items():
        below = f"{path}.{key}" if path else key
        found.append(below)
        if isinstance(value, Mapping):
            found += _paths(value, below)
    return found


def _entry(key: str, value: Any, path: str, indent: int, notes: Mapping[str, str]) -> list[str]:
    """The lines of one key, with the comments that belong to it and to what lies under it."""
    start = " " * indent + f"{scalar(key)}:"
    inside = any(field.startswith(path + ".") for field in notes)
    flow = f"{start} {scalar(value)}"
    as_block = path in _BLOCKS or inside or len(flow) > _WIDTH
    if isinstance(value, Mapping) and value and as_block:
        lines = _with_comment(start, notes.get(path, ""), indent)
        present = set(_paths(value, path))
        for field, note in notes.items():
            if field.rpartition(".")[0] == path and field not in present:
                lines += _comment(f"{field.rpartition('.')[2]}: {note}", indent + 2)
        for name, item in value.items():
            lines += _entry(name, item, f"{path}.{name}", indent + 2, notes)
        return lines
    if isinstance(value, list) and value and len(flow) > _WIDTH:
        items = [" " * indent + f"  - {scalar(item)}" for item in value]
        return [*_with_comment(start, notes.get(path, ""), indent), *items]
    return _with_comment(flow, notes.get(path, ""), indent)


def _with_comment(line: str, note: str, indent: int) -> list[str]:
    """The note behind the line where it fits, else above it."""
    if not note:
        return [line]
    inline = f"{line}  # {_one_line(note)}"
    return [inline] if len(inline) <= _WIDTH else [*_comment(note, indent), line]


def _comment(note: str, indent: int) -> list[str]:
    start = " " * indent + "# "
    return textwrap.wrap(_one_line(note), _WIDTH, initial_indent=start, subsequent_indent=start + "  ")


def _one_line(note: str) -> str:
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in " ".join(note.split()))


def leaves(section: Mapping[str, Any]) -> dict[str, Any]:
    """Dotted path -> value of everything that is not a section; empty sections leave nothing.

    Example:
        >>> leaves({"optimizer": {"lr": 0.1}, "seed": 0})
        {'optimizer.lr': 0.1, 'seed': 0}
    """
    found: dict[str, Any] = {}
    for key, value in section.items():
        if isinstance(value, Mapping):
            found |= {f"{key}.{path}": leaf for path, leaf in leaves(value).items()}
        else:
            found[key] = value
    return found
