"""The `trainer_state.json` that Hugging Face's Trainer writes with each checkpoint: the whole history so far."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from jorge_tune.files import read_regular_bytes
from jorge_tune.logs.row_memory import RowMemory
from jorge_tune.logs.rows import LogError, LogRow
from jorge_tune.untrusted import parse_json, shown

_LARGEST = 2**28  # bytes; an entry has 150


class TrainerStateLog:
    """The entries of `log_history`, from the newest such file.

    Args:
        find: the newest file; None where there is none yet.
        expected: where it is looked for, in words.
    """

    def __init__(self, find: Callable[[], Path | None], expected: str) -> None:
        self._find, self._expected = find, expected
        self._path: Path | None = None
        self._seen: tuple[object, ...] | None = None
        self._memory = RowMemory()
        self.notes: list[str] = []

    def source(self) -> str:
        """The file that is read, or where it is looked for."""
        return self._expected if self._path is None else str(self._path)

    def skip(self) -> list[LogRow]:
        """What is there already. Raises as every `LogReader`."""
        return self.read()

    def read(self, *, at_end: bool = False) -> list[LogRow]:
        """The rows since the last call. Raises as every `LogReader`."""
        path = self._find()
        if path is None:
            return []
        try:
            status = path.stat()
            seen = path, status.st_ino, status.st_size, status.st_mtime_ns
            if seen == self._seen:
                return []
            content = read_regular_bytes(path, most=_LARGEST, error=LogError)
        except FileNotFoundError:  # Trainer deletes old checkpoints
            return []
        self._path = path
        try:
            rows = self._rows(content, path)
        except LogError:
            if at_end:
                raise
            return []  # it is being written
        self._seen = seen
        self._memory.restart()
        return self._memory.new(rows)

    def _rows(self, content: bytes, path: Path) -> list[LogRow]:
        try:
            state = parse_json(content, allow_nan=True)
        except ValueError as error:
            raise LogError(f"{path}: {error}; is this a trainer_state.json?") from error
        history = state.get("log_history") if isinstance(state, dict) else None
        if not isinstance(history, list):
            raise LogError(f"{path}: log_history must be a list, got {shown(history)}; is this a trainer_state.json?")
        rows = []
        for number, entry in enumerate(history):
            where = f"{path}: log_history[{number}]"
            if not isinstance(entry, dict):
                raise LogError(f"{where} must be an object, got {shown(entry)}")
            if "train_runtime" not in entry:  # the summary at the end repeats means of what came before
                rows.append(LogRow(entry, where))
        return rows
