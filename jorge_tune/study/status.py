"""How a study stands, as values: trials by state, the best so far, who runs what, what is lost, how long it takes."""

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

_RECENT = 20  # trials whose lengths the remaining time is told by
_STATES: tuple[TrialState, ...] = ("complete", "pruned", "failed", "running", "waiting")


@dataclass(frozen=True)
class RunningTrial:
    """A trial that runs, and what its worker last said of it.

    `life` is the worker's, as far as this machine's kernel knows: a dead one's trial is lost, and any worker or
    `study reap` puts it back. `worker` None: nobody holds it, which is a loss too.
    """

    number: int
    worker: str | None
    life: Life
    seed: int | None = None
    epoch: float | None = None
    metrics: Mapping[str, float] | None = None

    @property
    def is_lost(self) -> bool:
        """Whether it is known that nobody works on it."""
        return self.worker is None or self.life == "dead"


@dataclass(frozen=True)
class CompanionStatus:
    """A study beside the search: how many of its trials have ended, of how many."""

    name: str
    ended: int
    total: int


@dataclass(frozen=True, kw_only=True)
class StudyStatus:
    """One study at one moment. `eta_seconds` None: nothing has ended yet, or nobody works.

    `restarted` counts the trials that had to be started again. `stop` is the wish to stop, in words. `verdict` is the
    stored one. `rows` are all trials. A comparison has no best one. `unread`: what could not be read, in sentences.
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
    beside: tuple[CompanionStatus, ...]
    verdict: Mapping[str, Any] | None
    is_comparison: bool = False
    unread: tuple[str, ...] = ()

    @property
    def ended(self) -> int:
        """Trials that came to an end."""
        return self.counts["complete"] + self.counts["pruned"] + self.counts["failed"]

    @property
    def remaining(self) -> int:
        """Trials that are still to end."""
        return max(self.total - self.ended, 0)

    @property
    def lost(self) -> tuple[int, ...]:
        """Numbers of the running trials on which nobody works."""
        return tuple(one.number for one in self.running if one.is_lost)

    @property
    def state(self) -> Literal["done", "running", "idle"]:
        """Done: every trial has ended. Idle: there is work, and nobody seen at it."""
        if self.remaining == 0:
            return "done"
        return "running" if any(not one.is_lost for one in self.running) else "idle"

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        best = self.best
        fields = asdict(replace(self, rows=()))
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


def read_status(opened: OpenStudy, runs: Path, address: Address | str, beside: Sequence[OpenStudy] = ()) -> StudyStatus:
    """Look at a study once.

    Args:
        opened: the search.
        runs: its directory; what workers say of themselves is read there, where it can be seen.
        address: the storage; it is shown with its password masked.
        beside: the studies beside it.
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
        baseline=next((row.value for one in beside if _is_baseline(one, plan) for row in rows_of(one)), None),
        running=running,
        idle=idle,
        restarted=sum(row.was_restarted for row in rows),
        eta_seconds=eta(rows, max(plan.trials, len(rows)), sum(not one.is_lost for one in running)),
        stop=_wish(opened),
        beside=tuple(_companion(one) for one in beside),
        verdict=verdict if isinstance(verdict, dict) else None,
        is_comparison=is_comparison(plan),
    )


def _wish(opened: OpenStudy) -> str | None:
    try:
        wish = opened.stop_request()
    except InputError:
        return "a wish to stop that cannot be read"
    return None if wish is None else f"{wish.how}: {wish.reason}"


def eta(rows: Sequence[TrialRow], total: int, workers: int) -> float | None:
    """Seconds until all trials have ended, if they take as long as the last ones and as many run side by side.

    None where none has ended or nobody works; the trials that run count as half done.
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
    """The running trials with what their workers say, and the workers that live and run none."""
    seen = {worker.worker: worker for worker in workers_in(runs)}
    running = []
    for row in rows:
        if row.state != "running":
            continue
        one = seen.get(row.worker or "")
        facts = one.facts if one is not None and one.facts.get("trial") == row.number else {}
        seed, epoch, metrics = facts.get("seed"), facts.get("epoch"), facts.get("metrics")
        life = "unknown" if one is None else one.life
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
    busy = {one.worker for one in running}
    idle = tuple(name for name, one in seen.items() if name not in busy and one.life == "alive")
    return tuple(running), idle


def _is_baseline(opened: OpenStudy, search: StudyPlan) -> bool:
    return opened.plan.name == search.name + BASELINE_SUFFIX


def _companion(opened: OpenStudy) -> CompanionStatus:
    rows = rows_of(opened)
    return CompanionStatus(
        opened.plan.name, sum(row.ended is not None for row in rows), max(opened.plan.trials, len(rows))
    )
