from __future__ import annotations

import os
import re
import sqlite3
import subprocess
import sys
import traceback
from pathlib import Path

import optuna
import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.pool import NullPool

from jorge_tune.errors import InputError
from jorge_tune.study.storage import address as mounts
from jorge_tune.study.storage.address import parse_address
from jorge_tune.study.storage.retry import Patience, StorageError
from tests.small_disk import small_disk
from tests.study.servers import free_port, new_database
from tests.study.storage.claiming import open_and_list
from tests.study.storage.crowd import crowd

LEAK = "hunter2hunter2"


def refusal(opened, text, **options):
    """The message with which an address is refused; no password in it, nor anywhere in its traceback."""
    with pytest.raises(InputError) as caught:
        opened(parse_address(text), **options)
    assert LEAK not in "".join(traceback.format_exception(caught.value))
    return str(caught.value)


def test_an_sqlite_file_is_made_with_its_folder_and_used_by_its_own_rules(tmp_path, opened):
    path = tmp_path / "new" / "folder" / "studies.db"
    storage = opened(parse_address(str(path)))
    optuna.create_study(storage=storage, study_name="s")
    with storage.inner._backend.engine.connect() as connection:
        pragma = {
            name: connection.exec_driver_sql(f"PRAGMA {name}").scalar()
            for name in ("journal_mode", "synchronous", "busy_timeout")
        }
    assert pragma == {"journal_mode": "wal", "synchronous": 1, "busy_timeout": 60_000}
    assert [study.study_name for study in opened(parse_address(str(path)), create=False).get_all_studies()] == ["s"]


def test_each_transaction_on_sqlite_takes_the_write_lock_at_once(tmp_path, opened):
    storage = opened(parse_address(f"{tmp_path}/a.db"))
    with storage.inner._backend.engine.begin() as connection:
        connection.execute(text("SELECT 1"))
        other = sqlite3.connect(tmp_path / "a.db", timeout=0, isolation_level=None)
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            other.execute("BEGIN IMMEDIATE")
    other.execute("BEGIN IMMEDIATE")
    other.close()


def test_nothing_is_made_where_there_is_nothing_and_only_a_look_is_wanted(tmp_path, opened):
    for name in ("a.db", "a.journal"):
        assert "there are no studies" in refusal(opened, f"{tmp_path}/{name}", create=False)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", ["postgresql", "mysql"])
def test_no_tables_are_made_in_a_database_where_only_a_look_is_wanted(kind, request, opened):
    with new_database(request.getfixturevalue(f"{kind}_url")) as url:
        assert "there are no studies in this database" in refusal(opened, url, create=False)
        assert optuna.get_all_study_names(opened(parse_address(url))) == []
        assert optuna.get_all_study_names(opened(parse_address(url), create=False)) == []


@pytest.mark.parametrize("kind", ["sqlite", "journal", "postgresql", "mysql"])
def test_many_processes_may_make_the_same_storage_at_the_same_moment(kind, tmp_path, request):
    if kind in ("sqlite", "journal"):
        address = parse_address(f"{kind}:///{tmp_path}/folder/new.storage")
        assert crowd(open_and_list, [(address,)] * 6) == [0] * 6
        return
    with new_database(request.getfixturevalue(f"{kind}_url")) as url:
        assert crowd(open_and_list, [(parse_address(url),)] * 6) == [0] * 6


def mount_table(tmp_path, *mounted):
    table = tmp_path / "mountinfo"
    lines = [
        f"{20 + i} 1 0:{i} / {point} rw,relatime shared:1 - {kind} src rw" for i, (point, kind) in enumerate(mounted)
    ]
    table.write_text("\n".join(["malformed", *lines]) + "\n")
    return table


def test_the_file_system_of_a_path_is_that_of_the_nearest_mount(tmp_path):
    table = mount_table(
        tmp_path, ("/", "ext4"), ("/home", "nfs4"), ("/home/me/local", "xfs"), ("/data\\040disk", "fuse.sshfs"),
        ("/scratch", "lustre"), ("/over", "nfs"), ("/over", "tmpfs"), ("/usb", "fuseblk"), ("/homes", "btrfs"),
    )  # fmt: skip
    named = {path: mounts.network_file_system(Path(path), table) for path in (
        "/a.db", "/home/me/a.db", "/home/me/local/deep/a.db", "/data disk/a.db", "/scratch/a", "/over/a", "/usb/a",
        "/homes/a", "/home",
    )}  # fmt: skip
    assert {path: name for path, name in named.items() if name} == {
        "/home/me/a.db": "NFS", "/data disk/a.db": "SSHFS", "/scratch/a": "Lustre", "/home": "NFS",
    }  # fmt: skip
    assert mounts.network_file_system(tmp_path, tmp_path / "no table") is None
    assert mounts.network_file_system(tmp_path) is None, "the tests' own disk"


