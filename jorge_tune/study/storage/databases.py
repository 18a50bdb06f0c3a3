"""Optuna's storage in a database, changed in three ways.

It closes its connections when it cannot be opened, creates a trial in one attempt, and reads a study that holds an
attribute, parameter or value that cannot be read: only that one is left out, see `contents.py`.
"""

from __future__ import annotations

import contextlib
import copy
import os
import re
import sqlite3
from collections import defaultdict
from collections.abc import Container, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from optuna.distributions import json_to_distribution
from optuna.storages import RDBStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState, create_trial
from sqlalchemy import Connection, Engine, Integer, String, create_engine, event, inspect, make_url, select, type_coerce
from sqlalchemy.exc import ArgumentError
from sqlalchemy.pool import NullPool

from jorge_tune.errors import InputError
from jorge_tune.study.storage.address import Address, network_file_system
from jorge_tune.study.storage.contents import UNREAD, faults_in, is_scalar, parse_json, read_json
from jorge_tune.study.storage.optuna_private import (
    FrozenStudy,
    add_trial_row,
    contains_internally,
    create_scoped_session,
    models,
    read_database_trials,
    set_identity,
    trial_id_of,
)
from jorge_tune.study.storage.retry import NO_HEADER, Cause, Patience, StorageFault, of_sqlite, one_line
from jorge_tune.untrusted import shown

_TRIALS = models.TrialModel.__table__


