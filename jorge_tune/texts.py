"""Text that others may have written, made fit to be shown."""

from __future__ import annotations

import re

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
