"""Waiting for a storage that is gone for a while: the one place where an operation is tried again.

An operation is tried again after a lost connection, and at once after the database refused it because of another's
transaction. It is handed the number of the attempt: a commit whose answer was lost may have arrived, so what must not
happen twice looks first. What waiting cannot mend is raised in words.
"""

from __future__ import annotations

import contextlib
import enum
import errno
import filecmp
import os
import random
import shutil
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from shlex import quote
from typing import NamedTuple, TypeVar

from optuna.exceptions import StorageInternalError
from sqlalchemy.exc import DBAPIError, OperationalError, PendingRollbackError, SQLAlchemyError

from jorge_tune.errors import JorgeTuneError
from jorge_tune.files import is_disk_full
from jorge_tune.study.storage.address import Address


class DamagedFileError(Exception):
    """A stored file that cannot be read; the message says what is wrong, and where."""


T = TypeVar("T")

SECONDS = 120.0
FIRST_PAUSE, LONGEST_PAUSE = 0.2, 5.0
BUSY_PAUSE, LONGEST_BUSY_PAUSE = 0.01, 0.5
SLICE = 0.25  # a wait looks this often whether it is still wanted


class StorageError(JorgeTuneError):
    """The storage of a study cannot be worked with any more: gone for too long, full, damaged or refusing."""


class BrokenStorageError(StorageError):
    """Neither waiting nor starting again helps: it is full, damaged or refusing."""


@dataclass
class Patience:
    """How long to wait for a storage, and who hears of it.

    Args:
        address: where it is.
        seconds: how long it may be gone.
        told: called, by the thread that waits, once per outage when the wait begins and once when the storage is back.
        unwanted: asked during a wait; True ends it as if time were up.
        clock: seconds; another one in tests.
        sleep: waits for so many seconds; another one in tests.
    """

    address: Address
    seconds: float = SECONDS
    told: Callable[[str], None] = lambda text: None
    unwanted: Callable[[], bool] = lambda: False
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep
    _waiting: bool = field(default=False, init=False)
    _telling: threading.Lock = field(default_factory=threading.Lock, init=False, repr=False)

    def run(self, operation: Callable[[int], T]) -> T:
        """Do an operation, again where that can help.

        Args:
            operation: handed the attempt's number, 0 at first.

        Raises:
            StorageError: the storage stayed away; a `BrokenStorageError` where it is full, damaged or refuses.
        """
        attempt, pause, began = 0, FIRST_PAUSE, self.clock()
        while True:
            try:
                result = operation(attempt)
            except Exception as error:
                fault = fault_of(error)
                if fault is None:
                    raise
                self._check(fault, self.clock() - began)
            else:
                self._end_of_wait()
                return result
            if fault.cause is Cause.BUSY:
                self.sleep(random.uniform(0, min(BUSY_PAUSE * 2**attempt, LONGEST_BUSY_PAUSE)))
            else:
                self._wait(fault, min(pause, max(0.0, began + self.seconds - self.clock())))
                pause = min(2 * pause, LONGEST_PAUSE)
            attempt += 1

    def in_words(self, fault: StorageFault) -> str:
        """A fault as it may be printed, without the password; a damaged file is copied aside meanwhile."""
        path = self.address.path
        if fault.text == IO_ERROR and path is not None and is_full(path):  # as SQLite says it where it maps its files
            fault = fault._replace(text=FULL)
        text = f"{self.address}: {self.address.scrub(fault.text)}"
        if fault.cause is Cause.DAMAGED and path is not None:
            return f"{text}: the file is damaged; {set_aside(path)}. {self._way_out(fault)}"
        return text

    def _check(self, fault: StorageFault, waited: float) -> None:
        """Raise, in words, a fault that is not to be waited for (any longer); the driver's text stays behind."""
        if fault.cause not in (Cause.LOST, Cause.BUSY):
            raise BrokenStorageError(self.in_words(fault)) from None
        if waited >= self.seconds or self.unwanted():
            gone = "gone" if fault.cause is Cause.LOST else "busy"
            reason = self.address.scrub(fault.text)
            raise StorageError(
                f"{self.address}: {gone} for {waited:.0f} seconds ({reason}); start again when it is back"
            ) from None

    def _wait(self, fault: StorageFault, seconds: float) -> None:
        with self._telling:
            first, self._waiting = not self._waiting, True
        if first:
            self.told(f"{self.address}: waiting for the database ({self.address.scrub(fault.text)})")
        end = self.clock() + seconds
        while (left := end - self.clock()) > 0 and not self.unwanted():
            self.sleep(min(SLICE, left))

    def _end_of_wait(self) -> None:
        if not self._waiting:
            return
        with self._telling:
            last, self._waiting = self._waiting, False
        if last:
            self.told(f"{self.address}: the database is back")

    def _way_out(self, fault: StorageFault) -> str:
        elsewhere = "use another --storage"
        if self.address.kind == "journal":
            return f"Remove this line to continue without it, or {elsewhere}"
        if fault.text == NO_HEADER:
            return f"Restore it from a backup, or {elsewhere}"
        dump = f"sqlite3 {quote(str(self.address.path))} .dump | sed 's/^ROLLBACK.*/COMMIT;/' | sqlite3 mended.db"
        return f"To save what can be read: {dump} -- or {elsewhere}"


