"""PostgreSQL, MySQL and MariaDB: their drivers, how to connect, and what a refusal means."""

from __future__ import annotations

import re
from typing import Any

from sqlalchemy import create_engine, inspect, make_url
from sqlalchemy.exc import ArgumentError
from sqlalchemy.pool import NullPool

from jorge_tune.errors import InputError
from jorge_tune.tuning.storages.address import Address
from jorge_tune.tuning.storages.storage_faults import StorageFault, one_line

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


def arguments(address: Address) -> dict[str, Any]:
    """What Optuna passes to SQLAlchemy's `create_engine`; what the address itself says goes first.

    At READ COMMITTED each statement sees what was committed before it, and InnoDB locks no gaps. A connection is not
    tried out before each use, which would cost a round trip: one that was lost is noticed, and patience goes on.
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
    engine = create_engine(address.url, poolclass=NullPool, **arguments(address))
    if not inspect(engine).has_table("studies"):
        raise InputError(f"{address}: there are no studies in this database")


def is_hopeless(fault: StorageFault) -> bool:
    """Whether waiting is in vain: the server will not let this user or this database in, or its name is nobody's."""
    return any(re.search(pattern, fault.text) for pattern in (*(pattern for pattern, _ in _REFUSED), _NO_NAME))


def advice(address: Address, fault: StorageFault) -> str:
    """Why a server cannot be used, and what to look at; without the password."""
    text = address.scrub(fault.text)
    hint = next((f"; {hint}" for pattern, hint in _REFUSED + _ABSENT if re.search(pattern, text)), "")
    return f"{address}: cannot be opened ({text}){hint}"
