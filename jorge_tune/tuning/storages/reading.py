"""A storage opened for reading alone, also where it cannot be written, for lack of permission or of room."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from jorge_tune.errors import InputError
from jorge_tune.files import is_disk_full
from jorge_tune.tuning.storages.address import Address
from jorge_tune.tuning.storages.storage import open_storage
from jorge_tune.tuning.storages.storage_faults import is_full

if TYPE_CHECKING:
    from jorge_tune.tuning.storages.patience import Patience
    from jorge_tune.tuning.storages.patient import PatientStorage

_COMPANIONS = ("", "-wal")  # what has not been written back into the file yet is in the second


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
            f"{address}: cannot be read, since no temporary folder can be made ({error.strerror})"
        ) from None
    with folder as path:
        yield path


def can_be_written(address: Address) -> bool:
    """Whether nothing is known that keeps this process from writing; a server says so at the first write alone."""
    if address.path is None or not address.path.is_file():
        return True
    path = address.path.resolve()  # SQLite follows a link, and writes beside its file even to read it
    return os.access(path, os.W_OK) and os.access(path.parent, os.W_OK) and not is_full(path)


def _copied(address: Address, folder: Path) -> Path:
    assert address.path is not None
    path = address.path
    try:
        for ending in _COMPANIONS:
            source = path.with_name(path.name + ending)
            if source.exists():
                shutil.copyfile(source, folder / source.name)
    except OSError as error:
        if is_disk_full(error):
            raise InputError(
                f"{address}: cannot be read, since its disk is full and so is that of the folder for temporary files "
                f"({folder.parent}); make room, or set TMPDIR to a folder that has some"
            ) from None
        raise InputError(f"{address}: cannot be read ({error.strerror})") from error
    return folder / path.name