class Database(RDBStorage):
    """Optuna's own, but it leaves no connection open if it cannot be opened, and creates a trial in one attempt.

    Optuna makes five attempts, and so stores a trial twice if the first one's commit arrived without an answer.
    Whoever calls this decides whether there is to be another attempt.

    Args:
        url: what SQLAlchemy reads.
        arguments: of its `create_engine`.
    """

    def __init__(self, url: str, arguments: dict[str, Any]) -> None:
        try:
            super().__init__(url.replace("{", "{{").replace("}", "}}"), arguments)  # Optuna fills a template
        except BaseException:
            if hasattr(self, "engine"):
                self.engine.dispose()
            raise

    def _create_new_trial(self, study_id: int, template_trial: FrozenTrial | None = None) -> FrozenTrial:
        trial = create_trial(state=TrialState.RUNNING) if template_trial is None else copy.deepcopy(template_trial)
        with create_scoped_session(self.scoped_session) as session:
            models.StudyModel.find_or_raise_by_id(
                study_id, session, for_update=True
            )  # the lock under which trials are counted
            row = add_trial_row(self, study_id, trial, session)
            set_identity(trial, int(row.trial_id), int(row.number))
            trial.datetime_start = row.datetime_start
        return trial

    def get_study_user_attrs(self, study_id: int) -> dict[str, Any]:
        """All user attributes of a study; one that cannot be read is a text that says so."""
        return self._attributes_of(models.StudyUserAttributeModel, study_id)

    def get_study_system_attrs(self, study_id: int) -> dict[str, Any]:
        """All system attributes of a study; one that cannot be read is a text that says so."""
        return self._attributes_of(models.StudySystemAttributeModel, study_id)

    def get_all_studies(self) -> list[FrozenStudy]:
        """All studies, also those with attributes that cannot be read."""
        attributes: dict[Any, dict[Any, dict[str, Any]]] = {}
        with create_scoped_session(self.scoped_session) as session:
            names = (
                session.query(models.StudyModel.study_id, models.StudyModel.study_name)
                .order_by(models.StudyModel.study_id)
                .all()
            )
            directions: dict[Any, list[Any]] = defaultdict(list)
            for directed in session.query(models.StudyDirectionModel).all():
                directions[directed.study_id].append(directed.direction)
            for model in (models.StudyUserAttributeModel, models.StudySystemAttributeModel):
                held = attributes[model] = defaultdict(dict)
                rows: list[Any] = session.query(model).all()
                for row in rows:
                    held[row.study_id][row.key] = read_json(row.value_json)
        return [
            FrozenStudy(
                study_name=name,
                direction=None,
                directions=directions[identity] or [StudyDirection.NOT_SET],
                user_attrs=attributes[models.StudyUserAttributeModel][identity],
                system_attrs=attributes[models.StudySystemAttributeModel][identity],
                study_id=identity,
            )
            for identity, name in names
        ]

    def _attributes_of(self, model: Any, study_id: int) -> dict[str, Any]:
        with create_scoped_session(self.scoped_session) as session:
            models.StudyModel.find_or_raise_by_id(study_id, session)
            return {row.key: read_json(row.value_json) for row in model.where_study_id(study_id, session)}

    def _get_trials(
        self,
        study_id: int,
        states: Container[TrialState] | None,
        included_trial_ids: set[int],
        trial_id_greater_than: int,
    ) -> list[FrozenTrial]:
        try:
            return read_database_trials(self, study_id, states, included_trial_ids, trial_id_greater_than)
        except (LookupError, TypeError, ValueError) as error:
            if isinstance(error, KeyError):  # there is no such study
                raise
        trials = self._one_by_one(study_id)
        return [
            trial
            for trial in trials
            if (states is None or trial.state in states)
            and (trial_id_of(trial) in included_trial_ids or trial_id_of(trial) > trial_id_greater_than)
        ]

    def _one_by_one(self, study_id: int) -> list[FrozenTrial]:
        """Read the trials one by one, because the row of one cannot be read; that trial counts as failed."""
        identity, number = type_coerce(_TRIALS.c.trial_id, Integer), type_coerce(_TRIALS.c.number, String)
        with self.engine.begin() as connection:
            query = select(identity, number).where(_TRIALS.c.study_id == study_id).order_by(_TRIALS.c.trial_id)
            rows: list[Any] = list(connection.execute(query))
        trials = []
        for trial_id, numbered in rows:
            try:
                trials.append(self.get_trial(trial_id))
            except (LookupError, TypeError, ValueError) as error:
                failed = set_identity(create_trial(state=TrialState.FAIL), trial_id, int(numbered))
                failed.system_attrs = {UNREAD: [f"its row cannot be read ({_first_line(error)})"]}
                trials.append(failed)
        return trials

    def _build_frozen_trial_from_trial_model(self, trial: Any) -> FrozenTrial:
        """The trial, piece by piece; what cannot be read is left out and named in its attribute `UNREAD`."""
        faults: list[str] = []

        def read(what: str, pieces: Mapping[str, Any]) -> dict[str, Any]:
            found = {}
            for name, piece, fault in faults_in(pieces):
                if fault:
                    faults.append(f"its {what} {shown(name)} cannot be read ({fault})")
                else:
                    found[name] = piece
            return found

        params = sorted(trial.params, key=lambda row: row.param_id)
        distributions = read("parameter", {row.param_name: _distribution(row) for row in params})
        held = {row.param_name: row.param_value for row in params if row.param_name in distributions}
        internal = read("parameter", {name: _external(distributions[name], value) for name, value in held.items()})
        values = read("value", {str(row.objective): _value(row) for row in trial.values})
        reports = read("report", {str(row.step): _report(row) for row in trial.intermediate_values})
        user = read("attribute", {row.key: partial(parse_json, row.value_json) for row in trial.user_attributes})
        system = read("attribute", {row.key: partial(parse_json, row.value_json) for row in trial.system_attributes})
        made = set_identity(create_trial(state=TrialState.WAITING), trial.trial_id, trial.number)
        made.state = trial.state
        made.values = list(values.values()) or None
        made.datetime_start, made.datetime_complete = trial.datetime_start, trial.datetime_complete
        made.params, made.distributions = internal, {name: distributions[name] for name in internal}
        made.user_attrs, made.system_attrs = user, {**system, UNREAD: faults} if faults else system
        made.intermediate_values = dict(reports.values())
        return made


def _distribution(row: Any) -> Any:
    def read() -> Any:
        held = parse_json(row.distribution_json)
        if not all(map(is_scalar, held.get("attributes", {}).get("choices", ()))):  # Optuna takes them, with a warning
            raise ValueError("its choices must be numbers, texts, true, false or null")
        return json_to_distribution(row.distribution_json)

    return read


def _external(distribution: Any, value: Any) -> Any:
    def read() -> Any:
        external = distribution.to_external_repr(float(value))
        if not contains_internally(distribution, distribution.to_internal_repr(external)):
            raise ValueError(f"{shown(value)} is outside {distribution}")
        return external

    return read


