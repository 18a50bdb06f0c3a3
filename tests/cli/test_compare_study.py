"""`compare` on the study engine: real runs on a part of the digits by two workers, and what a stranger does wrong."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

from jorge_tune.cli import main
from jorge_tune.cli.cmd_compare import default_name
from jorge_tune.records import read_records
from tests.compare.race_folders import SGD, write_run

RECIPE = """\
version: 1
name: {name}
task:
  kind: classification
  model: {{name: mlp, args: {{hidden: [16], dropout: 0.2}}}}
  data: {{name: digits, subset: 300}}
optimizer: {optimizer}
schedule: {{name: cosine, warmup: {{epochs: 1}}}}
epochs: {epochs}
batch_size: 50
"""
SGD_SECTION = "{name: sgd, lr: 0.1, momentum: 0.9, weight_decay: 5.0e-4}"
RACE = (
    *("mine-sgd.yaml", "--against", "control,jorge", "--seeds", "0-1"),
    *("--device", "cpu", "--threads", "1", "--target", "0.3"),
)
ENGINE = ("--workers", "2", "--name", "race", "--format", "json")
SECONDS = ("seconds_to_target", "train_seconds")


def write_recipe(folder, name, optimizer=SGD_SECTION, epochs=3):
    path = folder / f"{name}.yaml"
    path.write_text(RECIPE.format(name=name, optimizer=optimizer, epochs=epochs))
    return path


def compare(*arguments):
    """The exit code of a command in this process."""
    with pytest.raises(SystemExit) as ended:
        main(["compare", *map(str, arguments)])
    return ended.value.code


def jorge_tune(command, *arguments):
    with pytest.raises(SystemExit) as ended:
        main([command, *map(str, arguments)])
    return ended.value.code


def process(folder, *arguments):
    """The same in a process of its own, which has not ended."""
    command = [sys.executable, "-m", "jorge_tune", "compare", *map(str, arguments)]
    return subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for(condition, alive):
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline
        assert alive.poll() is None, alive.stderr.read()
        time.sleep(0.02)


def has_evaluation(records):
    return records.exists() and b"evaluation" in records.read_bytes()


def workers_of(pid):
    """The command's workers; its fork server is a child too, and no worker."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [int(one) for one in children if b"jorge_tune.study.worker" in Path(f"/proc/{one}/cmdline").read_bytes()]


def without_seconds(data):
    """A comparison without what the clock says, and where the runs lie."""
    for contender in data["contenders"]:
        contender["folders"] = len(contender["folders"])
        for scores in (contender, *contender["scores"]):
            for name in SECONDS:
                scores.pop(name)
    contests = [contender["against_first"] for contender in data["contenders"][1:]]
    for contest in [*contests, *(one["paired"] for one in data["optimizer_apart"])]:
        for name in ("seconds", "second_ratio"):
            contest.pop(name)
    return data


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("JORGE_TUNE_STORAGE", raising=False)
    monkeypatch.delenv("OPTUNA_STORAGE", raising=False)
    return tmp_path


@pytest.fixture
def tests_importable(monkeypatch):
    """For runs whose optimizers are here."""
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))


@pytest.fixture(scope="module")
def once(tmp_path_factory):
    """A comparison of three contenders on two seeds, run once; and what it printed."""
    folder = tmp_path_factory.mktemp("once")
    write_recipe(folder, "mine-sgd")
    with process(folder, *RACE, *ENGINE) as race:
        out, err = race.communicate(timeout=240)
    assert race.returncode == 0, err
    return folder, out, err


@pytest.fixture
def finished(once, here):
    """It in a directory of the test's own, and what it printed."""
    folder, out, err = once
    shutil.copytree(folder, here, dirs_exist_ok=True)
    return out, err


