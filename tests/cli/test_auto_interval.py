"""The interval where it is used: bootstrap --calibrate, `auto` in train and compare, one measured elsewhere."""

from __future__ import annotations

import json
from contextlib import contextmanager
from functools import partial
from types import SimpleNamespace

import pytest

from jorge_tune.calibration import bench as batch_limit
from jorge_tune.cli import main
from jorge_tune.cli.cmd_bootstrap import _study
from jorge_tune.recipe.bootstrap import bootstrap
from jorge_tune.recipe.recipe_files import read_recipe
from jorge_tune.study import study_file
from tests.calibration.scripted_bench import ScriptedBench, loaded_from, noisy
from tests.cli.test_calibrate_freq import RECIPE

AUTO = RECIPE.replace("lr: 0.1", "lr: 0.1\n  refresh_interval: auto")
SGD = RECIPE.replace("name: jorge", "name: sgd").replace("lr: 0.1", "lr: 0.1\n  momentum: 0.9")


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("JORGE_TUNE_CACHE", str(tmp_path / "cache"))
    for name, text in (("auto", AUTO), ("plain", RECIPE), ("sgd", SGD)):
        (tmp_path / f"{name}.yaml").write_text(text.replace("name: tiny", f"name: {name}"))
    return tmp_path


@pytest.fixture(autouse=True)
def script(monkeypatch):
    """What the scripted benches are made of, and how many were opened."""
    script = {"disturbance": noisy(0.005)}
    opened = []

    @contextmanager
    def open_scripted(recipe, device, *, real_data=False):
        opened.append(recipe.name)
        yield ScriptedBench(**{key: value for key, value in script.items() if key != "opened"})

    monkeypatch.setattr(batch_limit, "open_bench", open_scripted)
    script["opened"] = opened
    return script


