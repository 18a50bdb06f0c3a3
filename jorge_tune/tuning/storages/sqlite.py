"""SQLite for several processes of one machine: what is checked before a file is used, and how it is used.

Write-ahead logging lets readers and a writer work side by side. With `synchronous=NORMAL` a killed process loses
nothing; a machine that loses its power may lose the last commits, whose trials then run again.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, event

from jorge_tune.errors import InputError
from jorge_tune.tuning.storages.address import Address
from jorge_tune.tuning.storages.mounts import network_file_system
from jorge_tune.tuning.storages.patience import Patience
from jorge_tune.tuning.storages.storage_faults import NO_HEADER, Cause, StorageFault, of_sqlite, one_line

BUSY_SECONDS = 60.0
"""How long a transaction waits for another's."""
ELSEWHERE = "give another --storage, or change that"
"""The way out where a file cannot be opened."""
CHECKED_BYTES = 64 << 20
"""A larger file's pages are not all read when it is opened; its damage shows when the page is needed."""


def prepare(address: Address, patience: Patience, *, create: bool) -> None:
    """Check an SQLite file, and make it with its folder if it is missing.

    Raises:
        InputError: it cannot serve; a damaged one was copied aside.
    """
    path = address.path
    assert path is not None
    system = network_file_system(path)
    if system is not None:
        raise InputError(
            f"{address}: lies on {system}, a network file system, where SQLite's locks cannot be relied on;"
            f" give PostgreSQL (--storage postgresql://USER:PASSWORD@HOST/DATABASE),"
            f" or a journal file (--storage {path.with_suffix('.journal')})"
        )
    if path.is_dir():
        raise InputError(f"{address}: is a folder; a file name is expected")
    try:
        missing = not path.exists() or path.stat().st_size == 0
        if missing and not create:
            raise InputError(f"{address}: there are no studies, the file is missing or empty")
        path.parent.mkdir(parents=True, exist_ok=True)
        if (reason := _why_not_written(path)) is not None:
            raise InputError(f"{address}: cannot be written ({reason}); {ELSEWHERE}")
        if not missing:
            _check(address, path, patience)
        with _connected(path.as_uri(), patience) as connection:
            connection.execute("PRAGMA journal_mode=WAL")
    except OSError as error:
        raise InputError(f"{address}: cannot be opened ({error.strerror}); {ELSEWHERE}") from None


def _why_not_written(path: Path) -> str | None:
    """What is known to keep SQLite from writing a file, or beside it, which it does even to read; None: nothing."""
    path = path.resolve()  # SQLite follows a link, and writes beside what it leads to
    if os.statvfs(path.parent).f_flag & os.ST_RDONLY:
        return "its file system is read-only"
    if not os.access(path.parent, os.W_OK | os.X_OK):
        return f"no permission to write in the folder {path.parent}"
    if path.exists() and not os.access(path, os.R_OK | os.W_OK):
        return "no permission to read and write the file"
    return None


def arguments() -> dict[str, Any]:
    """What Optuna passes to SQLAlchemy's `create_engine`."""
    return {"connect_args": {"timeout": BUSY_SECONDS}, "pool_events": [(_set_up, "connect")]}


def begin_immediately(engine: Engine) -> None:
    """From now on each transaction takes the write lock at its start.

    One that read first and then wrote would fail whenever another wrote between, and two could pop one waiting trial.
    """

    def begin(connection: Connection) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    event.listen(engine, "begin", begin)


def _set_up(connection: sqlite3.Connection, record: object) -> None:
    connection.isolation_level = None  # the driver begins no transactions of its own
    connection.execute("PRAGMA synchronous=NORMAL")


def _check(address: Address, path: Path, patience: Patience) -> None:
    """Look through SQLite alone: to close a file of one's own drops the locks of all connections that the process has.

    The next process to leave would then remove the write-ahead log from under them, and they would see no news.
    """
    with _connected(path.as_uri() + "?mode=ro", patience) as connection:
        if path.stat().st_size <= CHECKED_BYTES:
            first = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
            if first != "ok":
                raise InputError(patience.in_words(StorageFault(Cause.DAMAGED, one_line(first))))
        tables = [name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
    if tables and "studies" not in tables:
        names = ", ".join(tables[:3])
        raise InputError(f"{address}: is another program's SQLite file (tables: {names}); give another name")


@contextlib.contextmanager
def _connected(uri: str, patience: Patience) -> Iterator[sqlite3.Connection]:
    """A connection of our own, its errors in words."""
    try:
        with contextlib.closing(
            sqlite3.connect(uri, uri=True, timeout=BUSY_SECONDS, isolation_level=None)
        ) as connection:
            yield connection
    except sqlite3.Error as error:
        foreign = getattr(error, "sqlite_errorcode", 0) == sqlite3.SQLITE_NOTADB
        fault = StorageFault(Cause.DAMAGED, NO_HEADER) if foreign else of_sqlite(error)
        raise InputError(patience.in_words(fault)) from None
