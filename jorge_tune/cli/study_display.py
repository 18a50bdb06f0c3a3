"""The progress of a study on stderr: a live display on a terminal, a line per finished trial off it."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from typing import TYPE_CHECKING, Any

from jorge_tune.cli.calibration_options import EXIT_NO_ANSWER
from jorge_tune.cli.output import clock_time, is_talk_on_terminal, print_json, print_text, say, tell
from jorge_tune.cli.study_options import EXIT_INTERRUPTED, FoundStudy, goes_on
from jorge_tune.errors import JorgeTuneError
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
    """What workers tell is told on; on a terminal a display below it follows the study.

    Args:
        label: names the stage.
        read: looks at the study; called at a gentle pace.
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
    """The last look at a study, and the lines that come of what workers tell.

    Args:
        label: names the stage.
        read: looks at the study.
    """

    def __init__(self, label: str, read: Read) -> None:
        self._label, self._read = label, read
        self._status, self._read_at = read(), time.monotonic()

    def printing(self, out: Callable[[str], None]) -> Report:
        """What hears the workers, and writes a line of whatever is worth one."""

        def report(told: WorkerMessage, worker: int | None) -> None:
            line = self.line_of(told, worker)
            if line is not None:
                out(line)

        return report

    def line_of(self, told: WorkerMessage, worker: int | None) -> str | None:
        """A line for a trial that ended, went back or told something; None for one that merely began."""
        if told.trial is None:
            return told.what if worker is None else f"worker {worker + 1}: {told.what}"
        if told.state == "running":
            return None
        where = f"{self._label}: {_trial(self._status, told.trial)}"
        if told.state not in ("complete", "pruned", "failed"):
            return f"{where}: {told.what}" + (f" ({told.state})" if told.state == "waiting" else "")
        status = self.look(at_once=True)
        where = f"{self._label}: {_trial(status, told.trial)}"
        what = _value(status, told.trial, told.what) if told.state == "complete" else _ending(told)
        return f"[{status.ended}/{status.total}] {where}: {what}{_best_so_far(status, told.trial)}"

    def look(self, *, at_once: bool = False) -> StudyStatus:
        """The study as it was seen last, or is now."""
        if at_once or time.monotonic() - self._read_at >= _READ_SECONDS:
            with suppress(JorgeTuneError):  # the storage is away: what was seen last stays
                self._status = self._read()
            self._read_at = time.monotonic()
        return self._status

    def drawn(self) -> Group:
        """The display: a bar, the best so far, a line for each trial that runs."""
        from rich.console import Group
        from rich.text import Text

        lines = display_lines(self._label, self.look())
        return Group(*(Text(visible(line), no_wrap=True, overflow="ellipsis") for line in lines))


def display_lines(label: str, status: StudyStatus) -> list[str]:
    """The display's lines, what matters most first in each."""
    filled = round(_BAR * status.ended / max(status.total, 1))
    bar = "#" * filled + "-" * (_BAR - filled)
    eta = "" if status.eta_seconds is None else f"  ETA {clock_time(status.eta_seconds)}"
    lines = [f"{label} [{bar}] {status.ended}/{status.total}, {status.remaining} to go{eta}"]
    if status.best is not None and _has_best(status):
        point = ", ".join(f"{name.rpartition('.')[2]} {_short(value)}" for name, value in status.best_values.items())
        assert status.best.value is not None
        lines.append(f"  best {status.best.value:.4g}, trial {status.best.number}" + (f": {point}" if point else ""))
    lines += [f"  {_running(status, one)}" for one in status.running]
    if status.stop is not None:
        lines.append(f"  stopping ({status.stop})")
    return lines


def _value(status: StudyStatus, number: int, told: str) -> str:
    """A completed trial's value as it was told; an infinite one in words."""
    row = next((row for row in status.rows if row.number == number), None)
    if row is None or row.value is None or math.isfinite(row.value):
        return told
    return "diverged" if row.diverged else status.worst


