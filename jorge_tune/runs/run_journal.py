"""What a run writes and reports: records for programs, log.txt for people, progress for whoever watches."""

from __future__ import annotations

import datetime
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Literal

from jorge_tune import files
from jorge_tune.errors import RunDirectoryError, first_line
from jorge_tune.files import open_regular
from jorge_tune.records import Outcome, Record, RecordWriter, RunDirectory, read_records
from jorge_tune.runs.record_loggers import RecordLogger

Event = Literal["start", "step", "evaluation", "epoch"]


@dataclass(frozen=True, kw_only=True)
class RunProgress:
    """A moment of a run. `loss` is the last one read from the device, so it may be a few steps old."""

    event: Event
    step: int
    total_steps: int
    epoch: float
    loss: float | None
    lr: float
    metrics: Mapping[str, float] = field(default_factory=dict)  # of the last evaluation
    part: str | None = None  # the part that it read
    samples_per_second: float | None = None
    eta_seconds: float | None = None
    data: str = ""  # at the start: what the run found in its data, in a line


ProgressCallback = Callable[[RunProgress], None]


@dataclass(frozen=True)
class Moment:
    """Where a run is when something is recorded."""

    step: int
    epoch: float
    train_seconds: float


class RunJournal:
    """The only writer of a run directory; a context manager that closes its files.

    It holds the directory's lock, which is a lock on log.txt. Its first record opens the records.

    Raises:
        RunDirectoryError: another process is training in this directory, or a link or device stands in for its files.
    """

    def __init__(self, run_directory: RunDirectory) -> None:
        self._path = run_directory.records
        self._records: RecordWriter | None = None
        self._loggers: list[RecordLogger] = []
        log = open_regular(run_directory.log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, error=RunDirectoryError)
        files.keep_from_children(log)
        self._log = os.fdopen(log, "a", encoding="utf-8", errors="backslashreplace")
        if not files.take(log):
            self._close_log()
            raise RunDirectoryError(
                f"{run_directory.root}: another process is training in it; wait, or choose another --out"
            )

    @property
    def lock(self) -> int:
        """The descriptor that holds the directory's lock."""
        return self._log.fileno()

    def __enter__(self) -> RunJournal:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def also_to(self, loggers: Sequence[RecordLogger]) -> None:
        """Hand the records that follow to loggers too."""
        self._loggers += loggers

    def close(self) -> None:
        """Let the directory go."""
        for logger in list(self._loggers):
            self._ask(logger, logger.close)
        if self._records is not None:
            self._records.close()
        self._close_log()

    def _close_log(self) -> None:
        files.let_children_have(self._log.fileno())
        self._log.close()

    def start(
        self,
        at: Moment,
        *,
        seed: int,
        resumed: bool,
        about: str,
        facts: Mapping[str, object],
        said: Sequence[str] = (),
    ) -> None:
        """A stretch of training begins; `facts` are further fields of the record, `said` further lines of log.txt."""
        self._record("start", at, {"seed": seed, "resumed": resumed, **facts})
        self.say(f"{'resumed' if resumed else 'started'} at step {at.step}: {about}")
        for line in said:
            self.say(line)

    def step(self, at: Moment, values: Mapping[str, object]) -> None:
        """A step whose device values were read."""
        self._record("step", at, values)

    def rate(self, at: Moment, values: Mapping[str, object]) -> None:
        """The learning rates of a step that follow from no schedule, and where they come from."""
        self._record("rate", at, values)

    def evaluation(
        self,
        at: Moment,
        part: str,
        metrics: Mapping[str, float],
        seconds: float | None,
        facts: Mapping[str, object] | None = None,
    ) -> None:
        """A part was read, in so many seconds if that is known; `facts` are further fields of the record."""
        spent = {} if seconds is None else {"evaluation_seconds": seconds}
        self._record("evaluation", at, {"part": part, "metrics": dict(metrics), **spent, **(facts or {})})
        shown = ", ".join(f"{name} {value:.4f}" for name, value in metrics.items())
        self.say(f"step {at.step}, epoch {at.epoch:.2f}, {at.train_seconds:.1f} s: {part} {shown}")

    def end(self, at: Moment, outcome: Outcome, reason: str, facts: Mapping[str, object] | None = None) -> None:
        """The stretch is over; `facts` are further fields of the record."""
        self._record("end", at, {"outcome": outcome, "reason": reason, **(facts or {})})
        self.say(f"{outcome} at step {at.step}" + (f": {reason}" if reason else ""))

    def say(self, text: str) -> None:
        """A line of log.txt."""
        now = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M:%S")
        self._log.write(f"{now} UTC  {text}\n")
        self._log.flush()

    def _record(self, kind: str, at: Moment, values: Mapping[str, object]) -> None:
        if self._records is None:
            self._records = RecordWriter(self._path)
        place = {"step": at.step, "epoch": at.epoch, "train_seconds": at.train_seconds}
        record = {"kind": kind, **place, **values}
        self._records.write(record)
        for logger in list(self._loggers):
            self._ask(logger, partial(self._hand, logger, record))

    def _hand(self, logger: RecordLogger, record: Record) -> None:
        if record["kind"] == "start":
            logger.begin(read_records(self._path))
        else:
            logger.take(record)

    def _ask(self, logger: RecordLogger, work: Callable[[], object]) -> None:
        """Let a logger work; one that cannot is left out from here on."""
        try:
            work()
        except Exception as error:  # whatever a library raises, the run goes on
            self._loggers.remove(logger)
            name = type(logger).__name__.removesuffix("Logger")
            self.say(f"warning: {name} gets no more of this run ({type(error).__name__}: {first_line(error)})")
