"""`study run` from its first trial to its verdict: real runs on a small part of the digits, two workers."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from jorge_tune.study.confirm import companion_studies
from jorge_tune.study.storage.address import parse_address
from jorge_tune.study.storage.open import open_storage
from jorge_tune.study.study import join_study
from jorge_tune.study.trial_rows import read_rows

RECIPE = """\
version: 1
name: tiny-sgd
task:
  kind: classification
  model: {name: mlp, args: {hidden: [16]}}
  data: {name: digits, subset: 300}
optimizer: {name: sgd, lr: 0.1, momentum: 0.9, weight_decay: 5.0e-4}
schedule: {name: cosine}
epochs: EPOCHS
batch_size: 50
"""
STUDY = """\
name: tiny
recipe: sgd.yaml
space:
  optimizer.lr: {factor: [0.25, 4]}
  optimizer.refresh_interval: {choices: [5, 10, 50]}
trials: 4
confirm_seeds: 2
constraint: none
pruner: none
device: cpu
"""


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "sgd.yaml").write_text(RECIPE.replace("EPOCHS", "2"))
    (tmp_path / "study.yaml").write_text(STUDY)
    return tmp_path


def command(*arguments):
    return [sys.executable, "-m", "jorge_tune", "study", *arguments]


def run(folder, *arguments, code=0):
    """stdout and stderr of a command in a process of its own."""
    answer = subprocess.run(command(*arguments), cwd=folder, capture_output=True, text=True, check=False)
    assert answer.returncode == code, answer.stdout + answer.stderr
    return answer.stdout, answer.stderr


def opened(folder):
    return join_study(open_storage(parse_address(str(folder / "studies" / "jorge-tune.db"))), "tiny")


@pytest.mark.slow
def test_a_study_runs_to_its_verdict_which_is_stored_and_shown_again(folder):
    out, err = run(folder, "run", "study.yaml", "--workers", "2", "--format", "json")
    verdict = json.loads(out)
    study = opened(folder)
    assert study.study.user_attrs["verdict"] == verdict
    status = json.loads(run(folder, "status", "--name", "tiny", "--format", "json")[0])
    assert status["verdict"] == verdict
    assert (status["state"], status["ended"]) == ("done", 4)
    rows = read_rows(study.study)
    assert [row.state for row in rows] == ["complete"] * 4
    assert rows[0].point == {"lr_factor": 1.0, "refresh_interval": 10}
    assert [(len(read_rows(one.study)), one.plan.name) for one in companion_studies(study)] == [
        (1, "tiny.sgd"),
        (6, "tiny.confirm"),
    ]
    assert [len(contender["values"]) for contender in verdict["contenders"]] == [2] * len(verdict["contenders"])
    best = max(rows, key=lambda row: (row.value, -row.number))
    assert (verdict["best"]["number"], verdict["best"]["value"]) == (best.number, best.value)
    assert verdict["sentences"][0] == verdict["headline"]
    assert "4 trials in all: 4 completed." in verdict["sentences"]
    lines = err.splitlines()
    assert sum(line.startswith("[") for line in lines) == 1 + 4 + len(verdict["contenders"]) * 2
    assert not list((folder / "studies" / "tiny" / "workers").glob("w-*"))
    again, told = run(folder, "run", "study.yaml", "--workers", "2", "--format", "json")
    assert json.loads(again) == verdict
    assert "[" not in told


@pytest.mark.skipif(os.name != "posix", reason="signals are sent the POSIX way")
def test_ctrl_c_leaves_a_study_that_the_same_command_takes_up(folder):
    (folder / "sgd.yaml").write_text(RECIPE.replace("EPOCHS", "60"))
    arguments = command("run", "study.yaml", "--workers", "2", "--trials", "3", "--confirm-seeds", "0")
    with subprocess.Popen(arguments, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        records = folder / "studies" / "tiny" / "trial-1" / "seed-0" / "records.jsonl"
        deadline = time.monotonic() + 120
        while not (records.exists() and b"evaluation" in records.read_bytes()):
            assert time.monotonic() < deadline
            assert process.poll() is None
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=120)
    assert process.returncode == 130, err
    assert out == ""
    assert "`jorge-tune study run --name tiny` resumes it" in err
    assert "running" not in {row.state for row in read_rows(opened(folder).study)}
    before = len(records.read_bytes().splitlines())
    out, err = run(folder, "run", "--name", "tiny", "--workers", "2")
    assert [row.state for row in read_rows(opened(folder).study)] == ["complete"] * 3
    assert len(records.read_bytes().splitlines()) > before > 1
    assert out.startswith("Verdict\nNothing is confirmed yet: on the seeds of the search alone, ")
    assert "\n3 trials in all: 3 completed." in out


def test_a_worker_from_elsewhere_joins_by_name(folder):
    run(folder, "stop", "--storage", "none.db", code=2)
    subprocess.run(
        [
            *(sys.executable, "-c"),
            "from jorge_tune.cli.study_options import make_study; "
            "from jorge_tune.study.study_file import read_study; "
            "make_study(read_study('study.yaml', {'trials': 2}), None)",
        ],
        cwd=folder,
        check=True,
    )
    out, err = run(folder, "worker", "--name", "tiny", "--threads", "1")
    assert out == ""
    assert [row.state for row in read_rows(opened(folder).study)] == ["complete"] * 2
    assert err.count("tiny: trial") == 2


@pytest.mark.slow
def test_a_dry_run_prints_the_plan_and_the_time_and_leaves_nothing(folder):
    out, _ = run(folder, "run", "study.yaml", "--workers", "2", "--dry-run", "--format", "json")
    data = json.loads(out)
    assert (data["plan"]["name"], data["plan"]["trials"]) == ("tiny", 4)
    estimate = data["estimate"]
    assert (estimate["search_runs"], estimate["baseline_runs"], estimate["confirmation_runs"]) == (4, 1, 6)
    assert estimate["steps_per_run"] == 12
    assert estimate["seconds"] > 0
    out, _ = run(folder, "run", "study.yaml", "--dry-run")
    assert "optimizer.lr" in out
    assert "between 0.025 and 0.4" in out
    assert sorted(path.name for path in folder.iterdir()) == ["sgd.yaml", "study.yaml"]


@pytest.mark.slow
def test_bootstrap_runs_the_whole_loop_in_one_command(folder):
    arguments = [sys.executable, "-m", "jorge_tune", "bootstrap", "sgd.yaml", "--study", "2", "--device", "cpu"]
    answer = subprocess.run(
        [*arguments, "--threads", "1", "--format", "json"], cwd=folder, capture_output=True, text=True, check=False
    )
    assert answer.returncode == 0, answer.stderr
    data = json.loads(answer.stdout)
    assert (folder / data["written"]).is_file()
    assert (data["study"]["study"], data["study"]["counts"]["complete"]) == ("tiny-jorge", 2)
    assert len(data["study"]["contenders"][0]["values"]) == 6
