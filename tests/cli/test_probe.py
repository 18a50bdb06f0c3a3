from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from jorge_tune.cli import main
from jorge_tune.recipe.recipe_files import read_recipe

_RECIPE = """\
version: 1
name: tiny
task:
  kind: classification
  model: {name: mlp, args: {hidden: [16]}}
  data: {name: digits}
optimizer: {name: sgd, lr: 0.1, momentum: 0.9}
schedule: {name: constant, warmup: {steps: 3}}
epochs: 2
batch_size: 128
"""
_SHORT = ("--batches", "2", "--threads", "1", "--device", "cpu")


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "tiny.yaml"
    path.write_text(_RECIPE)
    return path


def _run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as exit_info:
        main(list(arguments))
    assert isinstance(exit_info.value.code, int)
    return exit_info.value.code


def test_a_table_words_and_nothing_written(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _run("probe", "tiny.yaml", "--at", "5,12,40", *_SHORT) == 0
    out, err = capsys.readouterr()
    lines = out.splitlines()
    assert lines[0].startswith("tiny (sgd, seed 0) on cpu: the loss along 2 steps of its own training")
    assert lines[2].split()[:4] == ["step,", "batch", "lr", "lr*/lr"]
    assert [line.split()[:2] for line in lines[4:8]] == [
        ["5,", "own"],
        ["5,", "fresh"],
        ["12,", "own"],
        ["12,", "fresh"],
    ]
    assert any(line.startswith("What follows: ") for line in lines)
    assert any(line.startswith("What does not follow: an optimum below lr on fresh batches") for line in lines)
    assert lines[-1] == "Note: left out: step 40; the last step of the training is 17"
    assert err == "data: digits, 10 classes, 1x8x8; train 1078, validation 359, test 360 images\n"
    assert os.listdir() == ["tiny.yaml"]


def test_no_suggestion_is_an_exit_code_with_its_reason(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _run("probe", "tiny.yaml", "--at", "0", *_SHORT) == 4
    assert "No suggestion: no reading supports a suggestion (step 0: the warm-up is not over" in capsys.readouterr().out


def test_a_rate_far_too_low(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    changes = ("--set", "optimizer.lr=1.0e-4", "--set", "optimizer.momentum=0")
    assert _run("probe", "tiny.yaml", "--at", "4,5", *changes, *_SHORT, "--format", "json") == 0
    data = json.loads(capsys.readouterr().out)
    assert data["suggestion"] == {
        "direction": "raise",
        "reason": "even the greedy optimum on fresh batches is longer than the step",
        "rests_on": [4, 5],
        "left_out": [],
    }
    assert any("the rate is probably too low" in line for line in data["words"])


def test_from_a_checkpoint_with_its_seed_and_a_plot(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _run("train", "tiny.yaml", "--seed", "7", "--max-steps", "6", "--out", "run", "--device", "cpu") == 0
    assert _run("probe", "tiny.yaml", "--checkpoint", "run", "--plot", "deep/p.html", "--points", "3", *_SHORT) == 0
    out, err = capsys.readouterr()
    assert "(sgd, seed 7)" in out
    assert "left out: step 106, 1006" in out
    assert "cannot judge" in out
    assert err.endswith("wrote deep/p.html\n")
    page = Path("deep/p.html").read_text()
    assert "step 6: times the step" in page
    assert "the recipe&#x27;s schedule" in page or "the recipe's schedule" in page
    assert _run("probe", "tiny.yaml", "--plot", "deep/p.html", *_SHORT) == 2
    assert "exists already" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--at", "1,x"), "must be step numbers"),
        (("--at", "-3"), "must be step numbers"),
        (("--at", "99"), "at must name steps from 0 to 17"),
        (("--points", "4"), "'4' is not one of '3', '5'"),
        (("--batches", "0"), "0 is not in the range"),
        (("--plot", "x.png"), "--plot must end in .html"),
        (("--checkpoint", "nowhere"), "nowhere: not a run directory"),
    ],
)
def test_bad_input(recipe: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], message: str) -> None:
    assert _run("probe", "tiny.yaml", *arguments) == 2
    assert message in capsys.readouterr().err


def test_divergence_has_its_own_exit_code(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _run("probe", "tiny.yaml", "--set", "optimizer.lr=1e30", "--at", "0,15", *_SHORT) == 3
    assert "The training diverged: the loss was first not finite" in capsys.readouterr().out


def test_bootstrap_probes_what_it_writes(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ("bootstrap", "tiny.yaml", "-o", "jorge.yaml", "--probe", "--device", "cpu", "--threads", "1")
    assert _run(*arguments) == 4  # of 0, 100 and 1000 the training has step 0 alone, in the warm-up
    out, err = capsys.readouterr()
    assert "tiny-jorge (jorge, seed 0) on cpu: the loss along 1 step" in out
    assert "No suggestion" in out
    assert err.endswith("wrote jorge.yaml\n")
    assert read_recipe("jorge.yaml").optimizer.name == "jorge"
    assert _run(*arguments) == 2  # before anything is measured
    assert "exists already" in capsys.readouterr().err
    assert _run(*arguments, "--force", "--format", "json") == 4
    assert json.loads(capsys.readouterr().out)["probe"]["readings"][0]["step"] == 0
