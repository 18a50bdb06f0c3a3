from __future__ import annotations

import json
import os
import re
import shutil
import sqlite3
import subprocess
from contextlib import closing

import optuna
import pytest
from optuna.trial import TrialState

from jorge_tune.errors import InputError
from jorge_tune.files import take
from jorge_tune.study.storage.address import parse_address
from jorge_tune.study.storage.journal import LOCK_ENDING, FileLock, JournalFile
from jorge_tune.study.storage.open import claims_for
from jorge_tune.study.storage.retry import StorageError, set_aside
from tests.small_disk import small_disk
from tests.study.storage.crowd import crowd

PAGE = 4096


def fill(storage, trials=40):
    study = optuna.create_study(storage=storage, study_name="s")
    claims = claims_for(storage, study._study_id)
    for _ in range(trials):
        claims.finish(claims.claim("w", trials), TrialState.COMPLETE, [1.0])
    return study


@pytest.fixture
def database(tmp_path, opened):
    """An SQLite file with a study in it, at rest."""
    address = parse_address(f"{tmp_path}/studies.db")
    storage = opened(address)
    fill(storage)
    storage.close()
    assert not (tmp_path / "studies.db-wal").exists()
    return address


@pytest.fixture
def journal(tmp_path, opened):
    """A journal with a study in it."""
    address = parse_address(f"{tmp_path}/studies.journal")
    fill(opened(address), trials=3)
    return address


def refused(opened, address):
    with pytest.raises(InputError) as caught:
        opened(address)
    return str(caught.value)


def overwrite(path, offset, content):
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(content)


