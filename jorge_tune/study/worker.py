"""One worker of a study: claim a trial, draw its point, run it, tell it; until none is left, or it is told to leave.

A trial is this worker's only while its lease is (`leases.py`); what its runs recorded outlives it, so whoever takes the
trial over goes on from there.
"""

from __future__ import annotations

import contextlib
import json
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple

from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import TrialState

from jorge_tune.errors import InputError, JorgeTuneError
from jorge_tune.recipe.schema import Recipe
from jorge_tune.records import portable
from jorge_tune.study.claimed_trial import ClaimedTrial, Ending, UnreadTrialError, tell
from jorge_tune.study.constraint import IterationTimes, calibrate_apart
from jorge_tune.study.dashboard.trial_files import TrialFiles
from jorge_tune.study.jobs.client import RunLauncher
from jorge_tune.study.jobs.job import Machine, RunFollower, Runs
from jorge_tune.study.leases import Lease, LeaseTimes, Reaper, Sweep, owners_clock
from jorge_tune.study.runs_directory import Presence, RunsDirectory
from jorge_tune.study.samplers import build_pruner, build_sampler
from jorge_tune.study.stop import EXIT_INTERRUPTED, WorkerStops
from jorge_tune.study.storage.claims import Claim
from jorge_tune.study.study import OpenStudy, StudyStopRequest
from jorge_tune.study.trial import TrialContext, TrialEnd, TrialRun

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


class WorkerMessage(NamedTuple):
    """Something worth telling: a trial that began or ended, or (without a number) a sentence."""

    what: str
    trial: int | None = None
    state: str = ""


