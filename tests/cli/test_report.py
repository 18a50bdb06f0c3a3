"""`report` from the outside: studies and run directories that trained nothing, and what a stranger does wrong."""

import json
import re
import shutil
import sqlite3

import pytest

from jorge_tune.cli import main
from jorge_tune.study.confirm import conclude, fresh_verdict, place_of
from jorge_tune.study.trial_rows import read_rows
from tests.compare.race_folders import COSINE, JORGE, SGD, STEP, write_race, write_run
from tests.report.report_checks import assert_figures_equal_the_twin, assert_page_stands_alone
from tests.study.searched import Searched, confirmed


def run(*arguments):
    """The exit code."""
    with pytest.raises(SystemExit) as ended:
        main(["report", *map(str, arguments)])
    return ended.value.code


@pytest.fixture
def race(tmp_path):
    contenders = {
        "sgd": ({0: [0.5, 0.7, 0.8], 1: [0.5, 0.7, 0.8]}, SGD, COSINE, 1.0),
        "jorge": ({0: [0.5, 0.8, 0.9], 1: [0.5, 0.8, 0.9]}, JORGE, STEP, 2.0),
    }
    return write_race(tmp_path / "runs", contenders)


@pytest.fixture
def made(tmp_path):
    return confirmed(tmp_path / "study", confirm_seeds=(1, 2))


def place(made):
    return ("--storage", made.folder / "study.db", "--runs", made.runs("small"))


def test_a_race_becomes_a_page_and_its_twin(race, tmp_path, capsys):
    out = tmp_path / "deep" / "race.html"
    assert run(*race, "-o", out) == 0
    assert f"wrote {out}" in capsys.readouterr().err
    twin, page = json.loads(out.with_suffix(".json").read_text()), out.read_text()
    assert_figures_equal_the_twin(page, twin)
    assert_page_stands_alone(page)
    assert twin["verdict"][0]["outcome"] == "won"
    assert sorted(path.name for path in out.parent.iterdir()) == ["race.html", "race.json"]


def test_the_reference_of_a_directory_is_sgd_unless_another_is_named(race, tmp_path, capsys):
    assert run(race[0].parent, "--format", "json") == 0
    twin = json.loads(capsys.readouterr().out)
    assert twin["title"] == "Comparison: sgd, jorge"
    assert twin["verdict"][0] == {
        "text": "Jorge reached sgd's final accuracy (0.8) in 0.67x the epochs of sgd, earlier on 2 of 2 seeds; "
        "2 seeds cannot rule out chance.",
        "outcome": "won",
    }
    (notes,) = [section["lines"] for section in twin["sections"] if section["name"] == "notes"]
    assert notes[0].startswith("sgd is the reference, since it is trained with SGD")
    assert run(race[0].parent, "--reference", "jorge", "--format", "json") == 0
    assert json.loads(capsys.readouterr().out)["title"] == "Comparison: jorge, sgd"


def test_the_verdict_changes_with_the_records(race, tmp_path):
    out = tmp_path / "race.html"
    assert run(*race, "-o", out) == 0
    assert '<b class="badge won">' in out.read_text()
    for records in (tmp_path / "runs" / "jorge").glob("*/records.jsonl"):
        records.write_text(re.sub(r'"top1":0\.\d+', '"top1":0.2', records.read_text()))
    assert run(*race, "-o", out, "--force") == 0
    page = out.read_text()
    assert '<b class="badge lost">' in page
    assert '<b class="badge won">' not in page


