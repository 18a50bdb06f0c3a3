"""Real database servers for the tests: empty databases on those that variables name, and a private PostgreSQL."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import create_engine, make_url, text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.pool import NullPool

from jorge_tune.study.storage.address import Address, parse_address

VARIABLES = {"postgresql": "JORGE_TUNE_TEST_POSTGRESQL", "mysql": "JORGE_TUNE_TEST_MYSQL"}
_CLIENTS = {
    "postgresql": "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND pid != pg_backend_pid()",
    "mysql": "SELECT id FROM information_schema.processlist WHERE db = database() AND id != connection_id()",
}
_DROP = {"postgresql": "DROP DATABASE {} WITH (FORCE)", "mysql": "DROP DATABASE {}"}


@contextlib.contextmanager
def empty_database(kind: str) -> Iterator[str]:
    """The URL of a new database on the server of this kind, dropped at the end; skips where there is no server."""
    given = os.environ.get(VARIABLES[kind])
    if not given:
        pytest.skip(f"{VARIABLES[kind]} is not set to the URL of a database server")
    with new_database(given) as url:
        yield url


@contextlib.contextmanager
def new_database(given: str) -> Iterator[str]:
    """A new database beside the given one."""
    address = parse_address(given)
    engine = create_engine(
        address.url, isolation_level="AUTOCOMMIT", poolclass=NullPool, connect_args={"connect_timeout": 5}
    )
    name = f"jorge_tune_{os.getpid()}_{uuid.uuid4().hex[:8]}"
    try:
        with engine.connect() as connection:
            connection.execute(text(f"CREATE DATABASE {name}"))
    except SQLAlchemyError as error:
        pytest.skip(f"the server of {address} does not let us make a database: {type(error).__name__}")
    try:
        yield make_url(given).set(database=name).render_as_string(hide_password=False)
    finally:
        with engine.connect() as connection:
            connection.execute(text(_DROP[address.kind].format(name)))


def clients_of(address: Address) -> set[int]:
    """The connections to a server's database, by their numbers there; a client that was killed is one for a moment."""
    if address.kind not in _CLIENTS:
        return set()
    with create_engine(address.url, poolclass=NullPool).connect() as connection:
        return set(connection.execute(text(_CLIENTS[address.kind])).scalars())


def free_port() -> int:
    """A port that nobody listens on just now."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


class PrivatePostgresql:
    """A PostgreSQL cluster of the test's own, which asks for a password; it can be stopped and started again.

    initdb refuses root, so root starts it as the user postgres.

    Args:
        directory: an empty directory for it, with a short path (a socket is made in it).
        password: of its user postgres.
    """

    def __init__(self, folder: Path, password: str = "p@ss/w:rd #1%") -> None:
        self._folder, self.password, self.port = folder, password, free_port()
        self._programs = _postgresql_programs()
        if self._programs is None:
            pytest.skip("initdb and pg_ctl are not installed")
        self._as = _as_postgres()
        secret = folder / "password"
        secret.write_text(password)
        if self._as:
            for path in (folder, secret):
                shutil.chown(path, "postgres")
        self._run(
            "initdb", "-D", folder / "data", "-A", "scram-sha-256", f"--pwfile={secret}", "--no-sync", "-U", "postgres"
        )

    def start(self) -> None:
        """Start it and wait until it lets clients in."""
        options = f"-p {self.port} -k {self._folder} -c listen_addresses=127.0.0.1 -c fsync=off"
        self._run("pg_ctl", "-D", self._folder / "data", "-l", self._folder / "log", "-o", options, "-w", "-s", "start")

    def stop(self, mode: str = "fast") -> None:
        """Stop it; `immediate` is as if it had crashed."""
        self._run("pg_ctl", "-D", self._folder / "data", "-m", mode, "-w", "-s", "stop")

    def url(self, password: str | None = None, database: str = "postgres") -> str:
        """Its URL, with another password if one is given."""
        from urllib.parse import quote

        secret = quote(self.password if password is None else password, safe="")
        return f"postgresql://postgres:{secret}@127.0.0.1:{self.port}/{database}"

    @contextlib.contextmanager
    def running(self) -> Iterator[PrivatePostgresql]:
        """Started, and stopped at the end whatever state it is in."""
        self.start()
        try:
            yield self
        finally:
            with contextlib.suppress(subprocess.CalledProcessError):
                self.stop("immediate")

    def _run(self, program: str, *arguments: object) -> None:
        assert self._programs is not None
        command = [*self._as, str(self._programs / program), *map(str, arguments)]
        done = subprocess.run(command, cwd="/", stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
        if done.returncode:
            raise subprocess.CalledProcessError(done.returncode, program, done.stdout, done.stderr)


def _postgresql_programs() -> Path | None:
    """The directory of initdb and pg_ctl, the newest where there are several."""
    found = shutil.which("initdb")
    if found and shutil.which("pg_ctl"):
        return Path(found).parent
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: float(path.parent.name))
    return next((folder for folder in reversed(folders) if (folder / "initdb").exists()), None)


def _as_postgres() -> list[str]:
    """What makes root's commands run as the user postgres."""
    if os.geteuid() != 0:
        return []
    if shutil.which("runuser") is None:
        pytest.skip("initdb refuses root, and there is no runuser")
    return ["runuser", "-u", "postgres", "--"]
