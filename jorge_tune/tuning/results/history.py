"""A study's trials as plain values: what its status, its verdict and its exports are made of."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal

from jorge_tune.tuning.storages.claims import LEASE
from jorge_tune.tuning.work.asking import FOLDER, STARTS
from jorge_tune.tuning.work.reaper import worker_of

if TYPE_CHECKING:
    from optuna.study import Study
    from optuna.trial import FrozenTrial

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


def _row(trial: FrozenTrial) -> TrialRow:
    state = trial.state.name.lower()
    system = trial.system_attrs
    return TrialRow(
        number=trial.number,
        state="failed" if state == "fail" else state,  # type: ignore[arg-type]
        value=trial.value,
        point={**system.get("fixed_params", {}), **trial.params},
        constraints=trial.constraints,
        attributes=trial.user_attrs,
        started=trial.datetime_start,
        ended=trial.datetime_complete,
        worker=_holder(system.get(LEASE)),
        was_restarted=STARTS in system,
        folder=system.get(FOLDER),
    )


def _holder(lease: str | Mapping[str, Any] | None) -> str | None:
    """The worker that a lease names; storages hand it out as it was written, or read."""
    return worker_of(json.dumps(lease) if isinstance(lease, Mapping) else lease)
