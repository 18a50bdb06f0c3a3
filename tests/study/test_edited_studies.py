"""A storage that others wrote to: every command says in a sentence what it cannot read, and shows the rest."""

from __future__ import annotations

import contextlib
import io
import itertools
import json
import shutil
import signal
import sqlite3
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

import pytest

from jorge_tune.cli import main
from jorge_tune.errors import JorgeTuneError
from jorge_tune.records import portable
from jorge_tune.study.confirm import RecordedValues, companion_studies, gather, open_baseline, open_confirmation
from jorge_tune.study.dashboard.notes import trial_note
from jorge_tune.study.export import csv_of, json_of, write_trial
from jorge_tune.study.jobs.client import ProcessEnd
from jorge_tune.study.leases import LeaseTimes, Reaper
from jorge_tune.study.report_data import recipes_of, run_places, study_data
from jorge_tune.study.runs_directory import RunsDirectory
from jorge_tune.study.status import read_status
from jorge_tune.study.stop import WorkerStops
from jorge_tune.study.storage.address import Address, parse_address
from jorge_tune.study.storage.open import open_storage
from jorge_tune.study.study import OpenStudy, add_point, join_study, open_study, study_names
from jorge_tune.study.trial_rows import rows_of
from jorge_tune.study.worker import WorkerSettings, work_on
from tests.study.edited_studies import Edit, edits
from tests.study.empty_runs import FINISHED, EmptyRuns
from tests.study.searched import Searched
from tests.study.small_studies import small_plan

FEW, SECONDS = 5, 60  # edits in the default suite; after which a command hangs


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Searched:
    """A study with completed, failed, waiting and running trials, its baseline and a confirmation."""
    made = Searched(tmp_path_factory.mktemp("study"), trials=6, confirm_seeds=(1, 2))
    made.search(
        EmptyRuns(end=lambda folder, start: ProcessEnd("failed", "for a test") if "trial-4" in folder else FINISHED)
    )
    made.work(made.confirmation(), EmptyRuns())
    made.open(trials=9, confirm_seeds=(1, 2))
    add_point(made.opened, made.opened.plan.space.bootstrap_point())
    made.opened.claims.claim("w-0123456789", 9)
    add_point(made.opened, {"lr_factor": 0.5, "refresh_interval": 5})
    made.opened.request_stop("finish", "for a test")
    with contextlib.closing(sqlite3.connect(made.folder / "study.db")) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")  # the file alone is copied
    return made


class Hung(BaseException):
    """A command that does not end."""


@contextlib.contextmanager
def ending() -> Iterator[None]:
    def hang(number: int, frame: object) -> NoReturn:
        raise Hung

    before = signal.signal(signal.SIGALRM, hang)
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def without_attachments(lines: list[str]) -> list[str]:
    """What a storage holds besides what is attached for the dashboard."""
    return [line for line in lines if not any(key in line for key in ("dashboard:", "artifacts:", "metric_names"))]


def content(path: Path) -> list[str]:
    """All rows of an SQLite file."""
    with contextlib.closing(sqlite3.connect(path)) as connection:
        return list(connection.iterdump())


def ran(*arguments: object) -> tuple[int, str]:
    """A command's exit code and what it printed; anything but an end in words is raised."""
    out = io.TextIOWrapper(written := io.BytesIO(), encoding="utf-8", write_through=True)
    code = 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out), ending():
        try:
            main([str(argument) for argument in arguments])
        except SystemExit as ended:
            code = int(ended.code or 0)
    return code, written.getvalue().decode()


def commands(folder: Path) -> dict[str, tuple[int, str]]:
    """What the reading commands themselves make of the study in a directory."""
    at = ("--storage", folder / "study.db", "--name", "small")
    runs = ("--runs", folder / "runs" / "small")
    return {
        "status": ran("study", "status", *at, *runs),
        "best": ran("study", "best", *at),
        "export": ran("study", "export", *at, "-o", folder / "out.json", "--force"),
        "report": ran("report", "small", "--storage", folder / "study.db", *runs, "-o", folder / "out.html", "--force"),
    }


def looked_at(folder: Path) -> dict[str, str]:
    """What the reading commands are made of, each by itself: "" where it came, else the sentence that it ended in."""

    def runs(study: str) -> Path:
        return folder / "runs" / study

    ends: dict[str, str] = {}
    with contextlib.closing(open_storage(place(folder), create=False)) as storage, ending():
        study_names(storage)
        try:
            opened = join_study(storage, "small")
        except JorgeTuneError as error:
            return {"join": str(error)}
        steps: dict[str, Callable[[], Any]] = {
            "status": lambda: json.dumps(
                read_status(opened, runs("small"), place(folder), companion_studies(opened)).to_json(), allow_nan=False
            ),
            "report": lambda: report_data(opened, runs, folder),
            "csv": lambda: csv_of(opened),
            "json": lambda: json_of(opened),
            "best": lambda: write_trial(opened, folder / "out.yaml", force=True),
            "attach": lambda: [
                trial_note(row, rows_of(opened), opened.plan, are_here=False) for row in rows_of(opened)
            ],
        }
        for name, step in steps.items():
            try:
                step()
                ends[name] = ""
            except JorgeTuneError as error:
                ends[name] = str(error)
    return ends