def _value(row: Any) -> Any:
    return lambda: models.TrialValueModel.stored_repr_to_value(row.value, row.value_type)


def _report(row: Any) -> Any:
    model = models.TrialIntermediateValueModel
    return lambda: (
        row.step,
        model.stored_repr_to_intermediate_value(row.intermediate_value, row.intermediate_value_type),
    )


def _first_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:120]


BUSY_SECONDS = 60.0
"""How long a transaction waits for another one."""
ELSEWHERE = "give another --storage, or change that"
"""The way out where a file cannot be opened."""
CHECKED_BYTES = 64 << 20
"""A larger file's pages are not all read when it is opened; its damage shows when the page is needed."""


def prepare(address: Address, patience: Patience, *, create: bool) -> None:
    """Check an SQLite file, and make it with its directory if it is missing.

    Raises:
        InputError: it cannot serve; a damaged one was copied aside.
    """
    path = address.path
    assert path is not None
    system = network_file_system(path)
    if system is not None:
        raise InputError(
            f"{address}: lies on {system}, a network file system, where SQLite's locks cannot be relied on;"
            f" give PostgreSQL (--storage postgresql://USER:PASSWORD@HOST/DATABASE),"
            f" or a journal file (--storage {path.with_suffix('.journal')})"
        )
    if path.is_dir():
        raise InputError(f"{address}: is a directory; give a file name")
    try:
        missing = not path.exists() or path.stat().st_size == 0
        if missing and not create:
            raise InputError(f"{address}: there are no studies, the file is missing or empty")
        path.parent.mkdir(parents=True, exist_ok=True)
        if (reason := _why_not_written(path)) is not None:
            raise InputError(f"{address}: cannot be written ({reason}); {ELSEWHERE}")
        if not missing:
            _check(address, path, patience)
        with _connected(path.as_uri(), patience) as connection:
            connection.execute("PRAGMA journal_mode=WAL")
    except OSError as error:
        raise InputError(f"{address}: cannot be opened ({error.strerror}); {ELSEWHERE}") from None


def _why_not_written(path: Path) -> str | None:
    """The reason why SQLite cannot write a file or its directory, which it does even to read; None: none is known."""
    path = path.resolve()  # SQLite follows a link, and writes next to the target
    if os.statvfs(path.parent).f_flag & os.ST_RDONLY:
        return "its file system is read-only"
    if not os.access(path.parent, os.W_OK | os.X_OK):
        return f"no permission to write in the directory {path.parent}"
    if path.exists() and not os.access(path, os.R_OK | os.W_OK):
        return "no permission to read and write the file"
    return None


def sqlite_arguments() -> dict[str, Any]:
    """What Optuna passes to SQLAlchemy's `create_engine`."""
    return {"connect_args": {"timeout": BUSY_SECONDS}, "pool_events": [(_set_up, "connect")]}


def begin_immediately(engine: Engine) -> None:
    """From now on each transaction takes the write lock at its start.

    One that read first and then wrote would fail whenever another wrote between, and two could pop one waiting trial.
    """

    def begin(connection: Connection) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    event.listen(engine, "begin", begin)


def _set_up(connection: sqlite3.Connection, record: object) -> None:
    connection.isolation_level = None  # the driver begins no transactions of its own
    connection.execute("PRAGMA synchronous=NORMAL")


