"""Which preconditioners change at a step, and their change."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

from jorge_tune.optim.argument_checks import Group
from jorge_tune.optim.preconditioner import Preconditioner
from jorge_tune.optim.stacks import Stack, is_due, pick


@dataclass(frozen=True, kw_only=True)
class StackUpdate:
    """A stack at one step: the rows that have a gradient, with the steps of their parameters.

    `gradients` and `flags` give a block and a bool for each of `rows`; they are asked for only if something changes.
    """

    stack: Stack
    rows: list[int]
    steps: list[int]
    group: Group
    gradients: Callable[[], Tensor]
    flags: Callable[[], Tensor] | None = None

    def due(self) -> list[int]:
        """Which of `rows` are refreshed."""
        timetable = self.group["refresh_interval"], self.group["warm_refreshes"]
        slots = [self.stack.entries[row].slot for row in self.rows]
        return [i for i, slot in enumerate(slots) if is_due(self.steps[i], slot, *timetable)]

    def seen(self, optimizer: Preconditioner) -> list[int]:
        """Which of `rows` take the gradient into their statistics outside a refresh."""
        return [i for i, step in enumerate(self.steps) if optimizer._observes(step, self.group)]


def update_stacks(optimizer: Preconditioner, updates: Sequence[StackUpdate]) -> None:
    """The statistics of all rows that a member observes, then the refresh of those that are due."""
    for update in updates:
        seen, due = update.seen(optimizer), update.due()
        if not (seen or due):
            continue
        grads = update.gradients()
        flags = None if update.flags is None else update.flags()
        for change, chosen in ((optimizer._observe_side, seen), (optimizer._refresh_side, due)):
            if not chosen:
                continue
            part, rows = pick(grads, chosen), [update.rows[i] for i in chosen]
            for side in update.stack.sides:
                given = update.stack.read(side, rows)
                new = change(given, part if side == "left" else part.mT, update.group)
                update.stack.write(side, rows, given, new, None if flags is None else pick(flags, chosen))
