"""What a command prints, kept in its run directory up to a size."""

from __future__ import annotations

import os
from pathlib import Path

from jorge_tune.errors import RunDirectoryError
from jorge_tune.files import open_regular

OUTPUT = "output.txt"
OLDER = "output.1.txt"
LARGEST = 2**23  # bytes of one file; there are two at most
_TAIL_BYTES, _TAIL_LINES, _LINE_LENGTH = 4096, 3, 160


class OutputFile:
    """Appends to output.txt; once that is full it becomes output.1.txt, and a new one begins."""

    def __init__(self, directory: Path, largest: int = LARGEST) -> None:
        self._path, self._older, self._largest = directory / OUTPUT, directory / OLDER, largest
        self._tail = b""
        self._open()

    def __enter__(self) -> OutputFile:
        return self

    def __exit__(self, *exc_info: object) -> None:
        os.close(self._descriptor)

    def write(self, chunk: bytes) -> None:
        """Add what was printed.

        Raises:
            OSError: there is no room for it.
        """
        self._tail = (self._tail + chunk)[-_TAIL_BYTES:]
        self._size += len(chunk)
        while chunk:
            chunk = chunk[os.write(self._descriptor, chunk) :]
        if self._size >= self._largest:
            os.close(self._descriptor)
            self._path.replace(self._older)
            self._open()

    def last_lines(self) -> str:
        """The last lines, for the end of a sentence; nothing where nothing was printed."""
        lines = [line.strip()[-_LINE_LENGTH:] for line in self._tail.decode(errors="replace").splitlines()]
        said = [line for line in lines if line][-_TAIL_LINES:]
        return "; it said: " + " | ".join(said) if said else ""

    def _open(self) -> None:
        self._descriptor = open_regular(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, error=RunDirectoryError)
        self._size = os.fstat(self._descriptor).st_size
