"""What the records of one run say between its evaluations: learning rates, and seconds per iteration."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from jorge_tune.measure.runs import Run
from jorge_tune.measure.statistics import median
from jorge_tune.recipe.schedule import lr_factor, total_steps
from jorge_tune.recipe.schema import Recipe
from jorge_tune.records import Record, RunFolder, read_records

_MOST_POINTS = 400  # of a schedule's line


@dataclass(frozen=True)
class RunTrace:
    """One run between its evaluations.

    `rates` are (epoch, learning rate of the first group) as recorded, `paces` (epoch, seconds per iteration) from one
    record to the next. Forward and optimizer seconds are medians of what was read; None where nothing was. `is_torn`:
    the last line of the records was not whole.
    """

    seed: int
    rates: tuple[tuple[float, float], ...]
    paces: tuple[tuple[float, float], ...]
    forward_seconds: float | None
    optimizer_seconds: float | None
    steps_per_epoch: float | None
    is_torn: bool

    @property
    def iteration_seconds(self) -> float | None:
        """The median iteration; None where no two records tell."""
        return median([seconds for _, seconds in self.paces]) if self.paces else None


def trace_of(run: Run) -> RunTrace:
    """Read a run's records again, for what lies between its evaluations.

    Raises:
        RunFolderError: they are damaged.
    """
    path = RunFolder(run.folder).records
    records = read_records(path)
    whole = [record for record in records if record["step"] and _is_number(record.get("epoch")) and record["epoch"] > 0]
    return RunTrace(
        seed=run.seed,
        rates=tuple(_rates(records)),
        paces=tuple(_paces(records)),
        forward_seconds=_median_of(records, "forward_seconds"),
        optimizer_seconds=_median_of(records, "optimizer_seconds"),
        steps_per_epoch=whole[-1]["step"] / whole[-1]["epoch"] if whole else None,
        is_torn=not path.read_bytes().endswith(b"\n") and path.stat().st_size > 0,
    )


def schedule_line(recipe: Recipe, steps_per_epoch: float) -> tuple[list[float], list[float]]:
    """Epochs and learning rates of a recipe's schedule, from its first step to its last; a `gen` recipe's base."""
    per_epoch = max(1, round(steps_per_epoch))
    factor, length = lr_factor(recipe, per_epoch), total_steps(recipe, per_epoch)
    count = min(length, _MOST_POINTS)
    steps = sorted({round(index * (length - 1) / max(count - 1, 1)) for index in range(count)})
    return [step / per_epoch for step in steps], [recipe.optimizer.lr * factor(step) for step in steps]


def _rates(records: Sequence[Record]) -> list[tuple[float, float]]:
    """As they were recorded; where a step has two readings (GeN), the last."""
    found: dict[int, tuple[float, float]] = {}
    for record in records:
        rates = record.get("lr")
        if record["kind"] not in ("step", "rate") or not _is_number(record.get("epoch")):
            continue
        if isinstance(rates, list) and rates and _is_number(rates[0]):
            found[record["step"]] = (record["epoch"], rates[0])
    return [found[step] for step in sorted(found)]


def _paces(records: Sequence[Record]) -> list[tuple[float, float]]:
    """From each record to the next one of the same stretch, placed at its end."""
    paces = []
    before: Record | None = None
    for record in records:
        if not (_is_number(record.get("train_seconds")) and _is_number(record.get("epoch"))):
            continue
        if before is not None and record["kind"] != "start":
            steps, seconds = record["step"] - before["step"], record["train_seconds"] - before["train_seconds"]
            if steps <= 0:
                continue  # two records of one step
            if seconds > 0:
                paces.append((float(record["epoch"]), seconds / steps))
        before = record
    return paces


def _median_of(records: Sequence[Record], name: str) -> float | None:
    values = [record[name] for record in records if record["kind"] == "step" and _is_number(record.get(name))]
    return median(values) if values else None


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
