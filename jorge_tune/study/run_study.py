"""A study on one machine, from its first trial to its verdict: baseline, search, confirmation, one after another.

A comparison is one study alone, and has no verdict of this kind.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

from jorge_tune.recipe.user_code import NO_PLACES, CodePlaces
from jorge_tune.study.confirm import companion_studies, conclude, open_baseline, open_confirmation
from jorge_tune.study.jobs.client import RunLauncher
from jorge_tune.study.plan import needs_torch
from jorge_tune.study.storage.address import Address
from jorge_tune.study.study import OpenStudy
from jorge_tune.study.study_verdict import StudyVerdict
from jorge_tune.study.supervisor import Supervisor, shares
from jorge_tune.study.trial_rows import ENDED, rows_of
from jorge_tune.study.worker import WorkerExit, WorkerMessage, WorkerStart, check_imports, measure_first

Stage = Literal["baseline", "search", "confirmation", "comparison"]
Runs = Callable[[str], Path]
Report = Callable[[WorkerMessage, int | None], None]


@dataclass(frozen=True, kw_only=True)
class Crew:
    """The workers of a study on this machine.

    `hours`: no trial of the search begins later than that after the start. `code`: where the workers take the code from
    that recipes name. `loggers`: where to copy the records of runs to. `last_word`: called when a second signal ends
    everything at once.
    """

    workers: int = 1
    device: str = "auto"
    threads: int | None = None
    download: bool = False
    hours: float | None = None
    code: CodePlaces = NO_PLACES
    loggers: tuple[str, ...] = ()
    last_word: Callable[[], None] = lambda: None


class StudyEnd(NamedTuple):
    """How a study ended: why the last workers stopped, in which stage, and the verdict, if there is one."""

    worker_exit: WorkerExit
    stage: Stage
    verdict: StudyVerdict | None


def run_whole(
    opened: OpenStudy,
    address: Address,
    runs: Runs,
    crew: Crew,
    watch: Callable[[Stage, OpenStudy], Report],
) -> StudyEnd:
    """Work on a study and its companion studies until nothing is left to do, or until there is a reason to stop.

    Args:
        opened: the search.
        address: of its storage, for the workers.
        runs: the directory for the runs of a study of that name.
        crew: the workers.
        watch: called when a stage begins; it returns the receiver of the messages of that stage.

    Raises:
        InputError: a companion study is not the one that this search would make, or a directory is taken.
        JorgeTuneError: the storage stayed away.
    """
    for study in (opened, *companion_studies(opened)):
        study.withdraw_stop_request()

    # One for all stages, since loading torch takes longer than many a small run.
    with RunLauncher(with_torch=needs_torch(opened.plan)) as launcher:
        baseline = open_baseline(opened, runs)
        if baseline is not None:
            worker_exit = _work("baseline", baseline, address, runs, crew, watch, launcher)
            if worker_exit.kind != "done":
                return _end(worker_exit, "baseline", opened)

        worker_exit = _work("search", opened, address, runs, crew, watch, launcher)
        searched = _end(worker_exit, "search", opened)
        if worker_exit.kind not in ("done", "time"):
            return searched

        return _confirm(opened, address, runs, crew, watch, launcher) or searched


def confirm_whole(
    opened: OpenStudy, address: Address, runs: Runs, crew: Crew, watch: Callable[[Stage, OpenStudy], Report]
) -> StudyEnd | None:
    """Work on the confirmation alone; None if there is nothing to confirm. Raises as `run_whole` does."""
    with RunLauncher(with_torch=needs_torch(opened.plan)) as launcher:
        return _confirm(opened, address, runs, crew, watch, launcher)


def _confirm(
    opened: OpenStudy,
    address: Address,
    runs: Runs,
    crew: Crew,
    watch: Callable[[Stage, OpenStudy], Report],
    launcher: RunLauncher,
) -> StudyEnd | None:
    confirmation = open_confirmation(opened, runs)
    if confirmation is None:
        return None

    confirmation.withdraw_stop_request()
    worker_exit = _work("confirmation", confirmation, address, runs, crew, watch, launcher)
    return _end(worker_exit, "confirmation", opened)


def compare_whole(
    opened: OpenStudy, address: Address, runs: Runs, crew: Crew, watch: Callable[[Stage, OpenStudy], Report]
) -> WorkerExit:
    """Work on a comparison until all its runs have ended, or until there is a reason to stop.

    Raises as `run_whole` does.

    Returns:
        Why the last workers stopped.
    """
    opened.withdraw_stop_request()
    with RunLauncher(with_torch=needs_torch(opened.plan)) as launcher:
        return _work("comparison", opened, address, runs, crew, watch, launcher)


def _end(worker_exit: WorkerExit, stage: Stage, opened: OpenStudy) -> StudyEnd:
    is_broken_off = worker_exit.kind in ("interrupted", "fault", "error")
    return StudyEnd(worker_exit, stage, None if is_broken_off else conclude(opened))


def _work(
    stage: Stage,
    opened: OpenStudy,
    address: Address,
    runs: Runs,
    crew: Crew,
    watch: Callable[[Stage, OpenStudy], Report],
    launcher: RunLauncher,
) -> WorkerExit:
    """Let the workers of a crew work on one study."""
    if _is_done(opened):
        return WorkerExit("done")

    workers = min(crew.workers, opened.plan.trials)
    hours = crew.hours if stage == "search" else None
    starts = [
        WorkerStart(
            study=opened.plan.name,
            runs=str(runs(opened.plan.name)),
            device=device,
            threads=threads,
            download=crew.download,
            code=crew.code,
            loggers=crew.loggers,
            deadline=None if hours is None else time.time() + 3600 * hours,
        )
        for device, threads in shares(workers, crew.device, crew.threads)
    ]

    report = watch(stage, opened)
    check_imports(opened.plan, crew.code, lambda message: report(message, None))
    directory, settings = runs(opened.plan.name), starts[0].settings()
    worker_exit = measure_first(opened, directory, settings, lambda message: report(message, None), crew.last_word)
    return worker_exit or Supervisor(address, starts, report, crew.last_word, launcher).supervise()


def _is_done(opened: OpenStudy) -> bool:
    rows = rows_of(opened)
    return len(rows) >= opened.plan.trials and all(row.state in ENDED for row in rows)