def report_data(opened: OpenStudy, runs: Callable[[str], Path], folder: Path) -> None:
    evidence = gather(opened, RecordedValues(runs))
    json.dumps(portable(study_data(opened, evidence, place(folder))))
    recipes_of(opened.plan, evidence.rows)
    run_places(opened, evidence.rows, runs)


def worked_on(folder: Path) -> str:
    """Join, add a point, put lost trials back, work and confirm; why it could not be joined, or ""."""

    def runs(study: str) -> Path:
        return folder / "runs" / study

    with contextlib.closing(open_storage(place(folder), create=False)) as storage, ending():
        try:
            opened = join_study(storage, "small")
        except JorgeTuneError as error:
            return str(error)
        steps: list[Callable[[], Any]] = [
            lambda: add_point(opened, opened.plan.space.bootstrap_point()),
            lambda: Reaper(opened.claims, RunsDirectory(runs("small"), opened.folder, True), LeaseTimes()).sweep(),
            lambda: [opened.claims.take_back(held) for held in opened.claims.running()],
            opened.withdraw_stop_request,
            lambda: work(opened, runs("small")),
            lambda: open_baseline(opened, runs),
            lambda: open_confirmation(opened, runs),
            lambda: [work(study, runs(study.plan.name)) for study in companion_studies(opened)],
        ]
        for step in steps:
            with contextlib.suppress(JorgeTuneError):
                step()
    return ""


def work(opened: OpenStudy, runs: Path) -> None:
    """One worker; it is told to leave where it waits for a trial that somebody else seems to run."""
    stops = WorkerStops()
    patience = threading.Timer(3.0, stops.ask, ("signal", "enough"))
    patience.start()
    try:
        work_on(opened, runs, WorkerSettings(device="cpu", threads=1), stops, server=EmptyRuns())
    finally:
        patience.cancel()
        patience.join()
        stops.close()


def place(folder: Path) -> Address:
    return parse_address(f"sqlite:///{folder}/study.db")


def check(made: Searched, edit: Edit, folder: Path) -> dict[str, str]:
    """One edit: whatever is done ends in words, reading changes nothing, and a refused study is left as it is."""
    folder.mkdir()
    shutil.copyfile(made.folder / "study.db", folder / "study.db")
    shutil.copytree(made.folder / "runs", folder / "runs", ignore=shutil.ignore_patterns("workers", "trial-*"))
    edit.apply(folder / "study.db")
    before, runs = content(folder / "study.db"), sorted(map(str, (folder / "runs").rglob("*")))
    try:
        ends = looked_at(folder)
        assert content(folder / "study.db") == before
        refusal = worked_on(folder)
    except JorgeTuneError as error:
        ends, refusal = {"open": str(error)}, str(error)
    if refusal:
        assert content(folder / "study.db") == before
        assert sorted(map(str, (folder / "runs").rglob("*"))) == runs
    for sentence in (*ends.values(), refusal):
        assert "\x1b" not in sentence
        assert len(sentence) < 2000
    shutil.rmtree(folder)
    return ends


