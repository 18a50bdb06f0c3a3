"""Characters that a person cannot see or mistakes for others; numbers and booleans that YAML does not read as such.

A no-break space copied from a web page, a zero-width space, a typographic quote or dash: each is named with its place
and what to type instead. Within quotes and comments every character is accepted.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from typing import Final, NamedTuple

from jorge_tune.errors import Fault

_BREAKS: Final = "\n\r\x85\u2028\u2029"  # what PyYAML takes for the end of a line
_OPENERS: Final = ":[{,-?"  # a quote opens a text only after one of these, or at the start of a line
_DOUBLE_QUOTES: Final = "\u201c\u201d\u201e\u201f\u00ab\u00bb\u2033"
_SINGLE_QUOTES: Final = "\u2018\u2019\u201a\u201b\u2039\u203a\u2032\u00b4"
_DASHES: Final = "\u2010\u2011\u2012\u2013\u2014\u2015\u2212"
_PLAIN: Final = dict.fromkeys(_DOUBLE_QUOTES, '"') | dict.fromkeys(_SINGLE_QUOTES, "'") | dict.fromkeys(_DASHES, "-")


class Unseen(NamedTuple):
    """A run of characters outside quotes and comments that look like a space, or like nothing."""

    start: int
    end: int
    line: int
    column: int
    is_space: bool


def unseen_in(text: str) -> list[Unseen]:
    """Every such run. (Block scalars, which recipes do not use, are treated like the rest.)"""
    if text.isascii():
        return []
    found: list[Unseen] = []
    for index, line, column in _outside_quotes(text):
        category = unicodedata.category(text[index])
        is_space = category == "Zs" and text[index] != " "
        if not is_space and category not in ("Cf", "Zl", "Zp") and text[index] != "\x85":
            continue
        if found and found[-1].end == index and found[-1].is_space == is_space:
            found[-1] = found[-1]._replace(end=index + 1)
        else:
            found.append(Unseen(index, index + 1, line, column, is_space))
    return found


def without_odd_spaces(text: str, runs: list[Unseen]) -> str:
    """The text with plain spaces in place of those that only look like one; every place stays where it was."""
    pieces, at = [], 0
    for run in runs:
        if run.is_space:
            pieces += [text[at : run.start], " " * (run.end - run.start)]
            at = run.end
    return "".join([*pieces, text[at:]])


def unseen_fault(text: str, run: Unseen) -> Fault:
    """What to say of a run, at the place of what follows it, which can be seen."""
    column = run.column + run.end - run.start
    before = re.split(f"[{_BREAKS}]", text[max(0, run.start - 200) : run.start])[-1]
    word = (before.split() or [""])[-1][-30:]
    word = word if word.isprintable() else ascii(word)[1:-1]
    name = named(text[run.start])
    if not run.is_space:
        where = f"after {word}" if word else "at the start of the line"
        return Fault(run.line, column, "", f"{name}, is invisible {where}; delete it")
    if not word:
        return Fault(run.line, column, "", f"the line begins with {name}; indent with plain spaces")
    way_out = "type a plain one" + ("" if word[-1] in ":,[{-" else ", or put the text in quotes if you mean it")
    return Fault(run.line, column, "", f"the space after {word} is {name}; {way_out}")


def named(character: str) -> str:
    """`U+00A0, a no-break space`."""
    name = unicodedata.name(character, "control character").lower()
    name = "byte order mark" if character == "\ufeff" else name
    return f"U+{ord(character):04X}, {'an' if name[0] in 'aeiou' else 'a'} {name}"


def plain_form(character: str) -> str | None:
    """The ASCII character that a lookalike is taken for; None where it is none."""
    if character.isascii():
        return None
    form = _PLAIN.get(character) or unicodedata.normalize("NFKC", character)
    return form if len(form) == 1 and form.isascii() and form.isprintable() and form != " " else None


def lookalike_hint(text: str) -> str:
    """` (U+2013, an en dash: type -)` for the first lookalike in a text; nothing where it has none."""
    for character in text[:200]:
        if (form := plain_form(character)) is not None:
            return f" ({named(character)}: type {form})"
    return ""


def opens_with_odd_quote(text: str) -> bool:
    """Whether an unquoted text begins with a quotation mark that YAML does not know."""
    return text[:1] != "" and text[0] in _DOUBLE_QUOTES + _SINGLE_QUOTES


def lookalike_faults(text: str) -> list[Fault]:
    """The lookalikes outside quotes and comments, for a text that is no valid YAML: one of them may be why."""
    if text.isascii():
        return []
    found = [(index, line, column) for index, line, column in _outside_quotes(text) if plain_form(text[index])]
    return [
        Fault(line, column, "", f"{named(text[index])}, looks like {plain_form(text[index])}; type that")
        for index, line, column in found
    ]


def _outside_quotes(text: str) -> Iterator[tuple[int, int, int]]:
    """Offset, line and column of each character that is in no quotes and no comment."""
    line, start, quote, last = 1, 0, "", ""  # `last`: the line's last character so far that is no space
    index = 0
    while index < len(text):
        character = text[index]
        if character in _BREAKS:
            if quote not in ("'", '"'):
                quote = ""  # a comment ends with its line
            if character not in "\n\r":
                yield index, line, index - start + 1
            if not (character == "\r" and text[index + 1 : index + 2] == "\n"):
                line, start, last = line + 1, index + 1, ""
        elif quote == "#":
            pass
        elif quote:
            escapes = quote == '"' and character == "\\" and text[index + 1 : index + 2] not in _BREAKS
            if escapes or text[index : index + 2] == "''" == quote * 2:
                index += 1  # an escape, or a quote written twice
            elif character == quote:
                quote = ""
        elif character == "#" and (index == start or text[index - 1].isspace()):
            quote = "#"
        elif character in "'\"" and (not last or last in _OPENERS):
            quote, last = character, character
        else:
            yield index, line, index - start + 1
            last = last if character.isspace() else character
        index += 1


_INTEGER: Final = re.compile(r"[-+]?[0-9]+")
_GROUPED: Final = re.compile(r"[-+]?[0-9][0-9_]*(?:\.[0-9_]*)?(?:[eE][-+]?[0-9]+)?")
_BASED: Final = re.compile(r"[-+]?0(?:x[0-9a-fA-F]+|o[0-7]+|b[01]+)", re.IGNORECASE)
_WITH_COMMAS: Final = re.compile(r"[-+]?[0-9]+(?:[.,' ][0-9]+)+")
_RATIO: Final = re.compile(r"([0-9]{1,9})\s*/\s*([0-9]{1,9})")
_POWER: Final = re.compile(r"([0-9]{1,4})\s*(?:\^|\*\*)\s*([-+]?[0-9]{1,2})")
_SIXTIES: Final = re.compile(r"[-+]?[0-9]+(?::[0-5]?[0-9])+(?:\.[0-9]*)?")
_SUFFIXED: Final = re.compile(r"([-+]?[0-9]+(?:\.[0-9]+)?)\s*([kKM%])")
_SCALES: Final = {"k": 1e3, "K": 1e3, "M": 1e6, "%": 1e-2}


def number_hint(text: str) -> str:
    """How to write a number that this reader takes for text: ` (write 1000)`; nothing where no number can be seen.

    Example:
        >>> number_hint("1_000"), number_hint("0x10"), number_hint("010")
        (' (write 1000)', ' (write 16)', ' (some YAML readers take it as 8, others as 10: write the number you mean)')
    """
    text = text.strip()
    if len(text) > 40:
        return ""
    plain = "".join(plain_form(character) or character for character in text)
    if _INTEGER.fullmatch(plain) and plain == text and plain.lstrip("+-")[0] == "0":
        others = plain.lstrip("+-").lstrip("0") or "0"
        as_octal = int(others, 8) if set(others) <= set("01234567") else int(others)
        if as_octal == int(others):
            return f" (write {int(plain)})"
        return f" (some YAML readers take it as {as_octal}, others as {int(others)}: write the number you mean)"
    if plain != text or "_" in text:
        return _written(plain.replace("_", "")) if _GROUPED.fullmatch(plain) else ""
    if _BASED.fullmatch(text):
        return _written(str(int(text, 0)))
    if _WITH_COMMAS.fullmatch(text):
        return _without_separators(text)
    if (found := _RATIO.fullmatch(text)) and int(found[2]):
        return _written(f"{int(found[1]) / int(found[2]):.6g}")
    if (found := _POWER.fullmatch(text)) and (int(found[1]) or int(found[2]) >= 0):
        return _written(f"{float(int(found[1])) ** int(found[2]):.6g}")
    if found := _SUFFIXED.fullmatch(text):
        return _written(f"{float(found[1]) * _SCALES[found[2]]:.15g}")
    return " (some YAML readers take it as a base-60 number: write a plain number)" if _SIXTIES.fullmatch(text) else ""


def looks_like_number(text: str) -> bool:
    """Whether other YAML readers, or people, take this text for a number, so that it must not pass as text."""
    return any(form.fullmatch(text) for form in (_INTEGER, _GROUPED, _BASED, _SIXTIES))


def _without_separators(text: str) -> str:
    """`1.000,5`: the last mark is the decimal one, unless it could as well part thousands."""
    marks = [character for character in text.lstrip("+-") if not character.isdigit()]
    head, _, tail = text.rpartition(marks[-1])
    digits = re.sub(r"[.,' ]", "", head)
    is_decimal = marks[-1] in ".," and marks.count(marks[-1]) == 1
    if len(marks) == 1 and marks[0] == "," and len(tail) == 3:
        return f" (a number has no comma: write {digits}{tail}, or {digits}.{tail} if the comma is the decimal mark)"
    return _written(f"{digits}.{tail}" if is_decimal else digits + tail)


def _written(number: str) -> str:
    return f" (write {number})"


_TRUE: Final = frozenset({"y", "t", "1", "enable", "enabled"})
_FALSE: Final = frozenset({"n", "f", "0", "disable", "disabled", "none"})


def bool_hint(text: str) -> str:
    """` (write true)` or ` (write false)` for other words with that meaning; else nothing."""
    word = text.strip().lower()
    return _written("true") if word in _TRUE else _written("false") if word in _FALSE else ""
