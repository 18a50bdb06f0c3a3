from __future__ import annotations

from pathlib import Path
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import make_url

from jorge_tune.errors import InputError
from jorge_tune.study.storage.address import find_address, parse_address

SECRET = "hunter2hunter2"


@pytest.mark.parametrize(
    ("text", "kind", "path"),
    [
        ("sqlite:///studies/a.db", "sqlite", Path("studies/a.db").absolute()),
        ("sqlite:////srv/a.db", "sqlite", Path("/srv/a.db")),
        ("sqlite+pysqlite:////srv/a.db", "sqlite", Path("/srv/a.db")),
        ("/srv/a.db", "sqlite", Path("/srv/a.db")),
        ("a.sqlite3", "sqlite", Path("a.sqlite3").absolute()),
        ("journal:////srv/a", "journal", Path("/srv/a")),
        ("/srv/a.log", "journal", Path("/srv/a.log")),
        ("a.JOURNAL", "journal", Path("a.JOURNAL").absolute()),
    ],
)
def test_a_file_has_an_absolute_path_and_is_shown_as_it_was_written(text, kind, path):
    address = parse_address(text)
    assert (address.kind, address.path) == (kind, path)
    assert str(address).endswith(text.partition(":///")[2] or text)
    assert find_address(None, address.for_environment()).path == path


@pytest.mark.parametrize(
    ("text", "readable"),
    [
        ("postgresql://u:p@h:5433/d", "postgresql+psycopg://u:p@h:5433/d"),
        ("postgres://u@h/d", "postgresql+psycopg://u@h/d"),
        ("postgresql:///d?host=%2Frun", "postgresql+psycopg:///d?host=%2Frun"),
        ("postgresql+psycopg2://u@h/d", "postgresql+psycopg2://u@h/d"),
        ("POSTGRESQL://u@[::1]:1/d", "postgresql+psycopg://u@[::1]:1/d"),
        ("mysql://u@h/d", "mysql+pymysql://u@h/d"),
        ("mariadb://u@h/d", "mysql+pymysql://u@h/d"),
        ("mysql+mysqldb://u@h/d", "mysql+mysqldb://u@h/d"),
    ],
)
def test_a_plain_url_of_a_server_gets_the_driver_of_our_extras(text, readable):
    address = parse_address(text)
    assert address.url == readable
    assert make_url(address.url).render_as_string(hide_password=False) == readable
    assert address.path is None
    assert find_address(None, address.for_environment()) == parse_address(readable)


def test_the_option_goes_before_the_variables_and_these_before_the_default():
    both = {"JORGE_TUNE_STORAGE": "a.db", "OPTUNA_STORAGE": "b.db"}
    assert str(find_address("c.db", both)) == "sqlite:///c.db"
    assert str(find_address(None, both)) == "sqlite:///a.db"
    assert str(find_address(None, {**both, "JORGE_TUNE_STORAGE": ""})) == "sqlite:///b.db"
    assert str(find_address(None, {})) == "sqlite:///studies/jorge-tune.db"


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("", "the address is empty"),
        ("study", "not an address of a storage"),
        ("sqlite://", "three slashes"),
        ("sqlite:///:memory:", "must be kept in a file"),
        ("sqlite:///", "must be kept in a file"),
        ("sqlite:///file:a.db?uri=true", "options in the address"),
        ("sqlite:///a.db?timeout=3", "options in the address"),
        ("sqlite:///a\0.db", "NUL"),
        ("journal://host/a", "three slashes"),
        (f"oracle://u:{SECRET}@h/d", "must begin with one of postgresql, .*got 'oracle://...'"),
        (f"u:{SECRET}@h/d", "not an address of a storage"),
        (f"postgresql://u:{SECRET}@x@h/d", "write @ as %40"),
        (f"postgresql://u:{SECRET}/x@h/d", "%2F"),
        (f"postgresql://u:{SECRET}#x@h/d", "# as %23"),
        (f"postgresql://u:{SECRET}?x@h/d", "%3F"),
        (f"postgresql://u:a:{SECRET}@h/d", None),
        (f"postgresql://h:{SECRET}/d", "the port must be a number"),
        (f"mysql://u:{SECRET}@h", "must name a database"),
        (f"mysql://u:{SECRET}@h:99999/d", "the port must be a number"),
        (f"mysql://u:{SECRET}@[::1/d", "%5B"),
    ],
)
def test_what_is_no_address_is_refused_with_its_source_and_without_its_password(text, what):
    if what is None:
        assert SECRET not in str(parse_address(text))
        return
    with pytest.raises(InputError, match=what) as caught:
        find_address(None, {"OPTUNA_STORAGE": text} if text else {}) if text else find_address("")
    assert SECRET not in str(caught.value)
    assert caught.value.__cause__ is None or SECRET not in str(caught.value.__cause__)
    assert str(caught.value).startswith("OPTUNA_STORAGE: " if text else "--storage: ")


@given(st.text(st.characters(min_codepoint=33, max_codepoint=0x2FFF), min_size=1, max_size=20))
def test_a_password_reaches_the_server_as_it_is_and_the_screen_never(password):
    password = f"<{password}>"  # no part of the address itself
    address = parse_address(f"postgresql://someone:{quote(password, safe='')}@host/base")
    assert make_url(address.url).password == password
    assert str(address) == "postgresql://someone:***@host/base"
    forms = [password, quote(password), quote(password, safe="")]
    for text in (repr(address), address.scrub("; ".join(forms)), address.scrub(address.url)):
        assert not any(form in text for form in forms)


@pytest.mark.parametrize("name", ["password", "passwd", "sslpassword", "ssl_key", "PWD"])
def test_a_password_among_the_options_is_not_shown_either(name):
    address = parse_address(f"postgresql://u@h/d?{name}={quote(SECRET + '/x')}&connect_timeout=3")
    assert str(address) == "postgresql://u@h/d"
    assert SECRET not in repr(address)
    assert SECRET not in address.scrub(f"refused: {SECRET}/x and {quote(SECRET + '/x')}")
