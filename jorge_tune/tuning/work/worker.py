"""One worker of a study: claim a trial, draw its point, run it, tell it; until none is left, or it is told to leave.

A trial is this worker's only while its lease is (`leases.py`); what its runs recorded outlives it, so whoever takes the
trial over goes on from there.
"""

from __future__ import annotations

import contextlib
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Literal, NamedTuple

from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import TrialState

from jorge_tune.errors import InputError
from jorge_tune.recipe.schema import Recipe
from jorge_tune.records import portable
from jorge_tune.tuning.runs.following import RunFollower
from jorge_tune.tuning.runs.machine import Machine
from jorge_tune.tuning.runs.orders import EXIT_INTERRUPTED, Orders
from jorge_tune.tuning.runs.presence import Presence
from jorge_tune.tuning.runs.run_process import Runs
from jorge_tune.tuning.runs.runs_folder import RunsFolder
from jorge_tune.tuning.sampling.pruners import build_pruner
from jorge_tune.tuning.sampling.samplers import build_sampler
from jorge_tune.tuning.storages.claims import Claim
from jorge_tune.tuning.study import OpenStudy, StopWish
from jorge_tune.tuning.work.asking import AskedTrial, UnreadTrialError
from jorge_tune.tuning.work.constraint import IterationTimes
from jorge_tune.tuning.work.leases import Lease, LeaseTimes, owners_clock
from jorge_tune.tuning.work.reaper import Reaper, Sweep
from jorge_tune.tuning.work.telling import tell
from jorge_tune.tuning.work.trial_run import Surroundings, TrialEnd, TrialRun

_LOOK_SECONDS = 5.0  # between two looks at the study's wish to stop, and at lost trials
_POLL_SECONDS = 1.0  # while nothing is left to claim and other workers' trials may come back
_MOST_BROKEN = 3  # trials in a row that break off before the study is taken for broken

LeftKind = Literal["done", "stopped", "interrupted", "time", "fault", "error"]


@dataclass(frozen=True, kw_only=True)
class WorkerSettings:
    """How one worker works.

    Args:
        device: auto, cpu, cuda, cuda:1, ...
        threads: CPU threads of a run; None: torch's choice.
        download: fetch a data set of torchvision that is not there.
        times: of leases.
        deadline: seconds since 1970 after which no trial is begun; None: never.
    """

    device: str = "auto"
    threads: int | None = None
    download: bool = False
    times: LeaseTimes = field(default_factory=LeaseTimes)
    deadline: float | None = None


class Told(NamedTuple):
    """Something worth telling: a trial that began or ended, or (without a number) a sentence."""

    what: str
    trial: int | None = None
    state: str = ""


class Left(NamedTuple):
    """Why a worker left, and how many trials it ended.

    `fault`: something that stops the whole study; `error`: something of this process's own.
    """

    kind: LeftKind
    reason: str = ""
    exit_code: int = 0
    trials: int = 0


