"""Studies as another version, another program or somebody's hand may leave them: one edit of a storage each."""

from __future__ import annotations

import itertools
import json
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

DEEP = "[" * 60_000 + "]" * 60_000
MANY = "9" * 400
TEXTS = (
    '"x"',
    "null",
    "true",
    "-1",
    "0",
    MANY,
    "[]",
    "{}",
    "1e999",
    "NaN",
    '{"a": [1]}',
    '"\\ud800"',
    "not json",
    DEEP,
    "",
)
VALUES: tuple[Any, ...] = (
    None,
    "x",
    True,
    -1,
    0,
    10**400,
    1e999,
    float("nan"),
    [],
    {},
    [5],
    {"a": 1},
    "../../x",
    "\x1b[2J",
)
GONE = object()


class Edit(NamedTuple):
    """What is changed, in words, and the statements that change it."""

    what: str
    statements: tuple[tuple[str, tuple[Any, ...]], ...]

    def apply(self, path: Path) -> None:
        """Change the SQLite file."""
        connection = sqlite3.connect(path)
        for statement, values in self.statements:
            connection.execute(statement, values)
        connection.commit()
        connection.close()


def edits(path: Path) -> Iterator[Edit]:
    """All edits of a file, in an order that mixes their kinds."""
    connection = sqlite3.connect(path)
    kinds = [
        _plans(connection),
        _attributes(connection, "study_system_attributes", "study_id"),
        _attributes(connection, "study_user_attributes", "study_id"),
        _attributes(connection, "trial_user_attributes", "trial_id"),
        _attributes(connection, "trial_system_attributes", "trial_id"),
        _columns(connection),
        _names(),
    ]
    found = [list(kind) for kind in kinds]
    connection.close()
    for several in itertools.zip_longest(*found):
        yield from (edit for edit in several if edit is not None)


def _plans(connection: sqlite3.Connection) -> Iterator[Edit]:
    """Every place of every study's plan, with every odd value, or taken out."""
    query = "SELECT study_id, value_json FROM study_system_attributes WHERE key = 'jorge:study' ORDER BY study_id"
    for study, text in connection.execute(query).fetchall():
        places = list(_places(json.loads(text)))
        for turn, place in enumerate(places):
            for value in (*VALUES[turn % 3 :: 3], GONE):
                data = json.loads(text)
                _put(data, place, value)
                statement = (
                    "UPDATE study_system_attributes SET value_json = ? WHERE study_id = ? AND key = 'jorge:study'"
                )
                what = "gone" if value is GONE else repr(value)[:20]
                yield Edit(
                    f"study {study}: {'.'.join(map(str, place))} {what}", ((statement, (json.dumps(data), study)),)
                )


