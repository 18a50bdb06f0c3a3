"""The progress of a study on stderr: a live display on a terminal, else a line per finished trial."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from typing import TYPE_CHECKING, Any

from jorge_tune.cli.output import clock_time, is_talk_on_terminal, print_json, print_text, say, tell
from jorge_tune.cli.study_options import StudyContext, how_to_resume
from jorge_tune.errors import EXIT_INTERRUPTED, EXIT_NO_ANSWER, JorgeTuneError
from jorge_tune.untrusted import visible

if TYPE_CHECKING:
    from rich.console import Group

    from jorge_tune.recipe.user_code import CodePlaces
    from jorge_tune.study.run_study import Stage, StudyEnd
    from jorge_tune.study.status import RunningTrial, StudyStatus
    from jorge_tune.study.study import OpenStudy
    from jorge_tune.study.worker import WorkerExit, WorkerMessage

_READ_SECONDS = 2.0  # between two looks at the storage
_FRAMES_PER_SECOND = 2
_BAR = 24

Read = Callable[[], "StudyStatus"]
Report = Callable[["WorkerMessage", "int | None"], None]


@contextmanager
def study_display(label: str, read: Read) -> Iterator[Report]:
    """Print the workers' messages; on a terminal, a display below them shows the study.

    Args:
        label: The name of the stage.
        read: Reads the study's status; called at most every two seconds, and when a trial ends.
    """
    board = Board(label, read)
    if not is_talk_on_terminal():
        yield board.printing(tell)
        return
    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

    console = Console(stderr=True, highlight=False)
    live = Live(get_renderable=board.drawn, console=console, refresh_per_second=_FRAMES_PER_SECOND, transient=True)
    with live:
        yield board.printing(lambda line: live.console.print(Text(visible(line))))


class Board:
    """The latest status of a study, and the lines that workers' messages become.

    Args:
        label: The name of the stage.
        read: Reads the study's status.
    """

    def __init__(self, label: str, read: Read) -> None:
        self._label, self._read = label, read
        self._status, self._read_at = read(), time.monotonic()

    def printing(self, out: Callable[[str], None]) -> Report:
        """A receiver of workers' messages; it prints a line for each message that needs one."""

        def report(message: WorkerMessage, worker: int | None) -> None:
            line = self.line_of(message, worker)
            if line is not None:
                out(line)

        return report

    def line_of(self, message: WorkerMessage, worker: int | None) -> str | None:
        """The line for a message about a trial or a worker; None for a trial that has just begun."""
        if message.trial is None:
            return message.what if worker is None else f"worker {worker + 1}: {message.what}"
        if message.state == "running":
            return None
        where = f"{self._label}: {_trial(self._status, message.trial)}"
        if message.state not in ("complete", "pruned", "failed"):
            return f"{where}: {message.what}" + (f" ({message.state})" if message.state == "waiting" else "")

        status = self.look(at_once=True)
        where = f"{self._label}: {_trial(status, message.trial)}"
        what = _value(status, message.trial, message.what) if message.state == "complete" else _ending(message)
        return f"[{status.ended}/{status.total}] {where}: {what}{_best_so_far(status, message.trial)}"

    def look(self, *, at_once: bool = False) -> StudyStatus:
        """The latest status; `at_once` reads it now."""
        if at_once or time.monotonic() - self._read_at >= _READ_SECONDS:
            with suppress(JorgeTuneError):  # the storage does not answer: keep the latest status
                self._status = self._read()
            self._read_at = time.monotonic()
        return self._status

    def drawn(self) -> Group:
        """The display: a bar, the best trial so far, and a line for each running trial."""
        from rich.console import Group
        from rich.text import Text

        lines = display_lines(self._label, self.look())
        return Group(*(Text(visible(line), no_wrap=True, overflow="ellipsis") for line in lines))


def display_lines(label: str, status: StudyStatus) -> list[str]:
    """The lines of the display, the most important part first in each."""
    filled = round(_BAR * status.ended / max(status.total, 1))
    bar = "#" * filled + "-" * (_BAR - filled)
    eta = "" if status.eta_seconds is None else f"  ETA {clock_time(status.eta_seconds)}"
    lines = [f"{label} [{bar}] {status.ended}/{status.total}, {status.remaining} remaining{eta}"]
    if status.best is not None and _has_best(status):
        point = ", ".join(f"{name.rpartition('.')[2]} {_short(value)}" for name, value in status.best_values.items())
        assert status.best.value is not None
        lines.append(f"  best {status.best.value:.4g}, trial {status.best.number}" + (f": {point}" if point else ""))
    lines += [f"  {_running(status, one)}" for one in status.running]
    if status.stop is not None:
        lines.append(f"  stopping ({status.stop})")
    return lines


def _value(status: StudyStatus, number: int, reported: str) -> str:
    """A completed trial's value as the worker reported it; an infinite value in words."""
    row = next((row for row in status.rows if row.number == number), None)
    if row is None or row.value is None or math.isfinite(row.value):
        return reported
    return "diverged" if row.diverged else status.worst


