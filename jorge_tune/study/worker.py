"""One worker of a study: it claims a trial, draws its point, runs it and reports it, until there is a reason to stop.

A trial is the worker's only while its lease holds (`leases.py`). The runs' records outlive the lease, so a worker that
takes the trial over resumes it from them.

The file reads top-down: settings and messages, the worker, how it joins a study, and the main function of its process.
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

from jorge_tune.errors import EXIT_INTERRUPTED, InputError, JorgeTuneError
from jorge_tune.recipe.schema import Recipe
from jorge_tune.recipe.user_code import NO_PLACES, CodePlaces, check_findable, named_modules, restricted_to
from jorge_tune.records import portable
from jorge_tune.study.claimed_trial import ClaimedTrial, Ending, UnreadTrialError, report_end
from jorge_tune.study.constraint import IterationTimes, calibrate_apart
from jorge_tune.study.dashboard.trial_files import TrialFiles
from jorge_tune.study.jobs.client import RunLauncher
from jorge_tune.study.jobs.job import Machine, RunFollower, Runs
from jorge_tune.study.leases import Lease, LeaseTimes, Reaper, Sweep, owners_clock
from jorge_tune.study.plan import StudyPlan, needs_torch, recipes_of
from jorge_tune.study.runs_directory import Presence, RunsDirectory
from jorge_tune.study.samplers import build_pruner, build_sampler
from jorge_tune.study.stop import WorkerStops
from jorge_tune.study.storage.claims import Claim
from jorge_tune.study.study import OpenStudy, StudyStopRequest
from jorge_tune.study.trial import TrialContext, TrialEnd, TrialRun

_LOOK_SECONDS = 5.0  # between two looks at the study's stop request, and at lost trials
_POLL_SECONDS = 1.0  # while there is no trial to claim but other workers' trials may come back
_MOST_BROKEN = 3  # trials in a row that break off before the study is taken for broken

ExitKind = Literal["done", "stopped", "interrupted", "time", "fault", "error"]


@dataclass(frozen=True, kw_only=True)
class WorkerSettings:
    """The settings of one worker.

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
    code: CodePlaces = NO_PLACES
    loggers: tuple[str, ...] = ()
    times: LeaseTimes = field(default_factory=LeaseTimes)
    deadline: float | None = None


@dataclass(frozen=True, kw_only=True)
class WorkerStart:
    """The arguments of a worker's process.

    `supervisor`: a descriptor that reaches its end of file when the supervisor is gone. `fork_server`: one lent
    by the supervisor's launcher. `lasts`: seconds of a lease.
    """

    study: str
    runs: str
    device: str = "auto"
    threads: int | None = None
    download: bool = False
    code: CodePlaces = NO_PLACES
    loggers: tuple[str, ...] = ()
    deadline: float | None = None
    supervisor: int | None = None
    fork_server: int | None = None
    lasts: float = 90.0

    def command(self) -> list[str]:
        """The command line of the process."""
        return [sys.executable, "-m", "jorge_tune.study.worker", json.dumps(asdict(self))]

    def settings(self) -> WorkerSettings:
        """The settings of the worker."""
        return WorkerSettings(
            device=self.device,
            threads=self.threads,
            download=self.download,
            code=CodePlaces(*map(tuple, self.code)),
            loggers=tuple(self.loggers),
            times=LeaseTimes.lasting(self.lasts),
            deadline=self.deadline,
        )


class WorkerMessage(NamedTuple):
    """A message of a worker: a trial that began or ended, or (without a number) a sentence."""

    what: str
    trial: int | None = None
    state: str = ""


class WorkerExit(NamedTuple):
    """Why a worker stopped, and how many trials it ended.

    `fault`: something that stops the whole study; `error`: something of this process alone.
    """

    kind: ExitKind
    reason: str = ""
    exit_code: int = 0
    trials: int = 0


Report = Callable[[WorkerMessage], None]


