"""One trial: its seeds are run one after another, each in a child process; the run directories hold the results."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, Protocol

from jorge_tune.errors import JorgeTuneError, RunDirectoryError
from jorge_tune.recipe.recipe_files import render_recipe
from jorge_tune.recipe.schema import Recipe
from jorge_tune.recipe.user_code import NO_PLACES, CodePlaces
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

    `released`: it waits again, to be resumed by any worker. `unusable`: it waits again too, and the study stops.
    `broke_off`: the trial failed because its run raised something.
    """

    kind: EndKind
    reason: str = ""
    scores: tuple[RunScore, ...] = ()
    exit_code: int = 0  # of the study, if it stops
    broke_off: bool = False


class Reports(Protocol):
    """What pruning needs of a trial in the storage."""

    @property
    def reported(self) -> Mapping[int, float]:
        """The reported values by step."""

    def report(self, value: float, step: int) -> None:
        """Report a value at a step, once."""

    def should_prune(self) -> bool:
        """Ask the pruner."""


@dataclass(frozen=True, kw_only=True)
class TrialContext:
    """What all trials of a worker share.

    `training_seconds` gives the calibrated clock of a recipe, None if there is none. `watch` is called whenever a run
    has new readings, `look` about once a second while a run trains.
    """

    plan: StudyPlan
    runs: Runs
    stops: WorkerStops
    machine: Machine
    device: str = "auto"
    threads: int | None = None
    download: bool = False
    code: CodePlaces = NO_PLACES
    loggers: tuple[str, ...] = ()
    training_seconds: Callable[[Recipe], Callable[[int], float] | None] = lambda recipe: None
    watch: Callable[[int, RunFollower], None] = lambda seed, follower: None
    look: Callable[[], None] = lambda: None


