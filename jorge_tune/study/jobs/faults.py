"""What follows from the way a run ended: the retry policy, pure.

cause           then
preempted       resume from the checkpoint: asked to stop by somebody who was not its worker
killed          the same; both up to five starts in a row without a new record, then the trial fails with the reason
out of memory   once more at the same point, alone on the machine (or the GPU) and in a fresh process; then it fails
diverged        never: the worst value, `diverged`
broke off       the trial fails: what raises once at a point raises there again
bad input       the study stops with the message: the recipe, its data or a directory would fail every other trial too;
                in a comparison, whose trials have recipes of their own, the trial fails
disk full       the study stops with the message
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, NamedTuple

from jorge_tune.untrusted import must_be

Cause = Literal["preempted", "killed", "out of memory", "broke off", "bad input", "disk full"]
Action = Literal["again", "again alone", "fail", "stop the study"]

MOST_STARTS = 5
"""Starts in a row that may end without a new record."""

_MOST = 10**15
_PAUSES = (0.0, 1.0, 2.0, 4.0, 8.0)  # seconds before the next start, so that five starts outlive a short trouble


class Reach(NamedTuple):
    """How far a trial's records reach: seeds that have ended, and records' furthest step in the next one plus 1."""

    seeds: int = 0
    steps: int = 0


NOWHERE = Reach()


@dataclass(frozen=True)
class Starts:
    """What a trial's starts came to so far; kept in the storage from the second one on.

    `in_vain` starts in a row, the present one included, began where the one before had begun. `reach` is the
    furthest that records ever reached at a start. `changes` say in words what was done differently since.
    """

    in_vain: int = 0
    reach: Reach = NOWHERE
    out_of_memory: int = 0
    changes: tuple[str, ...] = ()

    def another(self, reach: Reach) -> Starts:
        """With one more start, from where the records reach now."""
        further = reach > self.reach
        return replace(self, in_vain=1 if further else self.in_vain + 1, reach=max(reach, self.reach))

    @property
    def spent(self) -> bool:
        """Whether the present start is one too many."""
        return self.in_vain > MOST_STARTS

    @property
    def pause(self) -> float:
        """Seconds to wait before the present start."""
        return _PAUSES[min(self.in_vain, len(_PAUSES)) - 1] if self.in_vain else 0.0

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self) | {"reach": list(self.reach), "changes": list(self.changes)}


FIRST = Starts(in_vain=1)
"""A trial that was started once, from nothing; what is known of one that the storage holds no starts of."""


def starts_from_json(data: Mapping[str, Any]) -> Starts:
    """Read what `Starts.to_json` wrote.

    Raises:
        ValueError: something else wrote it; with what is wrong.
    """
    reach, changes = data.get("reach"), data.get("changes")
    if not isinstance(reach, list) or len(reach) != 2 or not all(map(_is_count, reach)):
        raise ValueError(must_be("reach", "two counts", reach))
    if not isinstance(changes, list) or not all(isinstance(change, str) for change in changes):
        raise ValueError(must_be("changes", "texts", changes))
    for key in ("in_vain", "out_of_memory"):
        if not _is_count(data.get(key)):
            raise ValueError(must_be(key, "a count", data.get(key)))
    return Starts(data["in_vain"], Reach(*reach), data["out_of_memory"], tuple(changes))


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < _MOST


class Decision(NamedTuple):
    """What to do with a trial whose run broke off, and why in words."""

    action: Action
    reason: str


def decide(cause: Cause, starts: Starts, what: str, *, own_recipe: bool = False) -> Decision:
    """What follows from one run that did not come to an end of its own.

    Args:
        cause: why it broke off.
        starts: the trial's starts, the one that ended just now included.
        what: the end in the words of whoever saw it.
        own_recipe: the study's trials have little in common, so that bad input is this trial's alone.
    """
    if cause == "disk full" or (cause == "bad input" and not own_recipe):
        return Decision("stop the study", what)
    if cause in ("bad input", "broke off"):
        return Decision("fail", what)
    if cause == "out of memory":
        if starts.out_of_memory:
            return Decision("fail", f"out of memory again, although no other run of the study ran ({what})")
        return Decision("again alone", what)
    return Decision("again", what)


def too_many(starts: Starts, what: str) -> str:
    """Why a trial whose starts are spent fails; `what` is how the last one ended, in words, or nothing."""
    last = f" (the last: {what})" if what else ""
    return f"{MOST_STARTS} starts in a row ended without a new record{last}"