def test_the_table_is_that_of_a_serial_compare_and_so_is_the_report(finished, here, capsys):
    out, err = finished
    data = json.loads(out)
    lines = [line for line in err.splitlines() if line.startswith("[")]
    assert len(lines) == 6
    assert lines[-1].startswith("[6/6] comparison: trial ")
    assert {line.split("(")[1].split(")")[0] for line in lines} == {
        f"mine-{name}, seed {seed}" for name in ("sgd", "control", "jorge") for seed in (0, 1)
    }
    assert compare(*RACE, "--format", "json") == 0
    serial = json.loads(capsys.readouterr().out)
    assert serial["contenders"][0]["seconds_to_target"]["median"] > 0
    assert serial["contenders"][2]["final"] != serial["contenders"][0]["final"], "optimizers make a difference"
    assert data.pop("is_side_by_side")
    assert not serial.pop("is_side_by_side")
    assert data["verdict"][-1] == "Seconds are not compared: the runs trained side by side on one machine."
    assert "training seconds" not in " ".join(data["verdict"])
    data["verdict"] = serial["verdict"] = None  # with seconds in its sentences
    assert without_seconds(data) == without_seconds(serial)
    assert (here / "runs" / "mine-jorge" / "seed-1").is_dir()
    assert (here / "studies" / "race" / "trial-5" / "seed-1").is_dir()

    assert jorge_tune("report", "race", "--target", "0.3", "--format", "json") == 0
    twin = json.loads(capsys.readouterr().out)
    assert (twin["kind"], twin["title"]) == ("runs", "Comparison: mine-sgd, mine-control, mine-jorge")
    again = without_seconds(twin["data"]["comparison"] | {"verdict": None})
    assert again.pop("is_side_by_side")
    assert again == serial
    assert jorge_tune("report", "studies/race") == 0
    assert "mine-jorge against mine-sgd" in (here / "report.html").read_text()


@pytest.mark.usefixtures("one_fork_server")
def test_the_same_command_trains_nothing_and_one_more_seed_adds_what_is_missing(finished, here, capsys):
    records = here / "studies" / "race" / "trial-5" / "seed-1" / "records.jsonl"
    before = records.read_bytes()
    assert compare(*RACE, *ENGINE) == 0
    again = capsys.readouterr()
    assert again.out == finished[0]
    assert again.err == "study race: 6 of 6 runs are complete already\n"
    assert compare(*RACE, *ENGINE, "--seeds", "0-2") == 0
    more = capsys.readouterr()
    assert more.err.startswith("study race: 6 of 9 runs are complete already\n")
    assert sum(line.startswith("[") for line in more.err.splitlines()) == 3
    assert [contender["runs"] for contender in json.loads(more.out)["contenders"]] == [3, 3, 3]
    assert records.read_bytes() == before


def test_other_study_commands_know_a_comparison(finished, here, capsys):
    assert jorge_tune("study", "status", "--name", "race") == 0
    out = capsys.readouterr().out
    assert "6 of 6 ended (6 complete)" in out
    assert "best" in out
    for command in (["run"], ["run", "--dry-run"], ["best"], ["confirm"], ["add", "--set", "lr=1"]):
        assert jorge_tune("study", *command, "--name", "race") == 2
        assert "study race is a comparison, not a search; `jorge-tune compare`" in capsys.readouterr().err
    assert jorge_tune("study", "stop", "--name", "race") == 0
    assert "`jorge-tune compare` with its recipes and --name race resumes it" in capsys.readouterr().out
    assert jorge_tune("study", "export", "--name", "race", "-o", "race.csv") == 0
    assert "mine-jorge" in (here / "race.csv").read_text()
    assert "lr:" not in (here / "race.csv").read_text()
    assert jorge_tune("study", "export", "--name", "race", "-o", "race.yaml") == 2
    assert "has no best trial; give --trial" in capsys.readouterr().err
    assert compare(*RACE, "--name", "race", "--set", "optimizer.lr=0.2") == 2
    err = capsys.readouterr().err
    assert "study race exists already and differs" in err
    assert "mine-sgd.optimizer.lr: 0.1 in the study, 0.2 now" in err
    assert "--branch" not in err
    assert jorge_tune("report", "race", "--metric", "top7") == 2
    assert "no metric 'top7'" in capsys.readouterr().err