class Worker:
    """One worker; `work` may be called once.

    Args:
        opened: the study.
        folder: where its runs are.
        runs: who starts them.
        orders: from whom it hears that it should leave.
        settings: how it works.
        costs: the study's iteration times on this worker's device.
        report: hears what happens.
    """

    def __init__(
        self,
        opened: OpenStudy,
        folder: RunsFolder,
        runs: Runs,
        orders: Orders,
        settings: WorkerSettings,
        costs: IterationTimes,
        report: Callable[[Told], None] = lambda told: None,
    ) -> None:
        self.name = f"w-{uuid.uuid4().hex[:10]}"
        self._opened, self._plan, self._folder, self._orders = opened, opened.plan, folder, orders
        self._settings, self._costs, self._report = settings, costs, report
        self._presence = Presence(folder.path, self.name)
        self._reaper = Reaper(opened.claims, folder, settings.times)
        self._around = Surroundings(
            plan=opened.plan,
            runs=runs,
            orders=orders,
            machine=Machine(folder.path),
            device=settings.device,
            threads=settings.threads,
            download=settings.download,
            training_seconds=costs.training_seconds,
            watch=self._watch,
            look=self._look,
        )
        self._looked = -_LOOK_SECONDS
        self._wish: StopWish | None = None
        self._fault: Left | None = None
        self._ended = self._broken = 0
        self._quiet = False
        opened.study.sampler, opened.study.pruner = build_sampler(opened.plan), build_pruner(opened.plan)

    def work(self) -> Left:
        """Work until no trial is left to do and none can come back, or there is a reason to leave.

        Raises:
            JorgeTuneError: the storage stayed away; the trial at hand is taken over by others.
        """
        with self._presence:
            while (left := self._leaving()) is None:
                since = owners_clock()
                claim = self._opened.claims.claim(self.name, self._plan.trials)
                if claim is not None:
                    self._quiet = False
                    with self._losing(claim):
                        self._one_trial(claim, since)
                elif self._nobody_works():
                    return Left("done", trials=self._ended)
            return left

    @contextlib.contextmanager
    def _losing(self, claim: Claim) -> Iterator[None]:
        """A trial that another worker took over and ended, while this process stood still, takes nothing any more."""
        try:
            yield
        except UpdateFinishedTrialError:
            self._report(Told("another worker has ended it meanwhile", claim.number, "lost"))

    def _one_trial(self, claim: Claim, since: float) -> None:
        handle = _Handle()
        renew = partial(self._opened.claims.renew, claim)
        times = self._settings.times
        with Lease(renew, since=since, times=times, stop=handle.stop, kill=handle.kill, renewed=handle.keep) as lease:
            asked = self._asked(claim)
            if asked is None:
                return
            self._report(Told("began", claim.number, "running"))
            self._presence.tell(trial=claim.number, seed=None, evaluations=0, trial_since=round(time.time(), 1))
            self._place(asked)
            try:
                recipe = self._plan.space.recipe_of(asked.point)
            except InputError as error:  # the recipe's own rules refuse this combination
                self._settle(asked, lease, TrialEnd("failed", str(error)), None, ())
                return
            run = handle.run = TrialRun(
                replace(self._around, plan=self._plan.at(asked.point)),
                asked,
                recipe,
                self._folder.trial(claim.number),
                starts=asked.starts,
                keep=asked.keep_starts,
            )
            self._settle(asked, lease, run.run(lease), recipe, run.changes)
        self._presence.tell(trial=None, seed=None)

    def _asked(self, claim: Claim) -> AskedTrial | None:
        """The trial in hand; None for one that what is stored of it keeps from being run, which has then failed.

        Raises:
            InputError: the study cannot be worked on; the trial waits again.
        """
        try:
            return AskedTrial(self._opened, claim)
        except UnreadTrialError as error:
            self._opened.storage.set_trial_user_attr(claim.trial_id, "reason", str(error))
            state = "failed" if self._opened.claims.finish(claim, TrialState.FAIL) else "lost"
            self._ended += state != "lost"
            self._report(Told(str(error), claim.number, state))
            return None
        except InputError:
            self._opened.claims.hand_back(claim)
            raise

    def _place(self, asked: AskedTrial) -> None:
        """Say in which folder the trial's runs are, where not in the one that all see; another one is a new start."""
        before = asked.folder or self._opened.folder
        if before == self._folder.name:
            return
        asked.keep_folder(self._folder.name)
        if asked.was_started:
            asked.note("restarted", "from its first step: the folder with its earlier runs is not seen here")
            self._report(Told("starts anew: the folder with its earlier runs is not seen here", asked.claim.number))

    def _settle(
        self, asked: AskedTrial, lease: Lease, end: TrialEnd, recipe: Recipe | None, changes: Sequence[str]
    ) -> None:
        """Tell the trial, or give it back."""
        number = asked.claim.number
        if end.kind in ("released", "unusable") or lease.lapsed is not None:
            self._opened.claims.hand_back(asked.claim)
            self._report(Told(lease.lapsed or end.reason, number, "waiting"))
        else:
            state, words = tell(asked, end, recipe, self._plan, self._costs, worker=self.name, changes=changes)
            self._ended += state != "lost"
            self._report(Told(words, number, state))
        self._broken = self._broken + 1 if end.broke_off else 0
        if end.kind == "unusable":
            self._stop_the_study(end.reason, end.exit_code)
        elif self._broken >= _MOST_BROKEN:
            self._stop_the_study(f"{_MOST_BROKEN} trials in a row broke off; the last: {end.reason}", 1)

    def _stop_the_study(self, reason: str, exit_code: int) -> None:
        self._opened.ask_to_stop("checkpoint", reason, exit_code=exit_code)
        self._fault = Left("fault", reason, exit_code, self._ended)

    def _leaving(self) -> Left | None:
        """Whether to leave instead of taking another trial."""
        self._look()
        if self._fault is not None:
            return self._fault._replace(trials=self._ended)
        order = self._orders.order
        if order is not None and order.kind in ("signal", "supervisor"):
            return Left("interrupted", order.reason, EXIT_INTERRUPTED, self._ended)
        if self._wish is not None:
            return Left("stopped", self._wish.reason, self._wish.exit_code, self._ended)
        if self._settings.deadline is not None and time.time() >= self._settings.deadline:
            return Left("time", "the study's hours are over", 0, self._ended)
        return None

    def _look(self) -> None:
        """Now and then: whether the study should stop, whether a trial is lost."""
        if time.monotonic() - self._looked < _LOOK_SECONDS:
            return
        self._looked = time.monotonic()
        self._wish = self._opened.stop_wish()
        if self._wish is not None and self._wish.how == "checkpoint":
            self._orders.give("study", self._wish.reason)
        self._sweep()

    def _sweep(self) -> Sweep:
        """Put lost trials back."""
        sweep = self._reaper.sweep()
        for number in sweep.returned:
            self._report(Told("lost by its worker; it waits to be resumed", number, "waiting"))
        return sweep

    def _nobody_works(self) -> bool:
        """Whether no trial is left that could come back, twice in a row; waits a little while one may."""
        sweep = self._sweep()
        if sweep.running:
            self._presence.tell(state="waiting for other workers' trials")
            self._orders.wait(min(_POLL_SECONDS, self._settings.times.lasts / 10))
        quiet, self._quiet = self._quiet, not sweep.running and not sweep.returned
        return quiet and self._quiet

    def _watch(self, seed: int, follower: RunFollower) -> None:
        """Show how far the present run is."""
        last = follower.readings[-1] if follower.readings else None
        self._presence.tell(
            at_once=False,
            seed=seed,
            evaluations=len(follower.readings),
            epoch=None if last is None else round(last.epoch, 3),
            metrics={} if last is None else portable(last.metrics),
        )


class _Handle:
    """What a lease holds of a trial whose run may not be there yet; a lapse before that shows in the lease itself."""

    def __init__(self) -> None:
        self.run: TrialRun | None = None

    def stop(self, reason: str) -> None:
        if self.run is not None:
            self.run.stop(reason)

    def kill(self, reason: str) -> None:
        if self.run is not None:
            self.run.kill(reason)

    def keep(self) -> None:
        if self.run is not None:
            self.run.keep()