class Worker:
    """One worker; `work` may be called once.

    Args:
        opened: the study.
        directory: the directory of its runs.
        runs: starts the runs.
        stops: receives stop requests.
        settings: of this worker.
        costs: the study's iteration times on this worker's device.
        report: receives messages.
    """

    def __init__(
        self,
        opened: OpenStudy,
        directory: RunsDirectory,
        runs: Runs,
        stops: WorkerStops,
        settings: WorkerSettings,
        costs: IterationTimes,
        report: Report = lambda message: None,
    ) -> None:
        self.name = f"w-{uuid.uuid4().hex[:10]}"
        self._opened, self._plan, self._directory, self._stops = opened, opened.plan, directory, stops
        self._settings, self._costs, self._report = settings, costs, report
        self._presence = Presence(directory.path, self.name)
        self._files, self._faults = TrialFiles(opened, directory.path), set[str]()
        self._reaper = Reaper(opened.claims, directory, settings.times)
        self._context = TrialContext(
            plan=opened.plan,
            runs=runs,
            stops=stops,
            machine=Machine(directory.path),
            device=settings.device,
            threads=settings.threads,
            download=settings.download,
            code=settings.code,
            loggers=settings.loggers,
            training_seconds=costs.training_seconds,
            watch=self._watch,
            look=self._look,
        )

        self._looked = -_LOOK_SECONDS
        self._stop_request: StudyStopRequest | None = None
        self._fault: WorkerExit | None = None
        self._ended = self._broken = 0
        self._was_idle = False
        opened.study.sampler, opened.study.pruner = build_sampler(opened.plan), build_pruner(opened.plan)

    def work(self) -> WorkerExit:
        """Work until no trial is left and none can come back, or until there is a reason to stop.

        Raises:
            JorgeTuneError: the storage stayed away; other workers take the present trial over.
        """
        with self._presence:
            while (worker_exit := self._reason_to_exit()) is None:
                since = owners_clock()
                claim = self._opened.claims.claim(self.name, self._plan.trials)
                if claim is not None:
                    self._was_idle = False
                    with self._losing(claim):
                        self._run_trial(claim, since)
                elif self._all_is_done():
                    return WorkerExit("done", trials=self._ended)
            return worker_exit

    @contextlib.contextmanager
    def _losing(self, claim: Claim) -> Iterator[None]:
        """Report a trial as lost that another worker took over and ended while this process stood still."""
        try:
            yield
        except UpdateFinishedTrialError:
            self._report(WorkerMessage("another worker has ended it meanwhile", claim.number, "lost"))

    def _run_trial(self, claim: Claim, since: float) -> None:
        handle = _RunHandle()
        renew = partial(self._opened.claims.renew, claim)
        times = self._settings.times
        with Lease(renew, since=since, times=times, stop=handle.stop, kill=handle.kill, renewed=handle.keep) as lease:
            trial = self._read_trial(claim)
            if trial is None:
                return
            self._report(WorkerMessage("began", claim.number, "running"))
            self._presence.update(trial=claim.number, seed=None, evaluations=0, trial_since=round(time.time(), 1))
            self._store_directory(trial)

            try:
                recipe = self._plan.space.recipe_of(trial.point)
            except InputError as error:  # the rules of recipes refuse this combination of values
                self._settle(trial, lease, TrialEnd("failed", str(error)), None, ())
                return

            run = handle.run = TrialRun(
                replace(self._context, plan=self._plan.at(trial.point)),
                trial,
                recipe,
                self._directory.trial(claim.number),
                starts=trial.starts,
                store_starts=trial.store_starts,
            )
            self._settle(trial, lease, run.run(lease), recipe, run.changes)
        self._presence.update(trial=None, seed=None)

    def _read_trial(self, claim: Claim) -> ClaimedTrial | None:
        """The claimed trial; None if the storage holds something of it that cannot be read, and then it has failed.

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

    def _store_directory(self, trial: ClaimedTrial) -> None:
        """Store where the trial's runs are, unless they are in the directory that all workers see.

        A trial whose earlier runs are in another directory starts again.
        """
        before = trial.folder or self._opened.folder
        if before == self._directory.name:
            return

        trial.store_folder(self._directory.name)
        if trial.was_started:
            why = "this machine does not see the directory with its earlier runs"
            trial.note("restarted", f"from its first step: {why}")
            self._report(WorkerMessage(f"starts again from its first step: {why}", trial.claim.number))

    def _settle(
        self, trial: ClaimedTrial, lease: Lease, end: TrialEnd, recipe: Recipe | None, changes: Sequence[str]
    ) -> None:
        """Report the trial's end, or hand the trial back."""
        number = trial.claim.number
        if end.kind in ("released", "unusable") or lease.expired is not None:
            self._opened.claims.hand_back(trial.claim)
            self._report(WorkerMessage(lease.expired or end.reason, number, "waiting"))
        else:
            attach = partial(self._attach, trial, lease)
            state, words = report_end(
                trial, end, recipe, self._plan, self._costs, worker=self.name, changes=changes, attach=attach
            )
            self._ended += state != "lost"
            self._report(WorkerMessage(words, number, state))

        self._broken = self._broken + 1 if end.broke_off else 0
        if end.kind == "unusable":
            self._stop_the_study(end.reason, end.exit_code)
        elif self._broken >= _MOST_BROKEN:
            self._stop_the_study(f"{_MOST_BROKEN} trials in a row failed; the last: {end.reason}", 1)

    def _attach(self, trial: ClaimedTrial, lease: Lease, state: Ending, value: float | None) -> None:
        """Attach the trial's files and note; say once what cannot be attached."""
        for fault in self._files.attach(trial.trial, state, value, may_go_on=lambda: lease.expired is None):
            if fault not in self._faults:
                self._faults.add(fault)
                self._report(WorkerMessage(fault))

    def _stop_the_study(self, reason: str, exit_code: int) -> None:
        self._opened.request_stop("checkpoint", reason, exit_code=exit_code)
        self._fault = WorkerExit("fault", reason, exit_code, self._ended)

    def _reason_to_exit(self) -> WorkerExit | None:
        """Why to stop instead of claiming another trial; None if there is no reason."""
        self._look()
        if self._fault is not None:
            return self._fault._replace(trials=self._ended)

        request = self._stops.request
        if request is not None and request.kind in ("signal", "supervisor"):
            return WorkerExit("interrupted", request.reason, EXIT_INTERRUPTED, self._ended)
        if self._stop_request is not None:
            return WorkerExit("stopped", self._stop_request.reason, self._stop_request.exit_code, self._ended)
        if self._settings.deadline is not None and time.time() >= self._settings.deadline:
            return WorkerExit("time", "the study's hours are over", 0, self._ended)
        return None

    def _look(self) -> None:
        """Every few seconds, read the study's stop request and put lost trials back."""
        if time.monotonic() - self._looked < _LOOK_SECONDS:
            return

        self._looked = time.monotonic()
        self._stop_request = self._opened.stop_request()
        if self._stop_request is not None and self._stop_request.how == "checkpoint":
            self._stops.ask("study", self._stop_request.reason)
        self._sweep()

    def _sweep(self) -> Sweep:
        """Put lost trials back."""
        sweep = self._reaper.sweep()
        for number in sweep.returned:
            self._report(WorkerMessage("lost by its worker; it waits to be resumed", number, "waiting"))
        return sweep

    def _all_is_done(self) -> bool:
        """Whether no trial runs that could come back, seen twice in a row; waits a little while one runs."""
        sweep = self._sweep()
        if sweep.running:
            self._presence.update(state="waiting for other workers' trials")
            self._stops.wait(min(_POLL_SECONDS, self._settings.times.lasts / 10))

        was_idle, self._was_idle = self._was_idle, not sweep.running and not sweep.returned
        return was_idle and self._was_idle

    def _watch(self, seed: int, follower: RunFollower) -> None:
        """Show the progress of the present run."""
        last = follower.readings[-1] if follower.readings else None
        self._presence.update(
            at_once=False,
            seed=seed,
            evaluations=len(follower.readings),
            epoch=None if last is None else round(last.epoch, 3),
            metrics={} if last is None else portable(last.metrics),
        )