def test_json_goes_to_stdout_and_writes_nothing(race, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run(*race, "--format", "json") == 0
    twin = json.loads(capsys.readouterr().out)
    assert (twin["kind"], twin["format"]) == ("runs", 1)
    assert not list(tmp_path.glob("report.*"))
    assert run(*race) == 0
    assert json.loads((tmp_path / "report.json").read_text()) == twin


def test_a_study_by_its_name_and_by_its_folder(made, tmp_path, monkeypatch):
    by_name, by_folder = tmp_path / "name.html", tmp_path / "folder.html"
    assert run("small", *place(made), "-o", by_name) == 0
    monkeypatch.setenv("JORGE_TUNE_STORAGE", str(made.folder / "study.db"))
    monkeypatch.chdir(made.folder)
    assert run("runs/small", "-o", by_folder) == 0
    twin = json.loads(by_name.with_suffix(".json").read_text())
    again = json.loads(by_folder.with_suffix(".json").read_text())
    assert [figure["series"] for s in twin["sections"] for figure in s["figures"]] == [
        figure["series"] for s in again["sections"] for figure in s["figures"]
    ]
    assert [figure["key"] for section in twin["sections"] for figure in section["figures"]] == [
        "confirmation",
        "history",
        "importance",
        "parallel",
        "slice-lr-factor",
        "slice-refresh-interval",
        "timeline",
        "metric-by-epoch",
        "metric-by-seconds",
        "learning-rate",
        "iteration-time",
    ]
    assert_figures_equal_the_twin(by_name.read_text(), twin)
    assert "bootstrapped 0.1 x 2 (trial 1 of study small)" in by_name.read_text()
    curves = next(section for section in twin["sections"] if section["name"] == "curves")
    medians = [series["name"] for series in curves["figures"][0]["series"] if series["kind"] == "line"]
    assert medians == ["baseline", "bootstrap", "trial 1"]


def test_the_studys_verdict_is_that_of_its_trials_today(made, tmp_path):
    conclude(made.opened)
    out = tmp_path / "a.html"
    assert run("small", *place(made), "-o", out) == 0
    assert "The best is trial 1" in out.read_text()
    with sqlite3.connect(made.folder / "study.db") as connection:
        connection.execute("UPDATE trial_values SET value = 0.01 WHERE value > 0.15")
    connection.close()
    assert run("small", *place(made), "-o", out, "--force") == 0
    assert "The best is trial 1" not in out.read_text()


def test_a_study_is_left_as_it_was(made, tmp_path):
    with sqlite3.connect(made.folder / "study.db") as connection:
        before = list(connection.iterdump())
        assert run("small", *place(made), "-o", tmp_path / "a.html") == 0
        assert list(connection.iterdump()) == before
    connection.close()


def test_a_study_whose_runs_are_elsewhere_says_so(made, tmp_path):
    shutil.rmtree(made.folder / "runs")
    out = tmp_path / "a.html"
    assert run("small", *place(made), "-o", out) == 0
    assert "No curves: the run directories are not on this machine" in out.read_text()


def test_a_study_without_a_finished_trial_is_an_honest_page(tmp_path):
    made = Searched(tmp_path / "study")
    out = tmp_path / "a.html"
    assert run("small", *place(made), "-o", out) == 0
    page = out.read_text()
    assert "Nothing to draw: no trial has ended." in page
    assert "undecided" in page


def test_measurements_beside_the_runs_and_named_ones_are_shown(race, tmp_path, capsys):
    probe = {"recipe": "sgd", "points": 3, "readings": [], "schedule": [[0, 0.1]], "walked": [], "notes": []}
    (tmp_path / "runs" / "sgd" / "probe.json").write_text(json.dumps(probe))
    assert run(*race, "--format", "json") == 0
    twin = json.loads(capsys.readouterr().out)
    assert "probe-1" in [section["name"] for section in twin["sections"]]
    (tmp_path / "other.json").write_text(json.dumps({"written": "x", "probe": probe}))
    assert run(*race, "--format", "json", "--with", tmp_path / "other.json") == 0
    twin = json.loads(capsys.readouterr().out)
    assert {"probe-1", "probe-2"} <= {section["name"] for section in twin["sections"]}


def test_pictures_or_the_reason_why_not(race, tmp_path, capsys):
    assert run(*race, "--png", tmp_path / "pictures") == 0
    said = capsys.readouterr().err
    pictures = sorted(path.name for path in (tmp_path / "pictures").glob("*"))
    assert "no PNG written: " in said or pictures == [
        "iteration-time.png",
        "learning-rate.png",
        "metric-by-epoch.png",
        "metric-by-seconds.png",
    ]


def test_what_a_stranger_does_wrong_is_one_message(race, made, tmp_path, capsys):
    storage = ("--storage", made.folder / "study.db")
    (tmp_path / "there.json").write_text("{}")
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.json").write_text("no JSON")
    out = ("-o", tmp_path / "page.html")
    cases = {
        "no study 'nothere' in this storage; there are small": ("nothere", *storage, *out),
        "the file is missing or empty": ("small", "--storage", tmp_path / "none.db", *out),
        "is not a directory; give run directories": (race[0], tmp_path / "none", *out),
        "are for a study": (race[0], *storage, *out),
        "a search has its own objective": ("small", *storage, "--metric", "loss", *out),
        "there.json: exists already": (*race, "-o", tmp_path / "there.html"),
        "must end in .html": (*race, "-o", tmp_path / "page.txt"),
        "no run directory here or below": (tmp_path / "empty", *out),
        "must be a JSON file": (*race, "--with", tmp_path / "text.json", *out),
        "holds neither a calibration nor a probe": (*race, "--with", tmp_path / "there.json", *out),
        "cannot be read": (*race, "--with", tmp_path / "gone.json", *out),
        "cannot be written": (*race, "-o", tmp_path / "text.json" / "page.html"),
        "no metric 'bleu'": (*race, "--metric", "bleu", *out),
    }
    for message, arguments in cases.items():
        assert run(*arguments) == 2, message
        said = capsys.readouterr()
        assert message in said.err
        assert said.out == ""
        assert len(said.err.strip().splitlines()) == 1
    assert not (tmp_path / "page.html").exists()


def test_runs_that_cannot_be_compared_are_one_message(tmp_path, capsys):
    silent = write_run(tmp_path / "silent", [])
    assert run(silent, "-o", tmp_path / "a.html") == 2
    assert "finished without one evaluation" in capsys.readouterr().err
    words = write_run(tmp_path / "words", [3.0, 2.0], name="lm", metric="perplexity")
    images = write_run(tmp_path / "images", [0.3, 0.4], name="cnn")
    (words / "records.jsonl").write_text(re.sub(r'"loss":[^,]*,"perp', '"perp', (words / "records.jsonl").read_text()))
    assert run(words, images, "-o", tmp_path / "a.html") == 2
    assert "share no metric" in capsys.readouterr().err


def test_a_report_never_overwrites_the_storage(made, tmp_path, capsys):
    storage = (tmp_path / "study" / "study.db").rename(tmp_path / "study" / "study.json")
    before = storage.read_bytes()
    out = storage.with_suffix(".html")
    assert run("small", "--storage", f"sqlite:///{storage}", "-o", out, "--force") == 2
    assert f"{storage}: is the storage itself; give another name" in capsys.readouterr().err
    assert storage.read_bytes() == before
    assert not out.exists()


def test_records_that_contradict_the_study_are_named(tmp_path, capsys):
    made = confirmed(tmp_path, confirm_seeds=(1, 2))
    conclude(made.opened)
    place = ("--storage", tmp_path / "study.db", "--runs", made.runs("small"), "--format", "json")
    assert run("small", *place) == 0
    assert "the study holds" not in capsys.readouterr().out
    (records, *_) = sorted(made.runs("small.confirm").rglob("records.jsonl"))
    records.write_text(re.sub(r'"top1":[0-9.]+', '"top1":0.25', records.read_text()))
    assert run("small", *place) == 0
    told = json.loads(capsys.readouterr().out)
    (note,) = [sentence["text"] for sentence in told["verdict"] if "the study holds" in sentence["text"]]
    assert "its records say 0.25" in note


def test_a_study_is_judged_by_its_records_where_they_are_edited_to_make_the_best_trial_lose(tmp_path, capsys):
    made = confirmed(tmp_path, confirm_seeds=tuple(range(1, 8)))
    conclude(made.opened)
    place = ("--storage", tmp_path / "study.db", "--runs", made.runs("small"), "--format", "json")
    assert run("small", *place) == 0
    before = json.loads(capsys.readouterr().out)["data"]["study"]["verdict"]
    losers = [
        made.runs("small.confirm") / f"trial-{row.number}" / f"seed-{row.point['seed']}"
        for row in read_rows(made.confirmation().study)
        if row.point["contender"] == "search" and place_of(row.point) != made.opened.plan.space.bootstrap_point()
    ]
    assert len(losers) == 7
    for folder in losers:
        records = folder / "records.jsonl"
        records.write_text(re.sub(r'"top1":[0-9.]+', '"top1":0.01', records.read_text()))
    assert run("small", *place) == 0
    after = json.loads(capsys.readouterr().out)
    assert set(after["data"]["study"]["confirmation"]["best"].values()) == {0.01}
    assert before["single_shot"]["outcome"] == "beaten"
    assert after["data"]["study"]["verdict"]["single_shot"]["outcome"] == "held"
    assert after["verdict"][1]["outcome"] == "held"
    assert fresh_verdict(made.opened)["single_shot"] == before["single_shot"]  # nothing was written
