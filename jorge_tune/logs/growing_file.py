"""A text file that another process appends to, or writes anew, read line by line."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

from jorge_tune.files import open_regular
from jorge_tune.logs.rows import LogError

LONGEST_LINE = 2**20  # bytes; a row of a thousand columns has 20,000
_LOOK_BACK = 256  # bytes before the place, by which a file that was written anew is told


class NewLines(NamedTuple):
    """Whole lines, the number of the first of them, and whether the file was written anew before them.

    `torn` is what stands behind the last newline: a line that is being written, or was never finished.
    """

    lines: list[bytes]
    first: int
    is_anew: bool = False
    torn: bytes = b""


class GrowingFile:
    """Whole lines as they are appended; a torn last line waits until it is whole.

    Some programs write their whole log anew each time (Lightning's CSV logger). As long as what was read is still
    there, that is no different from appending.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._seen: tuple[int, int, int] | None = None  # inode, size and time of the last change
        self._offset = self._lines = 0
        self._before = self._torn = b""

    def read(self) -> NewLines:
        """The lines since the last call; none where there is no such file yet.

        Raises:
            LogError: it cannot be read, is no regular file, or has a line that no log has.
        """
        try:
            with os.fdopen(open_regular(self.path, error=LogError), "rb") as file:
                status = os.fstat(file.fileno())
                seen = status.st_ino, status.st_size, status.st_mtime_ns
                if seen == self._seen:
                    return NewLines([], self._lines + 1, torn=self._torn)
                self._seen = seen
                is_anew = self._offset > 0 and not self._is_continued(file.fileno(), status.st_size)
                if is_anew:
                    self._offset = self._lines = 0
                    self._before = b""
                file.seek(self._offset)
                content = file.read()
        except FileNotFoundError:
            return NewLines([], 1)
        except OSError as error:
            raise LogError(f"{self.path}: cannot be read ({error.strerror})") from error
        return self._taken(content, is_anew)

    def _is_continued(self, descriptor: int, size: int) -> bool:
        """Whether what was read last still stands before the place to go on from."""
        start = self._offset - len(self._before)
        return size >= self._offset and os.pread(descriptor, len(self._before), start) == self._before

    def _taken(self, content: bytes, is_anew: bool) -> NewLines:
        whole = content.rfind(b"\n") + 1
        taken, self._torn, first = content[:whole], content[whole:], self._lines + 1
        lines = taken.split(b"\n")[:-1]
        for number, line in enumerate([*lines, self._torn], start=first):
            if len(line) > LONGEST_LINE:
                raise LogError(f"{self.path}:{number}: a line must have at most {LONGEST_LINE} bytes; is this a log?")
        self._offset += whole
        self._lines += len(lines)
        self._before = (self._before + taken)[-_LOOK_BACK:]
        return NewLines(lines, first, is_anew, self._torn)


def text_of_line(line: bytes, where: str) -> str:
    """A line as text.

    Raises:
        LogError: it is not UTF-8.
    """
    try:
        return line.decode("utf-8-sig").rstrip("\r")
    except UnicodeDecodeError as error:
        byte = error.object[error.start]
        raise LogError(f"{where}: must be UTF-8 text, got the byte 0x{byte:02x}; is this a log?") from error