def _ending(told: WorkerMessage) -> str:
    return told.state + (f", {told.what}" if told.what else "")


def _trial(status: StudyStatus, number: int) -> str:
    """`trial 3`, and in a confirmation or comparison whose run it is."""
    from jorge_tune.study.confirm import run_in_words

    words = run_in_words(status.rows, number, named=status.is_comparison)
    return f"trial {number}" + (f" ({words})" if words else "")


def _running(status: StudyStatus, one: RunningTrial) -> str:
    text = _trial(status, one.number)
    if one.is_lost:
        return f"{text}: lost, waits to be put back"
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
    """Whether its trials are points of a search, of which one is the best."""
    return not status.study.endswith((".sgd", ".confirm"))


def _short(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.4g}" if math.isfinite(value) else str(value)
    return "null" if value is None else str(value)


Watch = Callable[["Stage", "OpenStudy"], Report]


@contextmanager
def watching(found: FoundStudy) -> Iterator[Watch]:
    """Shows each stage as it begins; the last one's display ends with the context."""
    from jorge_tune.study.status import read_status

    with ExitStack() as shown:

        def watch(stage: Stage, opened: OpenStudy) -> Report:
            shown.close()
            tell(f"{stage}: study {opened.plan.name} in {found.address}")
            folder, seen = found.runs(opened.plan.name), opened.for_display()
            return shown.enter_context(study_display(stage, lambda: read_status(seen, folder, found.address)))

        yield watch


def run(found: FoundStudy, *, workers: int, hours: float | None, download: bool, code: CodePlaces) -> StudyEnd:
    """Work on a study on this machine, to its verdict or until there is a reason to leave; told on stderr.

    `code` is where runs take the code from that recipes name.
    """
    from jorge_tune.study.run_study import Crew, run_whole

    plan = found.opened.plan
    crew = Crew(
        workers=workers,
        device=plan.device,
        threads=plan.threads,
        download=download,
        hours=plan.hours if hours is None else hours,
        code=code,
        last_word=last_word(goes_on(found)),
    )
    with watching(found) as watch:
        return run_whole(found.opened, found.address, found.runs, crew, watch)


def last_word(goes_on: str) -> Callable[[], None]:
    """What is left on stderr where a second signal ends the command at once, in a signal's handler.

    Args:
        goes_on: what takes the work up again, in words.
    """
    cursor = "\x1b[?25h\n" if is_talk_on_terminal() else ""  # which the display hides
    words = f"{cursor}ended at once by a second signal; {visible(goes_on)}\n".encode()

    def say() -> None:
        with suppress(OSError):
            os.write(2, words)

    return say


def show_end(found: FoundStudy, end: StudyEnd, output_format: str) -> int:
    """The verdict on stdout, unless something broke the study off; the exit code."""
    from jorge_tune.study.confirm import stored_form

    code = exit_code(found, end)
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


def exit_code(found: FoundStudy, end: StudyEnd) -> int:
    """What the command ends with; why it ended early is said on stderr."""
    broken_off = why_left(end.worker_exit, end.stage, goes_on(found))
    if broken_off:
        return broken_off
    return 0 if end.verdict is not None and end.verdict.has_answer else EXIT_NO_ANSWER


def why_left(left: WorkerExit, what: str, goes_on: str) -> int:
    """Say on stderr why workers left early; the exit code of what broke them off, 0 where nothing did.

    Args:
        left: why the last of them left.
        what: they worked on.
        goes_on: what resumes it, in words.
    """
    if left.kind in ("fault", "error"):
        tell(left.reason)
        return left.exit_code or 1
    if left.kind == "interrupted":
        tell(f"{left.reason}; {goes_on}")
        return EXIT_INTERRUPTED
    if left.kind in ("stopped", "time"):
        tell(f"{what} ended early: {left.reason}")
    return 0