def test_runs_that_are_elsewhere_are_said_in_a_note(finished, here, capsys):
    (here / "studies" / "race" / "trial-5").rename(here / "elsewhere")
    assert compare(*RACE, "--name", "race") == 0
    assert "Note: mine-jorge: seed 1: trained elsewhere" in capsys.readouterr().out


@pytest.mark.usefixtures("one_fork_server")
def test_a_contender_that_breaks_off_is_said_and_the_rest_compared(here, capsys, tests_importable):
    """A third-party optimizer races along; one that raises does not stop it. One that is not there is refused first."""
    sgd = write_recipe(here, "sgd", epochs=2)
    adamax = write_recipe(here, "adamax", "{name: 'torch.optim:Adamax', lr: 0.01, args: {betas: [0.8, 0.9]}}", 2)
    odd = write_recipe(here, "odd", "{name: 'tests.training.odd_optimizers:Odd', lr: 0.1, args: {act: complain}}", 2)
    gone = write_recipe(here, "gone", "{name: 'no.such.module:Class', lr: 0.1}", 2)
    folder = here / "before" / "seed-0"
    write_run(folder, [0.1, 0.2], name="before", optimizer=SGD)
    options = ("--seeds", "0", "--device", "cpu", "--target", "top1=0.15", "--workers", "2", "--format", "json")
    assert compare(folder.parent, sgd, gone, *options) == 2
    out, err = capsys.readouterr()
    assert "no.such.module" in err
    assert not (here / "studies").exists()

    assert compare(folder.parent, sgd, adamax, odd, *options) == 0
    out, err = capsys.readouterr()
    data = json.loads(out)
    runs = {contender["name"]: contender["runs"] for contender in data["contenders"]}
    assert list(runs.values()) == [1, 1, 1, 0]
    notes = "\n".join(data["notes"])
    assert "odd: seed 0: failed: " in notes
    assert "no such luck" in notes
    assert "odd against" in "\n".join(data["verdict"])
    assert "study sgd-vs-adamax-vs-odd in sqlite:" in err