def run(command: str, *arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main([command, *arguments, "--device", "cpu"])
    assert isinstance(ended.value.code, int)
    return ended.value.code


def test_bootstrap_writes_the_measured_interval_with_its_reason(here, capsys):
    assert run("bootstrap", "sgd.yaml", "--calibrate") == 0
    made = read_recipe("jorge.yaml")
    interval = made.optimizer.refresh_interval
    assert 5 <= interval <= 7
    assert made.calibration.device == "a scripted device"
    text = (here / "jorge.yaml").read_text()
    assert f"refresh_interval: {interval}  # measured on a scripted device: within 10 % of the baseline's step" in text
    shown = capsys.readouterr()
    assert f"refresh_interval {interval}: the smallest" in shown.out
    assert run("calibrate-freq", "jorge.yaml") == 0  # its fingerprint is that of the written recipe
    assert "from the cache" in capsys.readouterr().out


def test_bootstrap_without_an_answer_still_writes_the_recipe(here, script, capsys):
    script["extra"] = 0.03
    assert run("bootstrap", "sgd.yaml", "--calibrate", "-o", "out.yaml") == 4
    made = read_recipe("out.yaml")
    assert (made.optimizer.refresh_interval, made.calibration) == (None, None)
    assert "infeasible: even without a refresh" in capsys.readouterr().out
    script["disturbance"] = loaded_from(15, 1.5)
    assert run("bootstrap", "sgd.yaml", "--calibrate", "-o", "other.yaml", "--threads", "1") == 4
    assert (here / "other.yaml").is_file()


@pytest.mark.usefixtures("one_fork_server")
def test_the_study_is_run_without_its_limit_where_no_interval_is_found(here, script, capsys, monkeypatch):
    """Whoever asked for a study gets one; the exit code still says that the calibration has no answer."""
    monkeypatch.setattr(study_file, "study_around", partial(study_file.study_around, confirm_seeds=1))
    script["extra"] = 0.03
    arguments = ("--calibrate", "--study", "1", "--threads", "1", "--format", "json")
    assert run("bootstrap", "sgd.yaml", *arguments) == 4
    shown = capsys.readouterr()
    assert "found no refresh interval, so the study runs without a limit" in shown.err
    data = json.loads(shown.out)
    assert data["calibration"]["outcome"] == "infeasible"
    assert (data["study"]["counts"]["complete"], data["study"]["constraint"]) == (1, None)
    assert (here / "jorge.yaml").is_file()


def test_a_study_is_not_started_after_ctrl_c_in_the_probe(here, capsys):
    sgd = read_recipe("sgd.yaml")
    interrupted = SimpleNamespace(outcome="interrupted")
    assert _study("my sgd.yaml", sgd, bootstrap(sgd), {"trials": 7}, None, interrupted, "table") == (0, None)
    assert "the study did not start" in (told := capsys.readouterr().err)
    assert "`jorge-tune study run 'my sgd.yaml' --trials 7` starts it" in told
    assert not (here / "studies").exists()


def test_bootstrap_as_data(capsys):
    assert run("bootstrap", "sgd.yaml", "--calibrate", "--format", "json") == 0
    data = json.loads(capsys.readouterr().out)
    derivation = next(d for d in data["derivations"] if d["field"] == "optimizer.refresh_interval")
    assert derivation["after"] == data["calibration"]["interval"]


def test_bootstrap_refuses_before_it_measures(here, script, capsys):
    (here / "jorge.yaml").write_text("mine")
    assert run("bootstrap", "sgd.yaml", "--calibrate") == 2
    assert "jorge.yaml: exists already" in capsys.readouterr().err
    assert script["opened"] == []
    assert (here / "jorge.yaml").read_text() == "mine"


def test_auto_is_measured_before_a_run_and_recorded_in_it(here, script, capsys):
    assert run("train", "auto.yaml") == 0
    assert "refresh_interval is auto; measuring it" in capsys.readouterr().err
    held = read_recipe("runs/auto/seed-0/recipe.yaml")
    assert isinstance(held.optimizer.refresh_interval, int)
    assert held.calibration.device == "a scripted device"
    assert (here / "auto.yaml").read_text() == AUTO.replace("name: tiny", "name: auto")
    assert run("train", "auto.yaml", "--seed", "1") == 0  # from the cache
    assert len(script["opened"]) == 1


def test_a_run_that_is_taken_up_again_keeps_its_interval(here, script, capsys):
    assert run("train", "auto.yaml", "--max-steps", "3") == 0
    held = read_recipe("runs/auto/seed-0/recipe.yaml")
    for path in (here / "cache" / "calibrations").iterdir():
        path.unlink()
    script["refresh"] = 0.3  # would be another interval today
    assert run("train", "auto.yaml", "--resume") == 0
    assert read_recipe("runs/auto/seed-0/recipe.yaml") == held
    assert len(script["opened"]) == 1
    capsys.readouterr()
    assert run("train", "auto.yaml") == 2
    assert "--resume" in capsys.readouterr().err
    assert len(script["opened"]) == 1


def test_auto_without_an_answer_trains_nothing(here, script, capsys):
    script["extra"] = 0.03
    assert run("train", "auto.yaml") == 4
    shown = capsys.readouterr()
    assert "infeasible: even without a refresh" in shown.err
    assert "--set optimizer.refresh_interval=10" in shown.err
    assert not (here / "runs").exists()


def test_compare_measures_auto_first(here, script, capsys):
    assert run("compare", "sgd.yaml", "auto.yaml", "--seeds", "0", "--set", "epochs=1") == 0
    held = read_recipe("runs/auto/seed-0/recipe.yaml")
    assert isinstance(held.optimizer.refresh_interval, int)
    script["extra"] = 0.03
    assert run("compare", "sgd.yaml", "auto.yaml", "--out", "b", "--set", "batch_size=64", "--seeds", "0") == 4
    assert not (here / "b").exists()


@pytest.mark.usefixtures("one_fork_server")
def test_a_comparison_that_is_kept_measures_auto_once(here, script, monkeypatch):
    monkeypatch.setenv("JORGE_TUNE_STORAGE", str(here / "race.db"))
    arguments = ("sgd.yaml", "auto.yaml", "--set", "epochs=1", "--name", "race")
    assert run("compare", *arguments, "--seeds", "0") == 0
    held = read_recipe("studies/race/trial-1/seed-0/recipe.yaml")
    assert isinstance(held.optimizer.refresh_interval, int)
    for path in (here / "cache" / "calibrations").iterdir():
        path.unlink()
    script["refresh"] = 0.3  # would be another interval today
    assert run("compare", *arguments, "--seeds", "0-1") == 0
    again = read_recipe("studies/race/trial-3/seed-1/recipe.yaml")
    assert (again.optimizer, again.calibration) == (held.optimizer, held.calibration)
    assert len(script["opened"]) == 1


def test_an_interval_that_was_measured_elsewhere_is_warned_of(here, capsys):
    assert run("calibrate-freq", "plain.yaml", "--write") == 0
    capsys.readouterr()
    assert run("train", "plain.yaml", "--out", "a") == 0
    assert "measured under other conditions" not in capsys.readouterr().err
    assert run("train", "plain.yaml", "--out", "b", "--set", "batch_size=64") == 0
    assert "was measured under other conditions: on a scripted device" in capsys.readouterr().err
    assert run("train", "plain.yaml", "--out", "c", "--set", "optimizer.refresh_interval=3") == 0
    assert "measured under other conditions" not in capsys.readouterr().err
    assert read_recipe("c/recipe.yaml").calibration is None  # that is not where this interval came from


def test_recipes_without_an_interval_are_trained_as_ever(script, capsys):
    assert run("train", "sgd.yaml") == 0
    assert run("train", "plain.yaml") == 0
    assert "measured" not in capsys.readouterr().err
    assert script["opened"] == []
