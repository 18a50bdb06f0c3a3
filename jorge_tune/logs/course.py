"""The course of a run by its log: readings put in order, merged by place and part, and written as a run's records.

A log rarely says all that a record holds. Epochs that count from 0 are told by the first number; an evaluation after
epoch 0 is one after one epoch. Steps that the log does not have are those of the last row that has them, or of
`steps_per_epoch`, else an epoch counts as one step. Where a log has no epochs, a step counts as an epoch, and the
record says so (`counts: steps`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from jorge_tune.logs.columns import LogReading
from jorge_tune.logs.rows import LogError
from jorge_tune.runs.run_journal import Moment, RunJournal

Restart = Callable[[Moment, bool], None]
"""Called with the place to go on from, and whether anything before it is kept; it writes the start record."""


@dataclass(frozen=True)
class CourseSettings:
    """What is known of a log beforehand; see `MetricsSection`. `metric` is the one by which the run is judged."""

    metric: str | None = None
    steps_per_epoch: int | None = None
    first_epoch: int | None = None


@dataclass
class _Pending:
    """What is known of one place, until the log goes on to another."""

    step: int | None
    epoch: float | None
    seconds: float
    has_evaluation: bool = False
    parts: dict[str, dict[str, float]] = field(default_factory=dict)
    written: dict[str, dict[str, float]] = field(default_factory=dict)

    def is_at(self, reading: LogReading) -> bool:
        """Whether a reading is of this place."""
        same_epoch = self.epoch is None or reading.epoch is None or self.epoch == reading.epoch
        if self.step is not None and reading.step is not None:
            return self.step == reading.step and same_epoch
        return self.epoch is not None and reading.epoch is not None and same_epoch


class Course:
    """Writes the records of one run from the readings of its log.

    Args:
        journal: of the run.
        settings: what is known of the log.
        restart: called before the first reading is recorded where `earlier` is given, and wherever the log goes back.
        earlier: the places of evaluations that an earlier stretch recorded; None for a run that begins.
        may_go_back: whether a log that goes back to an earlier place is one of a run that was resumed there, in which
            case what follows supersedes what was there; else it is a fault.
    """

    def __init__(
        self,
        journal: RunJournal,
        settings: CourseSettings,
        restart: Restart,
        *,
        earlier: Sequence[Moment] | None = None,
        may_go_back: bool = False,
    ) -> None:
        self._journal, self._settings, self._restart = journal, settings, restart
        self._is_to_join, self._may_go_back = earlier is not None, may_go_back
        self._moments = list(earlier or ())
        self._first_epoch = settings.first_epoch
        self._pending: _Pending | None = None
        self._last: tuple[int | None, float | None] = (None, None)  # step and epoch as the log has them
        self._known_epoch: float | None = None
        self._offset = 0.0
        self.moment = self._moments[-1] if self._moments else Moment(0, 0.0, 0.0)
        self.diverged: str | None = None
        self.evaluations = 0
        self.metrics: dict[str, dict[str, float]] = {}  # the last ones of each part
        self.measured: dict[str, None] = {}  # names of all metrics that were evaluated
        self.went_back = 0

    def take(self, readings: Sequence[LogReading], seconds: float) -> None:
        """Take in the readings of one row, made so many seconds after the start.

        Raises:
            LogError: the log goes back, says one thing twice, or does not say where it is.
        """
        first = readings[0]
        if first.step is None and first.epoch is None:
            raise LogError(f"{first.where}: has neither a step nor an epoch; name one in task.metrics.columns")
        self._note_first_epoch(first.step, first.epoch)
        if self._pending is None or not self._pending.is_at(first):
            self.settle()
            self._check_order(first)
            self._pending = _Pending(first.step, first.epoch, seconds, any(one.part != "train" for one in readings))
        here = self._pending
        here.step = first.step if here.step is None else here.step
        here.epoch = first.epoch if here.epoch is None else here.epoch
        for reading in readings:
            self._merge(here, reading)

    def place(self, step: float | None, epoch: float | None) -> None:
        """Take in a row that only says where the run is."""
        if epoch is None:
            return
        self._note_first_epoch(step, epoch)
        self._known_epoch = epoch
        if self._pending is not None and self._pending.epoch is None and self._pending.step == step:
            self._pending.epoch = epoch

    def settle(self) -> None:
        """Record what is known of the present place."""
        here = self._pending
        if here is None or here.parts == here.written:
            return
        if self._is_to_join:
            self._join(here)
        self.moment = at = self._moment(here)
        if here.parts.get("train") != here.written.get("train"):
            self._write_step(at, here.parts["train"])
        for part, metrics in here.parts.items():
            if part != "train" and metrics != here.written.get(part):
                self._journal.evaluation(at, part, metrics, None, self._facts(here))
                self.metrics[part] = dict(metrics)
                self.measured |= dict.fromkeys(metrics)
                self.evaluations += 1
        if here.has_evaluation:
            self._moments.append(at)
        here.written = {part: dict(metrics) for part, metrics in here.parts.items()}

    def is_beyond(self, reading: LogReading) -> bool:
        """Whether a reading is of a later step than all that is recorded."""
        here = _Pending(reading.step, reading.epoch, 0.0, reading.part != "train")
        return self._moment(here, anew=True).step > self.moment.step

    def reopen(self) -> None:
        """Expect the readings of another process, which may go on from an earlier place."""
        self.settle()
        self._pending, self._last, self._is_to_join = None, (None, None), True

    @property
    def is_waiting(self) -> bool:
        """Whether the present place has something that is not recorded and may soon be joined by more."""
        return self._pending is not None and self._pending.parts != self._pending.written

    @property
    def has_metric(self) -> bool:
        """Whether the present evaluation has the metric by which the run is judged."""
        here, metric = self._pending, self._settings.metric
        evaluated = [] if here is None else [metrics for part, metrics in here.parts.items() if part != "train"]
        return any(metric is None or metric in metrics for metrics in evaluated)

    def _join(self, here: _Pending) -> None:
        """Go on from the last place before this one; what was recorded from here on is superseded."""
        step = self._moment(here, anew=True).step
        self._moments = [moment for moment in self._moments if moment.step < step]
        at = self._moments[-1] if self._moments else Moment(0, 0.0, 0.0)
        if here.seconds < self.moment.train_seconds or not self._may_go_back:  # its clock began again
            self._offset = at.train_seconds
        self._is_to_join, self.moment = False, at
        self._restart(at, bool(self._moments))

    def _note_first_epoch(self, step: float | None, epoch: float | None) -> None:
        if self._first_epoch is None and epoch is not None and not (epoch == 0 and step == 0):
            self._first_epoch = 0 if epoch == 0 else 1

    def _check_order(self, reading: LogReading) -> None:
        step, epoch = self._last
        if step is not None and reading.step is not None:
            word, before, now = "step", float(step), float(reading.step)
        elif epoch is not None and reading.epoch is not None:
            word, before, now = "epoch", epoch, reading.epoch
        else:
            word, before, now = "", 0.0, 0.0
        if now < before:
            if not self._may_go_back:
                raise LogError(f"{reading.where}: the {word} goes back from {before:g} to {now:g}; a run only goes on")
            self.went_back += 1
            self._is_to_join = True
            self._last = (None, None)
        self._last = (
            self._last[0] if reading.step is None else reading.step,
            self._last[1] if reading.epoch is None else reading.epoch,
        )

    def _merge(self, here: _Pending, reading: LogReading) -> None:
        metrics = here.parts.setdefault(reading.part, {})
        if reading.part != "train":
            here.has_evaluation = True
            twice = metrics.keys() & reading.metrics.keys()
            if twice:
                raise LogError(f"{reading.where}: a second value of {min(twice)} for {_where(here)}")
        metrics |= reading.metrics
        for name, value in reading.metrics.items():
            is_loss = "loss" in name
            is_judged = reading.part != "train" and name == self._settings.metric
            if not math.isfinite(value) and (is_loss or is_judged) and self.diverged is None:
                self.diverged = f"the {reading.part} {name} was {value} at {_where(here)}"

    def _moment(self, here: _Pending, *, anew: bool = False) -> Moment:
        """Where a place is in a run's own terms."""
        before = Moment(0, 0.0, 0.0) if anew else self.moment
        epoch = self._epochs_done(here)
        step = here.step
        if step is None and self._settings.steps_per_epoch is not None and epoch is not None:
            step = round(epoch * self._settings.steps_per_epoch)
        if epoch is None:
            epoch = before.epoch if not here.has_evaluation else float(step or 0)
        epoch = max(epoch, before.epoch)
        step = max(before.step if step is None else step, math.ceil(epoch))
        return Moment(step, epoch, max(before.train_seconds, self._offset + here.seconds))

    def _epochs_done(self, here: _Pending) -> float | None:
        """The epochs that are done; None where the log has none."""
        if here.epoch is None and self._settings.steps_per_epoch is not None and here.step is not None:
            return here.step / self._settings.steps_per_epoch
        epoch = self._known_epoch if here.epoch is None else here.epoch
        if epoch is None or not float(epoch).is_integer():
            return epoch
        if here.step == 0 and epoch == 0:
            return 0.0
        done = epoch + (1 - (1 if self._first_epoch is None else self._first_epoch))
        is_last_test = here.parts.keys() == {"test"} and "validation" in self.metrics  # Lightning's, after the training
        stands_within = not here.has_evaluation or is_last_test  # a training row stands within its epoch
        return max(0.0, done - 1) if stands_within else done

    def _facts(self, here: _Pending) -> dict[str, object]:
        facts: dict[str, object] = {}
        if self._first_epoch == 0 and here.epoch is not None:
            facts["first_epoch"] = 0
        if here.epoch is None and self._known_epoch is None and self._settings.steps_per_epoch is None:
            facts["counts"] = "steps"
        return facts

    def _write_step(self, at: Moment, values: dict[str, float]) -> None:
        loss = next((values[name] for name in ("loss", "loss_epoch", "loss_step") if name in values), None)
        said: dict[str, Any] = {} if loss is None else {"loss": loss}
        if "lr" in values:
            said["lr"] = [values["lr"]]
        if said:
            self._journal.step(at, said)


def _where(here: _Pending) -> str:
    return f"step {here.step}" if here.step is not None else f"epoch {here.epoch:g}"