class Cause(enum.Enum):
    """What can be done about a fault."""

    LOST = "wait until the storage is back"
    BUSY = "try again at once: another's transaction was in the way"
    STOP = "stop: neither helps"
    DAMAGED = "stop, and copy the file aside"


class StorageFault(NamedTuple):
    """One fault, and a clause for it that may hold what the driver wrote."""

    cause: Cause
    text: str


_ROOM = 128 << 10
FULL = "the disk is full; make room and start again, nothing that was stored is lost"
IO_ERROR = "the disk cannot be read or written (disk I/O error)"
NO_HEADER = "does not begin as an SQLite file does"
FILE_SYSTEM_GONE = {errno.ESTALE, errno.EIO, errno.ETIMEDOUT, errno.ENOTCONN, errno.EHOSTDOWN, errno.EHOSTUNREACH}
POSTGRESQL_BUSY = {"40001", "40P01", "55P03"}
POSTGRESQL_GONE = {"57P01", "57P02", "57P03", "53300", "25006"}
POSTGRESQL_FULL = {"53100"}
MYSQL_BUSY = {1205, 1213, 3572}
MYSQL_GONE = {1040, 1053, 1077, 1079, 1290, 1927, 2002, 2003, 2006, 2013, 2014, 2055, 4031}
MYSQL_FULL = {1021, 1114}
SQLITE_BUSY = {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_PROTOCOL}
SQLITE_DAMAGED = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}
SQLITE_TEXTS = {
    sqlite3.SQLITE_FULL: FULL,
    sqlite3.SQLITE_IOERR: IO_ERROR,
    sqlite3.SQLITE_READONLY: "the file, or its directory, cannot be written (or it was moved while in use)",
    sqlite3.SQLITE_CANTOPEN: "the file, or its directory, cannot be opened",
    sqlite3.SQLITE_PERM: "the file cannot be opened for lack of permission",
    sqlite3.SQLITE_AUTH: "the file cannot be opened for lack of permission",
}


def is_full(path: Path) -> bool:
    """Whether the disk has no room for what SQLite writes next to a file."""
    try:
        disk = os.statvfs(path.parent)
    except OSError:
        return False
    free = disk.f_bfree if os.geteuid() == 0 else disk.f_bavail
    return disk.f_blocks > 0 and free * disk.f_frsize < _ROOM


def fault_of(error: BaseException) -> StorageFault | None:
    """The fault behind an exception; None if no storage made it (a logic error, say)."""
    for cause in _chain(error):
        if isinstance(cause, sqlite3.Error):
            return of_sqlite(cause)
        if isinstance(cause, DBAPIError):
            return _of_server(cause)
        if isinstance(cause, PendingRollbackError):  # a second statement on a connection that had just been lost
            return StorageFault(Cause.LOST, "the connection was lost")
        if isinstance(cause, DamagedFileError):
            return StorageFault(Cause.DAMAGED, str(cause))
        if isinstance(cause, OSError):
            return _of_file_system(cause)
    if isinstance(error, StorageInternalError | SQLAlchemyError):
        return StorageFault(Cause.STOP, one_line(str(error.__cause__ or error)))
    return None