class WorkerExit(NamedTuple):
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
        directory: where its runs are.
        runs: who starts them.
        orders: from whom it hears that it should leave.
        settings: how it works.
        costs: the study's iteration times on this worker's device.
        report: hears what happens.
    """

    def __init__(
        self,
        opened: OpenStudy,
        folder: RunsDirectory,
        runs: Runs,
        orders: WorkerStops,
        settings: WorkerSettings,
        costs: IterationTimes,
        report: Callable[[WorkerMessage], None] = lambda told: None,
    ) -> None:
        self.name = f"w-{uuid.uuid4().hex[:10]}"
        self._opened, self._plan, self._folder, self._orders = opened, opened.plan, folder, orders
        self._settings, self._costs, self._report = settings, costs, report
        self._presence = Presence(folder.path, self.name)
        self._files, self._faults = TrialFiles(opened, folder.path), set[str]()
        self._reaper = Reaper(opened.claims, folder, settings.times)
        self._around = TrialContext(
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
        self._wish: StudyStopRequest | None = None
        self._fault: WorkerExit | None = None
        self._ended = self._broken = 0
        self._quiet = False
        opened.study.sampler, opened.study.pruner = build_sampler(opened.plan), build_pruner(opened.plan)

    def work(self) -> WorkerExit:
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
                    return WorkerExit("done", trials=self._ended)
            return left

    @contextlib.contextmanager
    def _losing(self, claim: Claim) -> Iterator[None]:
        """A trial that another worker took over and ended, while this process stood still, takes nothing any more."""
        try:
            yield
        except UpdateFinishedTrialError:
            self._report(WorkerMessage("another worker has ended it meanwhile", claim.number, "lost"))

    def _one_trial(self, claim: Claim, since: float) -> None:
        handle = _Handle()
        renew = partial(self._opened.claims.renew, claim)
        times = self._settings.times
        with Lease(renew, since=since, times=times, stop=handle.stop, kill=handle.kill, renewed=handle.keep) as lease:
            asked = self._asked(claim)
            if asked is None:
                return
            self._report(WorkerMessage("began", claim.number, "running"))
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

    def _asked(self, claim: Claim) -> ClaimedTrial | None:
        """The trial in hand; None for one that what is stored of it keeps from being run, which has then failed.

        Raises:
            InputError: the study cannot be worked on; the trial waits again.
        """
        try:
            return ClaimedTrial(self._opened, claim)
        except UnreadTrialError as error:
            self._opened.storage.set_trial_user_attr(claim.trial_id, "reason", str(error))
            state = "failed" if self._opened.claims.finish(claim, TrialState.FAIL) else "lost"
            self._ended += state != "lost"
            self._report(WorkerMessage(str(error), claim.number, state))
            return None
        except InputError:
            self._opened.claims.hand_back(claim)
            raise

    def _place(self, asked: ClaimedTrial) -> None:
        """Store where the trial's runs are, if not in the directory that all see; another directory is a new start."""
        before = asked.folder or self._opened.folder
        if before == self._folder.name:
            return
        asked.keep_folder(self._folder.name)
        if asked.was_started:
            asked.note("restarted", "from its first step: the directory with its earlier runs is not seen here")
            self._report(
                WorkerMessage("starts anew: the directory with its earlier runs is not seen here", asked.claim.number)
            )

    def _settle(
        self, asked: ClaimedTrial, lease: Lease, end: TrialEnd, recipe: Recipe | None, changes: Sequence[str]
    ) -> None:
        """Report the trial, or give it back."""
        number = asked.claim.number
        if end.kind in ("released", "unusable") or lease.lapsed is not None:
            self._opened.claims.hand_back(asked.claim)
            self._report(WorkerMessage(lease.lapsed or end.reason, number, "waiting"))
        else:
            attach = partial(self._attach, asked, lease)
            state, words = tell(
                asked, end, recipe, self._plan, self._costs, worker=self.name, changes=changes, attach=attach
            )
            self._ended += state != "lost"
            self._report(WorkerMessage(words, number, state))
        self._broken = self._broken + 1 if end.broke_off else 0
        if end.kind == "unusable":
            self._stop_the_study(end.reason, end.exit_code)
        elif self._broken >= _MOST_BROKEN:
            self._stop_the_study(f"{_MOST_BROKEN} trials in a row broke off; the last: {end.reason}", 1)

    def _attach(self, asked: ClaimedTrial, lease: Lease, state: Ending, value: float | None) -> None:
        """Attach the trial's files and note; say once what cannot be attached."""
        for fault in self._files.attach(asked.trial, state, value, may_go_on=lambda: lease.lapsed is None):
            if fault not in self._faults:
                self._faults.add(fault)
                self._report(WorkerMessage(fault))

    def _stop_the_study(self, reason: str, exit_code: int) -> None:
        self._opened.ask_to_stop("checkpoint", reason, exit_code=exit_code)
        self._fault = WorkerExit("fault", reason, exit_code, self._ended)

    def _leaving(self) -> WorkerExit | None:
        """Whether to leave instead of taking another trial."""
        self._look()
        if self._fault is not None:
            return self._fault._replace(trials=self._ended)
        order = self._orders.order
        if order is not None and order.kind in ("signal", "supervisor"):
            return WorkerExit("interrupted", order.reason, EXIT_INTERRUPTED, self._ended)
        if self._wish is not None:
            return WorkerExit("stopped", self._wish.reason, self._wish.exit_code, self._ended)
        if self._settings.deadline is not None and time.time() >= self._settings.deadline:
            return WorkerExit("time", "the study's hours are over", 0, self._ended)
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
            self._report(WorkerMessage("lost by its worker; it waits to be resumed", number, "waiting"))
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


def default_runs(study_name: str) -> Path:
    """Where a study's runs are, if nothing else is said."""
    return Path("studies") / study_name


def work_on(
    opened: OpenStudy,
    runs: Path,
    settings: WorkerSettings,
    orders: WorkerStops,
    report: Callable[[WorkerMessage], None] = lambda told: None,
    *,
    server: Runs | None = None,
) -> WorkerExit:
    """Work on a study until none of its trials is left to do, or there is a reason to leave.

    Args:
        opened: the study.
        runs: the directory for its runs.
        settings: of this worker.
        orders: from whom it hears that it should leave; listening already.
        report: hears what happens.
        server: who starts runs; None: this machine's run server.

    Raises:
        InputError: another version made the study, the directory is another study's, the device is not there, or this
            machine cannot start runs.
        JorgeTuneError: the storage stayed away, or no run can be started.
    """
    opened.check_version()
    folder = opened.enter(runs)
    if not folder.is_shared:
        report(
            WorkerMessage(
                f"{runs} is not the directory that the study began with: trials lost elsewhere start anew here"
            )
        )
    costs = prepare_costs(opened, folder, settings, orders, report)
    server = server or RunLauncher.connect()
    _hurry_when_told(opened, orders)
    return Worker(opened, folder, server, orders, settings, costs, report).work()


