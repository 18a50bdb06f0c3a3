"""Opening the storage of studies: checks first, then Optuna's own storage behind patience."""

from __future__ import annotations

import logging
import random
import time
import warnings
from typing import Any

import optuna
from optuna.storages import BaseStorage, JournalStorage, _CachedStorage

from jorge_tune.errors import InputError
from jorge_tune.files import is_disk_full
from jorge_tune.strict_json import shown
from jorge_tune.tuning.storages import servers, sqlite
from jorge_tune.tuning.storages.address import Address
from jorge_tune.tuning.storages.database import Database
from jorge_tune.tuning.storages.journal import DamagedFileError, JournalFile
from jorge_tune.tuning.storages.patience import Patience
from jorge_tune.tuning.storages.patient import PatientStorage
from jorge_tune.tuning.storages.storage_faults import (
    FILE_SYSTEM_GONE,
    Cause,
    StorageFault,
    fault_of,
    is_creation_race,
    one_line,
)

RACES, RACE_PAUSE = 20, 0.3
_NOWHERE = logging.NullHandler()


def open_storage(
    address: Address, *, create: bool = True, patience: Patience | None = None, wait: bool = False
) -> PatientStorage:
    """Open the storage at an address.

    Args:
        address: where.
        create: make the file with its folder, or the tables, where they are missing.
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
            text = patience.in_words(fault) if address.path is not None else servers.advice(address, fault)
        raise InputError(text)

    return patience.run(attempt) if wait else attempt(0)


def _may_pass(fault: StorageFault) -> bool:
    return fault.cause in (Cause.LOST, Cause.BUSY) and not servers.is_hopeless(fault)


def silence_optuna() -> None:
    """Nothing that Optuna warns of as experimental, or logs with what it stands on, reaches the terminal by itself."""
    optuna.logging.disable_default_handler()
    for name in ("optuna", "sqlalchemy", "alembic", "psycopg"):  # a logger that has no handler at all writes to stderr
        logging.getLogger(name).addHandler(_NOWHERE)
    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)


def _open(address: Address, patience: Patience, *, create: bool) -> BaseStorage:
    if address.kind == "journal":
        return _journal(address, create=create)
    if address.kind == "sqlite":
        sqlite.prepare(address, patience, create=create)
        storage = _database(address, sqlite.arguments())
        sqlite.begin_immediately(storage.engine)  # not before: while it opens, Optuna reads through two at once
        return _CachedStorage(storage)
    return _CachedStorage(_server(address, create=create))


def _server(address: Address, *, create: bool) -> Database:
    servers.check_driver(address)
    try:
        if not create:
            servers.check_tables(address)
        return _database(address, servers.arguments(address))
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
        raise InputError(f"{address}: is a folder; a file name is expected")
    if not create and not path.exists():
        raise InputError(f"{address}: there are no studies, the file is missing")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = JournalFile(path)
        file.check_end()
    except OSError as error:
        if error.errno in FILE_SYSTEM_GONE or is_disk_full(error):  # which have words of their own
            raise
        raise InputError(f"{address}: cannot be opened ({error.strerror}); {sqlite.ELSEWHERE}") from None
    try:
        return JournalStorage(file)
    except (LookupError, TypeError, ValueError, AttributeError, AssertionError, RecursionError) as error:
        raise DamagedFileError(f"line {file.last_line} says what no study can hold ({shown(error)})") from None
