"""A study's trials as plain values, for its status, its verdict and its exports."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from jorge_tune.errors import shortened
from jorge_tune.study.claimed_trial import FOLDER, STARTS
from jorge_tune.study.leases import worker_of
from jorge_tune.study.storage.claims import LEASE
from jorge_tune.study.storage.contents import unread_of
from jorge_tune.untrusted import must_be

if TYPE_CHECKING:
    from optuna.study import Study
    from optuna.trial import FrozenTrial

    from jorge_tune.study.space import SearchSpace
    from jorge_tune.study.study import OpenStudy

TrialState = Literal["waiting", "running", "complete", "pruned", "failed"]

ENDED: tuple[TrialState, ...] = ("complete", "pruned", "failed")


@dataclass(frozen=True)
class TrialRow:
    """One trial; an infinite value is that of a trial that diverged or did not reach the target."""

    number: int
    state: TrialState
    value: float | None = None
    point: Mapping[str, Any] = field(default_factory=dict)
    constraints: Mapping[str, float] = field(default_factory=dict)  # a constraint is kept if its value is not above 0
    attributes: Mapping[str, Any] = field(default_factory=dict)
    started: datetime | None = None
    ended: datetime | None = None
    worker: str | None = None  # the holder of its lease
    was_restarted: bool = False
    folder: str | None = None  # random name of the directory of its runs; None: the study's first
    unread: tuple[str, ...] = ()  # what could not be read, a sentence each

    @property
    def is_feasible(self) -> bool:
        """Whether the trial keeps every constraint that it has."""
        return all(excess <= 0 for excess in self.constraints.values())

    @property
    def diverged(self) -> bool:
        """Whether one of the trial's runs diverged."""
        return bool(self.attributes.get("diverged"))

    @property
    def seconds(self) -> float | None:
        """Wall-clock seconds from the (last) start to the end; None while the trial has not ended."""
        if self.started is None or self.ended is None:
            return None
        return (self.ended - self.started).total_seconds()


def read_rows(study: Study) -> tuple[TrialRow, ...]:
    """All trials of a study, in the order of their numbers."""
    return tuple(sorted((row_of(trial) for trial in study.get_trials(deepcopy=False)), key=lambda row: row.number))


def rows_of(opened: OpenStudy) -> tuple[TrialRow, ...]:
    """All trials of a study, with points inside its space.

    A completed trial whose point is not inside the space counts as failed. `unread` says what could not be read of a
    trial, and `unread_in` puts that into sentences.
    """
    rows = [_within(row, opened.plan.space) for row in read_rows(opened.study)]
    return tuple(_with_alike_times(rows))


def unread_in(rows: Sequence[TrialRow], study: str) -> list[str]:
    """What could not be read of trials, in sentences that name study and trial."""
    return [f"Trial {row.number} of study {study}: {what}." for row in rows for what in row.unread]


def overlap(rows: Sequence[TrialRow]) -> bool:
    """Whether trials ran side by side."""
    spans = sorted((row.started, row.ended) for row in rows if row.started is not None and row.ended is not None)
    return any(later[0] < earlier[1] for earlier, later in itertools.pairwise(spans))


def finite(rows: Sequence[TrialRow]) -> list[TrialRow]:
    """The completed trials that have a value to rank them by."""
    return [row for row in rows if row.state == "complete" and row.value is not None and math.isfinite(row.value)]


def best_of(rows: Sequence[TrialRow], *, lower_is_better: bool) -> TrialRow | None:
    """The best feasible trial, the first one of equals; None if there is no feasible trial with a value."""
    key = sort_key(lower_is_better)
    return min((row for row in finite(rows) if row.is_feasible), key=lambda row: (key(row), row.number), default=None)


def sort_key(lower_is_better: bool) -> Callable[[TrialRow], float]:
    """A key under which better trials come first."""
    sign = 1 if lower_is_better else -1

    def key(row: TrialRow) -> float:
        return math.inf if row.value is None else sign * row.value

    return key


def _within(row: TrialRow, space: SearchSpace) -> TrialRow:
    """The row with only those parameters of its point that the space has, and that are within their ranges."""
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
    except (OverflowError, TypeError):  # a whole number that is too large for a float
        return False


def _with_alike_times(rows: Sequence[TrialRow]) -> list[TrialRow]:
    """The rows with times that can be compared: if another program writes to a journal, only some have a zone."""
    times = [time for row in rows for time in (row.started, row.ended) if time is not None]
    if len({time.tzinfo is None for time in times}) < 2:
        return list(rows)
    return [replace(row, started=_in_utc(row.started), ended=_in_utc(row.ended)) for row in rows]


def _in_utc(time: datetime | None) -> datetime | None:
    return time if time is None or time.tzinfo is None else time.astimezone(UTC).replace(tzinfo=None)


