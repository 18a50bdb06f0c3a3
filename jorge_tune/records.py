"""Run directories and their records: one JSON object per line, written as a whole and checked when read.

A run directory holds `recipe.yaml`, `records.jsonl`, `environment.json`, `checkpoint/` and `log.txt`. If a run of a
study printed something, it also holds `output.txt`. The records:

kind        step epoch train_seconds     and
start       first step after this start  world_size, seed, resumed (bool), data, clock (see below)
step        steps done                   loss, lr (a list), forward_seconds, optimizer_seconds, graft_ratio, skipped
rate        steps done                   only with GeN: lr (a list) of this step, and the result of a probe
evaluation  steps done                   part, metrics {loss, top1, ...}, evaluation_seconds
end         steps done                   outcome (finished | diverged | interrupted | failed), reason

`step` counts the optimizer steps done, `epoch` is a float, and `train_seconds` excludes the evaluation.
`data` describes the data of the run: name, shape, classes, parts {train: {images, classes, of, source}, ...}, left_out
{part: {reason: files}}, unused {part: images}, remarks {what: images}. Older records do not have it, and it leaves out
empty fields.
`clock` says what `train_seconds` are: training alone (where it is left out), `wall` for the wall clock of a command,
evaluations included, `log` as the log has them that the run was read from, `none` where that log has none.
A resumed run starts at the step of its checkpoint, so its records replace the earlier records after that step.
Reading gives plain data of these types, or an error that names the line: another user may have edited or written the
directory, and its disk may have failed.
"""

from __future__ import annotations

import errno
import json
import math
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

from jorge_tune.errors import RunDirectoryError
from jorge_tune.files import open_regular
from jorge_tune.untrusted import parse_json, shown

Record = dict[str, Any]
Outcome = Literal["finished", "diverged", "interrupted", "failed"]

RECORDS = "records.jsonl"
LONGEST_LINE = 2**20  # bytes; GeN's longest records have less than 2,000
LARGEST_FILE = 2**30
_LARGEST_COUNT = 2**53  # a float counts exactly up to here
_MOST_STEPS_PER_EPOCH = 2**40


@dataclass(frozen=True)
class RunDirectory:
    """The paths inside one run directory; an instance creates no file."""

    root: Path

    @property
    def recipe(self) -> Path:
        """The recipe that ran, with every value resolved."""
        return self.root / "recipe.yaml"

    @property
    def records(self) -> Path:
        """The records, one JSON object per line."""
        return self.root / RECORDS

    @property
    def environment(self) -> Path:
        """Device, driver, versions and commit, without host and user names."""
        return self.root / "environment.json"

    @property
    def checkpoint(self) -> Path:
        """The directory of checkpoints."""
        return self.root / "checkpoint"

    @property
    def log(self) -> Path:
        """The log, plain text for people."""
        return self.root / "log.txt"


class RecordWriter:
    """Appends records to a file, each with one write of a whole line; usable as a context manager.

    If a process was killed while it wrote, the last line is incomplete; opening the file removes this line.
    """

    def __init__(self, path: Path) -> None:
        self._descriptor = open_regular(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, error=RunDirectoryError)
        _cut_torn_line(self._descriptor)

    def write(self, record: Mapping[str, object]) -> None:
        """Append one record; non-finite numbers become the strings "nan", "inf" and "-inf".

        Raises:
            OSError: The disk is full; the file then holds nothing of the record.
        """
        line = (json.dumps(portable(record), allow_nan=False, separators=(",", ":")) + "\n").encode()
        written = os.write(self._descriptor, line)
        if written < len(line):  # the disk is full; the next record must not follow half a line
            os.ftruncate(self._descriptor, os.fstat(self._descriptor).st_size - written)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def close(self) -> None:
        """Flush the file to the disk and close it."""
        os.fsync(self._descriptor)
        os.close(self._descriptor)

    def __enter__(self) -> RecordWriter:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


def read_records(path: Path) -> list[Record]:
    """The valid records in order, without an incomplete last line and without replaced records.

    Raises:
        RunDirectoryError: The file is missing or not a regular file, or a line before the last is not a record.
    """
    records: list[Record] = []
    for number, line in enumerate(_lines(path), start=1):
        record = parse_record(line, f"{path}:{number}")
        if record["kind"] == "start":
            records = [earlier for earlier in records if _holds(earlier, record["step"])]
        records.append(record)
    return records


def parse_record(line: bytes, where: str) -> Record:
    """Read one record and check the type of each field; "nan" and "inf" become floats again.

    Args:
        line: The line without its newline.
        where: The place for messages, for example `records.jsonl:3`.

    Raises:
        RunDirectoryError: The line is not a record.
    """
    try:
        record = parse_json(line)
        if not isinstance(record, dict):
            raise ValueError(f"must be an object with a kind, got {shown(record)}")
        kind = record.get("kind")
        if not isinstance(kind, str) or kind not in _KINDS:
            raise ValueError(f"kind must be one of {', '.join(_KINDS)}, got {shown(kind)}")
        return _typed(record, _KINDS[kind])
    except ValueError as error:
        raise RunDirectoryError(f"{where}: not a record: {error}") from error


def of_kind(records: list[Record], kind: str, part: str | None = None) -> Iterator[Record]:
    """The records of one kind and, for evaluations, of one part."""
    return (r for r in records if r["kind"] == kind and (part is None or r.get("part") == part))


def outcome_of(records: list[Record]) -> Outcome | None:
    """The outcome of a run; None if the run has not ended."""
    if records and records[-1]["kind"] == "end":
        outcome: Outcome = records[-1]["outcome"]
        return outcome
    return None


