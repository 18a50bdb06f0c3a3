"""Nested sections as one mapping of dotted paths."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def leaves(section: Mapping[str, Any]) -> dict[str, Any]:
    """Dotted path -> value of everything that is no section itself; empty sections leave nothing.

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
