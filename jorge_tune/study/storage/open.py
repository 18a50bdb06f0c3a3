"""Opening the storage of studies: checks first, then Optuna's own storage behind patience."""

from __future__ import annotations

import contextlib
import logging
import os
import random
import shutil
import tempfile
import time
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import BaseStorage, JournalStorage

from jorge_tune.errors import InputError
from jorge_tune.files import is_disk_full
from jorge_tune.study.storage import databases
from jorge_tune.study.storage.address import Address, Kind
from jorge_tune.study.storage.claims import Claims
from jorge_tune.study.storage.databases import Database
from jorge_tune.study.storage.journal import JournalFile
from jorge_tune.study.storage.optuna_private import CachedStorage
from jorge_tune.study.storage.patient import PatientStorage
from jorge_tune.study.storage.retry import (
    COMPANIONS,
    FILE_SYSTEM_GONE,
    Cause,
    DamagedFileError,
    Patience,
    StorageFault,
    fault_of,
    is_creation_race,
    is_full,
    one_line,
)
from jorge_tune.untrusted import shown

RACES, RACE_PAUSE = 20, 0.3
_NOWHERE = logging.NullHandler()


def open_storage(
    address: Address, *, create: bool = True, patience: Patience | None = None, wait: bool = False
) -> PatientStorage:
    """Open the storage at an address.

    Args:
        address: where.
        create: make the file with its directory, or the tables, where they are missing.
        patience: how long each call waits for a storage that is gone, and who hears of it.
        wait: be patient now, too, with a server that does not answer.

    Raises:
        InputError: it cannot be reached or used; the message says why and the way out, without the password.
        StorageError: with `wait`, it stayed away.
    """
    silence_optuna()
    patience = patience or Patience(address)

    def attempt(number: int) -> PatientStorage:
        try:
            return PatientStorage(_open(address, patience, create=create), patience)
        except Exception as error:
            fault = fault_of(error)
            if fault is None or (wait and _may_pass(fault)):
                raise
            text = patience.in_words(fault) if address.path is not None else databases.advice(address, fault)
        raise InputError(text)

    return patience.run(attempt) if wait else attempt(0)


def _may_pass(fault: StorageFault) -> bool:
    return fault.cause in (Cause.LOST, Cause.BUSY) and not databases.is_hopeless(fault)


def silence_optuna() -> None:
    """Nothing that Optuna warns of as experimental, or logs with what it stands on, reaches the terminal by itself."""
    optuna.logging.disable_default_handler()
    for name in ("optuna", "sqlalchemy", "alembic", "psycopg"):  # a logger that has no handler at all writes to stderr
        logging.getLogger(name).addHandler(_NOWHERE)
    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
    warnings.filterwarnings("ignore", message="Choices for a categorical distribution")  # see `_distribution`


def _open(address: Address, patience: Patience, *, create: bool) -> BaseStorage:
    if address.kind == "journal":
        return _journal(address, create=create)
    if address.kind == "sqlite":
        databases.prepare(address, patience, create=create)
        storage = _database(address, databases.sqlite_arguments())
        databases.begin_immediately(storage.engine)  # not before: while it opens, Optuna reads through two at once
        return CachedStorage(storage)
    return CachedStorage(_server(address, create=create))


def _server(address: Address, *, create: bool) -> Database:
    databases.check_driver(address)
    try:
        if not create:
            databases.check_tables(address)
        return _database(address, databases.server_arguments(address))
    except (TypeError, ValueError) as error:  # from the driver, for an option in the address that it does not know
        text = address.scrub(one_line(str(error)))
    raise InputError(f"{address}: the driver refuses what the address says ({text})")


def _database(address: Address, arguments: dict[str, Any]) -> Database:
    """Optuna's storage; its tables may be made by several processes at once, of which one succeeds."""
    for race in range(RACES):
        try:
            return Database(address.url, arguments)
        except RuntimeError as error:
            if "no longer compatible" not in str(error):
                raise
            raise InputError(
                f"{address}: was made by another version of Optuna than {optuna.__version__}; install that one,"
                " or bring it up to date with `optuna storage upgrade`, or give another --storage"
            ) from None
        except Exception as error:
            fault = fault_of(error)
            busy = fault is not None and fault.cause is Cause.BUSY
            if race + 1 == RACES or not (busy or is_creation_race(error)):
                raise
        time.sleep(random.uniform(0, RACE_PAUSE))
    raise AssertionError("unreachable")


