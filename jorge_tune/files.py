"""Files that appear whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import os
from pathlib import Path

from jorge_tune.errors import InputError


def is_disk_full(error: OSError) -> bool:
    """Whether it is room that was missing: on the disk, or in a quota."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT)


def write_whole(path: Path, content: str | bytes, *, force: bool = False, make_folders: bool = False) -> None:
    """Write beside the file and move it into place when it is on the disk.

    A link is followed: what it points to is replaced.

    Args:
        path: The file.
        content: Text is written as UTF-8.
        force: Replace an existing file.
        make_folders: Make the folders above it.

    Raises:
        InputError: it exists (without `force`), is a folder or a device, or cannot be written.
    """
    try:
        target = path.resolve()
        if target.is_dir():
            raise InputError(f"{path}: is a folder; a file name is expected")
        if target.exists() and not target.is_file():
            raise InputError(f"{path}: is not a regular file; give another name")
        if target.exists() and not force:
            raise InputError(f"{path}: exists already; give another name, or --force to overwrite it")
        if make_folders:
            target.parent.mkdir(parents=True, exist_ok=True)
        _replace(target, content.encode() if isinstance(content, str) else content)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise InputError(f"{path}: cannot be written ({reason})") from error


def _replace(target: Path, content: bytes) -> None:
    partial = target.with_name(f".{target.name}.{os.getpid()}.partial")
    try:
        with partial.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(target)
    except OSError:
        with contextlib.suppress(OSError):
            partial.unlink()
        raise
