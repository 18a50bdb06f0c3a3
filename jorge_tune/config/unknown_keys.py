"""What to say of a key that a section does not have: a similar word, another tool's word, or one of another section.

A kind of file may bring a `Vocabulary` of the words that people use for its fields; its root class holds it as
`vocabulary`.
"""

from __future__ import annotations

import dataclasses
import functools
import re
import types
import typing
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, Union

from jorge_tune.config.characters import lookalike_hint, named
from jorge_tune.config.tree import shown_key

_LISTED: Final = 40  # valid keys that a message lists at most


@dataclass(frozen=True)
class Vocabulary:
    """The words that people bring to one kind of file.

    Args:
        paths: other tools' words, each with the dotted path of the field that it means.
        sentences: words that no field stands for, each with what to say instead.
    """

    paths: Mapping[str, str]
    sentences: Mapping[str, str]

    def meant_path(self, key: str, root: type) -> str | None:
        """Where in a file a key belongs that is another tool's word, or a field of another section.

        Of a dotted name the last word counts, where the whole is no field. None where it is unclear.

        Args:
            key: as it is written.
            root: the class of the whole file.
        """
        whole = _as_word(key)
        known = _paths(root)
        if whole in known:
            return whole

        longer = [path for path in known if "." in whole and path.endswith(f".{whole}")]
        word = whole.rpartition(".")[2]
        if len(longer) == 1 or word in self.paths:
            return longer[0] if longer else self.paths[word]

        places = [path for path in known if path.rpartition(".")[2] == word]
        fewest = [path for path in places if path.count(".") == min(other.count(".") for other in places)]
        return fewest[0] if len(fewest) == 1 else None


_NO_WORDS: Final = Vocabulary({}, {})


def unknown_key(key: str, section: str, fields: Iterable[str], owners: Iterable[str], root: type) -> str:
    """What to say of a key that its section does not have.

    Args:
        key: as it is written.
        section: its dotted path, empty at the top level.
        fields: the keys that the section has.
        owners: the names of those kinds of this section that do have the key (`sgd` has `momentum`, `adamw` has not).
        root: the class of the whole file; its `vocabulary`, if it has one, holds the words that people bring.
    """
    vocabulary: Vocabulary | None = getattr(root, "vocabulary", None)
    words = vocabulary or _NO_WORDS
    known = list(fields)
    if misread := _misread(key):
        return f"unknown key{misread}"

    word = _as_word(key)
    meant = None if vocabulary is None else vocabulary.meant_path(key, root)
    parent, _, name = (meant or "").rpartition(".")
    is_alias_here = name in known and (parent == section or (bool(section) and words.paths.get(word) == meant))
    if word in known or is_alias_here:
        return f"unknown key (did you mean '{word if word in known else name}'?)"

    if listed := list(owners):
        who = listed[0] + " has" if len(listed) == 1 else f"{', '.join(listed[:-1])} and {listed[-1]} have"
        return f"unknown key; {who} it; {_valid(known)}"
    if word in words.sentences:
        return f"unknown key; {words.sentences[word]}"
    if meant is not None and parent != section:
        where = f"it belongs under {parent}, as {meant}" if parent else f"{meant} is at the top level"
        return f"unknown key; {where}"
    return "unknown key" + (suggestion(key, known) or f"; {_valid(known)}")


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The known word that is most like a misspelt one, if any is near."""
    import difflib  # only faulty files pay for it

    matches = difflib.get_close_matches(word[:100].lower(), list(known), n=1)
    return matches[0] if matches else None


def suggestion(word: str, known: Iterable[str]) -> str:
    """` (did you mean 'x'?)`, or nothing where no known word is near."""
    near = nearest(word, known)
    return f" (did you mean '{near}'?)" if near else ""


@functools.cache
def hints_of(cls: type) -> dict[str, Any]:
    """A dataclass's fields, by their keys in a file, and their types, `Annotated` kept."""
    return {key_of(name): hint for name, hint in typing.get_type_hints(cls, include_extras=True).items()}


def key_of(name: str) -> str:
    """The key in a file of a field that is a word of Python's: `from_` is written `from`."""
    return name.removesuffix("_")


def alternatives(hint: Any) -> tuple[Any, ...]:
    """The members of a union, else the hint alone."""
    return typing.get_args(hint) if typing.get_origin(hint) in (Union, types.UnionType) else (hint,)


def _misread(key: str) -> str:
    """What the key is where it is no word at all: a character in disguise, half of a number, two words in one."""
    if foreign := next((character for character in key if not character.isascii()), None):
        return lookalike_hint(key) or f" ({shown_key(foreign)} is {named(foreign)})"
    if re.fullmatch(r"[0-9]+", key):
        return "; a comma ends a value within braces, so the decimal mark must be a point"
    if joined := re.match(r"(\w+)\s*[:=]", key):
        return f"; write '{joined[1]}: value', with a colon and a space"
    return ""


def _as_word(key: str) -> str:
    return key.strip().lower().replace("-", "_").replace(" ", "_")


def _valid(known: list[str]) -> str:
    more = f" and {len(known) - _LISTED} more" if len(known) > _LISTED else ""
    arguments = "; other arguments of the class go under args" if "args" in known else ""
    return f"valid keys are {', '.join(known[:_LISTED])}{more}{arguments}"


@functools.cache
def _paths(root: type) -> tuple[str, ...]:
    """Every dotted path in a file, in order."""
    return tuple(sorted(set(_walk(root, ""))))


def _walk(cls: Any, path: str) -> Iterator[str]:
    for name, hint in hints_of(cls).items():
        if typing.get_origin(hint) is typing.ClassVar:
            continue
        below = f"{path}.{name}" if path else name
        yield below
        for member in alternatives(hint):
            if dataclasses.is_dataclass(member):
                yield from _walk(member, below)
