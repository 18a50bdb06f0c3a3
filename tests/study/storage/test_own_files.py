"""What a command may not write over: the storage that it reads."""

from __future__ import annotations

import os

import pytest

from jorge_tune.errors import InputError
from jorge_tune.study.storage.address import parse_address
from jorge_tune.study.storage.open import keep_off


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    return tmp_path / "real"


@pytest.mark.parametrize("name", ["a.db", "a.db-wal", "a.db-shm", "a.db-journal", "../real/a.db", "../link/a.db"])
@pytest.mark.parametrize("is_there", [True, False])
def test_an_sqlite_file_and_what_belongs_to_it_is_kept_off(folder, name, is_there):
    if is_there:
        (folder / "a.db").touch()
        (folder / name).touch()
    with pytest.raises(InputError, match=r"is (the storage itself|a file of the storage sqlite:///.*a\.db); give anot"):
        keep_off(parse_address(f"{folder}/a.db"), folder / name)


@pytest.mark.parametrize("name", ["a.journal", "a.journal.writing", "a.journal.lock"])
def test_so_is_a_journal_with_its_locks(folder, name):
    with pytest.raises(InputError, match="give another name"):
        keep_off(parse_address(f"{folder}/a.journal"), folder / name)


def test_other_names_of_the_same_file_are_the_same_file(folder):
    (folder / "a.db").touch()
    os.link(folder / "a.db", folder / "hard.csv")
    (folder / "soft.csv").symlink_to("a.db")
    (folder / "alias.db").symlink_to("a.db")
    for name in ("hard.csv", "soft.csv"):
        with pytest.raises(InputError, match=rf"{name}: is the storage itself; give another name"):
            keep_off(parse_address(f"{folder}/a.db"), folder / name)
    with pytest.raises(InputError, match="a file of the storage"):
        keep_off(parse_address(f"{folder}/alias.db"), folder / "a.db-wal")


def test_everything_else_may_be_written(folder):
    (folder / "a.db").touch()
    for name in ("b.db", "a.db.csv", "a.csv", "a.db-wal2"):
        keep_off(parse_address(f"{folder}/a.db"), folder / name)
    keep_off(parse_address("postgresql://u@h/d"), folder / "a.db")
