"""`dashboard` from the outside: its API on a real port, what is attached, and what a stranger does wrong."""

import contextlib
import importlib.util
import json
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import urllib.error
import urllib.request

import pytest

from jorge_tune.cli import main
from jorge_tune.errors import InputError
from jorge_tune.study.dashboard.attachments import ArtifactFolders
from jorge_tune.study.dashboard.server import DashboardServer
from jorge_tune.study.dashboard.trial_files import TrialFiles
from jorge_tune.study.storage.open import open_storage
from jorge_tune.study.storage.retry import StorageError
from jorge_tune.study.study import present_study
from tests.study.empty_runs import EmptyRuns
from tests.study.searched import Searched, by_rate, search_anew


def run(*arguments):
    """The exit code."""
    with pytest.raises(SystemExit) as ended:
        main(["dashboard", *map(str, arguments)])
    return ended.value.code


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A search with its baseline and confirmation, everything attached."""
    made = search_anew(tmp_path_factory.mktemp("study"), confirm_seeds=(1, 2))
    made.work(made.confirmation(), EmptyRuns(by_rate))
    assert run("small", *place(made), "--no-serve") == 0
    return made


@pytest.fixture
def made_earlier(monkeypatch):
    """Workers attach nothing, as those of earlier versions."""
    monkeypatch.setattr(TrialFiles, "attach", lambda *arguments, **options: [])


def place(made):
    return ("--storage", made.folder / "study.db", "--runs", made.runs("small"))


@contextlib.contextmanager
def served(made, **options):
    """The server on a free port; it is asked with `ask`."""
    names = ("small", "small.sgd", "small.confirm")
    artifacts = ArtifactFolders([made.runs(name) / "artifacts" for name in names])
    with (
        contextlib.closing(open_storage(made.address)) as storage,
        DashboardServer(0, storage, artifacts, **options) as server,
    ):
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def ask(server, path, *, method="GET", host=None, data=None):
    """Status and body."""
    headers = {"Content-Type": "application/json", **({"Host": host} if host else {})}
    request = urllib.request.Request(server.url + path, method=method, headers=headers, data=data)
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=30) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


def detail(server, name="small"):
    found = json.loads(ask(server, "api/studies")[1])["study_summaries"]
    identity = next(one["study_id"] for one in found if one["study_name"] == name)
    return identity, json.loads(ask(server, f"api/studies/{identity}")[1])


def test_the_api_shows_study_trials_notes_plots_and_the_very_files(made):
    with served(made) as server:
        identity, study = detail(server)
        assert "Single-shot tuning" in study["note"]["body"]
        assert "`jorge-tune study best --name small -o best.yaml`" in study["note"]["body"]
        assert study["objective_names"] == ["best top1"]
        plots = {plot["id"]: json.loads(plot["graph_object"]) for plot in study["plotly_graph_objects"]}
        assert set(plots) == {"history", "metric-by-epoch", "learning-rate"}
        assert all(plot["data"] for plot in plots.values())
        assert [trial["number"] for trial in study["trials"]] == [0, 1, 2, 3]
        trial = study["trials"][1]
        assert "| optimizer.lr | 0.1 | 0.2 |" in trial["note"]["body"]
        files = {one["filename"]: one["artifact_id"] for one in trial["artifacts"]}
        assert set(files) == {"recipe.yaml", "records-seed-0.jsonl", "curves.svg"}
        _, records = ask(server, f"artifacts/{identity}/{trial['trial_id']}/{files['records-seed-0.jsonl']}")
        assert records == (made.runs("small") / "trial-1/seed-0/records.jsonl").read_bytes()
        own = {one["filename"]: one["artifact_id"] for one in study["artifacts"]}
        assert set(own) == {"recipe.yaml", "baseline.yaml", "report.html"}
        status, page = ask(server, f"artifacts/{identity}/{own['report.html']}")
        assert status == 200
        assert b"<title>Study small</title>" in page


def test_the_studies_beside_a_search_have_their_notes_and_files(made):
    with served(made) as server:
        _, baseline = detail(server, "small.sgd")
        assert "the baseline of study small" in baseline["note"]["body"]
        _, confirmation = detail(server, "small.confirm")
        bodies = [trial["note"]["body"] for trial in confirmation["trials"]]
        assert any("of study small.confirm (bootstrap, seed 1)" in body for body in bodies)
        assert all(len(trial["artifacts"]) == 3 for trial in confirmation["trials"])


def test_only_requests_that_name_this_machine_are_answered(made):
    with served(made) as server:
        assert server.server_address[0] == "127.0.0.1"
        for host in ("127.0.0.1:1", "localhost:8080", "127.0.0.1", "[::1]:8080", f"127.0.0.1:{server.server_port}"):
            assert ask(server, "api/studies", host=host)[0] == 200
        for host in ("evil.example:8080", "127.0.0.1.evil.example:80", "evil.example", "[", "127.0.0.1@evil.example"):
            assert ask(server, "api/studies", host=host)[0] == 403


def test_a_copy_takes_no_changes(made):
    with served(made, is_copy=True) as server:
        identity, study = detail(server)
        body = json.dumps({"body": "mine", "version": study["note"]["version"] + 1}).encode()
        status, answer = ask(server, f"api/studies/{identity}/note", method="PUT", data=body)
        assert (status, "copy" in json.loads(answer)["reason"]) == (403, True)
        assert ask(server, f"api/studies/{identity}", method="DELETE")[0] == 403


def test_what_is_written_in_the_dashboard_stays_below_the_line(tmp_path, made):
    own = Searched(tmp_path / "own", trials=1)
    own.search(EmptyRuns())
    assert run("small", *place(own), "--no-serve") == 0
    with served(own) as server:
        identity, study = detail(server)
        note = study["note"]
        body = json.dumps({"body": note["body"] + "my own words", "version": note["version"] + 1}).encode()
        assert ask(server, f"api/studies/{identity}/note", method="PUT", data=body)[0] == 204
    own.open(trials=2)
    own.search(EmptyRuns())
    assert run("small", *place(own), "--no-serve") == 0
    with served(own) as server:
        after = detail(server)[1]["note"]["body"]
    assert after.endswith("my own words\n")
    assert "2 of 2 trials have ended" in after


def test_trials_have_their_files_when_they_end_and_the_study_its_note_at_the_next_start(tmp_path, capsys):
    own = Searched(tmp_path / "own", trials=1)
    own.search(EmptyRuns())
    with served(own) as server:
        _, study = detail(server)
        assert study["note"]["body"] == ""
        (trial,) = study["trials"]
        assert "Trial 0 of study small" in trial["note"]["body"]
        assert {one["filename"] for one in trial["artifacts"]} == {"recipe.yaml", "records-seed-0.jsonl", "curves.svg"}
    assert run("small", *place(own), "--no-serve") == 0
    assert "0 trials, 4 files" in capsys.readouterr().err
    with served(own) as server:
        identity, study = detail(server)
        body = json.dumps({"body": study["note"]["body"] + "my own words", "version": study["note"]["version"] + 1})
        assert ask(server, f"api/studies/{identity}/note", method="PUT", data=body.encode())[0] == 204
    own.open(trials=2)
    own.search(EmptyRuns())
    assert run("small", *place(own), "--no-serve") == 0
    assert "0 trials, 1 file" in capsys.readouterr().err  # the report
    with served(own) as server:
        note = detail(server)[1]["note"]["body"]
    assert "2 of 2 trials have ended" in note
    assert note.endswith("my own words\n")


def test_a_storage_that_takes_nothing_is_said_and_served(made, capsys, monkeypatch):
    def gone(*rest):
        raise StorageError("gone")

    monkeypatch.setattr("jorge_tune.cli.cmd_dashboard.attach_missing", gone)
    monkeypatch.setattr(DashboardServer, "serve_forever", lambda self: None)
    assert run("small", *place(made), "--port", "0") == 0
    out, err = capsys.readouterr()
    assert "warning: the missing notes and files were not attached: gone" in err
    assert "dashboard/studies/1" in out


def test_a_report_that_cannot_be_made_leaves_a_note_that_says_why(tmp_path, monkeypatch):
    own = Searched(tmp_path / "own", trials=1)

    def no_report(*rest):
        raise InputError("nothing to show")

    monkeypatch.setattr("jorge_tune.cli.cmd_report.report_of_study", no_report)
    assert run("small", *place(own), "--no-serve") == 0
    with served(own) as server:
        assert "nothing to show" in detail(server)[1]["note"]["body"]


def test_attaching_again_changes_nothing_in_the_storage(made, capsys):
    def dump():
        with sqlite3.connect(made.folder / "study.db") as connection:
            lines = list(connection.iterdump())
        connection.close()
        return lines

    before = dump()
    assert run("small", *place(made), "--no-serve") == 0
    assert dump() == before
    assert "attached notes and files: 0 trials, 0 files" in capsys.readouterr().err


def test_served_until_ctrl_c(made):
    command = [sys.executable, "-m", "jorge_tune", "dashboard", "small", "--port", "0", *map(str, place(made))]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        first, second = process.stdout.readline().strip(), process.stdout.readline().strip()
        assert first.startswith("http://127.0.0.1:")
        assert second == f"{first}dashboard/studies/1"
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(second, timeout=30) as answer:
            assert "default-src 'self'" in answer.headers["Content-Security-Policy"]
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert (process.returncode, out) == (0, "")
    assert err.splitlines() == ["attached notes and files: 0 trials, 0 files", "press Ctrl-C to stop"]


def test_a_study_without_a_finished_trial_says_so(tmp_path):
    waiting = Searched(tmp_path / "waiting")
    assert run("small", *place(waiting), "--no-serve") == 0
    with served(waiting) as server:
        assert "No trial has ended yet" in detail(server)[1]["note"]["body"]


def test_without_a_name_all_studies_are_attended_to(tmp_path, monkeypatch, capsys, made_earlier):
    import optuna

    monkeypatch.chdir(tmp_path)
    own = Searched(tmp_path / "studies", trials=1)
    own.runs = lambda name: tmp_path / "studies" / name
    shutil.rmtree(tmp_path / "studies" / "runs")
    (tmp_path / "studies" / "study.db").unlink()
    own.open(trials=1)
    own.search(EmptyRuns())
    optuna.create_study(storage=own.opened.storage, study_name="another programs")
    assert run("--storage", own.folder / "study.db", "--no-serve") == 0
    assert "attached notes and files: 2 trials" in capsys.readouterr().err
    assert (tmp_path / "studies/small/artifacts").is_dir()


def test_runs_that_are_elsewhere_are_said_and_the_rest_is_attached(tmp_path, capsys, made_earlier):
    own = Searched(tmp_path / "own", trials=2)
    own.search(EmptyRuns())
    shutil.move(own.folder / "runs", tmp_path / "elsewhere")
    assert run("small", *place(own), "--no-serve") == 0
    err = capsys.readouterr().err
    assert "study small: the run directories of 2 trials are not in" in err
    assert "attached notes and files: 3 trials, 0 files" in err
    assert not (own.folder / "runs").exists()
    assert run("small", "--storage", own.folder / "study.db", "--runs", tmp_path / "elsewhere/small", "--no-serve") == 0
    assert "attached notes and files: 3 trials, 13 files" in capsys.readouterr().err


def test_an_export_leaves_behind_what_is_kept_by_trial_ids(made, tmp_path):
    with pytest.raises(SystemExit):
        main(
            ["study", "export", "--storage", str(made.folder / "study.db"), "--name", "small", "-o", f"{tmp_path}/a.db"]
        )
    with sqlite3.connect(tmp_path / "a.db") as connection:
        keys = [key for (key,) in connection.execute("SELECT key FROM study_system_attributes")]
    connection.close()
    assert "dashboard:note_ver" in keys
    assert not [key for key in keys if key.startswith("dashboard:") and key.split(":")[1].isdecimal()]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("nope",), ("no study 'nope'", "there are small")),
        (("small", "--port", "99999"), ("99999",)),
        (("--runs", "somewhere"), ("--runs is the directory of one study's runs",)),
    ],
)
def test_bad_input_is_one_message(made, arguments, words, capsys):
    assert run(*arguments, "--storage", made.folder / "study.db") == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert all(word in err for word in words)
    assert "Traceback" not in err


def test_a_port_in_use_is_named_with_the_way_out(made, capsys):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert run("small", *place(made), "--port", port) == 2
    err = capsys.readouterr().err
    assert f"--port: {port} is in use on 127.0.0.1" in err
    assert "--port 0" in err


def test_without_the_package_there_is_the_line_that_gets_it(made, capsys, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == "optuna_dashboard" else find(name, *rest)
    )
    assert run("small", *place(made)) == 2
    assert "pip install 'jorge-tune[dashboard]'" in capsys.readouterr().err
    assert run("small", *place(made), "--no-serve") == 0


def test_a_storage_that_cannot_be_written_is_said(made, monkeypatch, capsys):
    monkeypatch.setattr(os, "access", lambda path, mode: mode != os.W_OK)
    assert run("small", *place(made), "--no-serve") == 2
    assert "read-only, so nothing can be attached" in capsys.readouterr().err
    assert present_study(made.opened.storage, "small") is not None


REFUSED = [
    ("POST", "api/studies/{study}/rename", {"study_name": "other"}, "cannot be renamed here"),
    ("POST", "api/studies", {"study_name": "new", "directions": ["minimize"]}, "a study cannot be made here"),
    ("POST", "api/trials/{trial}/tell", {"state": "Fail"}, "a trial cannot be changed here"),
    ("POST", "api/trials/{trial}/user-attrs", {"user_attrs": {"reason": "mine"}}, "a trial cannot be changed here"),
    ("POST", "api/artifacts/{study}/{trial}", {"file": "data:,a", "filename": "a"}, "a trial cannot be changed here"),
    ("DELETE", "api/artifacts/{study}/{trial}/ab-1", {}, "one that has ended keeps its files"),
    ("POST", "api/studies/{study}/{trial}/skip", {}, "cannot be done here"),
    ("POST", "api/studies/{study}/preference", {"clicked": 0}, "cannot be done here"),
    ("PUT", "api/studies/{study}/preference_feedback_component", {"output_type": "note"}, "cannot be done here"),
    ("DELETE", "api/studies/{study}/preference/1", {}, "cannot be done here"),
    ("POST", "incompatible-rdb-schema", {}, "cannot be done here"),
    ("POST", "api/llm/trial_filter_query", {"user_query": "a"}, "cannot be done here"),
    ("PATCH", "api/studies/{study}", {}, "cannot be done here"),
    ("POST", "api/whatever/comes", {}, "cannot be done here"),
]


def whole(made):
    """Everything that the storage holds."""
    with sqlite3.connect(made.folder / "study.db") as connection:
        lines = list(connection.iterdump())
    connection.close()
    return lines


@pytest.mark.parametrize(("method", "path", "data", "words"), REFUSED)
def test_calls_that_a_study_would_not_survive_are_refused_in_words(made, method, path, data, words):
    before = whole(made)
    with served(made) as server:
        identity, study = detail(server)
        asked = path.format(study=identity, trial=study["trials"][1]["trial_id"])
        status, answer = ask(server, asked, method=method, data=json.dumps(data).encode())
        assert status == 403
        assert words in json.loads(answer)["reason"]
    assert whole(made) == before


def test_every_call_of_the_dashboard_that_changes_something_is_decided(made):
    """Its own table of routes: a version that brings another one shows here."""
    from optuna_dashboard._app import create_app

    from jorge_tune.study.dashboard.server import _why_not

    with contextlib.closing(open_storage(made.address)) as storage:
        routes = {(route.method, route.rule) for route in create_app(storage, object()).routes if route.method != "GET"}
    filled = {
        (method, rule.replace("<study_id:int>", "1").replace("<trial_id:int>", "2").replace("<history_id>", "3"))
        for method, rule in routes
    }
    filled = {(method, rule.replace("<artifact_id:re:[0-9a-fA-F-]+>", "ab-1")) for method, rule in filled}
    allowed = {
        (method, path)
        for method, path in filled
        if _why_not({"REQUEST_METHOD": method, "PATH_INFO": path}, lambda study: False) is None
    }
    assert allowed == {
        ("PUT", "/api/studies/1/note"),
        ("PUT", "/api/studies/1/2/note"),
        ("POST", "/api/artifacts/1"),
        ("DELETE", "/api/artifacts/1/ab-1"),
        ("DELETE", "/api/studies/1"),
    }
    assert len(filled) >= 20


def test_a_study_of_which_a_trial_runs_is_not_deleted_and_another_is(tmp_path):
    own = Searched(tmp_path / "own", trials=2)
    own.search(EmptyRuns())
    own.open(trials=3)
    claim = own.opened.claims.claim("w", 3)
    with served(own) as server:
        identity, _ = detail(server)
        status, answer = ask(server, f"api/studies/{identity}", method="DELETE", data=b"{}")
        assert (status, "`jorge-tune study stop`" in json.loads(answer)["reason"]) == (403, True)
        own.opened.claims.hand_back(claim)
        assert ask(server, f"api/studies/{identity}", method="DELETE", data=b"{}")[0] == 204
        names = [one["study_name"] for one in json.loads(ask(server, "api/studies")[1])["study_summaries"]]
        assert "small" not in names
    assert (own.runs("small") / "trial-0").is_dir()


def asked_with(server, path, headers, *, method="GET", data=None):
    request = urllib.request.Request(server.url + path, method=method, headers=headers, data=data)
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=30) as answer:
            return answer.status, dict(answer.headers)
    except urllib.error.HTTPError as error:
        return error.code, dict(error.headers)


def test_another_sites_page_changes_nothing_and_reads_nothing(made):
    note = {"method": "PUT", "data": b'{"body": "theirs", "version": 99999}'}
    json_type = {"Content-Type": "application/json"}
    with served(made) as server:
        identity, _ = detail(server)
        own = server.url.rstrip("/")
        path = f"api/studies/{identity}/note"
        for origin in ("http://evil.example", "null", "https://127.0.0.1", "http://127.0.0.1:1", f"{own}.evil.example"):
            assert asked_with(server, path, {**json_type, "Origin": origin}, **note)[0] == 403, origin
        for site in ("cross-site", "same-site"):
            assert asked_with(server, path, {**json_type, "Sec-Fetch-Site": site}, **note)[0] == 403
            assert asked_with(server, "api/studies", {"Sec-Fetch-Site": site, "Sec-Fetch-Mode": "no-cors"})[0] == 403
        followed = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}
        assert asked_with(server, "dashboard", followed)[0] == 200
        ours = {**json_type, "Origin": own, "Sec-Fetch-Site": "same-origin"}
        assert asked_with(server, "api/studies", ours)[0] == 200
        assert (
            asked_with(server, path, ours, method="PUT", data=b'{"body": "mine", "version": 0}')[0] == 409
        )  # it is asked


def test_an_attached_file_is_nobodys_page_here(made):
    with served(made) as server:
        identity, study = detail(server)
        report = next(one["artifact_id"] for one in study["artifacts"] if one["filename"] == "report.html")
        _, headers = asked_with(server, f"artifacts/{identity}/{report}", {})
    assert headers["Content-Security-Policy"] == "sandbox allow-scripts"
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert "Access-Control-Allow-Origin" not in headers


def test_links_and_pipes_are_neither_attached_nor_served(tmp_path, capsys, made_earlier):
    own = Searched(tmp_path / "own", trials=3)
    own.search(EmptyRuns())
    secret = tmp_path / "secret"
    secret.write_text("secret")
    runs = own.runs("small")
    (runs / "trial-1/seed-0/records.jsonl").unlink()
    (runs / "trial-1/seed-0/records.jsonl").symlink_to(secret)
    os.mkfifo(runs / "calibration.json")
    assert run("small", *place(own), "--no-serve") == 0
    assert "records.jsonl: must be a regular file, got a symbolic link" in capsys.readouterr().err
    kept = [path.read_bytes() for path in (runs / "artifacts").iterdir()]
    assert b"secret" not in kept
    with served(own) as server:
        identity, study = detail(server)
        files = {one["filename"]: one["artifact_id"] for one in study["trials"][2]["artifacts"]}
        assert set(files) == {"recipe.yaml", "records-seed-0.jsonl", "curves.svg"}  # the others are there
        served_one = runs / "artifacts" / files["records-seed-0.jsonl"]
        served_one.unlink()
        served_one.symlink_to(secret)
        trial = study["trials"][2]["trial_id"]
        status, body = ask(server, f"artifacts/{identity}/{trial}/{files['records-seed-0.jsonl']}")
        assert (status, b"secret" in body) == (500, False)


def test_nothing_is_written_through_a_link_in_a_files_place(tmp_path, capsys):
    own = Searched(tmp_path / "own", trials=2)
    own.search(EmptyRuns())
    assert run("small", *place(own), "--no-serve") == 0
    precious = tmp_path / "precious"
    precious.write_text("mine")
    artifacts = own.runs("small") / "artifacts"
    for path in artifacts.iterdir():
        path.unlink()
        path.symlink_to(precious)
    assert run("small", *place(own), "--no-serve") == 0
    assert precious.read_text() == "mine"
    assert not any(path.is_symlink() for path in artifacts.iterdir())
    shutil.rmtree(artifacts)
    (tmp_path / "elsewhere").mkdir()
    artifacts.symlink_to(tmp_path / "elsewhere")
    assert run("small", *place(own), "--no-serve") == 0
    assert "artifacts: must be a directory, got a symbolic link" in capsys.readouterr().err
    assert not list((tmp_path / "elsewhere").iterdir())
