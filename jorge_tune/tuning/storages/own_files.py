"""The files that a storage is, which no command may write anything else over."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from jorge_tune.errors import InputError
from jorge_tune.tuning.storages.address import Address, Kind

_ENDINGS: dict[Kind, tuple[str, ...]] = {
    "sqlite": ("", "-wal", "-shm", "-journal"),
    "journal": ("", ".writing", ".lock"),  # our lock, and Optuna's own
}


def keep_off(address: Address, out: Path) -> None:
    """Refuse to write to a file of the storage, under whatever name or link, also where it is not there yet.

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
