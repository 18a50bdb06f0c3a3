"""Run folders and the records in them: one JSON object per line, appended whole, read back tolerantly.

A run folder holds `recipe.yaml`, `records.jsonl`, `environment.json`, `checkpoint/`, `log.txt` and, of a run in a study
that printed something, `output.txt`. Records:

kind        step epoch train_seconds   and
start       first step of this stretch  world_size, seed, resumed (bool), data (see below)
step        steps done                  loss, lr (a list), forward_seconds, optimizer_seconds, graft_ratio, skipped
rate        steps done                  lr (a list) of this step and, at GeN's probes, what it found; under `gen` alone
evaluation  steps done                  part, metrics {loss, top1, ...}, evaluation_seconds
end         steps done                  outcome (finished | diverged | interrupted | failed), reason

`step` counts optimizer steps done, `epoch` is a float, `train_seconds` excludes evaluation.
`data` says what the run found: name, shape, classes, parts {train: {images, classes, of, source}, ...}, left_out {part:
{reason: files}}, unused {part: images}, remarks {what: images}; older records have none, and empty ones are left away.
A resumed run starts at its checkpoint's step, so what was recorded after that step is superseded by what follows.
"""

from __future__ import annotations

import errno
import json
import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from jorge_tune.errors import RunFolderError

Record = dict[str, Any]
Outcome = Literal["finished", "diverged", "interrupted", "failed"]


@dataclass(frozen=True)
class RunFolder:
    """The paths inside one run folder; nothing is created by naming them."""

    root: Path

    @property
    def recipe(self) -> Path:
        """The recipe as it was run, every value resolved."""
        return self.root / "recipe.yaml"

    @property
    def records(self) -> Path:
        """The records, one JSON object per line."""
        return self.root / "records.jsonl"

    @property
    def environment(self) -> Path:
        """Device, driver, versions and commit; no host or user names."""
        return self.root / "environment.json"

    @property
    def checkpoint(self) -> Path:
        """The folder of checkpoints."""
        return self.root / "checkpoint"

    @property
    def log(self) -> Path:
        """Plain text for people."""
        return self.root / "log.txt"


class RecordWriter:
    """Appends records to a file, each in one `write` of a whole line; usable as a context manager.

    A torn last line, left by a process that was killed while writing, is cut off when the file is opened.
    """

    def __init__(self, path: Path) -> None:
        _cut_torn_line(path)
        self._descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)

    def write(self, record: Mapping[str, object]) -> None:
        """Append one record; non-finite numbers are written as null-safe strings (`"nan"`, `"inf"`, `"-inf"`).

        Raises:
            OSError: there is no room for it; nothing of it is left in the file.
        """
        line = (json.dumps(portable(record), allow_nan=False, separators=(",", ":")) + "\n").encode()
        written = os.write(self._descriptor, line)
        if written < len(line):  # a disk that has just become full; the next record must not join half a line
            os.ftruncate(self._descriptor, os.fstat(self._descriptor).st_size - written)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def close(self) -> None:
        """Flush to the disk and close."""
        os.fsync(self._descriptor)
        os.close(self._descriptor)

    def __enter__(self) -> RecordWriter:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


def read_records(path: Path) -> list[Record]:
    """All records that still hold, in order: a torn last line and superseded records are left out.

    Raises:
        RunFolderError: the file is missing, or a line before the last is not a JSON object.
    """
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError as error:
        raise RunFolderError(f"{path}: cannot read the records ({error.strerror})") from error
    complete = lines[:-1]  # what follows the last newline is either nothing or torn
    records: list[Record] = []
    for number, line in enumerate(complete, start=1):
        record = _parse(line, f"{path}:{number}")
        if record["kind"] == "start":
            records = [earlier for earlier in records if _holds(earlier, record["step"])]
        records.append(record)
    return records


def of_kind(records: list[Record], kind: str, part: str | None = None) -> Iterator[Record]:
    """The records of one kind and, for evaluations, of one part."""
    return (r for r in records if r["kind"] == kind and (part is None or r.get("part") == part))


def outcome_of(records: list[Record]) -> Outcome | None:
    """The outcome of a run that has ended, else None."""
    if records and records[-1]["kind"] == "end":
        outcome: Outcome = records[-1]["outcome"]
        return outcome
    return None


def _holds(record: Record, restart_step: int) -> bool:
    return record["kind"] != "end" and bool(record["step"] <= restart_step)


def _parse(line: bytes, where: str) -> Record:
    try:
        record = json.loads(line)
    except ValueError as error:
        raise RunFolderError(f"{where}: not a record ({error})") from error
    if not isinstance(record, dict) or "kind" not in record or not isinstance(record.get("step"), int):
        raise RunFolderError(f"{where}: not a record (an object with 'kind' and 'step' is expected)")
    if record["kind"] == "end" and record.get("outcome") not in get_args(Outcome):
        raise RunFolderError(f"{where}: not a record (an end has an outcome: {', '.join(get_args(Outcome))})")
    return {key: from_portable(value) for key, value in record.items()}


_NON_FINITE = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}


def portable(value: object) -> object:
    """Plain data as JSON can hold it: NaN and infinities become the strings "nan", "inf" and "-inf"."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, Mapping):
        return {key: portable(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [portable(item) for item in value]
    return value


def from_portable(value: Any) -> Any:
    """What `portable` made, as it was."""
    if isinstance(value, str):
        return _NON_FINITE.get(value, value)
    if isinstance(value, dict):
        return {key: from_portable(item) for key, item in value.items()}
    if isinstance(value, list):
        return [from_portable(item) for item in value]
    return value


def _cut_torn_line(path: Path) -> None:
    if not path.exists():
        return
    content = path.read_bytes()
    whole = content.rfind(b"\n") + 1
    if whole != len(content):
        os.truncate(path, whole)
