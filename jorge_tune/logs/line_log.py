"""Logs with a row on each line: what JSON lines, MMEngine's scalars and CSV have in common."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from pathlib import Path

from jorge_tune.logs.growing_file import GrowingFile, text_of_line
from jorge_tune.logs.row_memory import RowMemory
from jorge_tune.logs.rows import LogRow

FindPath = Callable[[], Path | None]


class LineLog:
    """Rows from the newest file that `find` gives; another file begins a new log.

    Args:
        find: the log file; None where there is none yet.
        expected: where it is looked for, in words.
    """

    def __init__(self, find: FindPath, expected: str) -> None:
        self._find, self._expected = find, expected
        self._file: GrowingFile | None = None
        self._memory = RowMemory()
        self._is_skipped = False  # whether what was there at the start of this stretch is still left out
        self.notes: list[str] = []

    def source(self) -> str:
        """The file that is read, or where it is looked for."""
        return str(self._file.path) if self._file is not None else self._expected

    def skip(self) -> list[LogRow]:
        """What is there already. Raises as every `LogReader`."""
        rows = self.read()
        self._is_skipped = True
        return rows

    def read(self, *, at_end: bool = False) -> list[LogRow]:
        """The rows since the last call. Raises as every `LogReader`."""
        path = self._find()
        if path is not None and (self._file is None or self._file.path != path):
            self._file = GrowingFile(path)
            self._begin()
        if self._file is None:
            return []

        new = self._file.read()
        if new.is_anew:
            self._begin()
        rows = []
        for number, line in enumerate(new.lines, start=new.first):
            rows += self._row_of(line, number)
        if at_end and new.torn.strip():
            rows += self._last_row(new.torn, new.first + len(new.lines))
        return self._memory.new(rows)

    def _begin(self) -> None:
        """A file begins, or begins again: a script that starts anew may well write the very same rows."""
        if self._is_skipped:
            self._memory.forget()
            self._is_skipped = False
        self._memory.restart()
        self.begin()

    def _row_of(self, line: bytes, number: int) -> list[LogRow]:
        assert self._file is not None
        where = f"{self._file.path}:{number}"
        text = text_of_line(line, where)
        row = self.row(text, where) if text.strip() else None
        return [] if row is None else [row]

    def _last_row(self, line: bytes, number: int) -> list[LogRow]:
        """The row of a line that has no end."""
        assert self._file is not None
        where = f"{self._file.path}:{number}"
        row = self.unfinished_row(line.decode(errors="replace"), where)
        if row is None:
            self.notes.append(f"{where}: the last line has no end and is left out")
        return [] if row is None else [row]

    def begin(self) -> None:
        """Forget what was read of an earlier file."""

    @abstractmethod
    def row(self, text: str, where: str) -> LogRow | None:
        """The row on a line; None for a line that is none."""

    def unfinished_row(self, text: str, where: str) -> LogRow | None:
        """The row on a last line without an end; None where it cannot be known to be whole."""
        return None