@pytest.mark.usefixtures("one_fork_server")
def test_where_nothing_comes_to_an_end_the_reasons_are_the_message(here, capsys, tests_importable):
    odd = write_recipe(here, "odd", "{name: 'tests.training.odd_optimizers:Odd', lr: 0.1, args: {act: complain}}")
    assert compare(odd, "--seeds", "0", "--device", "cpu", "--storage", "new.db") == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert "no run finished: odd: seed 0: failed: the run broke off after step 2: ValueError: no such luck" in err


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="workers are found by /proc")
def test_a_worker_that_is_killed_and_then_ctrl_c_leave_a_race_that_ends_whole(here, capsys):
    recipes = [write_recipe(here, name, epochs=40) for name in ("one", "two")]
    arguments = (*recipes, "--seeds", "0", "--device", "cpu", "--workers", "2", "--format", "json", "--target", "0.5")
    records = [here / "studies" / "one-vs-two" / f"trial-{number}" / "seed-0" / "records.jsonl" for number in (0, 1)]
    with process(here, *arguments) as race:
        wait_for(lambda: all(has_evaluation(path) for path in records), race)
        for path in records:
            assert b'"finished"' not in path.read_bytes(), "too fast to be killed"
        os.kill(workers_of(race.pid)[0], signal.SIGKILL)
        wait_for(lambda: any(path.read_bytes().count(b'"start"') > 1 for path in records), race)
        race.send_signal(signal.SIGINT)
        out, err = race.communicate(timeout=120)
    assert race.returncode == 130, err
    assert out == ""
    assert "killed by SIGKILL" in err
    assert "the same command again to resume" in err
    starts = [path.read_bytes().count(b'"start"') for path in records]
    with process(here, *arguments) as race:
        out, err = race.communicate(timeout=120)
    assert race.returncode == 0, err
    data = json.loads(out)
    assert [(contender["name"], contender["runs"]) for contender in data["contenders"]] == [("one", 1), ("two", 1)]
    assert data["contenders"][0]["scores"][0]["final"] == data["contenders"][1]["scores"][0]["final"], "equal recipes"
    ends = [read_records(path)[-1]["outcome"] for path in records]
    assert ends == ["finished", "finished"]
    assert sum(path.read_bytes().count(b'"start"') for path in records) > sum(starts), "taken up, not trained anew"
    with sqlite3.connect(here / "studies" / "jorge-tune.db") as connection:
        assert connection.execute("SELECT state FROM trials").fetchall() == [("COMPLETE",)] * 2
    connection.close()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["SGD", "--workers", "2", "--out", "there"], "--out has no effect"),
        (["RUNS", "--workers", "2"], "run directories only"),
        (["RUNS", "--against", "jorge"], "--against needs a recipe"),
        (["SGD", "--against", "shampo"], "did you mean 'shampoo'?"),
        (["SGD", "--against", "adamw"], "give an AdamW recipe as another argument"),
        (["SGD", "--name", "a/b"], "--name: must be 1 to 100 letters"),
        (["SGD", "--name", "a", "--storage", "nonsense://x"], "nonsense"),
        (["SGD", "--seeds", "4294967296", "--workers", "1"], "seeds up to 4294967295"),
        (["SGD", "--workers", "0"], "--workers"),
    ],
)
def test_bad_input_is_one_clear_message_and_leaves_nothing(here, capsys, arguments, message):
    sgd = write_recipe(here, "sgd")
    write_run(here / "read" / "seed-0", [0.5])
    places = {"SGD": sgd, "RUNS": here / "read"}
    assert compare(*[places.get(argument, argument) for argument in arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert message in " ".join(err.split())
    assert "Traceback" not in err
    assert sorted(path.name for path in here.iterdir()) == ["read", "sgd.yaml"]


def test_a_race_in_this_process_takes_derived_contenders_too(here, capsys):
    sgd = write_recipe(here, "mine-sgd", epochs=2)
    kinds = "shampoo,sketchy,gen-sgd,gen-jorge"
    assert compare(sgd, "--against", kinds, "--seeds", "0", "--device", "cpu", "--threads", "1", "--target", "0.1") == 0
    out, err = capsys.readouterr()
    assert [line.split("] ")[1] for line in err.splitlines() if line.startswith("[")] == [
        f"mine-{kind}, seed 0: finished" for kind in ("sgd", *kinds.split(","))
    ]
    assert "mine-gen-jorge against mine-sgd" in out
    assert not (here / "studies").exists()


def test_a_race_in_this_process_loads_no_optuna(here):
    write_recipe(here, "sgd", epochs=1)
    code = "import sys; from jorge_tune.cli import main\ntry: main(sys.argv[1:])\nexcept SystemExit: pass\n"
    code += "print('optuna' in sys.modules, 'torch' in sys.modules)"
    command = [sys.executable, "-c", code, "compare", "sgd.yaml", "--seeds", "0", "--device", "cpu"]
    answer = subprocess.run(command, cwd=here, capture_output=True, text=True, check=True)
    assert answer.stdout.splitlines()[-1] == "False True"


def test_names_come_from_the_contenders_and_are_fit_for_folders():
    assert default_name(["cnn-sgd"]) == "cnn-sgd"
    assert default_name(["cnn-sgd", "cnn-jorge"]) == "cnn-sgd-vs-cnn-jorge"
    assert default_name(["sgd-1'", "a.sgd"]) == "sgd-1-vs-a-sgd"
    assert default_name(["resnet-small-sgd", *(f"contender-{n}" for n in range(7))]) == "resnet-small-sgd-vs-7-others"
    assert default_name(["x" * 100, "y"]) == "x" * 60 + "-vs-1-others"