def test_sqlite_on_a_network_file_system_is_refused_with_two_ways_out(tmp_path, opened, monkeypatch):
    real = tmp_path.resolve()
    monkeypatch.setattr(mounts, "MOUNT_TABLE", mount_table(tmp_path, ("/", "ext4"), (real / "shared", "nfs4")))
    message = refusal(opened, f"{tmp_path}/shared/a.db")
    assert "lies on NFS" in message
    assert "--storage postgresql://" in message
    assert f"--storage {tmp_path}/shared/a.journal" in message
    (tmp_path / "link").symlink_to(tmp_path / "shared")
    assert "lies on NFS" in refusal(opened, f"{tmp_path}/link/a.db")
    opened(parse_address(f"{tmp_path}/shared/a.journal"))


@pytest.mark.parametrize("ending", ["db", "journal"])
def test_a_path_that_cannot_hold_a_file_is_refused(tmp_path, opened, ending):
    (tmp_path / f"folder.{ending}").mkdir()
    assert "is a directory" in refusal(opened, f"{tmp_path}/folder.{ending}")
    (tmp_path / "file").write_text("")
    assert "cannot be opened" in refusal(opened, f"{tmp_path}/file/a.{ending}") or ending == "journal"
    refusal(opened, f"/proc/nowhere/a.{ending}")


@pytest.mark.parametrize("name", ["old.db", "new.db", "sub/new.db", "old.journal", "new.journal"])
def test_a_file_system_that_is_read_only_is_named_with_the_way_out(tmp_path, opened, name):
    with small_disk(tmp_path / "disk") as disk:
        if name.startswith("old"):
            opened(parse_address(f"{disk}/{name}")).close()
        subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
        message = refusal(opened, f"{disk}/{name}")
    assert re.search(r"cannot be (opened|written) \(.*read-only.*\); give another --storage", message, re.IGNORECASE)


def test_another_programs_sqlite_file_is_left_alone(tmp_path, opened):
    with sqlite3.connect(tmp_path / "music.db") as connection:
        connection.execute("CREATE TABLE songs (title TEXT)")
    before = (tmp_path / "music.db").read_bytes()
    assert "another program's SQLite file (tables: songs)" in refusal(opened, f"{tmp_path}/music.db")
    assert (tmp_path / "music.db").read_bytes() == before


def test_a_file_of_another_version_of_optuna_is_refused_with_the_way_out(tmp_path, opened):
    address = parse_address(f"{tmp_path}/a.db")
    opened(address).close()
    with sqlite3.connect(tmp_path / "a.db") as connection:
        connection.execute("UPDATE alembic_version SET version_num = 'v2.4.0.a'")
    assert "optuna storage upgrade" in refusal(opened, str(tmp_path / "a.db"))


@pytest.mark.parametrize(
    ("url", "module", "line"),
    [
        (f"postgresql://u:{LEAK}@h/d", "psycopg", "pip install 'jorge-tune[postgresql]'"),
        (f"mysql://u:{LEAK}@h/d", "pymysql", "pip install 'jorge-tune[mysql]'"),
        (f"mysql+mysqldb://u:{LEAK}@h/d", "MySQLdb", "install it, or give mysql://..."),
        (f"mysql+bogus://u:{LEAK}@h/d", None, "knows no such driver"),
    ],
)
def test_a_missing_driver_is_named_with_the_line_that_installs_it(opened, monkeypatch, url, module, line):
    if module:
        monkeypatch.setitem(sys.modules, module, None)
    assert line in refusal(opened, url)


def test_a_server_that_nobody_runs_is_said_to_be_unreachable(opened):
    for scheme in ("postgresql", "mysql"):
        message = refusal(opened, f"{scheme}://u:{LEAK}@127.0.0.1:{free_port()}/d")
        assert "refused" in message
        assert "is the server running, and are host and port right?" in message
        assert "is the server running" in refusal(opened, f"{scheme}://u:{LEAK}@no.such.host.invalid/d")


def test_waiting_for_a_server_at_the_start_ends_in_words(opened):
    address = parse_address(f"mysql://u:{LEAK}@127.0.0.1:{free_port()}/d")
    heard = []
    with pytest.raises(StorageError, match=r"gone for \d+ seconds .*refused") as caught:
        opened(address, wait=True, patience=Patience(address, seconds=0.5, told=heard.append))
    assert LEAK not in "".join(traceback.format_exception(caught.value))
    assert len(heard) == 1
    assert "waiting for the database" in heard[0]


