"""A disk that is really full: a small file system in memory, where the user may mount one."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

_CHUNK = b"x" * 1024


@contextlib.contextmanager
def small_disk(folder: Path, size: str = "1m") -> Iterator[Path]:
    """The directory as a disk of that size; the test is skipped where none can be mounted."""
    folder.mkdir(exist_ok=True)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder]
    try:
        answer = subprocess.run(mount, capture_output=True, check=False)
    except FileNotFoundError:
        pytest.skip("there is no mount here")
    if answer.returncode:
        pytest.skip("this user may mount no file system")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


def grow(folder: Path, size: str) -> None:
    """Make room on a small disk."""
    subprocess.run(["mount", "-o", f"remount,size={size}", folder], check=True)


def fill(folder: Path, left: int) -> None:
    """Leave that many bytes of a small disk free."""
    filler = folder / "filler"
    with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
        while True:
            file.write(_CHUNK)
    with filler.open("r+b") as file:
        file.truncate(filler.stat().st_size - left)