@pytest.mark.parametrize("how", ["head", "middle", "every page", "cut", "text"])
def test_a_damaged_sqlite_file_is_named_and_copied_aside_and_stays_as_it_is(database, opened, how):
    path = database.path
    size = path.stat().st_size
    if how == "head":
        overwrite(path, 0, b"\0" * 64)
    elif how == "middle":
        overwrite(path, size // PAGE // 2 * PAGE, os.urandom(PAGE))
    elif how == "every page":
        overwrite(path, 100, os.urandom(size - 100))
    elif how == "cut":
        os.truncate(path, size // 2 // PAGE * PAGE)
    else:
        path.write_text("trial,value\n0,1.0\n")
    damaged = path.read_bytes()
    message = refused(opened, database)
    copy = path.with_name("studies.db.damaged-1")
    assert message.startswith(f"{database}: ")
    assert "the file is damaged" in message
    assert f"a copy is kept as {copy}" in message
    assert ("save what can be read" in message.lower()) == (how not in ("head", "text"))
    assert path.read_bytes() == copy.read_bytes() == damaged
    assert f"{copy}" in refused(opened, database)
    assert [entry.name for entry in path.parent.glob("*.damaged*")] == [copy.name], "one copy of one damage"
    overwrite(path, 0, b"other")
    assert "damaged-2" in refused(opened, database)


def test_the_way_out_of_a_damaged_sqlite_file_works(database, opened, tmp_path):
    if shutil.which("sqlite3") is None:
        pytest.skip("no sqlite3 program to recover with")
    with closing(sqlite3.connect(database.path)) as connection:
        index = "SELECT rootpage FROM sqlite_master WHERE name = 'ix_trials_study_id'"
        (page,) = connection.execute(index).fetchone()
    overwrite(database.path, (page - 1) * PAGE, os.urandom(PAGE))
    command = re.search(r"To save what can be read: (.*) -- ", refused(opened, database))[1]
    subprocess.run(command, shell=True, cwd=tmp_path, check=True, capture_output=True)
    study = optuna.load_study(storage=opened(parse_address(f"{tmp_path}/mended.db")), study_name="s")
    assert [trial.value for trial in study.get_trials()] == [1.0] * 40


def test_what_was_committed_last_is_copied_with_the_file(database, opened):
    storage = opened(database)
    storage.set_study_user_attr(storage.get_study_id_from_name("s"), "late", True)
    wal = database.path.with_name("studies.db-wal")
    assert wal.stat().st_size > 0
    clause = set_aside(database.path)
    copy = database.path.with_name("studies.db.damaged-1")
    assert clause == f"a copy is kept as {copy}"
    with closing(sqlite3.connect(copy)) as connection:
        assert connection.execute("SELECT value_json FROM study_user_attributes").fetchall() == [("true",)]


def test_damage_that_shows_in_the_midst_of_a_study_stops_it_in_words(database, opened):
    storage = opened(database)
    study_id = storage.get_study_id_from_name("s")
    storage.close()
    overwrite(database.path, PAGE, os.urandom(database.path.stat().st_size - PAGE))
    for call in (
        lambda: storage.get_all_trials(study_id),
        lambda: claims_for(storage, study_id).claim("w", 50),
        lambda: storage.set_study_user_attr(study_id, "a", 1),
    ):
        with pytest.raises(StorageError, match=r"the file is damaged; a copy is kept as .*damaged-1"):
            call()


def test_a_copy_that_does_not_fit_is_said_not_to_be_there(disk):
    path = disk / "studies.db"
    path.write_bytes(os.urandom(700_000))
    assert set_aside(path) == "it could not be copied aside (No space left on device)"
    assert [entry.name for entry in disk.iterdir()] == ["studies.db"]


@pytest.mark.parametrize(
    "line", [b"not json\n", b"[1]\n", b"{}\n", b'{"op_code":99,"worker_id":"w"}\n', b'{"op_code":4}\n', b"\0\0\0\n"]
)
@pytest.mark.parametrize("where", ["middle", "end"])
def test_a_damaged_journal_is_named_by_its_line_and_copied_aside(journal, opened, line, where):
    path = journal.path
    lines = path.read_bytes().splitlines(keepends=True)
    place = len(lines) if where == "end" else 2
    path.write_bytes(b"".join([*lines[:place], line, *lines[place:]]))
    damaged = path.read_bytes()
    message = refused(opened, journal)
    assert f"line {place + 1} " in message or "its last line" in message
    assert "the file is damaged; a copy is kept as" in message
    assert path.with_name("studies.journal.damaged-1").read_bytes() == path.read_bytes() == damaged
    path.write_bytes(b"".join(lines))
    assert len(optuna.load_study(storage=opened(journal), study_name="s").get_trials()) == 3


def test_some_other_text_is_no_journal_and_nothing_of_it_is_cut_off(tmp_path, opened):
    for text in ("epoch 1", "epoch 1\nepoch 2", '{"loss": 1.0}'):
        path = tmp_path / "train.log"
        path.write_text(text)
        assert "not a journal entry" in refused(opened, parse_address(str(path)))
        assert path.read_text() == text


@pytest.mark.parametrize("torn", [b'{"op_co', b'{"op_code":5,"worker_id":"abc","trial_id":1,"para', b"\0" * 300])
def test_a_line_that_a_killed_writer_left_torn_is_cut_off_by_the_next_writer(journal, opened, torn):
    whole = journal.path.read_bytes()
    with journal.path.open("ab") as file:
        file.write(torn)
    storage = opened(journal)
    study = optuna.load_study(storage=storage, study_name="s")
    assert len(study.get_trials()) == 3
    claim = claims_for(storage, study._study_id).claim("w", 4)
    assert claim.number == 3
    content = journal.path.read_bytes()
    assert content.startswith(whole)
    assert all("op_code" in json.loads(line) for line in content.splitlines())
    assert len(optuna.load_study(storage=opened(journal), study_name="s").get_trials()) == 4


def test_optuna_itself_reads_what_we_wrote_to_a_journal(journal):
    storage = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(journal.path)))
    assert [trial.value for trial in optuna.load_study(storage=storage, study_name="s").get_trials()] == [1.0] * 3


def test_damage_of_a_journal_in_the_midst_of_a_study_stops_it_in_words(journal, opened):
    storage = opened(journal)
    study_id = storage.get_study_id_from_name("s")
    with journal.path.open("ab") as file:
        file.write(b"garbage\n" * 2)
    with pytest.raises(StorageError, match=r"line \d+ is not a journal entry .* is damaged; a copy is kept as"):
        storage.get_all_trials(study_id)
    with pytest.raises(StorageError, match="the file is damaged"):
        claims_for(storage, study_id).claim("w", 50)


@pytest.mark.parametrize("about", ['"trial_id":9999,"user_attr":{"a":1}', '"trial_id":-1,"user_attr":{"a":1}'])
@pytest.mark.parametrize("where", ["middle", "end"])
def test_a_line_about_a_trial_that_is_not_there_is_damage(journal, opened, about, where):
    path = journal.path
    lines = path.read_bytes().splitlines(keepends=True)
    place = len(lines) if where == "end" else 2
    line = f'{{"op_code":8,"worker_id":"w",{about}}}\n'.encode()
    path.write_bytes(b"".join([*lines[:place], line, *lines[place:]]))
    message = refused(opened, journal)
    assert re.search(rf"line {place + 1} is about trial (9999|-1), which no line before it makes: the file is", message)
    assert message.endswith("Remove this line to continue without it, or use another --storage")
    path.write_bytes(b"".join(lines))
    assert len(optuna.load_study(storage=opened(journal), study_name="s").get_trials()) == 3


