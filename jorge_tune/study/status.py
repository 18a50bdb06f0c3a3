"""The status of a study as values: trials by state, the best so far, running and lost trials, the remaining time."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from jorge_tune.errors import InputError
from jorge_tune.records import portable
from jorge_tune.study.plan import BASELINE_SUFFIX, StudyPlan, is_comparison
from jorge_tune.study.runs_directory import Life, workers_in
from jorge_tune.study.study import OpenStudy
from jorge_tune.study.study_verdict import NO_NUMBER, NOT_REACHED
from jorge_tune.study.trial_rows import TrialRow, TrialState, best_of, rows_of
from jorge_tune.untrusted import is_number

if TYPE_CHECKING:
    from jorge_tune.study.storage.address import Address

VERDICT = "verdict"

_RECENT = 20  # trials whose mean length gives the remaining time
_STATES: tuple[TrialState, ...] = ("complete", "pruned", "failed", "running", "waiting")


@dataclass(frozen=True)
class RunningTrial:
    """A running trial, and what its worker last wrote about it.

    `life` is the worker's, as far as this machine's kernel knows. The trial of a dead worker is lost, and so is one
    without a worker (None); any worker or `study reap` puts a lost trial back.
    """

    number: int
    worker: str | None
    life: Life
    seed: int | None = None
    epoch: float | None = None
    metrics: Mapping[str, float] | None = None

    @property
    def is_lost(self) -> bool:
        """Whether the trial is known to have no worker."""
        return self.worker is None or self.life == "dead"


@dataclass(frozen=True)
class CompanionStatus:
    """A companion study: how many of its trials have ended, of how many."""

    name: str
    ended: int
    total: int


@dataclass(frozen=True, kw_only=True)
class StudyStatus:
    """One study at one moment.

    `restarted` counts the trials that were started again. `eta_seconds` is None if no trial has ended yet, or if no
    worker works. `stop` is the stop request in words. `verdict` is the stored one. `rows` are all trials. A comparison
    has no best trial. `unread` says in sentences what could not be read.
    """

    study: str
    storage: str
    runs: str
    objective: str
    worst: str
    lower_is_better: bool
    total: int
    rows: tuple[TrialRow, ...]
    counts: Mapping[TrialState, int]
    best: TrialRow | None
    best_values: Mapping[str, Any]
    baseline: float | None
    running: tuple[RunningTrial, ...]
    idle: tuple[str, ...]
    restarted: int
    eta_seconds: float | None
    stop: str | None
    companions: tuple[CompanionStatus, ...]
    verdict: Mapping[str, Any] | None
    is_comparison: bool = False
    unread: tuple[str, ...] = ()

    @property
    def ended(self) -> int:
        """The number of trials that have ended."""
        return self.counts["complete"] + self.counts["pruned"] + self.counts["failed"]

    @property
    def remaining(self) -> int:
        """The number of trials that have not ended."""
        return max(self.total - self.ended, 0)

    @property
    def lost(self) -> tuple[int, ...]:
        """The numbers of the running trials that have no worker."""
        return tuple(one.number for one in self.running if one.is_lost)

    @property
    def state(self) -> Literal["done", "running", "idle"]:
        """`done` if every trial has ended, `idle` if there is work but no worker is seen at it, else `running`."""
        if self.remaining == 0:
            return "done"
        return "running" if any(not one.is_lost for one in self.running) else "idle"

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        best = self.best
        fields = asdict(replace(self, rows=()))
        fields["beside"] = fields.pop("companions")
        data = {
            **fields,
            "state": self.state,
            "ended": self.ended,
            "remaining": self.remaining,
            "lost": list(self.lost),
            "best": None
            if best is None
            else {
                "number": best.number,
                "value": best.value,
                "point": dict(best.point),
                "values": dict(self.best_values),
            },
        }
        del data["best_values"], data["rows"]
        return portable(data)  # type: ignore[return-value]


def read_status(
    opened: OpenStudy, runs: Path, address: Address | str, companions: Sequence[OpenStudy] = ()
) -> StudyStatus:
    """Read the status of a study.

    Args:
        opened: the search.
        runs: the directory of its runs, where workers write what they do, if this machine sees it.
        address: of the storage; it is shown with its password masked.
        companions: its companion studies.
    """
    plan, rows = opened.plan, rows_of(opened)
    lower = plan.objective.lower_is_better
    counts = {state: sum(row.state == state for row in rows) for state in _STATES}
    best = None if is_comparison(plan) else best_of(rows, lower_is_better=lower)
    verdict = opened.study.user_attrs.get(VERDICT)
    running, idle = _running(rows, runs)
    return StudyStatus(
        study=plan.name,
        storage=str(address),
        runs=str(runs),
        objective=str(plan.objective),
        worst=NOT_REACHED if plan.objective.needs_target else NO_NUMBER,
        lower_is_better=lower,
        total=max(plan.trials, len(rows)),
        rows=rows,
        counts=counts,
        best=best,
        best_values={} if best is None else {p.path: p.plain(best.point[p.name]) for p in plan.space},
        baseline=next((row.value for one in companions if _is_baseline(one, plan) for row in rows_of(one)), None),
        running=running,
        idle=idle,
        restarted=sum(row.was_restarted for row in rows),
        eta_seconds=eta(rows, max(plan.trials, len(rows)), sum(not one.is_lost for one in running)),
        stop=_stop_request(opened),
        companions=tuple(_companion(one) for one in companions),
        verdict=verdict if isinstance(verdict, dict) else None,
        is_comparison=is_comparison(plan),
    )


def _stop_request(opened: OpenStudy) -> str | None:
    try:
        request = opened.stop_request()
    except InputError:
        return "a stop request that cannot be read"
    return None if request is None else f"{request.how}: {request.reason}"


def eta(rows: Sequence[TrialRow], total: int, workers: int) -> float | None:
    """Seconds until all trials have ended, if they take as long as the last ones and `workers` run side by side.

    Running trials count as half done. None if no trial has ended, or if no worker works.
    """
    ended = sorted((row for row in rows if row.ended is not None), key=lambda row: str(row.ended))
    lengths = [row.seconds for row in ended[-_RECENT:] if row.seconds is not None]
    remaining = total - len(ended)
    if remaining <= 0:
        return 0.0
    if not lengths or not workers:
        return None
    return statistics.fmean(lengths) * max(remaining - min(workers, remaining) / 2, 0.5) / workers


def _running(rows: Sequence[TrialRow], runs: Path) -> tuple[tuple[RunningTrial, ...], tuple[str, ...]]:
    """The running trials with what their workers wrote, and the workers that are alive and run no trial."""
    seen = {worker.worker: worker for worker in workers_in(runs)}
    running = []
    for row in rows:
        if row.state != "running":
            continue

        worker = seen.get(row.worker or "")
        facts = worker.facts if worker is not None and worker.facts.get("trial") == row.number else {}
        seed, epoch, metrics = facts.get("seed"), facts.get("epoch"), facts.get("metrics")
        life = "unknown" if worker is None else worker.life
        running.append(
            RunningTrial(
                row.number,
                row.worker,
                life,
                seed if isinstance(seed, int) and not isinstance(seed, bool) else None,
                float(epoch) if is_number(epoch) else None,  # type: ignore[arg-type]
                metrics if isinstance(metrics, dict) else None,
            )
        )

    busy = {trial.worker for trial in running}
    idle = tuple(name for name, worker in seen.items() if name not in busy and worker.life == "alive")
    return tuple(running), idle


def _is_baseline(opened: OpenStudy, search: StudyPlan) -> bool:
    return opened.plan.name == search.name + BASELINE_SUFFIX


def _companion(opened: OpenStudy) -> CompanionStatus:
    rows = rows_of(opened)
    return CompanionStatus(
        opened.plan.name, sum(row.ended is not None for row in rows), max(opened.plan.trials, len(rows))
    )