def of_sqlite(error: sqlite3.Error) -> StorageFault:
    """The fault behind an error of SQLite's."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF  # the extended codes hold the plain one in their last byte
    if code in SQLITE_BUSY:
        return StorageFault(Cause.BUSY, "other processes kept it locked")
    if code in SQLITE_DAMAGED:
        return StorageFault(Cause.DAMAGED, one_line(str(error)))
    return StorageFault(Cause.STOP, SQLITE_TEXTS.get(code, one_line(str(error))))


def is_creation_race(error: BaseException) -> bool:
    """Whether somebody else made the same table or row at the same moment."""
    for cause in _chain(error):
        if isinstance(cause, DBAPIError):
            state, number, _ = _details(cause)
            return state in ("42P07", "42710", "23505") or number in (1050, 1062)
        if isinstance(cause, sqlite3.Error):
            return "already exists" in str(cause) or "UNIQUE constraint" in str(cause)
    return False


def one_line(text: str) -> str:
    """What a driver wrote, in one line."""
    return " ".join(text.split())


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        if isinstance(error, DBAPIError) and isinstance(error.orig, sqlite3.Error):
            yield error.orig
        yield error
        error = error.__cause__


def _details(error: DBAPIError) -> tuple[str | None, int | None, str]:
    """SQLSTATE, MySQL's number and the driver's text."""
    arguments = getattr(error.orig, "args", ())
    number = arguments[0] if arguments and isinstance(arguments[0], int) else None
    text = one_line(str(arguments[-1])) if arguments else ""
    return getattr(error.orig, "sqlstate", None), number, text or type(error.orig).__name__


def _of_server(error: DBAPIError) -> StorageFault:
    state, number, text = _details(error)
    if state in POSTGRESQL_BUSY or number in MYSQL_BUSY:
        return StorageFault(Cause.BUSY, text)
    if state in POSTGRESQL_FULL or number in MYSQL_FULL:
        return StorageFault(Cause.STOP, f"the disk of the database server is full ({text}); make room and start again")
    connecting = error.statement is None and state is None and number is None and isinstance(error, OperationalError)
    if error.connection_invalidated or connecting or number in MYSQL_GONE or state in POSTGRESQL_GONE:
        return StorageFault(Cause.LOST, text)
    return StorageFault(Cause.STOP, text)


def _of_file_system(error: OSError) -> StorageFault:
    if is_disk_full(error):
        return StorageFault(Cause.STOP, FULL)
    reason = one_line(error.strerror or str(error))
    return StorageFault(Cause.LOST if error.errno in FILE_SYSTEM_GONE else Cause.STOP, reason)


COMPANIONS = ("-wal",)
"""Endings of the files that belong to an SQLite file; without them the last commits are missing."""


def set_aside(path: Path) -> str:
    """Copy a damaged file to `<name>.damaged-1` (or the next free number) in its directory.

    Returns:
        A clause for a message: where the copy is, or why there is none.
    """
    number = 1
    while (copy := path.with_name(f"{path.name}.damaged-{number}")).exists():
        if _same(path, copy):
            return f"a copy is kept as {copy}"
        number += 1
    try:
        for companion in COMPANIONS:
            beside = path.with_name(path.name + companion)
            if beside.exists() and beside.stat().st_size:
                shutil.copy2(beside, copy.with_name(copy.name + companion))
        _copy_whole(path, copy)
    except OSError as error:
        return f"it could not be copied aside ({error.strerror})"
    return f"a copy is kept as {copy}"


def _same(path: Path, copy: Path) -> bool:
    with contextlib.suppress(OSError):
        return filecmp.cmp(path, copy, shallow=False)
    return False


def _copy_whole(path: Path, copy: Path) -> None:
    partial = copy.with_name(f".{copy.name}.{os.getpid()}.partial")
    try:
        shutil.copy2(path, partial)
        partial.replace(copy)
    except OSError:
        with contextlib.suppress(OSError):
            partial.unlink()
        raise
