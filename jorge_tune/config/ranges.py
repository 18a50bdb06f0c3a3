"""The ranges of values: rules that stand next to the types of fields, and the pairs of both that recur."""

from __future__ import annotations

import itertools
import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

from jorge_tune.config.characters import looks_like_number

_LONGEST_PATTERN = 1000  # characters; keeps the compiling of a hostile expression short


@dataclass(frozen=True)
class Rule:
    """`holds(value)`, and the words that follow "must be" where it does not."""

    words: str
    holds: Callable[[Any], bool]


def at_least(low: int) -> Rule:
    """Value >= low."""
    return Rule(f"{low} or more", lambda value: bool(value >= low))


def one_of(*choices: int) -> Rule:
    """Value is one of a few numbers."""
    words = " or ".join(str(choice) for choice in choices)
    return Rule(words, lambda value: value in choices)


def _compiles(pattern: str) -> bool:
    if len(pattern) > _LONGEST_PATTERN:
        return False
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            re.compile(pattern)
    except (re.error, OverflowError, RecursionError):
        return False
    return True


def _matches(pattern: str) -> Callable[[str], bool]:
    compiled = re.compile(pattern)
    return lambda value: compiled.fullmatch(value) is not None


ABOVE_ZERO = Rule("greater than 0", lambda value: value > 0)
NOT_NEGATIVE = Rule("0 or more", lambda value: value >= 0)
BELOW_ONE = Rule("at least 0 and less than 1", lambda value: 0 <= value < 1)
INSIDE_ONE = Rule("greater than 0 and less than 1", lambda value: 0 < value < 1)
UP_TO_ONE = Rule("between 0 and 1", lambda value: 0 <= value <= 1)
FACTOR = Rule("greater than 0 and at most 1", lambda value: 0 < value <= 1)
LARGEST_SEED = 2**32 - 1  # of torch, NumPy and scikit-learn together
SEED = Rule(f"between 0 and {LARGEST_SEED}", lambda value: 0 <= value <= LARGEST_SEED)
NOT_EMPTY = Rule("not empty", lambda value: len(value) > 0)
REGULAR_EXPRESSION = Rule(f"a regular expression of at most {_LONGEST_PATTERN} characters", _compiles)
SPLIT = Rule(
    "a fraction without quotes, or the name of a split",
    lambda value: value not in ("", "None") and not looks_like_number(value),
)
IMPORTABLE = Rule("written as module:name", _matches(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*"))
FILE_NAME = Rule(
    "1 to 100 letters, digits, '.', '_' or '-', the first a letter or digit (it names run directories)",
    _matches(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}"),
)
LOADER_WORKERS = Rule(
    "between 0 and 128 (each is a process of its own, and more than one for each CPU core rarely helps)",
    lambda value: 0 <= value <= 128,
)
INCREASING = Rule("increasing", lambda value: all(earlier < later for earlier, later in itertools.pairwise(value)))

Count = Annotated[int, at_least(1)]
Whole = Annotated[int, at_least(0)]
Positive = Annotated[float, ABOVE_ZERO]
NotNegative = Annotated[float, NOT_NEGATIVE]
BelowOne = Annotated[float, BELOW_ONE]
Factor = Annotated[float, FACTOR]
Text = Annotated[str, NOT_EMPTY]
