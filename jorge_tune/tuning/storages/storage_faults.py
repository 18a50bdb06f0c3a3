"""What an exception of a database, its driver or the file system means for whoever stores a study."""

from __future__ import annotations

import enum
import errno
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from optuna.exceptions import StorageInternalError
from sqlalchemy.exc import DBAPIError, OperationalError, PendingRollbackError, SQLAlchemyError

from jorge_tune.files import is_disk_full
from jorge_tune.tuning.storages.journal import DamagedFileError


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
    sqlite3.SQLITE_READONLY: "the file, or its folder, cannot be written (or it was moved while in use)",
    sqlite3.SQLITE_CANTOPEN: "the file, or its folder, cannot be opened",
    sqlite3.SQLITE_PERM: "the file cannot be opened for lack of permission",
    sqlite3.SQLITE_AUTH: "the file cannot be opened for lack of permission",
}


def is_full(path: Path) -> bool:
    """Whether the disk of a file has no room for what SQLite writes beside it."""
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
