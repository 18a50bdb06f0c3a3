"""What `study run` and `study confirm` share: following the stages, and showing how it ended."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import TYPE_CHECKING

from jorge_tune.cli.calibration import EXIT_NO_ANSWER
from jorge_tune.cli.output import is_talk_on_terminal, say, tell
from jorge_tune.cli.studies import EXIT_INTERRUPTED, Found, goes_on
from jorge_tune.cli.study_display import Report, study_display
from jorge_tune.cli.tables import print_json, print_text
from jorge_tune.texts import visible

if TYPE_CHECKING:
    from jorge_tune.tuning.running import Stage, StudyEnd
    from jorge_tune.tuning.study import OpenStudy
    from jorge_tune.tuning.work.worker import Left

Watch = Callable[["Stage", "OpenStudy"], Report]


@contextmanager
def watching(found: Found) -> Iterator[Watch]:
    """Shows each stage as it begins; the last one's display ends with the context."""
    from jorge_tune.tuning.results.status import read_status

    with ExitStack() as shown:

        def watch(stage: Stage, opened: OpenStudy) -> Report:
            shown.close()
            tell(f"{stage}: study {opened.plan.name} in {found.address}")
            folder, seen = found.runs(opened.plan.name), opened.for_display()
            return shown.enter_context(study_display(stage, lambda: read_status(seen, folder, found.address)))

        yield watch


def run(found: Found, *, workers: int, hours: float | None, download: bool) -> StudyEnd:
    """Work on a study on this machine, to its verdict or until there is a reason to leave; told on stderr."""
    from jorge_tune.tuning.running import Crew, run_whole

    plan = found.opened.plan
    crew = Crew(
        workers=workers,
        device=plan.device,
        threads=plan.threads,
        download=download,
        hours=plan.hours if hours is None else hours,
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


def show_end(found: Found, end: StudyEnd, output_format: str) -> int:
    """The verdict on stdout, unless something broke the study off; the exit code."""
    from jorge_tune.tuning.results.confirm import stored_form

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


def exit_code(found: Found, end: StudyEnd) -> int:
    """What the command ends with; why it ended early is said on stderr."""
    broken_off = why_left(end.left, end.stage, goes_on(found))
    if broken_off:
        return broken_off
    return 0 if end.verdict is not None and end.verdict.has_answer else EXIT_NO_ANSWER


def why_left(left: Left, what: str, goes_on: str) -> int:
    """Say on stderr why workers left early; the exit code of what broke them off, 0 where nothing did.

    Args:
        left: why the last of them left.
        what: they worked on.
        goes_on: what takes it up again, in words.
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
