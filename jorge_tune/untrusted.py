"""Data and text that somebody else may have written: checked before use, and made fit to be shown.

JSON     `parse_json` reads a text as a whole or refuses it in words. Beyond what JSON itself forbids, it refuses keys
         given twice, nesting deeper than any file of ours has, numbers that do not fit 64 bits, NaN and infinities as
         bare words, and halves of surrogate pairs, which no file can hold
values   `is_number` and `is_shallow` judge plain data from a storage
shown    `shown` and `must_be` put a value into a message; `visible`, `escape` and `in_figure` write control characters
         out for a terminal, for HTML and for plotly
"""

from __future__ import annotations

import html
import json
import math
import re
from collections.abc import Mapping
from typing import Any

DEEPEST = 24  # levels of nesting; a report's twin, the deepest of ours, has 9
LARGEST_INTEGER = 2**63 - 1
_MOST_SHOWN = 60


def parse_json(content: bytes | str, *, allow_nan: bool = False) -> Any:
    """A whole text as plain data.

    Args:
        content: UTF-8.
        allow_nan: read the bare words NaN, Infinity and -Infinity, as Python writes them.

    Raises:
        ValueError: what is wrong with it, in words that follow a colon.
    """
    try:
        text = content if isinstance(content, str) else content.decode()
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8 text (byte 0x{error.object[error.start]:02x} at {error.start})") from error
    try:
        value = json.loads(
            text,
            parse_int=_integer,
            parse_float=_number,
            parse_constant=float if allow_nan else _refuse_word,
            object_pairs_hook=_object,
        )
    except json.JSONDecodeError as error:
        raise ValueError(f"not valid JSON ({error.msg} at character {error.pos + 1})") from error
    except RecursionError as error:
        raise ValueError(_too_deep()) from error

    if text.count("[") + text.count("{") > DEEPEST or "\\u" in text or not text.isascii():
        _check(value)
    return value


def shown(value: object) -> str:
    """A value as messages show it: printable, on one line, at most 60 characters."""
    try:
        text = repr(value)
    except (RecursionError, ValueError):  # a number of thousands of digits has no text
        return f"a value of type {type(value).__name__}"
    text = text if text.isprintable() else ascii(text)
    return text if len(text) <= _MOST_SHOWN else text[: _MOST_SHOWN - 3] + "..."


def _integer(text: str) -> int:
    if len(text) > len(str(LARGEST_INTEGER)) + 1 or abs(int(text)) > LARGEST_INTEGER:
        raise ValueError(f"a number must fit 64 bits, got {_cut(text)}")
    return int(text)


def _number(text: str) -> float:
    value = float(text)
    if value in (float("inf"), float("-inf")):
        raise ValueError(f"a number must fit 64 bits, got {_cut(text)}")
    return value


def _refuse_word(text: str) -> float:
    raise ValueError(f"not valid JSON (the bare word {text})")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"the key {shown(twice)} is given twice")
    return made


def _check(value: object) -> None:
    """Refuse what is nested too deep, and text that no file can hold; without a recursion of its own."""
    level: list[object] = [value]
    for _ in range(DEEPEST + 1):
        texts = [item for item in level if isinstance(item, str)]
        below = [item for items in level if isinstance(items, list) for item in items]
        for items in level:
            if isinstance(items, dict):
                texts += items.keys()
                below += items.values()
        for text in texts:
            if any("\ud800" <= character <= "\udfff" for character in text):
                raise ValueError(f"text must be valid Unicode, got {shown(text)}")
        level = below
        if not level:
            return
    raise ValueError(_too_deep())


def _too_deep() -> str:
    return f"must be nested at most {DEEPEST} levels deep"


def _cut(text: str) -> str:
    return text if len(text) <= _MOST_SHOWN else f"{text[:12]}... of {len(text)} characters"


DEEPEST_STORED = 50
"""Levels of nesting; our own data have a dozen."""


def is_shallow(value: object, deepest: int = DEEPEST_STORED) -> bool:
    """Whether plain data is nested no deeper than that; asked without recursion."""
    level = [value]
    for _ in range(deepest + 1):
        below: list[object] = []
        for item in level:
            if isinstance(item, Mapping):
                below.extend(item.values())
            elif isinstance(item, (list, tuple)):
                below.extend(item)
        if not below:
            return True
        level = below
    return False


def is_number(value: object) -> bool:
    """Whether it is a number that a float can hold, infinities included; NaN is none."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    try:
        return not math.isnan(float(value))
    except OverflowError:
        return False


def must_be(what: str, rule: str, value: object) -> str:
    """The sentence for a value that breaks its rule."""
    return f"{what} must be {rule}, got {shown(value)}"


_UNSEEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f"  # C0 without tab and line feed, DEL, C1
    "\u061c\u200b\u200e\u200f\u202a-\u202e\u2060-\u2069\ufeff"  # what turns the direction of text, or has no width
    "\u2028\u2029"  # line and paragraph separators
    "\ud800-\udfff]"  # half a pair: bytes of a file name that are no UTF-8
)


def visible(text: object) -> str:
    """The text with every control character written out as Python would write it; tabs and line feeds stay.

    Names, notes, reasons and comments come from files and storages that others write to. Raw, an escape sequence in
    them could move the cursor, recolour or retitle a terminal, and a direction mark could make a line read otherwise.

    Example:
        >>> visible("a\\x1b[31m b")
        'a\\\\x1b[31m b'
    """
    return _UNSEEN.sub(_written_out, str(text))


def _written_out(found: re.Match[str]) -> str:
    character = found[0]
    short = {"\r": "\\r"}.get(character)
    if short is not None:
        return short
    code = ord(character)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"


def escape(text: str) -> str:
    """The text for HTML, its control characters written out."""
    return html.escape(visible(text))


def in_figure(text: str) -> str:
    """The text for plotly, which takes some HTML (links too) in its labels and unescapes it again."""
    return html.escape(visible(text), quote=False)
