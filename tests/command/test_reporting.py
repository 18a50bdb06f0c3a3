"""What a script may call, outside a run and inside one."""

from __future__ import annotations

import json
import math
import subprocess
import sys

import numpy as np
import pytest
import torch

import jorge_tune
from jorge_tune import reporting
from tests.command.scripts import python_path

_THIRD_OF_STEP_0 = "SLURM_PROCID=2,SLURM_STEP_ID=0"


@pytest.fixture(autouse=True)
def outside(monkeypatch):
    for names in reporting._RANKS:
        monkeypatch.delenv(names[0], raising=False)
    monkeypatch.delenv(reporting.RUN, raising=False)
    monkeypatch.setattr(reporting, "_listener", reporting._Listener())


@pytest.fixture
def inside(tmp_path, monkeypatch):
    monkeypatch.setenv(reporting.RUN, str(tmp_path))
    return tmp_path


def reports(folder):
    path = folder / reporting.REPORTS
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def test_outside_a_run_nothing_happens(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    jorge_tune.report(step=1, top1=0.5)
    assert jorge_tune.should_stop() is False
    assert jorge_tune.run_directory() is None
    assert list(tmp_path.iterdir()) == []


def test_values_of_any_kind_of_number_are_reported(inside):
    jorge_tune.report(step=np.int64(3), epoch=np.float32(0.5), part="val", a=torch.tensor(0.5), b=np.float64(2), c=1)
    jorge_tune.report(4, 1, "train", loss=math.nan, other=-math.inf)
    first, second = reports(inside)
    assert (first["step"], first["epoch"], first["part"]) == (3, 0.5, "validation")
    assert first["metrics"] == {"a": 0.5, "b": 2.0, "c": 1.0}
    assert second["metrics"] == {"loss": "nan", "other": "-inf"}
    assert jorge_tune.run_directory() == inside


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"top1": 0.5}, ValueError, "report needs step or epoch"),
        ({"step": 1}, ValueError, "report needs a value"),
        ({"step": 1.5, "a": 1}, TypeError, "step must be a whole number, got 1.5"),
        ({"step": True, "a": 1}, TypeError, "step must be a whole number, got True"),
        ({"step": -1, "a": 1}, ValueError, "step must be 0 or more, got -1"),
        ({"epoch": math.nan, "a": 1}, ValueError, "epoch must be 0 or more, got nan"),
        ({"epoch": "1", "a": 1}, TypeError, "epoch must be a number, got '1'"),
        ({"step": 1, "part": "both", "a": 1}, ValueError, "part must be train, validation or test, got 'both'"),
        ({"step": 1, "a": "0.5"}, TypeError, "a must be a number, got '0.5'"),
        ({"step": 1, "a": None}, TypeError, "a must be a number, got None"),
        ({"step": 1, "a": True}, TypeError, "a must be a number, got True"),
        ({"step": 1, "a": torch.ones(2)}, TypeError, "a must be a number, got a value of type Tensor"),
    ],
)
@pytest.mark.parametrize("is_inside", [False, True])
def test_a_wrong_value_is_refused_wherever_the_script_runs(tmp_path, monkeypatch, arguments, error, words, is_inside):
    if is_inside:
        monkeypatch.setenv(reporting.RUN, str(tmp_path))
    with pytest.raises(error, match=words):
        jorge_tune.report(**arguments)
    assert reports(tmp_path) == []


@pytest.mark.parametrize(
    ("variables", "is_first"),
    [
        ({}, True),
        ({"RANK": "0"}, True),
        ({"RANK": "1"}, False),
        ({"SLURM_PROCID": "2", "SLURM_STEP_ID": "1"}, False),
        ({"OMPI_COMM_WORLD_RANK": "0"}, True),
        ({"PMI_RANK": "3"}, False),
        # what the run's own process had already is not the script's: a worker that Slurm started as its third
        ({"SLURM_PROCID": "2", "SLURM_STEP_ID": "0", "JORGE_TUNE_OUTER_RANKS": "SLURM_PROCID=2,SLURM_STEP_ID=0"}, True),
        (
            {"SLURM_PROCID": "2", "SLURM_STEP_ID": "4", "JORGE_TUNE_OUTER_RANKS": "SLURM_PROCID=2,SLURM_STEP_ID=0"},
            False,
        ),
    ],
)
def test_the_first_rank_alone_speaks(inside, monkeypatch, variables, is_first):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    (inside / reporting.STOP).touch()
    jorge_tune.report(step=1, top1=0.5)
    assert jorge_tune.should_stop() is is_first
    assert len(reports(inside)) == is_first


def test_the_ranks_of_an_environment_are_handed_on():
    given = reporting.ranks_of({"RANK": "1", "SLURM_PROCID": "2", "OTHER": "x"})
    assert given == "RANK=1 SLURM_PROCID=2,SLURM_STEP_ID="


def test_a_request_to_stop_is_looked_for_now_and_then_and_stays(inside, monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(reporting.time, "monotonic", lambda: clock[0])
    assert jorge_tune.should_stop() is False
    assert (inside / reporting.LISTENS).exists()
    (inside / reporting.STOP).touch()
    clock[0] = 0.05
    assert jorge_tune.should_stop() is False  # not looked for again yet
    clock[0] = 0.2
    assert jorge_tune.should_stop() is True
    (inside / reporting.STOP).unlink()
    assert jorge_tune.should_stop() is True


def test_it_loads_the_standard_library_alone():
    program = "import sys, jorge_tune; jorge_tune.report(step=1, a=1); print(*sorted(sys.modules))"
    loaded = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, env=python_path()
    )
    ours = {name for name in loaded.stdout.split() if name.startswith("jorge_tune")}
    assert ours == {"jorge_tune", "jorge_tune.reporting"}
    assert not set(loaded.stdout.split()) & {"torch", "numpy", "optuna", "click", "yaml"}


def test_the_function_keeps_its_name_when_pages_are_written():
    import jorge_tune.reports.report

    assert jorge_tune.reports.report
    assert callable(jorge_tune.report)