def prepare_costs(
    opened: OpenStudy,
    folder: RunsDirectory,
    settings: WorkerSettings,
    orders: WorkerStops,
    report: Callable[[WorkerMessage], None] = lambda told: None,
) -> IterationTimes:
    """The study's iteration times on this worker's device, measured alone on the machine where they are missing.

    Raises:
        InputError: the device is not there, or the recipe cannot be calibrated on it.
    """
    costs = IterationTimes(opened, device=settings.device, threads=settings.threads)
    if not costs.missing():
        return costs
    with Machine(folder.path).holding(orders.wait, alone=True) as held:
        costs.look_up()  # another worker may have measured while we waited
        if held:
            calibrate = partial(calibrate_apart, wait=orders.wait)
            costs.measure(calibrate, lambda text: report(WorkerMessage(text)))
    return costs


def measure_first(
    opened: OpenStudy,
    runs: Path,
    settings: WorkerSettings,
    report: Callable[[WorkerMessage], None] = lambda told: None,
    last_word: Callable[[], None] = lambda: None,
) -> WorkerExit | None:
    """Calibrate what a study's constraint needs, before its workers are started and make the machine busy.

    Signals are taken meanwhile, in the main thread; None: nothing stands in the way of going on. `last_word` is called
    when a second one ends this process at once. Raises as `prepare_costs` does.
    """
    orders = WorkerStops(last_word)
    try:
        with orders.listening():
            prepare_costs(opened, opened.enter(runs), settings, orders, report)
        order = orders.order
        return None if order is None else WorkerExit("interrupted", order.reason, EXIT_INTERRUPTED)
    finally:
        orders.close()


def _hurry_when_told(opened: OpenStudy, orders: WorkerStops) -> None:
    """Do not wait for a storage that is gone once there is a signal to leave."""
    patience = getattr(opened.storage, "patience", None)
    if patience is not None:
        patience.unwanted = lambda: orders.order is not None and orders.order.kind in ("signal", "supervisor")


@dataclass(frozen=True, kw_only=True)
class WorkerStart:
    """What a worker's process is told.

    `supervisor`: a descriptor whose end of file says that the supervisor is gone. `lasts`: a lease's seconds.
    """

    study: str
    runs: str
    device: str = "auto"
    threads: int | None = None
    download: bool = False
    deadline: float | None = None
    supervisor: int | None = None
    lasts: float = 90.0

    def command(self) -> list[str]:
        """The command line of the process."""
        return [sys.executable, "-m", "jorge_tune.study.worker", json.dumps(asdict(self))]

    def settings(self) -> WorkerSettings:
        """How it works."""
        return WorkerSettings(
            device=self.device,
            threads=self.threads,
            download=self.download,
            times=LeaseTimes.lasting(self.lasts),
            deadline=self.deadline,
        )


def main(arguments: Sequence[str] = sys.argv[1:]) -> int:
    """Work; the exit code says how it ended."""
    from jorge_tune.study.storage.retry import BrokenStorageError

    start = WorkerStart(**json.loads(arguments[0]))
    with WorkerStops().listening(start.supervisor) as orders:
        try:
            left = _work(start, orders)
        except BrokenStorageError as error:  # no other worker can use it either
            left = WorkerExit("fault", str(error), error.exit_code)
        except JorgeTuneError as error:
            left = WorkerExit("error", str(error), error.exit_code)
    _say(**left._asdict())
    return left.exit_code


def _work(start: WorkerStart, orders: WorkerStops) -> WorkerExit:
    from jorge_tune.study.storage.address import find_address
    from jorge_tune.study.storage.open import open_storage
    from jorge_tune.study.storage.retry import Patience
    from jorge_tune.study.study import join_study

    address = find_address(None)
    patience = Patience(
        address, told=lambda text: _tell(WorkerMessage(text)), unwanted=lambda: orders.order is not None
    )
    opened = join_study(open_storage(address, create=False, patience=patience, wait=True), start.study)
    return work_on(opened, Path(start.runs), start.settings(), orders, _tell)


def _tell(told: WorkerMessage) -> None:
    _say(**told._asdict())


def _say(**message: object) -> None:
    """One line, in one write; nobody may be there to read it."""
    try:
        sys.stdout.write(json.dumps(message) + "\n")
        sys.stdout.flush()
    except BrokenPipeError:  # the supervisor is gone, which its pipe tells too
        pass


if __name__ == "__main__":
    sys.exit(main())
