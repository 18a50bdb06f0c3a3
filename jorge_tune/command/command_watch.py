"""Follows a command from its start to its end: its output, its log, and the reasons to end it."""

from __future__ import annotations

import codecs
import contextlib
import select
import time
from pathlib import Path
from typing import NamedTuple

from jorge_tune.command.guarded_process import CommandEnd, GuardedProcess
from jorge_tune.command.output_file import OutputFile
from jorge_tune.logs.columns import ColumnPlan
from jorge_tune.logs.course import Course
from jorge_tune.logs.rows import LogError, LogReader, LogRow
from jorge_tune.logs.stdout_log import StdoutLog
from jorge_tune.reporting import LISTENS, STOP
from jorge_tune.runs.run_journal import Event, ProgressCallback, RunProgress
from jorge_tune.runs.stop_request import StopRequest

TICK_SECONDS = 0.25
_JOINED_SECONDS = 1.0  # that an evaluation waits for further metrics of the same step
_LAST_SECONDS = 2.0  # between SIGTERM and the end, for a script that was told by its stop file before


class WatchedEnd(NamedTuple):
    """How a command ended, why it was asked to, and what is wrong with its log."""

    command: CommandEnd
    asked: str | None
    fault: str | None


class _EndRequest:
    """A request to end: first by the stop file, then by SIGTERM, then by force."""

    def __init__(self, process: GuardedProcess, run: Path, grace_seconds: float) -> None:
        self._process, self._run, self._grace_seconds = process, run, grace_seconds
        self._kill_at = self._term_at = float("inf")
        self.reason: str | None = None

    def make(self, reason: str) -> None:
        """Ask once. A script that looks for the stop file is left to end by itself; any other gets SIGTERM."""
        if self.reason is not None:
            return
        self.reason = reason
        now = time.monotonic()
        with contextlib.suppress(OSError):  # no room: SIGTERM says it too
            (self._run / STOP).write_text(reason + "\n")
        listens = (self._run / LISTENS).exists()
        self._term_at = now + (self._grace_seconds if listens else 0.0)
        self._kill_at = now + self._grace_seconds + (_LAST_SECONDS if listens else 0.0)
        self.press()

    def press(self) -> None:
        """Do what is due by now."""
        now = time.monotonic()
        if now >= self._term_at:
            self._term_at = float("inf")
            self._process.ask_to_end()
        if now >= self._kill_at:
            self._kill_at = float("inf")
            self._process.kill()


