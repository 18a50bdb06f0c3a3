"""A damaged file is copied aside, once, and left as it is: nothing that could still be read is lost."""

from __future__ import annotations

import contextlib
import filecmp
import os
import shutil
from pathlib import Path

COMPANIONS = ("-wal",)
"""What belongs to an SQLite file beside it: without it, what was committed last is missing."""


def set_aside(path: Path) -> str:
    """Copy a damaged file beside itself as `<name>.damaged-1` (or the next free number).

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
