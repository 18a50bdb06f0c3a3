"""What an exception of a database, its driver or the file system means for us."""

from __future__ import annotations

import enum
import errno
import sqlite3
from collections.abc import Iterator
from typing import NamedTuple

from sqlalchemy.exc import DBAPIError


class Cause(enum.Enum):
    """What can be done about a fault."""

    LOST = "wait until the storage is back"
    BUSY = "try again at once: another's transaction was in the way"
    FULL = "stop: the disk is full"
    DAMAGED = "stop: the file is damaged"
    REFUSED = "stop: the user or the database is not let in"


class StorageFault(NamedTuple):
    """One fault and the sentence for it; `text` may hold what the driver wrote."""

    cause: Cause
    text: str


FILE_SYSTEM_GONE = {errno.ESTALE, errno.EIO, errno.ETIMEDOUT, errno.ENOTCONN, errno.EHOSTDOWN, errno.EHOSTUNREACH}
POSTGRESQL_BUSY = {"40001", "40P01", "55P03"}
POSTGRESQL_GONE = {"57P01", "57P02", "57P03", "53300", "25006"}
MYSQL_BUSY = {1205, 1213, 3572}
MYSQL_GONE = {1040, 1053, 1077, 1079, 1927, 2002, 2003, 2006, 2013, 2014, 2055, 4031}


def fault_of(error: BaseException) -> StorageFault | None:
    """The fault behind an exception; None if it is of no storage's making (a logic error of ours, say)."""
    for cause in _chain(error):
        if isinstance(cause, sqlite3.Error):
            return _of_sqlite(cause)
        if isinstance(cause, DBAPIError):
            return _of_server(cause)
        if isinstance(cause, OSError):
            return _of_file_system(cause)
    return None


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        if isinstance(error, DBAPIError) and isinstance(error.orig, sqlite3.Error):
            yield error.orig
        yield error
        error = error.__cause__


def _of_sqlite(error: sqlite3.Error) -> StorageFault | None:
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return StorageFault(Cause.BUSY, "another process holds the database")
    if code == sqlite3.SQLITE_FULL:
        return StorageFault(Cause.FULL, "the disk is full; make room and start again, nothing stored is lost")
    if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
        return StorageFault(Cause.DAMAGED, f"the file is damaged ({error})")
    return None


def _of_server(error: DBAPIError) -> StorageFault | None:
    state = getattr(error.orig, "sqlstate", None)
    arguments = getattr(error.orig, "args", ())
    number = arguments[0] if arguments and isinstance(arguments[0], int) else None
    text = str(arguments[-1]).strip() if arguments else type(error.orig).__name__
    if state in POSTGRESQL_BUSY or number in MYSQL_BUSY:
        return StorageFault(Cause.BUSY, text)
    if error.connection_invalidated or number in MYSQL_GONE or state in POSTGRESQL_GONE:
        return StorageFault(Cause.LOST, text)
    return None


def _of_file_system(error: OSError) -> StorageFault | None:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return StorageFault(Cause.FULL, "the disk is full; make room and start again, nothing stored is lost")
    if error.errno in FILE_SYSTEM_GONE:
        return StorageFault(Cause.LOST, error.strerror or "the disk does not answer")
    return None
