"""Plain data that others may have written: how deep it is, what its numbers are, how a message shows it."""

from __future__ import annotations

import math
from collections.abc import Mapping

from jorge_tune.strict_json import shown

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
