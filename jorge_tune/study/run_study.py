"""A study from its first trial to its verdict on one machine: baseline, search, confirmation, one after another.

A comparison is one study alone, without a verdict of its own.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

from jorge_tune.study.confirm import beside, conclude, open_baseline, open_confirmation
from jorge_tune.study.jobs.client import RunLauncher
from jorge_tune.study.storage.address import Address
from jorge_tune.study.study import OpenStudy
from jorge_tune.study.study_verdict import StudyVerdict
from jorge_tune.study.supervisor import Supervisor, shares
from jorge_tune.study.trial_rows import ENDED, rows_of
from jorge_tune.study.worker import WorkerExit, WorkerMessage, WorkerStart, measure_first

Stage = Literal["baseline", "search", "confirmation", "comparison"]
Runs = Callable[[str], Path]
Report = Callable[[WorkerMessage, int | None], None]


@dataclass(frozen=True, kw_only=True)
class Crew:
    """Who works, and where.

    `hours`: after that many of this run no further trial of the search is begun. `last_word`: called when a second
    signal ends everything at once.
    """

    workers: int = 1
    device: str = "auto"
    threads: int | None = None
    download: bool = False
    hours: float | None = None
    last_word: Callable[[], None] = lambda: None


class StudyEnd(NamedTuple):
    """How it ended: why the last workers left, in which stage, and the verdict, unless something broke it off."""

    left: WorkerExit
    stage: Stage
    verdict: StudyVerdict | None


def run_whole(
    opened: OpenStudy,
    address: Address,
    runs: Runs,
    crew: Crew,
    watch: Callable[[Stage, OpenStudy], Report],
) -> StudyEnd:
    """Work on a study and those beside it until there is nothing left to do, or a reason to leave.

    Args:
        opened: the search.
        address: of its storage, for the workers.
        runs: the directory for the runs of a study of that name.
        crew: who works.
        watch: called as a stage begins; what it returns hears what happens in it.

    Raises:
        InputError: a study beside it is another one than this search would make, or a directory is taken.
        JorgeTuneError: the storage stayed away.
    """
    for study in (opened, *beside(opened)):
        study.let_go_on()
    with RunLauncher() as launcher:  # one for all stages, since loading torch takes longer than many a small run
        baseline = open_baseline(opened, runs)
        if baseline is not None:
            left = _work("baseline", baseline, address, runs, crew, watch, launcher)
            if left.kind != "done":
                return _end(left, "baseline", opened)

        left = _work("search", opened, address, runs, crew, watch, launcher)
        searched = _end(left, "search", opened)
        if left.kind not in ("done", "time"):
            return searched
        return _confirm(opened, address, runs, crew, watch, launcher) or searched


def confirm_whole(
    opened: OpenStudy, address: Address, runs: Runs, crew: Crew, watch: Callable[[Stage, OpenStudy], Report]
) -> StudyEnd | None:
    """The confirmation alone; None where there is nothing to confirm. Raises as `run_whole` does."""
    with RunLauncher() as launcher:
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
    confirmation.let_go_on()
    left = _work("confirmation", confirmation, address, runs, crew, watch, launcher)
    return _end(left, "confirmation", opened)


def compare_whole(
    opened: OpenStudy, address: Address, runs: Runs, crew: Crew, watch: Callable[[Stage, OpenStudy], Report]
) -> WorkerExit:
    """Work on a comparison until all its runs have ended, or there is a reason to leave. Raises as `run_whole` does.

    Returns:
        Why the last workers left.
    """
    opened.let_go_on()
    with RunLauncher() as launcher:
        return _work("comparison", opened, address, runs, crew, watch, launcher)


def _end(left: WorkerExit, stage: Stage, opened: OpenStudy) -> StudyEnd:
    is_broken_off = left.kind in ("interrupted", "fault", "error")
    return StudyEnd(left, stage, None if is_broken_off else conclude(opened))


def _work(
    stage: Stage,
    opened: OpenStudy,
    address: Address,
    runs: Runs,
    crew: Crew,
    watch: Callable[[Stage, OpenStudy], Report],
    launcher: RunLauncher,
) -> WorkerExit:
    """One study by a crew of worker processes."""
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
            deadline=None if hours is None else time.time() + 3600 * hours,
        )
        for device, threads in shares(workers, crew.device, crew.threads)
    ]
    report = watch(stage, opened)
    folder, settings = runs(opened.plan.name), starts[0].settings()
    left = measure_first(opened, folder, settings, lambda told: report(told, None), crew.last_word)
    return left or Supervisor(address, starts, report, crew.last_word, launcher).supervise()


def _is_done(opened: OpenStudy) -> bool:
    rows = rows_of(opened)
    return len(rows) >= opened.plan.trials and all(row.state in ENDED for row in rows)