def test_a_line_about_a_study_that_is_not_there_stops_a_study_that_is_under_way(journal, opened):
    storage = opened(journal)
    study_id = storage.get_study_id_from_name("s")
    with journal.path.open("ab") as file:
        file.write(b'{"op_code":2,"worker_id":"w","study_id":7,"user_attr":{"a":1}}\n')
    with pytest.raises(
        StorageError, match=r"line \d+ is about study 7, which no line before it makes: the file is dam"
    ):
        storage.get_all_trials(study_id)


def test_what_was_deleted_may_be_written_of_and_what_never_was_is_not_written(journal, opened):
    ours, other = opened(journal), opened(journal)
    gone = ours.create_new_study([optuna.study.StudyDirection.MINIMIZE], "gone")
    trial = ours.create_new_trial(gone)
    other.get_all_studies()
    ours.delete_study(gone)
    other.set_trial_user_attr(trial, "late", 1)
    again = ours.create_new_study([optuna.study.StudyDirection.MINIMIZE], "gone")
    ours.create_new_trial(again)
    size = journal.path.stat().st_size
    for call in (lambda: ours.set_trial_user_attr(99, "a", 1), lambda: ours.set_study_user_attr(99, "a", 1)):
        with pytest.raises(KeyError, match="99"):
            call()
    assert journal.path.stat().st_size == size
    assert [study.study_name for study in opened(journal).get_all_studies()] == ["s", "gone"]


def claim_until_full(claims):
    """How many trials could be claimed before the disk was full."""
    numbers = []

    def claim_on():
        while len(numbers) < 10_000:
            numbers.append(claims.claim("w" * 2000, 10_000).number)

    with pytest.raises(StorageError, match="the disk is full; make room and start again, nothing that was stored"):
        claim_on()
    return len(numbers)


def test_a_full_disk_stops_an_sqlite_study_clearly_and_loses_nothing(database, opened):
    storage = opened(database)
    study_id = storage.get_study_id_from_name("s")
    with storage.inner._backend.engine.connect() as connection:
        pages = connection.exec_driver_sql("PRAGMA page_count").scalar()
        connection.exec_driver_sql(f"PRAGMA max_page_count = {pages + 2}")
    claims = claims_for(storage, study_id)
    claim_until_full(claims)
    storage.close()
    trials = optuna.load_study(storage=opened(database), study_name="s").get_trials()
    assert len(trials) > 40
    assert sum(trial.state is TrialState.COMPLETE for trial in trials) == 40


def test_a_full_disk_stops_a_journal_clearly_and_leaves_no_torn_line(disk, opened):
    address = parse_address(f"{disk}/studies.journal")
    storage = opened(address)
    study = optuna.create_study(storage=storage, study_name="s")
    claims = claims_for(storage, study._study_id)
    claimed = claim_until_full(claims)
    assert claimed > 100
    content = address.path.read_bytes()
    assert content.endswith(b"\n")
    assert len(optuna.load_study(storage=opened(address), study_name="s").get_trials()) == claimed
    with pytest.raises(StorageError, match="the disk is full"):
        storage.set_study_user_attr(study._study_id, "a", "x" * 100_000)


@pytest.fixture
def disk(tmp_path):
    """A disk of one megabyte."""
    with small_disk(tmp_path / "small") as folder:
        yield folder


def count_up(ready, path, times):
    lock = FileLock(path.with_name("lock"))
    ready()
    for _ in range(times):
        with lock, lock:
            path.write_text(str(int(path.read_text()) + 1))


def test_the_lock_beside_a_journal_lets_one_process_in_at_a_time(tmp_path):
    path = tmp_path / "count"
    path.write_text("0")
    crowd(count_up, [(path, 200)] * 4)
    assert path.read_text() == "800"


def test_a_journal_under_two_names_has_one_lock(tmp_path):
    real, link = tmp_path / "a" / "studies.journal", tmp_path / "b.journal"
    real.parent.mkdir()
    JournalFile(real)
    link.symlink_to(real)
    with JournalFile(link).lock:
        held = os.open(real.with_name(real.name + LOCK_ENDING), os.O_RDWR)
        assert not take(held)
        os.close(held)