def test_an_edited_study_ends_in_words_and_the_rest_still_comes(made: Searched, tmp_path: Path) -> None:
    found = list(edits(made.folder / "study.db"))
    assert len(found) >= 800
    for number, edit in enumerate(found[:: len(found) // FEW]):
        try:
            check(made, edit, tmp_path / str(number))
        except (Exception, Hung) as error:
            raise AssertionError(edit.what) from error


@pytest.mark.parametrize(
    ("row", "text"),
    [
        (1, "{}"),  # Optuna compares the next trial's parameter with it, and fails in its own way each time
        (1, '{"name": "FloatDistribution", "attributes": {"step": null, "low": "x", "high": 2.0, "log": true}}'),
        (2, '{"name": "CategoricalDistribution", "attributes": {"choices": ["a", {"b": 1}]}}'),  # it warns of this one
    ],
)
def test_another_trials_parameter_that_cannot_be_read_ends_in_words(
    made: Searched, tmp_path: Path, row: int, text: str
) -> None:
    change = ("UPDATE trial_params SET distribution_json = ? WHERE rowid = ?", (text, row))
    assert set(check(made, Edit("a parameter", (change,)), tmp_path / "edited").values()) == {""}


@pytest.mark.slow
@pytest.mark.parametrize("share", range(8))
def test_every_edited_study_ends_in_words(made: Searched, tmp_path: Path, share: int) -> None:
    for number, edit in enumerate(list(edits(made.folder / "study.db"))[share::8]):
        try:
            check(made, edit, tmp_path / str(number))
        except (Exception, Hung) as error:
            raise AssertionError(edit.what) from error


def test_one_trial_that_cannot_be_read_costs_that_trial_alone(made: Searched, tmp_path: Path) -> None:
    """A value, a parameter, an attribute and a whole row: the others are shown, best and report included."""
    shutil.copytree(made.folder, tmp_path, dirs_exist_ok=True)
    with contextlib.closing(sqlite3.connect(tmp_path / "study.db")) as connection:
        ids = dict(
            connection.execute(
                "SELECT number, trial_id FROM trials JOIN studies USING (study_id) WHERE study_name = 'small'"
            ).fetchall()
        )
        connection.execute("UPDATE trial_values SET value = 'x' WHERE trial_id = ?", (ids[1],))
        connection.execute("UPDATE trial_params SET distribution_json = '{}' WHERE trial_id = ?", (ids[2],))
        connection.execute(
            "UPDATE trial_user_attributes SET value_json = ? WHERE trial_id = ? AND key = 'worker'",
            ("[" * 60_000, ids[3]),
        )
        connection.execute("UPDATE trials SET state = 'ODD' WHERE trial_id = ?", (ids[4],))
        connection.commit()
    ends = commands(tmp_path)
    assert {name: code for name, (code, _) in ends.items()} == dict.fromkeys(ends, 0)
    said = ends["best"][1]
    for number, words in {
        1: "its value",
        2: "its parameter 'lr_factor' cannot be read",
        3: "its attribute 'worker' cannot be read",
        4: "its row cannot be read",
    }.items():
        assert f"Trial {number} of study small: {words}" in said
        assert f"Trial {number} of study small" in (tmp_path / "out.html").read_text()
    assert "trial 5" in said  # the best of those that can be read
    assert "Traceback" not in "".join(text for _, text in ends.values())


@pytest.mark.parametrize("name", ["../outside", "/tmp/outside-of-it", "a b", ".hidden", "x" * 200])
def test_a_name_from_a_storage_is_no_folder_before_it_is_checked(
    made: Searched, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The study's name and its plan's changed alike, and a worker that takes the only study that there is."""
    monkeypatch.chdir(tmp_path)
    shutil.copyfile(made.folder / "study.db", tmp_path / "study.db")
    with contextlib.closing(sqlite3.connect(tmp_path / "study.db")) as connection:
        query = "SELECT study_id, value_json FROM study_system_attributes JOIN studies USING (study_id) "
        study, text = connection.execute(query + "WHERE key = 'jorge:study' AND study_name = 'small'").fetchone()
        data = json.loads(text)
        data["plan"]["name"] = name
        statement = "UPDATE study_system_attributes SET value_json = ? WHERE study_id = ? AND key = 'jorge:study'"
        connection.execute(statement, (json.dumps(data), study))
        connection.execute("UPDATE studies SET study_name = ? WHERE study_id = ?", (name, study))
        connection.commit()
    before = content(tmp_path / "study.db")
    for command in (("study", "worker"), ("study", "status"), ("study", "reap"), ("dashboard", "--no-serve")):
        code, said = ran(*command, "--storage", tmp_path / "study.db")
        assert (code, "the name of a study must be 1 to 100 letters" in said) == (
            0 if "--no-serve" in command else 2,
            True,
        )
    assert sorted(
        path.name for path in tmp_path.rglob("*") if "study.db" not in path.name and "small" not in str(path)
    ) in (
        [],
        ["studies"],
    )
    assert not (tmp_path.parent / "outside").exists()
    assert without_attachments(content(tmp_path / "study.db")) == without_attachments(before)


def test_an_edited_journal_ends_in_words(tmp_path: Path) -> None:
    """Every part of every line with an odd value: it is opened and shown, or refused with the line or the item."""
    address = parse_address(f"journal:///{tmp_path}/study.journal")
    with contextlib.closing(open_storage(address)) as storage:
        opened = open_study(storage, small_plan(trials=2), lambda name: tmp_path / "runs" / name)
        work(opened, tmp_path / "runs" / "small")
    lines = address.path.read_text().splitlines()  # type: ignore[union-attr]
    odd = itertools.cycle((None, "x", -1, 10**400, [], {}, 1e999, True, "../../x", json.loads("[" * 900 + "]" * 900)))
    ends: list[str] = []
    for number, line in enumerate(lines):
        for key in json.loads(line):
            edited = {**json.loads(line), key: next(odd)}
            address.path.write_text("\n".join([*lines[:number], json.dumps(edited), *lines[number + 1 :], ""]))  # type: ignore[union-attr]
            try:
                with contextlib.closing(open_storage(address, create=False)) as storage, ending():
                    read_status(join_study(storage, "small"), tmp_path / "runs" / "small", address)
                    ends.append("")
            except JorgeTuneError as error:
                ends.append(str(error))
            except (Exception, Hung) as error:
                raise AssertionError(f"line {number + 1}: {key}: {str(edited[key])[:40]}") from error
    assert len(ends) > 120
    assert ends.count("") > 20
    assert any("what no study can hold" in end or "not a journal entry" in end for end in ends)