def _check(address: Address, path: Path, patience: Patience) -> None:
    """Look through SQLite alone: to close a file of one's own drops the locks of all connections that the process has.

    The next process to leave would then remove the write-ahead log from under them, and they would see no news.
    """
    with _connected(path.as_uri() + "?mode=ro", patience) as connection:
        if path.stat().st_size <= CHECKED_BYTES:
            first = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
            if first != "ok":
                raise InputError(patience.in_words(StorageFault(Cause.DAMAGED, one_line(first))))
        tables = [name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
    if tables and "studies" not in tables:
        names = ", ".join(tables[:3])
        raise InputError(f"{address}: is another program's SQLite file (tables: {names}); give another name")


@contextlib.contextmanager
def _connected(uri: str, patience: Patience) -> Iterator[sqlite3.Connection]:
    """A connection of our own, its errors in words."""
    try:
        with contextlib.closing(
            sqlite3.connect(uri, uri=True, timeout=BUSY_SECONDS, isolation_level=None)
        ) as connection:
            yield connection
    except sqlite3.Error as error:
        foreign = getattr(error, "sqlite_errorcode", 0) == sqlite3.SQLITE_NOTADB
        fault = StorageFault(Cause.DAMAGED, NO_HEADER) if foreign else of_sqlite(error)
        raise InputError(patience.in_words(fault)) from None


CONNECT_SECONDS = 10
ANSWER_SECONDS = 60
"""How long a server may take to answer before the connection counts as lost."""
_LIBPQ = {
    "connect_timeout": CONNECT_SECONDS,
    "keepalives_idle": 30,
    "keepalives_interval": 10,
    "keepalives_count": 3,
    "tcp_user_timeout": 1000 * ANSWER_SECONDS,
}
_PYMYSQL = {"connect_timeout": CONNECT_SECONDS, "read_timeout": ANSWER_SECONDS, "write_timeout": ANSWER_SECONDS}
_OPTIONS = {"psycopg": _LIBPQ, "psycopg2": _LIBPQ, "pymysql": _PYMYSQL}
_REFUSED = (
    (r"Access denied for user .* to database|permission denied|command denied", "the user may not make tables there"),
    (
        r"authentication failed|no password supplied|Access denied for user|role .* does not exist",
        "check the user name and the password in the address",
    ),
    (r"database .* does not exist|Unknown database", "make it on the server first, with CREATE DATABASE"),
    (r"pg_hba", "the server's pg_hba.conf lets this machine in by no rule"),
)
_NO_NAME = r"could not translate host name|failed to resolve host|Name or service not known|nodename nor servname"
_ABSENT = (
    (
        r"refused|resolve|not known|timed? ?out|No such file|unreachable|No route",
        "is the server running, and are host and port right?",
    ),
)


def check_driver(address: Address) -> None:
    """Find the package that talks to the server.

    Raises:
        InputError: it is missing, with the line that installs it.
    """
    try:
        make_url(address.url).get_dialect().import_dbapi()
    except ArgumentError:
        raise InputError(
            f"{address}: SQLAlchemy knows no such driver; give {address.kind}://... to use the default one"
        ) from None
    except ImportError as error:
        if error.name in ("psycopg", "pymysql", None):
            way_out = f"pip install 'jorge-tune[{address.kind}]'"
        else:
            way_out = f"install it, or give {address.kind}://... to use the default one"
        raise InputError(f"{address}: the driver is not installed ({one_line(str(error))}); {way_out}") from None


def server_arguments(address: Address) -> dict[str, Any]:
    """What Optuna passes to SQLAlchemy's `create_engine`; what the address itself says goes first.

    At READ COMMITTED each statement sees what was committed before it, and InnoDB locks no gaps. A connection is not
    tried out before each use, which would cost a round trip: a lost one is noticed, and `Patience` connects again.
    """
    url = make_url(address.url)
    options = _OPTIONS.get(url.get_driver_name(), {})
    return {
        "isolation_level": "READ COMMITTED",
        "pool_pre_ping": False,
        "connect_args": {name: value for name, value in options.items() if name not in url.query},
        "hide_parameters": True,
    }


def check_tables(address: Address) -> None:
    """Look for Optuna's tables.

    Raises:
        InputError: there are none.
    """
    engine = create_engine(address.url, poolclass=NullPool, **server_arguments(address))
    if not inspect(engine).has_table("studies"):
        raise InputError(f"{address}: there are no studies in this database")


def is_hopeless(fault: StorageFault) -> bool:
    """Whether waiting cannot help: the server refuses this user or database, or no host has this name."""
    return any(re.search(pattern, fault.text) for pattern in (*(pattern for pattern, _ in _REFUSED), _NO_NAME))


def advice(address: Address, fault: StorageFault) -> str:
    """Why a server cannot be used, and what to check; without the password."""
    text = address.scrub(fault.text)
    hint = next((f"; {hint}" for pattern, hint in _REFUSED + _ABSENT if re.search(pattern, text)), "")
    return f"{address}: cannot be opened ({text}){hint}"
