"""Opening the storage of studies: checks first, then Optuna's own storage behind patience."""

from __future__ import annotations

from typing import Any

import optuna
from optuna.storages import JournalStorage, RDBStorage, _CachedStorage
from optuna.storages.journal import JournalFileBackend
from sqlalchemy import event

from jorge_tune.errors import InputError
from jorge_tune.tuning.address import Address
from jorge_tune.tuning.patience import Patience
from jorge_tune.tuning.patient import PatientStorage

BUSY_SECONDS = 60.0


def open_storage(address: Address, *, create: bool = True, patience: Patience | None = None) -> PatientStorage:
    """Open the storage at an address.

    Args:
        address: where.
        create: make the file with its folder, or the tables, where they are missing.
        patience: how long later calls wait for a storage that is gone; one is made if none is given.

    Raises:
        InputError: it cannot be reached or used; the message says why, without the password.
    """
    patience = patience or Patience(str(address))
    patience.in_words = address.scrub
    optuna.logging.disable_default_handler()
    if address.kind == "journal":
        assert address.path is not None
        address.path.parent.mkdir(parents=True, exist_ok=True)
        return PatientStorage(JournalStorage(JournalFileBackend(str(address.path))), patience)
    arguments: dict[str, Any] = {}
    if address.path is not None:
        if not create and not address.path.exists():
            raise InputError(f"{address}: there is no such file")
        address.path.parent.mkdir(parents=True, exist_ok=True)
        arguments["connect_args"] = {"timeout": BUSY_SECONDS}
    else:
        arguments["isolation_level"] = "READ COMMITTED"
    if address.kind == "sqlite":
        arguments["pool_events"] = [(_connected, "connect")]
    storage = RDBStorage(address.url.replace("{", "{{").replace("}", "}}"), arguments)
    if address.kind == "sqlite":  # only now: while it opens, Optuna reads through two connections at once
        event.listen(storage.engine, "begin", _begun)
    return PatientStorage(_CachedStorage(storage), patience)


def _connected(connection: Any, record: Any) -> None:
    connection.isolation_level = None
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=NORMAL")


def _begun(connection: Any) -> None:
    connection.exec_driver_sql("BEGIN IMMEDIATE")
