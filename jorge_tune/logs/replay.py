"""A whole log as the records of one run."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

from jorge_tune.errors import shortened
from jorge_tune.logs.columns import ColumnPlan
from jorge_tune.logs.course import Course, CourseSettings
from jorge_tune.logs.formats import COUNTS_DONE
from jorge_tune.logs.rows import LogError, LogReader, LogRow
from jorge_tune.recipe.schema import MetricsSection
from jorge_tune.runs.run_journal import Moment, RunJournal

WAY_OUT = "divide it with --log scale.{name}=0.01"


class Replayed(NamedTuple):
    """What a log came to; `notes` say what was left out, or counts instead of something else."""

    course: Course
    notes: tuple[str, ...]


def has_seconds(reader_rows: list[LogRow], plan: ColumnPlan) -> bool:
    """Whether every row with a value says when it was made."""
    readings = [reading for row in reader_rows for reading in plan.readings(row)]
    return all(reading.seconds is not None or reading.wall is not None for reading in readings)


def replay(
    journal: RunJournal, reader: LogReader, section: MetricsSection, *, seed: int, about: str, metric: str | None
) -> Replayed:
    """Write the records of a log, without their end.

    Args:
        journal: of a new run.
        reader: of the whole log.
        section: how its columns are named.
        seed: of the run.
        about: its name.
        metric: by which it is judged; None: whatever it has.

    Raises:
        LogError: the log cannot be read, or has no evaluation.
    """
    plan = ColumnPlan(section, metric, WAY_OUT)
    rows = reader.read(at_end=True)
    is_timed = has_seconds(rows, plan)
    start_wall = next((row.wall for row in rows if row.wall is not None), 0.0)

    def restart(at: Moment, is_kept: bool) -> None:
        facts = {"clock": "log" if is_timed else "none", "log": reader.source()}
        journal.start(at, seed=seed, resumed=is_kept, about=about, facts=facts)

    counts_done = section.first_epoch is None and section.from_ in COUNTS_DONE
    settings = CourseSettings(metric, section.steps_per_epoch, 1 if counts_done else section.first_epoch)
    course = Course(journal, settings, restart, may_go_back=True)
    restart(Moment(0, 0.0, 0.0), False)
    for row in rows:
        readings = plan.readings(row)
        if not readings:
            course.place(*plan.place_of(row))
            continue
        wall = 0.0 if row.wall is None else row.wall - start_wall
        course.take(readings, wall if readings[0].seconds is None else readings[0].seconds)
    course.settle()
    if course.evaluations == 0:
        has = shortened(list(plan.seen), 12) or "nothing"
        raise LogError(f"{reader.source()}: has no evaluation, only {has}; name one, as --log columns.top1=COLUMN")
    return Replayed(course, (*reader.notes, *_resumes(course)))


def _resumes(course: Course) -> list[str]:
    if not course.went_back:
        return []
    times = "once" if course.went_back == 1 else f"{course.went_back} times"
    return [f"it goes back {times}, as after a resume: of what stands there twice, the later counts"]


def with_format(section: MetricsSection, kind: str) -> MetricsSection:
    """The section for a log of that format."""
    return replace(section, from_=kind)  # type: ignore[arg-type]