class TrialRun:
    """A trial that this worker has claimed; `run` may be called once, `stop` and `kill` at any time by its lease.

    Args:
        context: what the trials share.
        reports: the trial in the storage.
        recipe: the trial's; its seed does not matter.
        directory: holds the trial's run directories.
        starts: the earlier starts of the trial; None if it was never started.
        store_starts: stores them.
    """

    def __init__(
        self,
        context: TrialContext,
        reports: Reports,
        recipe: Recipe,
        directory: Path,
        *,
        starts: Starts | None = None,
        store_starts: Callable[[Starts], None] = lambda starts: None,
    ) -> None:
        self._context, self._plan, self._reports = context, context.plan, reports
        self._recipe, self._directory = recipe, directory
        self._starts, self._store_starts, self._is_first = starts or Starts(), store_starts, starts is None
        self._prunes_by_seed = context.plan.pruner == "wilcoxon"
        self._prunes_by_reading = not self._prunes_by_seed and context.plan.pruner != "none"
        self._has_own_recipe = is_comparison(context.plan)  # so its faults say nothing about other trials
        self._child: RunningChild | None = None
        self._lease: Lease | None = None

    @property
    def changes(self) -> tuple[str, ...]:
        """What was done differently after faults, in words."""
        return self._starts.changes

    def stop(self, reason: str) -> None:
        """Ask the present run to write a checkpoint and to end."""
        if (child := self._child) is not None:
            child.stop(reason)
        self._context.stops.wake()

    def kill(self, reason: str) -> None:
        """End the present run now."""
        if (child := self._child) is not None:
            child.kill()
        self._context.stops.wake()

    def keep(self) -> None:
        """Tell the present run for how long it may go on without hearing from this worker again."""
        if (child := self._child) is not None and self._lease is not None:
            child.keep(self._lease.seconds_left, self._lease.grace)

    def run(self, lease: Lease) -> TrialEnd:
        """Run the seeds that have no finished run yet."""
        self._lease = lease
        scores: list[RunScore] = []
        for index, seed in enumerate(self._plan.seeds):
            try:
                outcome = self._run_seed(index, seed)
            except RunDirectoryError as error:  # unreadable records fail this trial, not the study
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
        """One run, started again as often as its faults ask for."""
        recipe = replace(self._recipe, seed=seed)
        directory, text = self._directory / f"seed-{seed}", render_recipe(recipe)
        context = self._context
        where = context.device, context.threads, context.download
        job = RunJob(text, str(directory), *where, code=context.code, loggers=context.loggers)
        follower, last_end = RunFollower(directory), ""
        while True:
            follower.read()
            # Once the lease has expired, the trial may be another worker's, and nothing may be reported of it.
            if (reason := self._expired) is not None:
                return TrialEnd("released", reason)
            if (run := ended_run(directory, text)) is not None:
                self._report_readings(index, follower)
                return score_run(run, self._plan.objective, seconds=self._context.training_seconds(recipe))
            if not last_end and self._prunes_at_once(index, follower):
                return TrialEnd("pruned", f"at evaluation {len(follower.readings)}")
            if (end := self._count_start(Reach(index, follower.furthest), last_end)) is not None:
                return end

            ended = self._train(job, index, follower)
            if isinstance(ended, TrialEnd):
                return ended
            if ended.outcome in ("finished", "diverged"):
                if ended_run(directory, text) is None:
                    return TrialEnd(
                        "failed", f"{directory}: the run has {ended.outcome}, but its records do not say so"
                    )
                continue

            cause = cause_of(ended)
            decision = decide(cause, self._starts, ended.reason, own_recipe=self._has_own_recipe)
            if decision.action == "fail":
                return TrialEnd("failed", decision.reason, broke_off=cause == "broke off" and not self._has_own_recipe)
            if decision.action == "stop the study":
                return TrialEnd("unusable", decision.reason, exit_code=2 if cause == "bad input" else 1)
            last_end = ended.reason or ended.outcome
            if decision.action == "again alone":
                self._note_memory(seed)

    def _count_start(self, reach: Reach, last_end: str) -> TrialEnd | None:
        """Count one more start; the trial's end, if it is one too many or if there is a reason to stop."""
        if (reason := self._reason_to_stop()) is not None:
            return TrialEnd("released", reason)

        self._starts = self._starts.another(reach)
        if not self._is_first:
            self._store_starts(self._starts)
        self._is_first = False

        if self._starts.spent:
            return TrialEnd("failed", too_many(self._starts, last_end))
        if self._starts.pause:
            self._wait(self._starts.pause)
        return None

    def _note_memory(self, seed: int) -> None:
        again = "it runs again in a fresh process, while no other run of the study runs"
        change = f"seed {seed} ran out of memory: {again}"
        changes = (*self._starts.changes, change)
        self._starts = replace(self._starts, out_of_memory=self._starts.out_of_memory + 1, changes=changes)

    def _train(self, job: RunJob, index: int, follower: RunFollower) -> ProcessEnd | TrialEnd:
        """One process from its start to its end; alone on the machine if a run of the trial has run out of memory."""
        with self._context.machine.holding(self._wait, alone=self._starts.out_of_memory > 0) as may_start:
            for _ in range(_BUSY_LOOKS):
                reason = self._reason_to_stop()
                if not may_start or reason is not None:
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
        """One process; how it ended, or how the trial ended if this worker asked the run to stop."""
        requests: list[TrialEnd] = []

        def ask() -> str | None:
            end = self._asks_to_end(index, follower)
            requests.extend([end] if end else [])
            return end.reason if end else None

        lease = self._lease
        assert lease is not None
        job = replace(
            job, lease=(lease.stops_at, lease.grace)
        )  # in case this worker stands still before the run begins
        try:
            child = self._child = self._context.runs.start(job)
        except JorgeTuneError:
            if self._expired is not None:  # the lease was over before the run could begin
                return TrialEnd("released", self._expired)
            raise

        try:
            self.keep()
            if self._expired is not None:  # it expired during the start, when there was no child to kill
                child.kill()
            ended = follow(child, self._context.stops, ask)
        finally:
            self._child = None
            child.close()

        # A run that ended by itself meanwhile need not be resumed.
        if requests and not (requests[0].kind == "released" and ended.outcome in ("finished", "diverged")):
            return requests[0]
        return ended

    def _asks_to_end(self, index: int, follower: RunFollower) -> TrialEnd | None:
        """Read what the run has recorded; the trial's end, if the run should stop now."""
        self._context.look()
        if (reason := self._reason_to_stop()) is not None:
            return TrialEnd("released", reason)
        if not follower.read():
            return None

        self._context.watch(self._plan.seeds[index], follower)
        if self._report_readings(index, follower) and self._may_prune(index, follower) and self._reports.should_prune():
            return TrialEnd("pruned", f"at evaluation {len(follower.readings)}")
        return None

    def _report_readings(self, index: int, follower: RunFollower) -> bool:
        """Report the first seed's readings that the storage does not have yet; whether there were any."""
        if index > 0 or self._prunes_by_seed:
            return False

        missing = [n for n in range(1, len(follower.readings) + 1) if n not in self._reports.reported]
        for number in missing:
            self._reports.report(shown_to_pruners(follower.readings[:number], self._plan.objective), number)
        return bool(missing)

    def _may_prune(self, index: int, follower: RunFollower) -> bool:
        """Whether pruning would save anything: not at the end of the only run, and not once the target is reached."""
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
        """Whether a resumed trial would be pruned where it stands: its worker may have died before it reported that."""
        self._report_readings(index, follower)
        return self._may_prune(index, follower) and self._reports.should_prune()

    def _prunes_after(self, index: int, value: float) -> bool:
        """Report a seed's value and ask the pruner, which is not asked if a value is infinite."""
        if index not in self._reports.reported:
            self._reports.report(value, index)

        finite = all(abs(value) != float("inf") for value in self._reports.reported.values())
        return finite and index + 1 < len(self._plan.seeds) and self._reports.should_prune()

    @property
    def _expired(self) -> str | None:
        assert self._lease is not None
        return self._lease.expired

    def _reason_to_stop(self) -> str | None:
        request = self._context.stops.request
        return self._expired or (request and request.reason)

    def _wait(self, seconds: float) -> bool:
        """Wait; True if there is a reason to stop."""
        self._context.stops.wait(seconds)
        return self._reason_to_stop() is not None