def _places(value: Any, place: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where the parts of plain data are; an identity's are few of many."""
    if place:
        yield place
    items = value.items() if isinstance(value, dict) else enumerate(value[:2]) if isinstance(value, list) else ()
    for key, item in items:
        if not (place and place[0] == "identity" and len(place) > 1):
            yield from _places(item, (*place, key))


def _put(data: Any, place: tuple[Any, ...], value: Any) -> None:
    for key in place[:-1]:
        data = data[key]
    if value is GONE:
        del data[place[-1]]
    else:
        data[place[-1]] = value


def _attributes(connection: sqlite3.Connection, table: str, owner: str) -> Iterator[Edit]:
    """Every attribute, and those that a study may have, with every odd text."""
    held = connection.execute(f"SELECT {owner}, key FROM {table} ORDER BY {owner}, key").fetchall()
    first = held[0][0] if held else 1
    more = {
        "study_system_attributes": ("jorge:stop", "jorge:constraint", "jorge:cost:ab", "dashboard:note_str:0"),
        "study_user_attributes": ("verdict", "other"),
        "trial_user_attributes": ("iteration_time", "changes", "diverged", "values", "reason", "other"),
        "trial_system_attributes": (
            "jorge:starts",
            "jorge:folder",
            "constraints",
            "constraints:iteration_time",
            "other",
        ),
    }[table]
    for turn, (identity, key) in enumerate([*held, *((first, key) for key in more)]):
        if key == "jorge:created":
            continue
        for text in TEXTS if (identity, key) not in held else TEXTS[turn % 4 :: 4]:
            yield Edit(
                f"{table} {identity} {key} {text[:20]}",
                (
                    (f"DELETE FROM {table} WHERE {owner} = ? AND key = ?", (identity, key)),
                    (f"INSERT INTO {table} ({owner}, key, value_json) VALUES (?, ?, ?)", (identity, key, text)),
                ),
            )
    for identity, key in held:
        if key != "jorge:created":
            yield Edit(
                f"{table} {identity} {key} gone",
                ((f"DELETE FROM {table} WHERE {owner} = ? AND key = ?", (identity, key)),),
            )


_COLUMNS: dict[tuple[str, str], tuple[Any, ...]] = {
    ("trials", "state"): ("COMPLETE", "RUNNING", "WAITING", "FAIL", "PRUNED", "ODD", None),
    ("trials", "number"): (None, "x", -1, 0, 10**12),
    ("trials", "datetime_start"): (None, "yesterday", "2026-01-01 00:00:00.000000", 5),
    ("trials", "datetime_complete"): (None, "yesterday", "1026-01-01 00:00:00.000000"),
    ("trial_values", "value"): (None, "x", 1e308, -1e308, 0.0),
    ("trial_values", "value_type"): ("INF_POS", "INF_NEG", "ODD", None),
    ("trial_values", "objective"): (7, -1, None),
    ("trial_params", "param_value"): (None, "x", 99.0, -1.0, 1e308),
    ("trial_params", "param_name"): ("other", "", None),
    ("trial_params", "distribution_json"): (
        *("x", "{}", "null", DEEP, None, '{"name": "Odd", "attributes": {}}'),
        '{"name": "FloatDistribution", "attributes": {"step": null, "low": 1.0, "high": 2.0, "log": true}}',
        '{"name": "FloatDistribution", "attributes": {"step": null, "low": "x", "high": 2.0, "log": true}}',
        '{"name": "CategoricalDistribution", "attributes": {"choices": ["a", {"b": 1}]}}',
        '{"name": "CategoricalDistribution", "attributes": {"choices": []}}',
        '{"name": "IntDistribution", "attributes": {"step": 0, "low": 1, "high": 1e400, "log": false}}',
    ),
    ("trial_intermediate_values", "intermediate_value"): (None, "x", 1e308),
    ("trial_intermediate_values", "intermediate_value_type"): ("NAN", "INF_POS", "ODD"),
    ("trial_intermediate_values", "step"): (None, "x", -5, 10**15),
    ("study_directions", "direction"): ("MINIMIZE", "NOT_SET", "ODD", None),
}


def _columns(connection: sqlite3.Connection) -> Iterator[Edit]:
    """Every odd value in the tables themselves, for the first few rows."""
    for (table, column), values in _COLUMNS.items():
        rows = [row for (row,) in connection.execute(f"SELECT rowid FROM {table} ORDER BY rowid LIMIT 5")]
        for row, value in itertools.product(rows, values):
            what = f"{table}.{column} {row} {str(value)[:40]}"
            yield Edit(what, ((f"UPDATE OR IGNORE {table} SET {column} = ? WHERE rowid = ?", (value, row)),))
    for table in ("trial_values", "trial_params", "study_directions", "trials"):
        yield Edit(f"{table} emptied", ((f"DELETE FROM {table}", ()),))


def _names() -> Iterator[Edit]:
    for name in ("../outside", "/tmp/outside", "a b", "", ".", "x" * 300, "small.confirm.sgd", "\x1b[2J", "other"):
        yield Edit(f"name {name[:20]}", (("UPDATE studies SET study_name = ? WHERE study_name = 'small'", (name,)),))
