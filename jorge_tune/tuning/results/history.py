"""A study's trials as plain values: what its status, its verdict and its exports are made of."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal

from jorge_tune.recipe.plain_values import must_be
from jorge_tune.tuning.storages.claims import LEASE
from jorge_tune.tuning.storages.contents import unread_of
from jorge_tune.tuning.work.asking import FOLDER, STARTS
from jorge_tune.tuning.work.reaper import worker_of

if TYPE_CHECKING:
    from optuna.study import Study
    from optuna.trial import FrozenTrial

    from jorge_tune.tuning.planning.space import Space
    from jorge_tune.tuning.study import OpenStudy

TrialState = Literal["waiting", "running", "complete", "pruned", "failed"]

ENDED: tuple[TrialState, ...] = ("complete", "pruned", "failed")


@dataclass(frozen=True)
class TrialRow:
    """One trial. An infinite value is the worst there is: the run diverged, or missed the target."""

    number: int
    state: TrialState
    value: float | None = None
    point: Mapping[str, Any] = field(default_factory=dict)
    constraints: Mapping[str, float] = field(default_factory=dict)  # kept where not above 0
    attributes: Mapping[str, Any] = field(default_factory=dict)
    started: datetime | None = None
    ended: datetime | None = None
    worker: str | None = None  # who holds its lease
    was_restarted: bool = False
    folder: str | None = None  # random name of the folder that its runs are in; None: the study's first
    unread: tuple[str, ...] = ()  # what of it could not be read, a sentence each

    @property
    def is_feasible(self) -> bool:
        """Whether it keeps every constraint; a trial without any does."""
        return all(excess <= 0 for excess in self.constraints.values())

    @property
    def diverged(self) -> bool:
        """Whether one of its runs diverged."""
        return bool(self.attributes.get("diverged"))

    @property
    def seconds(self) -> float | None:
        """Wall-clock seconds from its (last) start to its end; None while it has not ended."""
        if self.started is None or self.ended is None:
            return None
        return (self.ended - self.started).total_seconds()


def read_rows(study: Study) -> tuple[TrialRow, ...]:
    """All trials of a study, in the order of their numbers."""
    return tuple(sorted((_row(trial) for trial in study.get_trials(deepcopy=False)), key=lambda row: row.number))


def rows_of(opened: OpenStudy) -> tuple[TrialRow, ...]:
    """All trials of a study, whose points lie in its space: a completed trial of which that cannot be said has failed.

    What of a trial could not be read is in its `unread`, and told by `unread_in`.
    """
    rows = [_within(row, opened.plan.space) for row in read_rows(opened.study)]
    return tuple(_alike(rows))


def unread_in(rows: Sequence[TrialRow], study: str) -> list[str]:
    """What of trials could not be read, in sentences that name study and trial."""
    return [f"Trial {row.number} of study {study}: {what}." for row in rows for what in row.unread]


def overlap(rows: Sequence[TrialRow]) -> bool:
    """Whether trials ran side by side."""
    spans = sorted((row.started, row.ended) for row in rows if row.started is not None and row.ended is not None)
    return any(later[0] < earlier[1] for earlier, later in itertools.pairwise(spans))


def finite(rows: Sequence[TrialRow]) -> list[TrialRow]:
    """The completed trials that have a value to rank them by."""
    return [row for row in rows if row.state == "complete" and row.value is not None and math.isfinite(row.value)]


def best_of(rows: Sequence[TrialRow], *, lower_is_better: bool) -> TrialRow | None:
    """The best feasible trial; of equals the first, so that a later one has to be better. None where there is none."""
    key = sort_key(lower_is_better)
    return min((row for row in finite(rows) if row.is_feasible), key=lambda row: (key(row), row.number), default=None)


def sort_key(lower_is_better: bool) -> Callable[[TrialRow], float]:
    """A key under which better trials come first."""
    sign = 1 if lower_is_better else -1

    def key(row: TrialRow) -> float:
        return math.inf if row.value is None else sign * row.value

    return key


def _within(row: TrialRow, space: Space) -> TrialRow:
    """The row with those parameters of its point alone that the space has, within their ranges."""
    known = {parameter.name: parameter for parameter in space}
    point = {name: value for name, value in row.point.items() if name in known and _holds(known[name].contains, value)}
    strange = [name for name in row.point if name not in point]
    missing = [name for name in known if name not in row.point] if row.state in ("complete", "pruned") else []
    if not strange and not missing:
        return row
    faults = [must_be(f"its {name}", "within the study's space", row.point[name]) for name in strange]
    faults += [f"its {name} is missing" for name in missing]
    state = "failed" if row.state == "complete" and len(point) < len(known) else row.state
    value = row.value if state == row.state else None
    return replace(row, state=state, value=value, point=point, unread=(*row.unread, *faults))


def _holds(contains: Callable[[object], bool], value: object) -> bool:
    try:
        return contains(value)
    except (OverflowError, TypeError):  # a whole number that no float can hold
        return False


def _alike(rows: Sequence[TrialRow]) -> list[TrialRow]:
    """The rows with times that compare: in a journal that another program writes to, some have a zone and some not."""
    times = [time for row in rows for time in (row.started, row.ended) if time is not None]
    if len({time.tzinfo is None for time in times}) < 2:
        return list(rows)
    return [replace(row, started=_in_utc(row.started), ended=_in_utc(row.ended)) for row in rows]


def _in_utc(time: datetime | None) -> datetime | None:
    return time if time is None or time.tzinfo is None else time.astimezone(UTC).replace(tzinfo=None)


def _row(trial: FrozenTrial) -> TrialRow:
    state = trial.state.name.lower()
    system = trial.system_attrs
    return TrialRow(
        number=trial.number,
        state="failed" if state == "fail" else state,  # type: ignore[arg-type]
        value=trial.values[0] if trial.values else None,
        point={**system.get("fixed_params", {}), **trial.params},
        constraints=trial.constraints,
        attributes=trial.user_attrs,
        started=trial.datetime_start,
        ended=trial.datetime_complete,
        worker=_holder(system.get(LEASE)),
        was_restarted=STARTS in system,
        folder=system.get(FOLDER),
        unread=tuple(unread_of(trial)),
    )


def _holder(lease: str | Mapping[str, Any] | None) -> str | None:
    """The worker that a lease names; storages hand it out as it was written, or read."""
    return worker_of(json.dumps(lease) if isinstance(lease, Mapping) else lease)
