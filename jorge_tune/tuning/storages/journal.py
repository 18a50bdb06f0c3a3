"""Optuna's journal file, with a lock that dies with its holder and a torn last line that is cut off.

The lock is the kernel's, on a file beside the journal: Optuna's own stays behind when its holder is killed and makes
everybody else wait for 30 seconds. Programs that write to the same journal through Optuna's own backend do not see it;
reading (the dashboard, say) needs no lock.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import threading
from collections.abc import Generator
from pathlib import Path
from typing import Any

from optuna.storages.journal import JournalFileBackend

from jorge_tune.errors import InputError
from jorge_tune.tuning.storages.journal_ids import IssuedIds

LOCK_ENDING = ".writing"
_FIRST_BYTES = b'{"op_code":'
_CHUNK = 4096


class DamagedFileError(Exception):
    """A stored file that cannot be read; the message says what is wrong, and where."""


class FileLock:
    """The kernel's exclusive lock on a file, re-entrant within a thread; freed when its holder dies.

    Args:
        path: the file, made if it is missing and never removed (who waits for a removed file waits alone).
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._thread = threading.RLock()
        self._depth = 0
        self._descriptor = -1

    def __enter__(self) -> FileLock:
        self._thread.acquire()
        try:
            if self._depth == 0:
                self._descriptor = _locked(self._path)
            self._depth += 1
        except BaseException:
            self._thread.release()
            raise
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._depth -= 1
        if self._depth == 0:
            os.close(self._descriptor)
        self._thread.release()


def _locked(path: Path) -> int:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
    except OSError as error:
        os.close(descriptor)
        if error.errno in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP):
            raise InputError(
                f"{path}: this file system has no locks ({error.strerror}); mount it with them (Lustre: -o flock),"
                " or use PostgreSQL"
            ) from None
        raise
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


class JournalFile(JournalFileBackend):
    """Optuna's journal file under our lock.

    Args:
        path: the journal, made if it is missing.
    """

    def __init__(self, path: Path) -> None:
        path = path.resolve()  # under two names it would have two locks
        super().__init__(str(path))
        self._path = path
        self.last_line = 0
        """Number of the line that was read last, from 1."""
        self._issued, self._counted = IssuedIds(), 0  # by that many lines
        self.lock = FileLock(path.with_name(path.name + LOCK_ENDING))

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Append whole lines and have them on the disk, or change nothing.

        Raises:
            OSError: the disk is full or gone; what had been written of them is cut off again.
            KeyError: one is about a study or trial that is not there, which others would take for damage.
        """
        for log in logs:
            if (complaint := self._issued.complaint(log)) is not None:
                raise KeyError(f"an entry {complaint}")
        lines = "".join(json.dumps(log, separators=(",", ":")) + "\n" for log in logs).encode()
        with self.lock:
            descriptor = os.open(self._path, os.O_RDWR | os.O_CLOEXEC)
            try:
                end = _end_of_whole_lines(descriptor)
                os.ftruncate(descriptor, end)
                try:
                    _write_all(descriptor, lines, end)
                    os.fsync(descriptor)
                except OSError:
                    os.ftruncate(descriptor, end)
                    raise
            finally:
                os.close(descriptor)

    def read_logs(self, log_number_from: int) -> Generator[dict[str, Any], None, None]:
        """The logs from a number on; a last line that is being written, or that its writer left torn, is not read.

        Raises:
            DamagedFileError: a line is no log, with its number.
        """
        number = log_number_from
        try:
            for log in self._logs(number):
                number += 1
                yield log
        except DamagedFileError:  # or another machine's write that has not arrived whole: not so under the lock
            with self.lock:
                yield from self._logs(number)

    def check_end(self) -> None:
        """Look at the end, which `read_logs` takes for a write under way.

        Raises:
            DamagedFileError: it is not what a killed writer leaves, so it must not be cut off.
        """
        with self.lock, self._path.open("rb") as file:
            end = _end_of_whole_lines(file.fileno())
            last = _tail(file.fileno(), end - 1)[0] if end else None
        if last is not None and not _is_entry(last):
            raise DamagedFileError("its last line is no entry of a journal")

    def _logs(self, start: int) -> Generator[dict[str, Any], None, None]:
        number = start
        try:
            for log in super().read_logs(start):
                number += 1
                self.last_line = number
                if not isinstance(log, dict) or "op_code" not in log:
                    raise DamagedFileError(f"line {number} is no entry of a journal")
                self._count(log, number)
                yield log
        except (ValueError, RecursionError) as error:
            reason = "nested too deep" if isinstance(error, RecursionError) else error
            raise DamagedFileError(f"line {number + 1} is no entry of a journal ({reason})") from None

    def _count(self, log: dict[str, Any], number: int) -> None:
        """Check what a line is about, when it is read for the first time."""
        if number != self._counted + 1:
            return
        if (complaint := self._issued.complaint(log)) is not None:
            raise DamagedFileError(f"line {number} {complaint}")
        self._issued.take(log)
        self._counted = number


def _is_entry(line: bytes) -> bool:
    try:
        return "op_code" in json.loads(line)
    except (ValueError, TypeError, RecursionError):
        return False


def _tail(descriptor: int, end: int) -> tuple[bytes, int]:
    """What follows the last line feed before `end`, and where it starts."""
    tail, start = b"", end
    while start > 0 and b"\n" not in tail:
        chunk = min(start, _CHUNK)
        start -= chunk
        tail = os.pread(descriptor, chunk, start) + tail
    tail = tail.rpartition(b"\n")[2]
    return tail, end - len(tail)


def _end_of_whole_lines(descriptor: int) -> int:
    """Where the next line is to start: behind the last whole line, over what a killed writer left of one.

    A write that was torn was never answered, so nothing is lost with it.
    """
    torn, end = _tail(descriptor, os.fstat(descriptor).st_size)
    if torn.strip(b"\0") and not torn.startswith(_FIRST_BYTES[: len(torn)]):
        raise DamagedFileError("what follows its last whole line is no entry of a journal")
    return end


def _write_all(descriptor: int, content: bytes, offset: int) -> None:
    while content:
        written = os.pwrite(descriptor, content, offset)
        content, offset = content[written:], offset + written