def row_of(trial: FrozenTrial) -> TrialRow:
    """One trial as it is stored."""
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
    """The worker that a lease names; storages give the lease as text or as read JSON."""
    return worker_of(json.dumps(lease) if isinstance(lease, Mapping) else lease)


FEWEST_TRIALS = 15
"""The least number of trials with a finite value; of fewer, five good ones are more than a third."""
_GOOD_TRIALS = 5  # Optuna advises at least so many trials in the upper quantile
_MOST_GOOD = 0.5  # of all trials; if equal values bring more into the upper quantile, it says nothing
_MOST_LEFT_OUT = 0.2  # of the trials with readings, which need not have the reading that the others are ranked by


@dataclass(frozen=True)
class Importances:
    """Shares that add up to 1, the largest first; if there are none, `reason` says why.

    `trials` is the number of trials that were looked at, `good` the number of good ones among them. They are ranked by
    their final values, or by evaluation number `reading` if pruning left too few final values.
    """

    shares: Mapping[str, float]
    trials: int
    good: int = 0
    reading: int | None = None
    reason: str = ""


class _Ranked(NamedTuple):
    """A trial and the value that it is ranked by."""

    trial: FrozenTrial
    value: float


def importances(study: Study, *, lower_is_better: bool) -> Importances:
    """The importance of each parameter by PED-ANOVA: how much the good trials differ from all trials in it.

    The good trials are the best tenth, and at least five. Trials without a finite value (they diverged, or did not
    reach the target) do not count. If pruning left fewer than `FEWEST_TRIALS` final values, trials are ranked by the
    last evaluation that nearly all of them have.
    """
    trials = study.get_trials(deepcopy=False)
    ranked = [_Ranked(t, t.value) for t in trials if t.state.name == "COMPLETE" and t.value is not None]
    ranked = [one for one in ranked if math.isfinite(one.value)]

    reading = None
    if len(ranked) < FEWEST_TRIALS and (common := _last_common_reading(trials)) is not None:
        early = _by_reading(trials, common)
        if len(early) >= FEWEST_TRIALS:
            ranked, reading = early, common

    count = len(ranked)
    if count < FEWEST_TRIALS:
        return Importances({}, count, reason=f"{count} of at least {FEWEST_TRIALS} completed trials with a value")
    if not any(one.trial.params for one in ranked):
        return Importances({}, count, reason="the trials have no parameters")

    quantile = max(0.1, _GOOD_TRIALS / count)
    ordered = sorted((one.value for one in ranked), reverse=not lower_is_better)
    cut = ordered[math.ceil(quantile * count) - 1]  # as Optuna does it
    good = sum(one.value <= cut if lower_is_better else one.value >= cut for one in ranked)
    if good > _MOST_GOOD * count:
        return Importances({}, count, good, reading, f"{good} of {count} trials share the best values")

    try:
        shares = _ped_anova(ranked, quantile, lower_is_better)
    except (ArithmeticError, AssertionError, LookupError, TypeError, ValueError) as error:
        what = " ".join(str(error).split())  # for example parameters with other ranges than the study's
        return Importances(
            {}, count, good, reading, f"the parameters of the trials do not fit together: {shortened([what])}"
        )
    if not any(shares.values()):
        return Importances({}, count, good, reading, "no parameter sets the good trials apart")
    return Importances(shares, count, good, reading)


def _last_common_reading(trials: Sequence[FrozenTrial]) -> int | None:
    """The last evaluation that all but a fifth of the trials with readings have."""
    reached = sorted(max(trial.intermediate_values) for trial in trials if trial.intermediate_values)
    return reached[int(_MOST_LEFT_OUT * len(reached))] if reached else None


def _by_reading(trials: Sequence[FrozenTrial], reading: int) -> list[_Ranked]:
    values = [_Ranked(trial, trial.intermediate_values.get(reading, math.nan)) for trial in trials]
    return [one for one in values if math.isfinite(one.value) and one.trial.params]


def _ped_anova(ranked: Sequence[_Ranked], quantile: float, lower_is_better: bool) -> dict[str, float]:
    from optuna.importance import PedAnovaImportanceEvaluator
    from optuna.samplers import RandomSampler
    from optuna.storages import InMemoryStorage
    from optuna.study import Study, StudyDirection
    from optuna.trial import create_trial

    storage = InMemoryStorage()
    direction = StudyDirection.MINIMIZE if lower_is_better else StudyDirection.MAXIMIZE
    storage.create_new_study([direction], "ranked")
    study = Study("ranked", storage, RandomSampler())
    for trial, value in ranked:
        study.add_trial(create_trial(params=trial.params, distributions=trial.distributions, value=value))
    raw = PedAnovaImportanceEvaluator(target_quantile=quantile).evaluate(study)
    whole = sum(raw.values())
    return {name: float(value / whole) if whole else 0.0 for name, value in raw.items()}