def test_a_wrong_password_is_refused_without_being_shown_by_postgresql(private_postgresql, opened):
    assert optuna.get_all_study_names(opened(parse_address(private_postgresql.url()))) == []
    wrong = private_postgresql.url(password=f"{LEAK}@/:#")
    message = refusal(opened, wrong)
    assert "check the user name and the password" in message
    assert "postgres:***@127.0.0.1" in message
    assert "check the user name and the password" in refusal(opened, wrong, wait=True), "no waiting for this"
    base, query = private_postgresql.url().replace(f":{wrong.split(':')[2].split('@')[0]}", ""), f"?password={LEAK}"
    user, host = base.split("//")[1].split("@")
    without = f"postgresql://{user.split(':')[0]}@{host}"
    assert "check the user name and the password" in refusal(opened, without + query)
    assert "check the user name and the password" in refusal(opened, without)
    assert "with CREATE DATABASE" in refusal(opened, private_postgresql.url(database="nowhere"))
    assert "invalid connection option" in refusal(opened, private_postgresql.url() + f"?bogus={LEAK}")
    shown = private_postgresql.password
    for url in (private_postgresql.url(database="nowhere"), private_postgresql.url() + "?bogus=1"):
        assert shown not in refusal(opened, url)


@pytest.fixture
def mysql_user(mysql_url):
    """The URL of a user with a password and no rights but to log in."""
    engine = create_engine(parse_address(mysql_url).url, poolclass=NullPool, isolation_level="AUTOCOMMIT")
    name = f"tune{os.getpid()}"
    with engine.connect() as connection:
        connection.execute(text(f"CREATE USER '{name}'@'%' IDENTIFIED BY '{LEAK}'"))
    yield mysql_url.replace("//root@", f"//{name}:{LEAK}@") if "//root@" in mysql_url else pytest.skip("needs root")
    with engine.connect() as connection:
        connection.execute(text(f"DROP USER '{name}'@'%'"))


def test_a_wrong_password_is_refused_without_being_shown_by_mysql(mysql_user, mysql_url, opened):
    assert "the user may not make tables there" in refusal(opened, mysql_user)
    assert "check the user name and the password" in refusal(opened, mysql_user.replace(LEAK, LEAK + "x"))
    assert "with CREATE DATABASE" in refusal(opened, mysql_url.rpartition("/")[0] + "/nowhere")
    assert "the driver refuses what the address says" in refusal(opened, f"{mysql_url}?bogus={LEAK}")


def test_a_user_who_may_not_make_tables_hears_so(private_postgresql, opened):
    engine = create_engine(
        parse_address(private_postgresql.url()).url, poolclass=NullPool, isolation_level="AUTOCOMMIT"
    )
    with engine.connect() as connection:
        connection.execute(text(f"CREATE ROLE guest LOGIN PASSWORD '{LEAK}'"))
    guest = f"postgresql://guest:{LEAK}@127.0.0.1:{private_postgresql.port}/postgres"
    assert "the user may not make tables there" in refusal(opened, guest)


def test_optuna_says_nothing_on_the_terminal(tmp_path):
    script = f"""
import logging
import optuna
from jorge_tune.study.storage.address import parse_address
from jorge_tune.study.storage.open import claims_for
from jorge_tune.study.storage.open import open_storage
from optuna.trial import Trial, TrialState
for name in ("a.db", "a.journal"):
    storage = open_storage(parse_address({str(tmp_path)!r} + "/" + name))
    study = optuna.create_study(storage=storage, study_name="s", sampler=optuna.samplers.QMCSampler())
    claims = claims_for(storage, study._study_id)
    trial = Trial(study, (claim := claims.claim("w", 1)).trial_id)
    trial.suggest_float("x", 0, 1)
    trial.set_constraint("slow", 1.0)
    claims.finish(claim, TrialState.COMPLETE, [1.0])
    study.enqueue_trial({{"x": 3.0}})
    optuna.delete_study(study_name="s", storage=storage)
for name in ("sqlalchemy.pool", "alembic.runtime", "psycopg", "optuna.storages"):
    logging.getLogger(name).error("something about a connection")
"""
    done = subprocess.run([sys.executable, "-W", "default", "-c", script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_a_second_opening_in_one_process_leaves_the_first_its_locks(tmp_path, opened):
    """Else the next process to leave takes the write-ahead log away, and the first sees nobody's trials any more."""
    address = parse_address(f"sqlite:///{tmp_path}/studies.db")
    first = opened(address)
    study = first.create_new_study([optuna.study.StudyDirection.MINIMIZE], "one")
    assert first.get_all_trials(study) == []
    opened(address)
    code = (
        "from jorge_tune.study.storage.address import parse_address as parse; "
        "from jorge_tune.study.storage.open import open_storage; "
        f"storage = open_storage(parse({address.url!r})); storage.create_new_trial({study}); storage.close()"
    )
    for count in (1, 2):
        subprocess.run([sys.executable, "-c", code], check=True)
        assert len(first.get_all_trials(study)) == count