class CommandWatch:
    """Reads what a command writes until it has ended; `follow` may be called once.

    Args:
        process: the command.
        output: takes what it prints.
        reader: of its log.
        plan: which column is what.
        course: takes the readings.
        run: the run directory.
        grace_seconds: that it may take to end once it was asked to.
        silence_seconds: without a new value, after which it is asked to end; None: any number.
        max_steps: after which it is asked to end; None: any number.
        total_steps: of the whole run; None where that is not known.
        progress: called at the start and after each evaluation.
    """

    def __init__(
        self,
        process: GuardedProcess,
        output: OutputFile,
        reader: LogReader,
        plan: ColumnPlan,
        course: Course,
        run: Path,
        *,
        grace_seconds: float,
        silence_seconds: float | None,
        max_steps: int | None,
        total_steps: int | None,
        progress: ProgressCallback | None,
    ) -> None:
        self._process, self._output, self._reader, self._plan = process, output, reader, plan
        self._course, self._run, self._progress = course, run, progress
        self._silence_seconds, self._max_steps, self._total_steps = silence_seconds, max_steps, total_steps
        self._request = _EndRequest(process, run, grace_seconds)
        self._fault: str | None = None
        self._told = 0
        self._started, self._started_wall = time.monotonic(), time.time()
        self._heard = self._merged = self._started
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def follow(self, stop: StopRequest) -> WatchedEnd:
        """Until the command has ended and all that it wrote is read.

        Raises:
            InputError: it could not be started.
            OSError: the disk is full.
        """
        self._tell("start")
        poll = select.poll()
        poll.register(self._process.output, select.POLLIN)
        poll.register(self._process.answers, select.POLLIN)
        ended: CommandEnd | None = None
        due = time.monotonic() + TICK_SECONDS
        while ended is None:
            ready = dict(poll.poll(max(0.0, due - time.monotonic()) * 1000))
            if self._process.output in ready and not self._take_output():
                poll.unregister(self._process.output)
            if self._process.answers in ready:
                ended = self._process.ended()
            if time.monotonic() >= due:
                self._look(stop)
                due = time.monotonic() + TICK_SECONDS
        while self._take_output(at_end=True):
            pass
        self._read(at_end=True)
        asked = None if self._fault is not None or self._course.diverged else self._request.reason
        return WatchedEnd(ended, asked, self._fault)

    def _look(self, stop: StopRequest) -> None:
        """Read the log, and see whether there is a reason to end."""
        self._read()
        now = time.monotonic()
        if self._fault is not None:
            self._request.make(self._fault)
        elif self._course.diverged is not None:
            self._request.make(self._course.diverged)
        elif stop.reason is not None:
            self._request.make(stop.reason)
        elif self._max_steps is not None and self._course.moment.step >= self._max_steps:
            self._request.make(f"stopped after {self._course.moment.step} steps, as requested")
        elif self._silence_seconds is not None and now - self._heard >= self._silence_seconds:
            self._fault = f"no value came for {self._silence_seconds:g} s (task.silence_seconds)"
            self._request.make(self._fault)
        self._request.press()

    def _read(self, *, at_end: bool = False) -> None:
        """Take in what the log has; a fault of it ends the run, and what was read before stays."""
        if self._fault is not None:
            return
        try:
            for row in self._reader.read(at_end=at_end):
                self._heard = time.monotonic()
                self._take(row)
                self._tell_of_new()
            is_whole = self._course.has_metric and time.monotonic() - self._merged >= _JOINED_SECONDS
            if at_end or (self._course.is_waiting and is_whole):
                self._course.settle()
        except LogError as error:
            self._fault = str(error)
            with contextlib.suppress(LogError):
                self._course.settle()
        self._tell_of_new()

    def _take(self, row: LogRow) -> None:
        readings = self._plan.readings(row)
        if not readings:
            self._course.place(*self._plan.place_of(row))
            return
        self._merged = time.monotonic()
        if readings[0].step == 0:  # the loop begins: what came before was the start-up
            before = self._seconds_of(row)
            self._started += before
            self._started_wall += before
        self._course.take(readings, self._seconds_of(row) if readings[0].seconds is None else readings[0].seconds)

    def _seconds_of(self, row: LogRow) -> float:
        """Seconds since the start: by the row's own clock where it has one, else by when it was seen."""
        now = time.monotonic()
        at = now
        if row.clock is not None and self._started <= row.clock <= now:  # else it is another machine's clock
            at = row.clock
        elif row.wall is not None and self._started_wall <= row.wall <= time.time():
            at = self._started + row.wall - self._started_wall
        return at - self._started

    def _take_output(self, *, at_end: bool = False) -> bool:
        """Keep what was printed, and search it; False at its end."""
        chunk = self._process.printed()
        if not chunk:
            return chunk is not None and not at_end
        self._output.write(chunk)
        if isinstance(self._reader, StdoutLog):
            self._reader.feed(self._decoder.decode(chunk), time.monotonic())
        return True

    def _tell_of_new(self) -> None:
        if self._course.evaluations > self._told:
            self._told = self._course.evaluations
            self._tell("evaluation")

    def _tell(self, event: Event) -> None:
        if self._progress is None:
            return
        at, course = self._course.moment, self._course
        part = "validation" if "validation" in course.metrics else next(iter(course.metrics), None)
        self._progress(
            RunProgress(
                event=event,
                step=at.step,
                total_steps=self._total_steps or 0,
                epoch=at.epoch,
                loss=None,
                lr=float("nan"),
                metrics={} if part is None else course.metrics[part],
                part=part,
            )
        )
