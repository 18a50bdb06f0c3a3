"""Which contender the others are compared with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from jorge_tune.errors import InputError
from jorge_tune.measure.runs import Contender
from jorge_tune.recipe.schema import SGD, Gen

_OTHER = 2
"""What is not SGD at all."""


class Ordered(NamedTuple):
    """Contenders, the reference first, and a note where that is not the first that was given."""

    contenders: list[Contender]
    notes: tuple[str, ...] = ()


def reference_first(contenders: Sequence[Contender], named: str | None = None) -> Ordered:
    """Put the reference first: the one named, else SGD where it runs, else the first that was given.

    SGD itself is preferred to SGD with decoupled decay (a control) and to GeN on top of SGD. A contender whose runs
    have not ended is no reference unless it is named.

    Args:
        contenders: in the order given; without runs (recipes to train) the first stays the reference.
        named: the reference's name; None: choose.

    Raises:
        InputError: there is no contender of that name.
    """
    reference = contenders[0] if named is None else _named(contenders, named)
    notes: tuple[str, ...] = ()
    if named is None and all(contender.runs for contender in contenders):
        ended = [one for one in contenders if any(run.ended for run in one.runs)]
        nearest = min(ended, key=_distance_from_sgd, default=reference)  # of equals the first
        if _distance_from_sgd(nearest) < _OTHER and nearest is not reference:
            notes = (f"{nearest.name} is the reference, since it is trained with SGD; --reference takes another",)
            reference = nearest

    return Ordered([reference, *(one for one in contenders if one is not reference)], notes)


def _distance_from_sgd(contender: Contender) -> int:
    optimizer, schedule = contender.recipe.optimizer, contender.recipe.schedule
    if not isinstance(optimizer, SGD):
        return _OTHER
    return 1 if optimizer.decoupled or isinstance(schedule, Gen) else 0


def _named(contenders: Sequence[Contender], name: str) -> Contender:
    for contender in contenders:
        if contender.name == name:
            return contender
    names = ", ".join(contender.name for contender in contenders)
    raise InputError(f"--reference: must be one of {names}, got {name!r}")