class _RunHandle:
    """Lets a lease stop the run of a trial, which begins after the lease.

    If the lease expires before the run begins, the run sees that in the lease itself.
    """

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
    """The default directory of a study's runs."""
    return Path("studies") / study_name


def work_on(
    opened: OpenStudy,
    runs: Path,
    settings: WorkerSettings,
    stops: WorkerStops,
    report: Report = lambda message: None,
    *,
    server: Runs | None = None,
    says_imports: bool = True,
) -> WorkerExit:
    """Work on a study until none of its trials is left, or until there is a reason to stop.

    Args:
        opened: the study.
        runs: the directory for its runs.
        settings: of this worker.
        stops: receives stop requests; it is listening already.
        report: receives messages.
        server: starts runs; None: a fork server of this process's own.
        says_imports: whether to report what runs will import; a supervisor has done that already.

    Raises:
        InputError: another version made the study, the directory is another study's, the device or a module that a
            recipe names is not there, or this machine cannot start runs.
        JorgeTuneError: the storage stayed away, or no run can be started.
    """
    opened.check_version()
    check_imports(opened.plan, settings.code, report if says_imports else lambda message: None)
    directory = opened.enter(runs)
    if not directory.is_shared:
        report(
            WorkerMessage(
                f"{runs} is not the directory of runs that the study began with; here, trials that were lost elsewhere "
                "start again from their first step"
            )
        )

    costs = prepare_costs(opened, directory, settings, stops, report)
    _hurry_once_stopped(opened, stops)
    with contextlib.ExitStack() as stack:
        if server is None:
            server = stack.enter_context(RunLauncher(with_torch=needs_torch(opened.plan)))
            server.warm_up()
        return Worker(opened, directory, server, stops, settings, costs, report).work()


