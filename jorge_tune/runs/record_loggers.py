"""Copies of a run's records where people look: a CSV file, TensorBoard, Weights & Biases. The records stay the truth.

What a logger cannot write ends that logger and nothing else: log.txt says so once, and the run goes on.
"""

from __future__ import annotations

import csv
import importlib.util
import io
import os
import secrets
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Literal, Protocol

from jorge_tune.errors import InputError, RunDirectoryError
from jorge_tune.files import open_regular, read_regular_bytes
from jorge_tune.recipe.render import recipe_to_dict
from jorge_tune.recipe.schema import Recipe
from jorge_tune.records import Record, RunDirectory

LogKind = Literal["csv", "tensorboard", "wandb"]
LOG_KINDS: Final[tuple[LogKind, ...]] = ("csv", "tensorboard", "wandb")

_PLACE = ("step", "epoch", "train_seconds")
_OF_STEPS = {
    "loss": "train/loss",
    "graft_ratio": "optimizer/graft_ratio",
    "skipped": "optimizer/skipped",
    "forward_seconds": "seconds/forward",
    "optimizer_seconds": "seconds/optimizer",
}
_LONGEST_ID = 100  # bytes


class RecordLogger(Protocol):
    """Takes the records of a run, one after another."""

    def begin(self, earlier: Sequence[Record]) -> None:
        """A stretch begins; `earlier` are the records of the run that hold."""

    def take(self, record: Record) -> None:
        """One more record."""

    def close(self) -> None:
        """The stretch is over."""


def check_loggers(kinds: Sequence[str]) -> tuple[LogKind, ...]:
    """The kinds of loggers, each once.

    Raises:
        InputError: there is no such kind, or its package is not installed.
    """
    for kind in kinds:
        if kind not in LOG_KINDS:
            raise InputError(f"--logger: must be {', '.join(LOG_KINDS[:-1])} or {LOG_KINDS[-1]}, got {kind!r}")
        if kind != "csv" and importlib.util.find_spec(kind) is None:
            raise InputError(f"--logger {kind}: the package {kind} is not installed: pip install 'jorge-tune[{kind}]'")
    return tuple(kind for kind in LOG_KINDS if kind in kinds)


def open_loggers(kinds: Sequence[str], run: RunDirectory, recipe: Recipe) -> list[RecordLogger]:
    """The loggers of a run, which write into its directory. Raises as `check_loggers`."""
    makers: dict[str, Callable[[RunDirectory, Recipe], RecordLogger]] = {
        "csv": CsvLogger,
        "tensorboard": TensorBoardLogger,
        "wandb": WandbLogger,
    }
    return [makers[kind](run, recipe) for kind in check_loggers(kinds)]


def values_of(record: Record) -> dict[str, float]:
    """The numbers of a record by the names that all loggers share: `train/loss`, `lr`, `validation/top1`.

    Example:
        >>> values_of({"kind": "evaluation", "part": "validation", "metrics": {"top1": 0.9}})
        {'validation/top1': 0.9}
    """
    values: dict[str, float] = {}
    if record["kind"] == "evaluation":
        values = {f"{record['part']}/{name}": float(value) for name, value in record["metrics"].items()}
        if record.get("evaluation_seconds") is not None:
            values[f"seconds/{record['part']}"] = float(record["evaluation_seconds"])
    elif record["kind"] in ("step", "rate"):
        values = {shown: float(record[name]) for name, shown in _OF_STEPS.items() if record.get(name) is not None}
        if record.get("lr"):
            values["lr"] = float(record["lr"][0])
    return values


class CsvLogger:
    """`metrics.csv`: a row for each record with numbers, a column for each name; what a resume supersedes is gone."""

    def __init__(self, run: RunDirectory, recipe: Recipe) -> None:
        self._path = run.root / "metrics.csv"
        self._rows: list[dict[str, float]] = []
        self._columns: list[str] = list(_PLACE)

    def begin(self, earlier: Sequence[Record]) -> None:
        """See `RecordLogger`."""
        self._rows = [row for record in earlier if (row := _row(record))]
        self._columns = list(dict.fromkeys([*_PLACE, *(name for row in self._rows for name in row)]))
        self._write(self._rows, anew=True)

    def take(self, record: Record) -> None:
        """See `RecordLogger`."""
        row = _row(record)
        if not row:
            return
        self._rows.append(row)
        unknown = [name for name in row if name not in self._columns]
        self._columns += unknown
        self._write(self._rows if unknown else [row], anew=bool(unknown))

    def close(self) -> None:
        """See `RecordLogger`."""

    def _write(self, rows: Sequence[Mapping[str, float]], *, anew: bool) -> None:
        text = io.StringIO()
        writer = csv.DictWriter(text, self._columns, lineterminator="\n")
        if anew:
            writer.writeheader()
        writer.writerows(rows)
        how = os.O_TRUNC if anew else os.O_APPEND
        descriptor = open_regular(self._path, os.O_WRONLY | os.O_CREAT | how, error=RunDirectoryError)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text.getvalue())


class TensorBoardLogger:
    """Event files in `tensorboard/`, a scalar for each name; a resumed run begins another file."""

    def __init__(self, run: RunDirectory, recipe: Recipe) -> None:
        self._path = run.root / "tensorboard"
        self._writer: Any = None

    def begin(self, earlier: Sequence[Record]) -> None:
        """See `RecordLogger`."""
        from tensorboard.summary import Writer

        self._writer = Writer(str(self._path))

    def take(self, record: Record) -> None:
        """See `RecordLogger`."""
        for name, value in values_of(record).items():
            self._writer.add_scalar(name, value, record["step"])

    def close(self) -> None:
        """See `RecordLogger`."""
        if self._writer is not None:
            self._writer.close()


class WandbLogger:
    """A run of Weights & Biases, which a resumed run continues; WANDB_PROJECT, WANDB_MODE and the rest are W&B's."""

    def __init__(self, run: RunDirectory, recipe: Recipe) -> None:
        self._root, self._recipe = run.root, recipe
        self._run: Any = None

    def begin(self, earlier: Sequence[Record]) -> None:
        """See `RecordLogger`."""
        import wandb

        self._run = wandb.init(
            dir=str(self._root),
            id=_kept_id(self._root / "wandb-id.txt"),
            resume="allow",
            project=os.environ.get("WANDB_PROJECT", "jorge-tune"),
            group=self._recipe.name,
            name=f"{self._recipe.name}-seed-{self._recipe.seed}",
            config=recipe_to_dict(self._recipe),
            settings=wandb.Settings(silent=True, console="off"),
        )
        self._run.define_metric("*", step_metric="step")

    def take(self, record: Record) -> None:
        """See `RecordLogger`."""
        if row := _row(record):
            self._run.log(row)

    def close(self) -> None:
        """See `RecordLogger`."""
        if self._run is not None:
            self._run.finish()


def _row(record: Record) -> dict[str, float]:
    values = values_of(record)
    return {name: record[name] for name in _PLACE} | values if values else {}


def _kept_id(path: Path) -> str:
    """The id of the run at W&B, kept in the run directory for when it resumes."""
    try:
        kept = read_regular_bytes(path, most=_LONGEST_ID, error=RunDirectoryError).decode().strip()
        if kept.isalnum():
            return kept
    except (FileNotFoundError, UnicodeDecodeError):
        pass
    made = secrets.token_hex(8)
    with os.fdopen(open_regular(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, error=RunDirectoryError), "w") as file:
        file.write(f"{made}\n")
    return made