def _journal(address: Address, *, create: bool) -> JournalStorage:
    path = address.path
    assert path is not None
    if path.is_dir():
        raise InputError(f"{address}: is a directory; give a file name")
    if not create and not path.exists():
        raise InputError(f"{address}: there are no studies, the file is missing")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = JournalFile(path)
        file.check_end()
    except OSError as error:
        if error.errno in FILE_SYSTEM_GONE or is_disk_full(error):  # which have words of their own
            raise
        raise InputError(f"{address}: cannot be opened ({error.strerror}); {databases.ELSEWHERE}") from None
    try:
        return JournalStorage(file)
    except (LookupError, TypeError, ValueError, AttributeError, AssertionError, RecursionError) as error:
        raise DamagedFileError(f"line {file.last_line} says what no study can hold ({shown(error)})") from None


_ENDINGS: dict[Kind, tuple[str, ...]] = {
    "sqlite": ("", "-wal", "-shm", "-journal"),
    "journal": ("", ".writing", ".lock"),  # our lock, and Optuna's own
}


def keep_off(address: Address, out: Path) -> None:
    """Refuse to write to a file of the storage, under any name or link, also if the file does not exist yet.

    Args:
        address: the storage that a command reads.
        out: the file that it is to write.

    Raises:
        InputError: it belongs to the storage.
    """
    for own in _own_files(address):
        if _is_same(own, out):
            what = "the storage itself" if own == address.path else f"a file of the storage {address}"
            raise InputError(f"{out}: is {what}; give another name")


def _own_files(address: Address) -> Iterator[Path]:
    path = address.path
    if path is None:
        return
    for ending in _ENDINGS[address.kind]:
        yield path.with_name(path.name + ending)
        if path.is_symlink():  # SQLite follows the link, and names what belongs to the file by where that is
            real = path.resolve()
            yield real.with_name(real.name + ending)


def _is_same(one: Path, other: Path) -> bool:
    try:
        return one.resolve() == other.resolve() or one.samefile(other)
    except (OSError, RuntimeError):  # one of them is missing, or a loop of links
        return False


@contextlib.contextmanager
def reading(address: Address, patience: Patience | None = None) -> Iterator[PatientStorage]:
    """The storage; of an SQLite or journal file that this process cannot write, a copy that goes with the context.

    Args:
        address: where it is.
        patience: waits for a server that does not answer now, and later; None: nobody waits now.

    Raises:
        InputError: there is none, or it cannot be read.
        StorageError: it stayed away.
    """
    if can_be_written(address):
        opened = open_storage(address, create=False, patience=patience, wait=patience is not None)
        with contextlib.closing(opened) as storage:
            yield storage
        return
    with _temporary(address) as folder:
        copied = replace(address, path=_copied(address, Path(folder)))
        copied = replace(copied, url=f"{address.kind}:///{copied.path}")
        with contextlib.closing(open_storage(copied, create=False)) as storage:
            yield storage


@contextlib.contextmanager
def _temporary(address: Address) -> Iterator[str]:
    try:
        folder = tempfile.TemporaryDirectory()
    except OSError as error:
        raise InputError(
            f"{address}: cannot be read, since no temporary directory can be made ({error.strerror})"
        ) from None
    with folder as path:
        yield path


def can_be_written(address: Address) -> bool:
    """Whether nothing is known that keeps this process from writing; a server says so at the first write alone."""
    if address.path is None or not address.path.is_file():
        return True
    path = address.path.resolve()  # SQLite follows a link, and writes next to its file even to read it
    return os.access(path, os.W_OK) and os.access(path.parent, os.W_OK) and not is_full(path)


def _copied(address: Address, folder: Path) -> Path:
    assert address.path is not None
    path = address.path
    try:
        for ending in ("", *COMPANIONS):
            source = path.with_name(path.name + ending)
            if source.exists():
                shutil.copyfile(source, folder / source.name)
    except OSError as error:
        if is_disk_full(error):
            raise InputError(
                f"{address}: cannot be read, since its disk is full and so is the disk for temporary files "
                f"({folder.parent}); make room, or set TMPDIR to a directory that has some"
            ) from None
        raise InputError(f"{address}: cannot be read ({error.strerror})") from error
    return folder / path.name


def claims_for(storage: BaseStorage, study_id: int) -> Claims[Any]:
    """The claims of one study in a storage that `open_storage` opened."""
    from optuna.storages import JournalStorage

    from jorge_tune.study.storage.claims_rdb import DatabaseClaims
    from jorge_tune.study.storage.journal import JournalClaims
    from jorge_tune.study.storage.optuna_private import CachedStorage
    from jorge_tune.study.storage.patient import PatientStorage

    assert isinstance(storage, PatientStorage), "a storage that open_storage opened"
    if isinstance(storage.inner, JournalStorage):
        return JournalClaims(storage.inner, study_id, storage.patience)
    assert isinstance(storage.inner, CachedStorage)
    return DatabaseClaims(storage.inner, study_id, storage.patience)