def check_imports(plan: StudyPlan, code: CodePlaces, report: Report) -> None:
    """Report each module that the study's recipes name and that its runs here will import; nothing is imported yet.

    Raises:
        InputError: a module is not there, or lies where this worker takes no code from.
    """
    said = set()
    for recipe in recipes_of(plan):
        found = restricted_to(recipe, code)
        check_findable(found)
        for module in named_modules(found):
            if module not in said:
                said.add(module)
                report(WorkerMessage(f"imports {module}"))


def prepare_costs(
    opened: OpenStudy,
    directory: RunsDirectory,
    settings: WorkerSettings,
    stops: WorkerStops,
    report: Report = lambda message: None,
) -> IterationTimes:
    """The study's iteration times on this worker's device; those that are missing are measured alone on the machine.

    Raises:
        InputError: the device is not there, or the recipe cannot be calibrated on it.
    """
    costs = IterationTimes(opened, device=settings.device, threads=settings.threads, code=settings.code)
    if not costs.missing():
        return costs

    with Machine(directory.path).holding(stops.wait, alone=True) as may_measure:
        costs.look_up()  # another worker may have measured while this one waited
        if may_measure:
            calibrate = partial(calibrate_apart, code=settings.code, wait=stops.wait)
            costs.measure(calibrate, lambda text: report(WorkerMessage(text)))
    return costs


def measure_first(
    opened: OpenStudy,
    runs: Path,
    settings: WorkerSettings,
    report: Report = lambda message: None,
    last_word: Callable[[], None] = lambda: None,
) -> WorkerExit | None:
    """Calibrate what a study's constraint needs, before its workers start and make the machine busy.

    Signals are taken as stop requests meanwhile, in the main thread. Raises as `prepare_costs` does.

    Args:
        opened: the study.
        runs: the directory for its runs.
        settings: of the workers.
        report: receives messages.
        last_word: called when a second signal ends this process at once.

    Returns:
        Why to stop now; None if the workers may start.
    """
    stops = WorkerStops(last_word)
    try:
        with stops.listening():
            prepare_costs(opened, opened.enter(runs), settings, stops, report)
        request = stops.request
        return None if request is None else WorkerExit("interrupted", request.reason, EXIT_INTERRUPTED)
    finally:
        stops.close()


def _hurry_once_stopped(opened: OpenStudy, stops: WorkerStops) -> None:
    """Do not wait for a storage that is away once a signal asks the worker to stop."""
    patience = getattr(opened.storage, "patience", None)
    if patience is not None:
        patience.unwanted = lambda: stops.request is not None and stops.request.kind in ("signal", "supervisor")


def main(arguments: Sequence[str] = sys.argv[1:]) -> int:
    """Work in a process of one's own; the exit code says how it ended."""
    from jorge_tune.study.storage.retry import BrokenStorageError

    start = WorkerStart(**json.loads(arguments[0]))
    with WorkerStops().listening(start.supervisor) as stops:
        try:
            worker_exit = _join_and_work(start, stops)
        except BrokenStorageError as error:  # no other worker can use the storage either
            worker_exit = WorkerExit("fault", str(error), error.exit_code)
        except JorgeTuneError as error:
            worker_exit = WorkerExit("error", str(error), error.exit_code)
    _send(**worker_exit._asdict())
    return worker_exit.exit_code


def _join_and_work(start: WorkerStart, stops: WorkerStops) -> WorkerExit:
    from jorge_tune.study.storage.address import find_address
    from jorge_tune.study.storage.open import open_storage
    from jorge_tune.study.storage.retry import Patience
    from jorge_tune.study.study import join_study

    address = find_address(None)
    patience = Patience(
        address, told=lambda text: _send_message(WorkerMessage(text)), unwanted=lambda: stops.request is not None
    )
    opened = join_study(open_storage(address, create=False, patience=patience, wait=True), start.study)
    with RunLauncher(lent=start.fork_server) as launcher:
        runs, settings = Path(start.runs), start.settings()
        return work_on(opened, runs, settings, stops, _send_message, server=launcher, says_imports=False)


def _send_message(message: WorkerMessage) -> None:
    _send(**message._asdict())


def _send(**fields: object) -> None:
    """Write one line to the supervisor, in one write."""
    try:
        sys.stdout.write(json.dumps(fields) + "\n")
        sys.stdout.flush()
    except BrokenPipeError:  # the supervisor is gone; `WorkerStops` hears of that by another pipe
        pass


if __name__ == "__main__":
    sys.exit(main())