def _holds(record: Record, restart_step: int) -> bool:
    return record["kind"] != "end" and bool(record["step"] <= restart_step)


_NON_FINITE = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}


def portable(value: object) -> object:
    """Plain data that JSON can hold: NaN and the infinities become the strings "nan", "inf" and "-inf"."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, Mapping):
        return {key: portable(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [portable(item) for item in value]
    return value


def from_portable(value: Any) -> Any:
    """The data from which `portable` made this."""
    if isinstance(value, str):
        return _NON_FINITE.get(value, value)
    if isinstance(value, dict):
        return {key: from_portable(item) for key, item in value.items()}
    if isinstance(value, list):
        return [from_portable(item) for item in value]
    return value


def _lines(path: Path) -> Iterator[bytes]:
    """The complete lines of a file; text after the last newline is incomplete and left out."""
    try:
        with os.fdopen(open_regular(path, error=RunDirectoryError), "rb") as file:
            if os.fstat(file.fileno()).st_size > LARGEST_FILE:
                raise RunDirectoryError(f"{path}: must have at most {LARGEST_FILE} bytes, got more")
            number = 0
            while line := file.readline(LONGEST_LINE + 1):
                number += 1
                if len(line) > LONGEST_LINE:
                    raise RunDirectoryError(f"{path}:{number}: not a record: must have at most {LONGEST_LINE} bytes")
                if line.endswith(b"\n"):
                    yield line[:-1]
    except OSError as error:
        raise RunDirectoryError(f"{path}: the records cannot be read ({error.strerror})") from error


def _cut_torn_line(descriptor: int) -> None:
    """Remove the text after the last newline; the search for the newline begins at the end."""
    size = end = os.fstat(descriptor).st_size
    while end > 0:
        start = max(0, end - LONGEST_LINE)
        newline = os.pread(descriptor, end - start, start).rfind(b"\n")
        if newline >= 0:
            end = start + newline + 1
            break
        end = start
    if end != size:
        os.ftruncate(descriptor, end)


def _count(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= _LARGEST_COUNT:
        raise ValueError(f"an integer from 0 to {_LARGEST_COUNT}")
    return value


def _seed(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ValueError("an integer of 0 or more")
    return value


def _number(value: object) -> float:
    if isinstance(value, str) and value in _NON_FINITE:
        return _NON_FINITE[value]
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ValueError("a number")
    return value


def _amount(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not value >= 0:
        raise ValueError("a finite number of 0 or more")
    return value


def _flag(value: object) -> bool:
    if not isinstance(value, bool):
        raise ValueError("true or false")
    return value


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError("a text")
    return value


def _name(value: object) -> str:
    if not isinstance(value, str) or not value or not value.isprintable():
        raise ValueError("a name")
    return value


def _outcome(value: object) -> str:
    if not isinstance(value, str) or value not in get_args(Outcome):
        raise ValueError("one of " + ", ".join(get_args(Outcome)))
    return value


def _numbers(value: object) -> list[float]:
    if not isinstance(value, list) or not value:
        raise ValueError("a list of numbers")
    try:
        return [_number(item) for item in value]
    except ValueError as error:
        raise ValueError("a list of numbers") from error


def _metrics(value: object) -> dict[str, float]:
    try:
        if not isinstance(value, dict):
            raise ValueError
        return {_name(name): float(_number(item)) for name, item in value.items()}
    except ValueError as error:
        raise ValueError("an object of numbers by name") from error


class RecordField(NamedTuple):
    """How to read a field; a field that is not needed may be missing or null."""

    read: Callable[[object], Any]
    is_needed: bool = True


_PLACE = {"step": RecordField(_count), "epoch": RecordField(_amount), "train_seconds": RecordField(_amount)}
_SPENT = RecordField(_amount, is_needed=False)
_KINDS: Mapping[str, Mapping[str, RecordField]] = {
    "start": _PLACE
    | {"seed": RecordField(_seed), "world_size": RecordField(_count, False), "resumed": RecordField(_flag, False)},
    "step": _PLACE
    | {
        "loss": RecordField(_number, is_needed=False),
        "lr": RecordField(_numbers, is_needed=False),
        "forward_seconds": _SPENT,
        "optimizer_seconds": _SPENT,
        "graft_ratio": RecordField(_number, is_needed=False),
        "skipped": RecordField(_count, is_needed=False),
    },
    "rate": _PLACE | {"lr": RecordField(_numbers)},
    "evaluation": _PLACE | {"part": RecordField(_name), "metrics": RecordField(_metrics), "evaluation_seconds": _SPENT},
    "end": _PLACE | {"outcome": RecordField(_outcome), "reason": RecordField(_text)},
}
"""The fields of each kind of record; other fields stay as they are."""


def _typed(record: Mapping[str, Any], fields: Mapping[str, RecordField]) -> Record:
    """The record with the checked values of its fields.

    Raises:
        ValueError: A field is missing or has another type.
    """
    made = {key: from_portable(value) if key not in fields else value for key, value in record.items()}
    for name, field in fields.items():
        value = record.get(name)
        if value is None and not field.is_needed:
            continue
        if name not in record:
            raise ValueError(f"{name} is missing")
        try:
            made[name] = field.read(value)
        except ValueError as error:
            raise ValueError(f"{name} must be {error}, got {shown(value)}") from error
    step, epoch = made["step"], made["epoch"]
    if epoch > step or (epoch > 0 and step / epoch > _MOST_STEPS_PER_EPOCH):
        raise ValueError(f"epoch must fit its {step} steps, got {shown(epoch)}")
    return made
