"""One run of a command: started in its run directory, its log read while it runs, and its end recorded.

The records are those of every run, so that comparisons, studies and reports take them as they are. `train_seconds` is
the wall clock from the process's start (or from its report of step 0) to a value, evaluations included; the start
record says so (`clock: wall`).
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jorge_tune.command.command_watch import CommandWatch, WatchedEnd
from jorge_tune.command.guarded_process import GuardedProcess
from jorge_tune.command.launch import Launch, command_device, environment_facts, prepare
from jorge_tune.command.output_file import OutputFile
from jorge_tune.errors import KilledCommandError, TrainingError, shortened
from jorge_tune.files import is_disk_full
from jorge_tune.hardware import oom_kills
from jorge_tune.logs.columns import ColumnPlan, LogReading
from jorge_tune.logs.course import Course, CourseSettings
from jorge_tune.logs.formats import COUNTS_DONE, open_log
from jorge_tune.logs.rows import LogReader, LogRow
from jorge_tune.recipe.checks import check_resolved
from jorge_tune.recipe.placeholders import command_words
from jorge_tune.recipe.schema import MetricsSection, Recipe
from jorge_tune.records import Record, RunDirectory, of_kind, read_records
from jorge_tune.reporting import LISTENS, STOP
from jorge_tune.runs.record_loggers import check_loggers, open_loggers
from jorge_tune.runs.run_journal import Moment, ProgressCallback, RunJournal
from jorge_tune.runs.run_result import RunEnding, RunResult, read_result
from jorge_tune.runs.run_start import ResumeState, create_run, full_disk_in_words, inspect_run_directory
from jorge_tune.runs.stop_request import StopRequest

GRACE_SECONDS = 30.0


def run_command(
    recipe: Recipe,
    out: Path,
    *,
    device: str = "auto",
    resume: bool = False,
    max_steps: int | None = None,
    threads: int | None = None,
    progress: ProgressCallback | None = None,
    stop: StopRequest | None = None,
    loggers: Sequence[str] = (),
) -> RunResult:
    """Run a recipe's command in the run directory `out`, which is made once all input has proved good.

    Args:
        recipe: with a task of kind command; its `seed` is the run's.
        out: the run directory; missing, empty, or (with `resume`) holding this very run, which the command is handed.
        device: "auto", "cpu", "cuda", "cuda:1", ...
        resume: continue the run that the directory holds, as far as the command can; start it where there is none.
        max_steps: ask the command to end once it has reported so many steps.
        threads: CPU threads, for OpenMP and MKL; None leaves them to the command.
        progress: called at the start and after each evaluation.
        stop: may ask the run to stop from elsewhere; Ctrl-C and SIGTERM do so in the main thread anyway.
        loggers: where to copy the records to: `csv`, `tensorboard`, `wandb`.

    Raises:
        InputError: recipe, command, device or directory cannot be used; nothing was written.
        KilledCommandError: somebody killed the command.
        TrainingError: the command failed; its directory says how.
    """
    check_resolved(recipe)
    check_loggers(loggers)
    directory = RunDirectory(out)
    state = inspect_run_directory(directory, recipe, resume=resume)
    if state is ResumeState.ENDED:
        return read_result(directory, recipe)
    chosen = command_device(device)
    launch = prepare(recipe, directory, chosen, resumed=state is ResumeState.UNFINISHED, threads=threads)

    with full_disk_in_words(directory), contextlib.ExitStack() as stack:
        reader = open_log(_metrics(recipe), out.absolute(), launch.log)
        if state is ResumeState.NOTHING:
            journal = stack.enter_context(create_run(directory, recipe, environment_facts(chosen)))
        else:
            journal = stack.enter_context(RunJournal(directory))
            if inspect_run_directory(directory, recipe, resume=resume) is ResumeState.ENDED:
                return read_result(directory, recipe)
        journal.also_to(open_loggers(loggers, directory, recipe))
        stop = stack.enter_context(stop or StopRequest())
        earlier = read_records(directory.records) if directory.records.is_file() else []
        run = _CommandRun(recipe, directory, journal, reader, launch, earlier, progress)
        run.run(stop, max_steps)
    return read_result(directory, recipe)


def check_startable(recipe: Recipe, device: str) -> None:
    """Refuse a command that could not be started, without starting it.

    Raises:
        InputError: the program, the device or a package for its log is not there, or its interval is not resolved.
    """
    check_resolved(recipe)
    directory = RunDirectory(Path(recipe.name))
    launch = prepare(recipe, directory, command_device(device), resumed=False, threads=None)
    open_log(_metrics(recipe), directory.root.absolute(), launch.log)


def _metrics(recipe: Recipe) -> MetricsSection:
    assert recipe.task is not None
    return recipe.task.metrics or MetricsSection()


class _CommandRun:
    """One stretch of one run: from the command's start to the record of its end."""

    def __init__(
        self,
        recipe: Recipe,
        directory: RunDirectory,
        journal: RunJournal,
        reader: LogReader,
        launch: Launch,
        earlier: list[Record],
        progress: ProgressCallback | None,
    ) -> None:
        self._recipe, self._directory, self._journal = recipe, directory, journal
        self._reader, self._launch, self._progress = reader, launch, progress
        section = _metrics(recipe)
        metric = None if recipe.target is None else recipe.target.metric
        self._metric = metric
        self._plan = ColumnPlan(section, metric)
        settings = CourseSettings(metric, section.steps_per_epoch, _first_epoch(section, earlier))
        places = [Moment(r["step"], r["epoch"], r["train_seconds"]) for r in of_kind(earlier, "evaluation")]
        self._is_resumed = bool(earlier)
        self._has_started = False
        self._course = Course(journal, settings, self._start, earlier=places if earlier else None)

    def run(self, stop: StopRequest, max_steps: int | None) -> None:
        """Run the command to its end, and record it.

        Raises:
            TrainingError: it failed, or was killed.
        """
        self._clean_up()
        if self._is_resumed:
            self._take_leftovers()
            self._journal.say("the command starts again; it finds the run's directory as it left it")
        else:
            self._start(Moment(0, 0.0, 0.0), False)
        kills_before = oom_kills()
        task = self._recipe.task
        assert task is not None
        try:
            with (
                OutputFile(self._directory.root) as output,
                GuardedProcess(self._launch.words, self._launch.environment, self._journal.lock) as process,
            ):
                watch = CommandWatch(
                    process,
                    output,
                    self._reader,
                    self._plan,
                    self._course,
                    self._directory.root,
                    grace_seconds=GRACE_SECONDS if task.grace_seconds is None else task.grace_seconds,
                    silence_seconds=task.silence_seconds,
                    max_steps=max_steps,
                    total_steps=self._recipe.steps,
                    progress=self._progress,
                )
                end = watch.follow(stop)
                said = output.last_lines()
        except Exception as error:
            if not (isinstance(error, OSError) and is_disk_full(error)):
                self._record("failed", f"{type(error).__name__}: {error}", {})
            raise
        finally:
            self._clean_up()
        self._conclude(end, said, oom_kills() != kills_before)

    def _take_leftovers(self) -> None:
        """Record what the command wrote last, before the run that read it was killed."""
        rows = self._reader.skip()
        beyond: list[tuple[LogRow, list[LogReading]]] = []
        for row in rows:
            readings = self._plan.readings(row)
            if readings:
                is_new = self._course.is_beyond(readings[0])
                beyond = [*beyond, (row, readings)] if is_new else []
        clocks = [row.clock for row in rows[: len(rows) - len(beyond)] if row.clock is not None]
        for row, readings in beyond:
            passed = row.clock - clocks[-1] if clocks and row.clock is not None else 0.0
            self._course.take(readings, max(0.0, passed))
        self._course.reopen()

    def _start(self, at: Moment, is_kept: bool) -> None:
        """Record that a stretch begins."""
        task = self._recipe.task
        assert task is not None
        self._has_started = True
        said = []
        if self._is_resumed and not is_kept:
            said.append("the command did not go on from an earlier place: it starts from its first step")
        self._journal.start(
            at,
            seed=self._recipe.seed,
            resumed=is_kept,
            about=self._recipe.name,
            facts={"clock": "wall", "command": list(command_words(task))},
            said=[*said, f"command: {' '.join(self._launch.words)}"],
        )

    def _conclude(self, end: WatchedEnd, said: str, was_oom_kill_counted: bool) -> None:
        """Record how the run ended.

        Raises:
            TrainingError: it failed, or was killed.
        """
        for note in self._reader.notes:
            self._journal.say(note)
        facts = {"exit_code": end.command.code} if end.command.signal is None else {"signal": end.command.signal}
        ending = self._ending(end, said)
        self._record(*ending, facts)
        if ending.outcome != "failed":
            return
        message = f"{self._directory.root}: {ending.reason}"
        if end.fault is None and end.asked is None and end.command.signal is not None:
            raise KilledCommandError(message, out_of_memory=was_oom_kill_counted)
        raise TrainingError(message)

    def _ending(self, end: WatchedEnd, said: str) -> RunEnding:
        course, command = self._course, end.command
        if end.fault is not None:
            return RunEnding("failed", end.fault)
        if course.diverged is not None:
            return RunEnding("diverged", course.diverged)
        if end.asked is not None and not (command.code == 0 and self._is_whole()):
            return RunEnding("interrupted", end.asked)
        if command.code != 0:
            return RunEnding("failed", f"the command {command.words()}{said}")
        if course.evaluations == 0:
            return RunEnding("failed", self._nothing_reported(said))
        return RunEnding("finished", "; ".join(self._remarks()))

    def _is_whole(self) -> bool:
        """Whether the run has come as far as its recipe says."""
        at, recipe = self._course.moment, self._recipe
        return at.epoch >= recipe.epochs if recipe.epochs is not None else at.step >= (recipe.steps or 0)

    def _remarks(self) -> list[str]:
        """What a reader of a finished run should know."""
        remarks, at, recipe = [], self._course.moment, self._recipe
        if self._metric is not None and self._metric not in self._course.measured:
            has = ", ".join(self._course.measured)
            remarks.append(f"no evaluation has the target's metric {self._metric}; there is {has}")
        if recipe.epochs is not None and at.epoch < recipe.epochs:
            remarks.append(f"the command ended after {at.epoch:g} of {recipe.epochs} epochs")
        if recipe.steps is not None and at.step < recipe.steps:
            remarks.append(f"the command ended after {at.step} of {recipe.steps} steps")
        return remarks

    def _nothing_reported(self, said: str) -> str:
        if not self._plan.seen:
            return f"the command ended without a value in {self._reader.source()}{said}"
        columns = shortened(list(self._plan.seen), 12)
        return (
            f"{self._reader.source()} has no evaluation, only {columns}; "
            "name the metrics in task.metrics.columns, as {top1: val_acc}"
        )

    def _record(self, outcome: Any, reason: str, facts: Mapping[str, object]) -> None:
        with contextlib.suppress(OSError):
            if not self._has_started:  # nothing new: what was recorded still holds
                self._journal.start(
                    self._course.moment, seed=self._recipe.seed, resumed=True, about=self._recipe.name, facts={}
                )
            self._journal.end(self._course.moment, outcome, reason, facts)

    def _clean_up(self) -> None:
        """Take away what the script and this run leave each other as signs."""
        for name in (STOP, LISTENS):
            with contextlib.suppress(OSError):
                (self._directory.root / name).unlink()


def _first_epoch(section: MetricsSection, earlier: list[Record]) -> int | None:
    """The number of the log's first epoch, as far as the format or an earlier stretch tells."""
    if section.first_epoch is not None:
        return section.first_epoch
    if section.from_ in COUNTS_DONE:
        return 1
    known = list(of_kind(earlier, "evaluation"))
    return int(known[-1].get("first_epoch", 1)) if known else None
