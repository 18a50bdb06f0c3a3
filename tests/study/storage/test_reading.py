"""A storage that can only be read: the commands that change nothing work all the same."""

from __future__ import annotations

import contextlib
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from jorge_tune.cli import main
from jorge_tune.cli import study_options as studies
from jorge_tune.cli.study_options import patience_of
from jorge_tune.study.storage.address import parse_address
from jorge_tune.study.storage.open import can_be_written, open_storage, reading
from jorge_tune.study.storage.retry import Patience, StorageError
from jorge_tune.study.study import study_names
from tests.small_disk import fill, small_disk
from tests.study.empty_runs import EmptyRuns
from tests.study.searched import Searched
from tests.study.servers import PrivatePostgresql, free_port


def ran(*arguments: object) -> int:
    with pytest.raises(SystemExit) as ended:
        main([str(argument) for argument in arguments])
    return int(ended.value.code or 0)


def test_a_study_on_a_full_disk_is_read_and_writing_says_why_not(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with small_disk(tmp_path / "disk", "4m") as disk:
        made = Searched(disk / "study", trials=3)
        made.search(EmptyRuns())
        made.opened.storage.close()  # type: ignore[attr-defined]
        fill(disk, 0)
        at = ("--storage", made.folder / "study.db", "--name", "small")
        assert ran("study", "status", *at) == 0
        assert "3 of 3 ended" in capsys.readouterr().out
        assert ran("study", "best", *at) == 0
        assert ran("study", "export", *at, "-o", tmp_path / "out.json") == 0
        capsys.readouterr()
        assert ran("study", "add", *at, "--set", "lr=0.2") == 2
        assert "study.db: the disk is full; make room and start again" in capsys.readouterr().err
        (disk / "filler").unlink()
        assert ran("study", "add", *at, "--set", "lr=0.2") == 0


def test_where_the_temporary_folder_is_full_too_the_way_out_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with small_disk(tmp_path / "disk", "4m") as disk:
        made = Searched(disk / "study", trials=2)
        made.opened.storage.close()  # type: ignore[attr-defined]
        (disk / "tmp").mkdir()
        fill(disk, 8192)
        monkeypatch.setattr("tempfile.tempdir", str(disk / "tmp"))
        assert ran("study", "status", "--storage", made.folder / "study.db") == 2
        assert "set TMPDIR to a directory that has some" in capsys.readouterr().err


def test_a_disk_with_room_is_no_full_one(tmp_path: Path) -> None:
    made = Searched(tmp_path / "study", trials=2)
    assert can_be_written(made.address)


def test_a_server_that_does_not_answer_is_waited_for_and_it_is_said(
    private_postgresql: PrivatePostgresql, tmp_path: Path
) -> None:
    """It is started while a command waits."""
    address = parse_address(private_postgresql.url())
    with contextlib.closing(open_storage(address)):
        pass
    private_postgresql.stop()
    told: list[str] = []

    def tell(text: str) -> None:
        told.append(text)
        if len(told) == 1:
            private_postgresql.start()

    with reading(address, Patience(address, told=tell)) as storage:
        assert study_names(storage) == []
    assert "waiting for the database" in told[0]
    assert told[1].endswith("the database is back")


def test_a_server_that_stays_away_is_given_up_in_words(tmp_path: Path) -> None:
    address = parse_address(f"postgresql://me@127.0.0.1:{free_port()}/studies")
    told: list[str] = []
    with (
        pytest.raises(StorageError, match="gone for 1 seconds"),
        reading(address, Patience(address, seconds=1.0, told=told.append)),
    ):
        pass
    assert len(told) == 1


@pytest.mark.parametrize("host", ["no-such-host.invalid", "127.0.0.1"])
def test_commands_wait_but_not_for_a_name_that_nobody_has(
    host: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(studies, "patience_of", lambda address: replace(patience_of(address), seconds=1.0))
    code = ran("study", "status", "--storage", f"postgresql://me@{host}:{free_port()}/studies")
    err = capsys.readouterr().err
    if host == "127.0.0.1":
        assert (code, err.count("waiting for the database")) == (1, 1)
        assert "start again when it is back" in err
    else:
        assert (code, "waiting" in err) == (2, False)


def test_a_copy_is_read_where_the_folder_takes_no_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = Searched(tmp_path / "study", trials=2)
    made.opened.storage.close()  # type: ignore[attr-defined]
    monkeypatch.setattr("jorge_tune.study.storage.open.is_full", lambda path: True)
    before = sorted(path.name for path in made.folder.iterdir())
    with reading(made.address) as storage:
        assert study_names(storage) == ["small"]
    assert sorted(path.name for path in made.folder.iterdir()) == before
    shutil.rmtree(made.folder)