def _ending(message: WorkerMessage) -> str:
    return message.state + (f", {message.what}" if message.what else "")


def _trial(status: StudyStatus, number: int) -> str:
    """`trial 3`; a confirmation or comparison adds the contender and the seed."""
    from jorge_tune.study.confirm import run_in_words

    words = run_in_words(status.rows, number, named=status.is_comparison)
    return f"trial {number}" + (f" ({words})" if words else "")


def _running(status: StudyStatus, one: RunningTrial) -> str:
    text = _trial(status, one.number)
    if one.is_lost:
        return f"{text}: lost, not yet put back into the queue"
    text += "" if one.seed is None or "seed" in text else f"  seed {one.seed}"
    text += "" if one.epoch is None else f"  epoch {one.epoch:g}"
    scores: Mapping[str, Any] = one.metrics or {}
    return text + "".join(f"  {name} {_short(value)}" for name, value in scores.items())


def _best_so_far(status: StudyStatus, number: int) -> str:
    if status.best is None or status.best.value is None or not _has_best(status):
        return ""
    if status.best.number == number:
        return ", the best so far"
    return f" (best {status.best.value:.4g}, trial {status.best.number})"


def _has_best(status: StudyStatus) -> bool:
    """Whether the study is a search, which has a best trial."""
    return not status.study.endswith((".sgd", ".confirm"))


def _short(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.4g}" if math.isfinite(value) else str(value)
    return "null" if value is None else str(value)


Watch = Callable[["Stage", "OpenStudy"], Report]


@contextmanager
def watching(context: StudyContext) -> Iterator[Watch]:
    """Show each stage of a study; the display of a stage ends when the next begins, or with the context."""
    from jorge_tune.study.status import read_status

    with ExitStack() as shown:

        def watch(stage: Stage, opened: OpenStudy) -> Report:
            shown.close()
            tell(f"{stage}: study {opened.plan.name} in {context.address}")
            folder, seen = context.runs(opened.plan.name), opened.for_display()
            return shown.enter_context(study_display(stage, lambda: read_status(seen, folder, context.address)))

        yield watch


def run(
    context: StudyContext,
    *,
    workers: int,
    hours: float | None,
    download: bool,
    code: CodePlaces,
    loggers: tuple[str, ...] = (),
) -> StudyEnd:
    """Work on a study on this machine until it has a verdict or something stops the work; progress on stderr.

    Args:
        context: The study.
        workers: Number of workers.
        hours: Start no trial after this many hours; None: the plan's.
        download: Whether a torchvision data set may be fetched.
        code: Where runs find the code that recipes name.
        loggers: Where to copy the records of runs to.
    """
    from jorge_tune.study.run_study import Crew, run_whole

    plan = context.opened.plan
    crew = Crew(
        workers=workers,
        device=plan.device,
        threads=plan.threads,
        download=download,
        hours=plan.hours if hours is None else hours,
        code=code,
        loggers=loggers,
        last_word=last_word(how_to_resume(context)),
    )
    with watching(context) as watch:
        return run_whole(context.opened, context.address, context.runs, crew, watch)


def last_word(resume: str) -> Callable[[], None]:
    """A function for a signal handler; it prints to stderr that a second signal ended the command at once.

    Args:
        resume: The clause that says what resumes the work.
    """
    cursor = "\x1b[?25h\n" if is_talk_on_terminal() else ""  # the display hides the cursor
    words = f"{cursor}a second signal ended the command at once; {visible(resume)}\n".encode()

    def say() -> None:
        with suppress(OSError):
            os.write(2, words)

    return say


def show_end(context: StudyContext, end: StudyEnd, output_format: str) -> int:
    """Print the verdict to stdout if the study has one; returns the exit code."""
    from jorge_tune.study.confirm import stored_form

    code = exit_code(context, end)
    if end.verdict is None:
        return code
    data = stored_form(end.verdict)
    if output_format == "json":
        print_json(data)
    else:
        say("Verdict")
        for sentence in data["sentences"]:
            print_text(sentence)
    return code


def exit_code(context: StudyContext, end: StudyEnd) -> int:
    """The command's exit code; stderr says why a study ended early."""
    code = why_left(end.worker_exit, end.stage, how_to_resume(context))
    if code:
        return code
    return 0 if end.verdict is not None and end.verdict.has_answer else EXIT_NO_ANSWER


def why_left(exit_reason: WorkerExit, what: str, resume: str) -> int:
    """Print to stderr why the workers ended early; returns the exit code, 0 if nothing went wrong.

    Args:
        exit_reason: Why the last worker ended.
        what: The stage that the workers worked on.
        resume: The clause that says what resumes the work.
    """
    if exit_reason.kind in ("fault", "error"):
        tell(exit_reason.reason)
        return exit_reason.exit_code or 1
    if exit_reason.kind == "interrupted":
        tell(f"{exit_reason.reason}; {resume}")
        return EXIT_INTERRUPTED
    if exit_reason.kind in ("stopped", "time"):
        tell(f"{what} ended early: {exit_reason.reason}")
    return 0
