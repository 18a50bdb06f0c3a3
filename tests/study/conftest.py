from __future__ import annotations

import shutil
import tempfile
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from jorge_tune.study.storage.address import Address, parse_address
from jorge_tune.study.storage.patient import PatientStorage
from jorge_tune.study.storage.retry import Patience
from tests.study.servers import PrivatePostgresql, empty_database

KINDS = ("sqlite", "journal", "postgresql", "mysql")


@pytest.fixture(scope="session")
def postgresql_url() -> Iterator[str]:
    """An empty database on the PostgreSQL server that JORGE_TUNE_TEST_POSTGRESQL names."""
    with empty_database("postgresql") as url:
        yield url


@pytest.fixture(scope="session")
def mysql_url() -> Iterator[str]:
    """An empty database on the MySQL or MariaDB server that JORGE_TUNE_TEST_MYSQL names."""
    with empty_database("mysql") as url:
        yield url


@pytest.fixture(params=KINDS)
def storage_address(request: pytest.FixtureRequest, tmp_path: Path) -> Address:
    """A storage of each kind. Files are new; a server's database is shared by the session: use `study_name`."""
    if request.param == "sqlite":
        return parse_address(f"sqlite:///{tmp_path}/studies.db")
    if request.param == "journal":
        return parse_address(f"journal:///{tmp_path}/studies.journal")
    return parse_address(request.getfixturevalue(f"{request.param}_url"))


@pytest.fixture
def study_name() -> str:
    """A name that no other test uses."""
    return f"study-{uuid.uuid4().hex[:12]}"


@pytest.fixture
def opened() -> Iterator[Callable[..., PatientStorage]]:
    """`open_storage` with a short patience unless another is given; what it opened is closed at the end."""
    from jorge_tune.study.storage.open import open_storage

    storages: list[PatientStorage] = []

    def open_(address: Address, **options: object) -> PatientStorage:
        options.setdefault("patience", Patience(address, seconds=20.0))
        storages.append(open_storage(address, **options))  # type: ignore[arg-type]
        return storages[-1]

    yield open_
    for storage in storages:
        storage.close()


@pytest.fixture
def private_postgresql() -> Iterator[PrivatePostgresql]:
    """A running PostgreSQL of the test's own, asking for a password, which may be stopped and started."""
    folder = Path(tempfile.mkdtemp(prefix="jt-pg-", dir="/tmp"))  # a short path that the user postgres may enter
    try:
        with PrivatePostgresql(folder).running() as server:
            yield server
    finally:
        shutil.rmtree(folder, ignore_errors=True)
