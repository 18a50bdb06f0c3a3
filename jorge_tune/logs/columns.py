"""From the columns of a log to readings: which is the epoch, the step, the seconds, the part, and which are metrics.

What `task.metrics.columns` names is taken as named. Of the rest, names speak for themselves: `val_loss`, `eval/top1`,
`loss/test`, `train_loss`. A name without a part is the training's, unless it is the recipe's metric (and no loss), or a
group of an expression for printed lines.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from jorge_tune.logs.rows import LogError, LogRow
from jorge_tune.recipe.metrics import is_lower_better, value_fault
from jorge_tune.recipe.schema import MetricsSection
from jorge_tune.reporting import PARTS
from jorge_tune.untrusted import shown

PLACES: Final = {
    "epoch": ("epoch", "Epoch", "epochs", "current_epoch", "train/epoch"),
    "step": ("step", "global_step", "iteration", "iter", "Step", "trainer/global_step", "train/global_step", "steps"),
    "seconds": ("seconds", "elapsed_seconds", "train_seconds", "elapsed"),
    "part": ("part", "split", "phase", "mode", "stage"),
}
"""The columns that say where a row stands, by the names that are known for them."""

_LR: Final = re.compile(r"(x/)?lr(\d+|[-/_].*)?|learning_rate")
_NO_METRIC: Final = re.compile(r".*(run)?time|.*per_second|.*memory.*|total_flos|eta.*|timestamp|date|grad_norm")
_OF_A_PART: Final = re.compile(r"([A-Za-z]+)[/_.-](.+)")


@dataclass(frozen=True)
class LogReading:
    """Values of one part of the data at one place of a run, as far as the log says where that is."""

    part: str
    metrics: Mapping[str, float]
    where: str
    step: int | None = None
    epoch: float | None = None
    seconds: float | None = None
    clock: float | None = None
    wall: float | None = None


@dataclass
class ColumnPlan:
    """Which column is what; `seen` gathers the names of all columns for messages.

    Args:
        section: what the recipe says of its log.
        metric: the recipe's, by which runs are judged; None where it names none.
        way_out: what to do about a value in percent.
    """

    section: MetricsSection
    metric: str | None = None
    way_out: str = "set task.metrics.scale, as {{{name}: 0.01}}"
    seen: dict[str, None] = field(default_factory=dict)

    def readings(self, row: LogRow) -> list[LogReading]:
        """What a row says, part by part; nothing for a row without a value.

        Raises:
            LogError: a value is no number, or out of its range.
        """
        self.seen |= dict.fromkeys(row.values)
        part = row.part or self._part(row)
        named = self._named(row, part) if self._names_metrics() else self._guessed(row, part)
        if not named:
            return []
        step, epoch = self._place(row, "step"), self._place(row, "epoch")
        if step is not None and not float(step).is_integer():
            raise LogError(f"{row.where}: step must be a whole number, got {step:g}")
        return [
            LogReading(
                part=name,
                metrics=metrics,
                where=row.where,
                step=None if step is None else int(step),
                epoch=epoch,
                seconds=self._place(row, "seconds"),
                clock=row.clock,
                wall=row.wall,
            )
            for name, metrics in named.items()
        ]

    def place_of(self, row: LogRow) -> tuple[float | None, float | None]:
        """Step and epoch of a row, which may have nothing else."""
        return self._place(row, "step"), self._place(row, "epoch")

    def _names_metrics(self) -> bool:
        return bool(self.section.columns.keys() - PLACES.keys())

    def _column(self, place: str, row: LogRow) -> str | None:
        given = self.section.columns.get(place)
        taken = self.section.columns.values()  # `{epoch: step}`: the log's step is an epoch, and no step besides
        names = [name for name in PLACES[place] if name not in taken] if given is None else [given]
        return next((name for name in names if row.values.get(name) is not None), None)

    def _place(self, row: LogRow, place: str) -> float | None:
        column = self._column(place, row)
        if column is None:
            return None
        value = _number(row.values[column])
        if value is None or not 0 <= value < math.inf:
            raise LogError(f"{row.where}: {column} must be a number of 0 or more, got {shown(row.values[column])}")
        return value

    def _part(self, row: LogRow) -> str | None:
        column = self._column("part", row)
        if column is None:
            return None
        part = PARTS.get(str(row.values[column]).lower())
        if part is None and "part" in self.section.columns:
            raise LogError(f"{row.where}: {column} must be train, validation or test, got {shown(row.values[column])}")
        return part

    def _named(self, row: LogRow, part: str | None) -> dict[str, dict[str, float]]:
        """The metrics that the recipe names."""
        found: dict[str, dict[str, float]] = {}
        for key, column in self.section.columns.items():
            if key in PLACES or row.values.get(column) is None:
                continue
            value = _number(row.values[column])
            if value is None:
                raise LogError(f"{row.where}: {column} must be a number, got {shown(row.values[column])}")
            head, _, tail = key.partition("/")
            of_part, name = (PARTS[head], tail) if tail and head in PARTS else (part or "validation", key)
            self._add(found, "train" if name == "lr" else of_part, name, value, row)
        return found

    def _guessed(self, row: LogRow, part: str | None) -> dict[str, dict[str, float]]:
        """The metrics that their names give away."""
        places = {self._column(place, row) for place in PLACES}
        found: dict[str, dict[str, float]] = {}
        for column, held in row.values.items():
            value = None if column in places else _number(held)
            if value is None:
                continue
            of_part, name = (part, column) if part is not None else _part_in(column)
            if _LR.fullmatch(name):
                of_part, name = "train", "lr"
            if of_part is None:
                is_judged = name == self.metric and not is_lower_better(name)
                is_meant = self.section.from_ == "stdout"  # whoever writes an expression names what to judge by
                of_part = "validation" if is_judged or is_meant else "train"
            if row.part is not None or not _NO_METRIC.fullmatch(name):
                self._add(found, of_part, name, value, row)
        return found

    def _add(self, found: dict[str, dict[str, float]], part: str, name: str, value: float, row: LogRow) -> None:
        value *= self.section.scale.get(name, 1.0)
        if part != "train" and (what := value_fault(name, value)) is not None:
            raise LogError(f"{row.where}: {name} {what}; {self.way_out.format(name=name)}")
        metrics = found.setdefault(part, {})
        if name not in metrics:  # several groups may each have their rate: the first counts
            metrics[name] = value
        elif name != "lr":
            raise LogError(f"{row.where}: two columns give the {part} part's {name}; name one in task.metrics.columns")


def _part_in(column: str) -> tuple[str | None, str]:
    """Part and metric of a column's name, as `val_loss` or `loss/val`."""
    if column.startswith("metrics/"):  # Ultralytics, of its validation part
        return "validation", column.removeprefix("metrics/")
    match = _OF_A_PART.fullmatch(column)
    if match and match[1].lower() in PARTS:
        return PARTS[match[1].lower()], match[2]
    head, slash, tail = column.rpartition("/")
    if slash and tail.lower() in PARTS:
        return PARTS[tail.lower()], head
    return None, column


def _number(value: object) -> float | None:
    """A number, or a text that is one."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    try:
        return float(value)
    except (ValueError, OverflowError):
        return None
