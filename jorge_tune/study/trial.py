"""One trial: its seeds one after another, each run a child process, told by what the run directories hold."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, Protocol

from jorge_tune.errors import JorgeTuneError, RunDirectoryError
from jorge_tune.recipe.recipe_files import render_recipe
from jorge_tune.recipe.schema import Recipe
from jorge_tune.study.jobs.client import ProcessEnd, RunJob
from jorge_tune.study.jobs.faults import Reach, Starts, decide, too_many
from jorge_tune.study.jobs.job import Machine, RunFollower, RunningChild, Runs, cause_of, ended_run, follow, was_busy
from jorge_tune.study.leases import Lease
from jorge_tune.study.plan import StudyPlan, is_comparison
from jorge_tune.study.runs_directory import is_training
from jorge_tune.study.score import RunScore, has_value, is_decided, score_run, shown_to_pruners
from jorge_tune.study.stop import WorkerStops

_BUSY_SECONDS = 0.25  # between two looks at a directory that another process is leaving
_BUSY_LOOKS = 240

EndKind = Literal["complete", "pruned", "failed", "released", "unusable"]


@dataclass(frozen=True)
class TrialEnd:
    """How a trial ended for its worker.

    `released`: it goes back for somebody to resume; `unusable`: it goes back too, and the study stops. `broke_off`: a
    failed one raised something.
    """

    kind: EndKind
    reason: str = ""
    scores: tuple[RunScore, ...] = ()
    exit_code: int = 0  # of the study that stops
    broke_off: bool = False


class Reports(Protocol):
    """What pruning needs of a trial in the storage."""

    @property
    def reported(self) -> Mapping[int, float]:
        """Values by step."""

    def report(self, value: float, step: int) -> None:
        """Tell a value at a step, once."""

    def should_prune(self) -> bool:
        """Ask the pruner."""


@dataclass(frozen=True, kw_only=True)
class TrialContext:
    """What all trials of a worker share.

    `training_seconds`: a recipe's calibrated clock, None where there is none. `watch` sees every run grow, `look`
    is called about once a second while one trains.
    """

    plan: StudyPlan
    runs: Runs
    orders: WorkerStops
    machine: Machine
    device: str = "auto"
    threads: int | None = None
    download: bool = False
    training_seconds: Callable[[Recipe], Callable[[int], float] | None] = lambda recipe: None
    watch: Callable[[int, RunFollower], None] = lambda seed, follower: None
    look: Callable[[], None] = lambda: None


class TrialRun:
    """A trial that this worker has claimed; `run` may be called once, `stop` and `kill` at any time by its lease.

    Args:
        around: what trials share.
        reports: the trial in the storage.
        recipe: the trial's, whatever its seed.
        directory: of the trial's run directories.
        starts: what its earlier starts came to; None for a trial that was never started.
        keep: stores them.
    """

    def __init__(
        self,
        around: TrialContext,
        reports: Reports,
        recipe: Recipe,
        folder: Path,
        *,
        starts: Starts | None = None,
        keep: Callable[[Starts], None] = lambda starts: None,
    ) -> None:
        self._around, self._plan, self._reports = around, around.plan, reports
        self._recipe, self._folder = recipe, folder
        self._starts, self._keep, self._is_first = starts or Starts(), keep, starts is None
        self._prunes_by_seed = around.plan.pruner == "wilcoxon"
        self._prunes_by_reading = not self._prunes_by_seed and around.plan.pruner != "none"
        self._has_own_recipe = is_comparison(around.plan)  # its faults say nothing of other trials
        self._child: RunningChild | None = None
        self._lease: Lease | None = None

    @property
    def changes(self) -> tuple[str, ...]:
        """What was done differently after faults, in words."""
        return self._starts.changes

    def stop(self, reason: str) -> None:
        """Ask the present run to write a checkpoint and end."""
        if (child := self._child) is not None:
            child.stop(reason)
        self._around.orders.wake()

    def kill(self, reason: str) -> None:
        """End the present run now."""
        if (child := self._child) is not None:
            child.kill()
        self._around.orders.wake()

    def keep(self) -> None:
        """Let the present run know for how long it may go on without hearing of this worker again."""
        if (child := self._child) is not None and self._lease is not None:
            child.keep(self._lease.seconds_left, self._lease.grace)

    def run(self, lease: Lease) -> TrialEnd:
        """Run what is still missing of it."""
        self._lease = lease
        scores: list[RunScore] = []
        for index, seed in enumerate(self._plan.seeds):
            try:
                outcome = self._run_seed(index, seed)
            except RunDirectoryError as error:  # records that are none: this trial's loss, not the study's
                outcome = TrialEnd("failed", str(error))
            if isinstance(outcome, TrialEnd):
                return replace(outcome, scores=tuple(scores))
            scores.append(outcome)
            if is_decided(scores, self._plan.objective, len(self._plan.seeds)):
                break
            if self._prunes_by_seed and self._prunes_after(index, outcome.value):
                return TrialEnd("pruned", f"after seed {seed}", tuple(scores))
        return TrialEnd("complete", scores=tuple(scores))

    def _run_seed(self, index: int, seed: int) -> RunScore | TrialEnd:
        """One run, started as often as its faults ask for it."""
        recipe = replace(self._recipe, seed=seed)
        folder, text = self._folder / f"seed-{seed}", render_recipe(recipe)
        job = RunJob(text, str(folder), self._around.device, self._around.threads, self._around.download)
        follower, what = RunFollower(folder), ""
        while True:
            follower.read()
            if (lapsed := self._lapsed) is not None:  # before anything is told of a trial that may be another's
                return TrialEnd("released", lapsed)
            if (run := ended_run(folder, text)) is not None:
                self._report_readings(index, follower)
                return score_run(run, self._plan.objective, seconds=self._around.training_seconds(recipe))
            if not what and self._prunes_at_once(index, follower):
                return TrialEnd("pruned", f"at evaluation {len(follower.readings)}")
            if (end := self._count_start(Reach(index, follower.furthest), what)) is not None:
                return end
            ended = self._train(job, index, follower)
            if isinstance(ended, TrialEnd):
                return ended
            if ended.outcome in ("finished", "diverged"):
                if ended_run(folder, text) is None:
                    return TrialEnd("failed", f"{folder}: the run has {ended.outcome}, and its records do not say so")
                continue
            cause = cause_of(ended)
            decision = decide(cause, self._starts, ended.reason, own_recipe=self._has_own_recipe)
            if decision.action == "fail":
                return TrialEnd("failed", decision.reason, broke_off=cause == "broke off" and not self._has_own_recipe)
            if decision.action == "stop the study":
                return TrialEnd("unusable", decision.reason, exit_code=2 if cause == "bad input" else 1)
            what = ended.reason or ended.outcome
            if decision.action == "again alone":
                self._note_memory(seed)

    def _count_start(self, reach: Reach, what: str) -> TrialEnd | None:
        """One more start; the trial's end, where it is one too many or there is a reason to leave."""
        if (reason := self._reason_to_leave()) is not None:
            return TrialEnd("released", reason)
        self._starts = self._starts.another(reach)
        if not self._is_first:
            self._keep(self._starts)
        self._is_first = False
        if self._starts.spent:
            return TrialEnd("failed", too_many(self._starts, what))
        if self._starts.pause:
            self._wait(self._starts.pause)
        return None

    def _note_memory(self, seed: int) -> None:
        change = f"seed {seed} ran out of memory: run again in a fresh process, no other run of the study beside it"
        changes = (*self._starts.changes, change)
        self._starts = replace(self._starts, out_of_memory=self._starts.out_of_memory + 1, changes=changes)

    def _train(self, job: RunJob, index: int, follower: RunFollower) -> ProcessEnd | TrialEnd:
        """One process, from its start to its end; alone on the machine once a run of the trial wanted memory."""
        with self._around.machine.holding(self._wait, alone=self._starts.out_of_memory > 0) as held:
            for _ in range(_BUSY_LOOKS):
                reason = self._reason_to_leave()
                if not held or reason is not None:
                    return TrialEnd("released", reason or "")
                if is_training(Path(job.out)):
                    self._wait(_BUSY_SECONDS)
                    continue
                ended = self._one_process(job, index, follower)
                if isinstance(ended, TrialEnd) or not was_busy(ended):
                    return ended
            busy = f"{job.out}: another process has been training in it for a minute"
            return TrialEnd("unusable", busy, exit_code=1)

    def _one_process(self, job: RunJob, index: int, follower: RunFollower) -> ProcessEnd | TrialEnd:
        asked: list[TrialEnd] = []

        def ask() -> str | None:
            end = self._asks_to_end(index, follower)
            asked.extend([end] if end else [])
            return end.reason if end else None

        lease = self._lease
        assert lease is not None
        job = replace(job, lease=(lease.stops_at, lease.grace))  # should this worker stand still before it began
        try:
            child = self._child = self._around.runs.start(job)
        except JorgeTuneError:
            if self._lapsed is not None:  # it was so long in coming that the run did not begin
                return TrialEnd("released", self._lapsed)
            raise
        try:
            self.keep()
            if self._lapsed is not None:  # while it was being started, when nobody could end it
                child.kill()
            ended = follow(child, self._around.orders, ask)
        finally:
            self._child = None
            child.close()
        if asked and not (asked[0].kind == "released" and ended.outcome in ("finished", "diverged")):
            return asked[0]
        return ended

    def _asks_to_end(self, index: int, follower: RunFollower) -> TrialEnd | None:
        """Take in what the run has recorded; why it should end now, if it should."""
        self._around.look()
        if (reason := self._reason_to_leave()) is not None:
            return TrialEnd("released", reason)
        if not follower.read():
            return None
        self._around.watch(self._plan.seeds[index], follower)
        if self._report_readings(index, follower) and self._may_prune(index, follower) and self._reports.should_prune():
            return TrialEnd("pruned", f"at evaluation {len(follower.readings)}")
        return None

    def _report_readings(self, index: int, follower: RunFollower) -> bool:
        """Tell the first seed's readings that the storage does not have yet; whether there were any."""
        if index > 0 or self._prunes_by_seed:
            return False
        missing = [n for n in range(1, len(follower.readings) + 1) if n not in self._reports.reported]
        for number in missing:
            self._reports.report(shown_to_pruners(follower.readings[:number], self._plan.objective), number)
        return bool(missing)

    def _may_prune(self, index: int, follower: RunFollower) -> bool:
        """Whether there is anything to save: not at the end of the only run, nor once the target is reached."""
        readings = follower.readings
        if index > 0 or not self._prunes_by_reading or not readings or has_value(readings, self._plan.objective):
            return False
        at_end = (
            readings[-1].epoch >= self._recipe.epochs
            if self._recipe.epochs is not None
            else readings[-1].step >= (self._recipe.steps or 0)
        )
        return not (at_end and len(self._plan.seeds) == 1)

    def _prunes_at_once(self, index: int, follower: RunFollower) -> bool:
        """Whether a trial that comes back would be pruned where it stands: it may have been before it broke off."""
        self._report_readings(index, follower)
        return self._may_prune(index, follower) and self._reports.should_prune()

    def _prunes_after(self, index: int, value: float) -> bool:
        """Tell a seed's value to the pruner, and ask it; it can do nothing with infinities."""
        if index not in self._reports.reported:
            self._reports.report(value, index)
        finite = all(abs(value) != float("inf") for value in self._reports.reported.values())
        return finite and index + 1 < len(self._plan.seeds) and self._reports.should_prune()

    @property
    def _lapsed(self) -> str | None:
        assert self._lease is not None
        return self._lease.lapsed

    def _reason_to_leave(self) -> str | None:
        order = self._around.orders.order
        return self._lapsed or (order and order.reason)

    def _wait(self, seconds: float) -> bool:
        """Wait; True if there is a reason to leave."""
        self._around.orders.wait(seconds)
        return self._reason_to_leave() is not None
