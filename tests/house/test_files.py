from __future__ import annotations

import os

import pytest

from jorge_tune.errors import InputError
from jorge_tune.files import write_whole


def test_a_file_is_written_and_an_existing_one_stays_unless_forced(tmp_path):
    path = tmp_path / "file"
    write_whole(path, "één")
    assert path.read_bytes() == "één".encode()
    with pytest.raises(InputError, match="exists already; give another name, or --force"):
        write_whole(path, "two")
    write_whole(path, b"two", force=True)
    assert path.read_bytes() == b"two"
    assert os.listdir(tmp_path) == ["file"]


def test_a_link_is_followed_and_stays_a_link(tmp_path):
    (tmp_path / "target").write_text("old")
    (tmp_path / "link").symlink_to(tmp_path / "target")
    write_whole(tmp_path / "link", "new", force=True)
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "target").read_text() == "new"


def test_what_is_no_regular_file_is_never_replaced(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InputError, match="is not a regular file; give another name"):
        write_whole(tmp_path / "pipe", "x", force=True)
    with pytest.raises(InputError, match="is a directory"):
        write_whole(tmp_path, "x", force=True)
    with pytest.raises(InputError, match="cannot be written"):
        write_whole(tmp_path / "missing" / "file", "x")
    write_whole(tmp_path / "missing" / "file", "x", make_folders=True)
    assert (tmp_path / "missing" / "file").read_text() == "x"
