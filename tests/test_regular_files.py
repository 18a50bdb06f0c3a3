"""Files that others may have put there: read where they are files, and refused unopened where they are not."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from jorge_tune.errors import InputError, RunDirectoryError
from jorge_tune.files import open_regular, read_regular_bytes


def _link(path: Path) -> None:
    outside = path.parent.parent / "outside.txt"
    outside.write_text("secret")
    path.symlink_to(outside)


def _socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as one:
        here = os.open(path.parent, os.O_PATH)
        one.bind(f"/proc/self/fd/{here}/{path.name}")  # the whole path may be longer than a socket's name can be
        os.close(here)


IRREGULAR: dict[str, Callable[[Path], object]] = {
    "a symbolic link": _link,
    "a directory": Path.mkdir,
    "a named pipe": os.mkfifo,
    "a socket": _socket,
    "a device": lambda path: os.mknod(path, 0o020600, os.makedev(1, 3)),  # /dev/null's
}


@pytest.mark.parametrize("kind", IRREGULAR)
@pytest.mark.parametrize("flags", [os.O_RDONLY, os.O_WRONLY | os.O_APPEND | os.O_CREAT], ids=["read", "append"])
def test_what_is_no_file_is_named_and_not_waited_for(tmp_path: Path, kind: str, flags: int) -> None:
    path = tmp_path / "run" / "records.jsonl"
    path.parent.mkdir()
    try:
        IRREGULAR[kind](path)
    except PermissionError:
        pytest.skip("only root makes devices")
    with pytest.raises(InputError, match=f"must be a regular file, got {kind}") as caught:
        open_regular(path, flags)
    assert str(caught.value).startswith(str(path))
    assert caught.type is InputError


def test_a_link_in_place_of_a_folder_on_the_way_is_refused_but_not_the_folder_that_is_trusted(tmp_path: Path) -> None:
    (tmp_path / "disk" / "run" / "checkpoint").mkdir(parents=True)
    (tmp_path / "disk" / "run" / "checkpoint" / "last.pt").write_text("whole")
    (tmp_path / "runs").symlink_to(tmp_path / "disk")
    root = tmp_path / "runs" / "run"
    path = root / "checkpoint" / "last.pt"
    assert read_regular_bytes(path, below=root) == b"whole"
    assert read_regular_bytes(path, below=tmp_path / "runs") == b"whole"
    with pytest.raises(InputError, match="got a symbolic link"):
        read_regular_bytes(path, below=tmp_path)
    (root / "checkpoint").rename(root / "elsewhere")
    (root / "checkpoint").symlink_to("elsewhere")
    with pytest.raises(RunDirectoryError, match="got a symbolic link"):
        read_regular_bytes(path, below=root, error=RunDirectoryError)


def test_what_is_missing_is_for_the_caller_to_judge_and_what_is_too_large_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "environment.json"
    with pytest.raises(FileNotFoundError):
        read_regular_bytes(path)
    with pytest.raises(InputError, match="cannot be opened"):
        read_regular_bytes(tmp_path / "a\0b")
    path.write_bytes(b"1234")
    assert read_regular_bytes(path, most=4) == b"1234"
    with pytest.raises(InputError, match="must have at most 3 bytes"):
        read_regular_bytes(path, most=3)
    with pytest.raises(InputError, match="cannot be opened"):
        read_regular_bytes(path / "below")
