from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest

from jorge_tune.cli import main

_RECIPE = """\
version: 1
name: tiny
task:
  kind: classification
  model: {name: mlp, args: {hidden: [16]}}
  data: {name: digits}
optimizer: {name: sgd, lr: 0.1, momentum: 0.9}
epochs: 2
batch_size: 128
"""
_DATA = "data: digits, 10 classes, 1x8x8; train 1078, validation 359, test 360 images\n"
_SHORT = ("--steps", "6", "--every", "3", "--refreshes", "5", "--threads", "1", "--device", "cpu")


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "tiny.yaml"
    path.write_text(_RECIPE)
    return path


def _run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as exit_info:
        main(["diagnose", *arguments])
    assert isinstance(exit_info.value.code, int)
    return exit_info.value.code


def test_tables_verdict_and_notes_and_nothing_is_written(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _run("tiny.yaml", *_SHORT) == 0
    out, err = capsys.readouterr()
    assert out.startswith("tiny-jorge (form series, seed 0): 6 steps, 3 of them read, on 2 blocks.")
    for title in ("Directions: ", "Blocks", "Preconditioners and ", "Convex quadratic, ", "Verdict"):
        assert any(line.startswith(title) for line in out.splitlines()), title
    assert out.rstrip().endswith(
        "Note: the recipe trains with sgd, so the Jorge recipe bootstrapped from it was diagnosed"
    )
    assert err == _DATA
    assert os.listdir() == ["tiny.yaml"]


def test_json_and_a_plot_in_the_other_form(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ("tiny.yaml", *_SHORT, "--set", "optimizer.form=congruence", "--set", "name=other")
    arguments += ("--seed", "4", "--plot", "deep/d.html", "--format", "json", "--parameters", "^1")
    assert _run(*arguments) == 0
    out, err = capsys.readouterr()
    data = json.loads(out)
    assert (data["form"], data["seed"], data["outcome"], data["steps"]) == ("congruence", 4, "finished", 6)
    assert [block["name"] for block in data["blocks"]] == ["1.weight"]
    assert [reading["step"] for reading in data["blocks"][0]["readings"]] == [1, 3, 6]
    assert data["blocks"][0]["readings"][2]["sides"]["left"]["asymmetry"] == 0
    assert len(data["quadratics"]) == 2
    assert data["verdict"][0].startswith("Jorge's direction (congruence) has")
    assert data["notes"] == [
        "the recipe trains with sgd, so the Jorge recipe bootstrapped from it was diagnosed",
        "left out: 3.weight does not match --parameters",
    ]
    assert err == _DATA + "wrote deep/d.html\n"
    assert "<h1>Diagnosis: other</h1>" in Path("deep/d.html").read_text()
    assert _run(*arguments) == 2
    assert "exists already" in capsys.readouterr().err


def test_divergence_exits_with_3_and_shows_what_was_read(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _run("tiny.yaml", *_SHORT, "--refreshes", "0", "--every", "1", "--set", "optimizer.lr=1e30") == 3
    out, err = capsys.readouterr()
    assert err.startswith(_DATA + "tiny-jorge: The run diverged: the loss was first not finite at step ")
    assert "The run diverged: the loss was first not finite at step" in out
    assert "Directions: " in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["tiny.yaml", "--set", "optimizer.name=torch.optim:AdamW"], "Write torch's own SGD or AdamW as `name: sgd`"),
        (["no-such-recipe"], "neither a file nor a shipped recipe"),
        (["coco/maskrcnn-jorge"], "cannot train a detection task"),
        (["tiny.yaml", "--set", "optimizer.name=shampoo"], "must be jorge, or sgd or adamw to bootstrap from"),
        (["tiny.yaml", "--set", "optimizer.form=other"], "optimizer.form"),
        (["tiny.yaml", "--parameters", "("], "--parameters must be a regular expression, got '('"),
        (
            ["tiny.yaml", "--parameters", "nothing"],
            "got 'nothing'; they are 1.weight; 3.weight",
        ),
        (["tiny.yaml", "--max-side", "3"], "1.weight (16 x 64) has a side above 3"),
        (["tiny.yaml", "--plot", "d.png"], "--plot must end in .html or .json, got 'd.png'"),
        (["tiny.yaml", "--steps", "0"], "--steps"),
        (["tiny.yaml", "--device", "cuda:99"], "device: 'cuda:99' cannot be used here"),
    ],
)
def test_bad_input_is_one_message(
    recipe: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert _run(*arguments) == 2
    out, err = capsys.readouterr()
    assert message in err
    assert "Traceback" not in err
    assert out == ""
    assert os.listdir() == ["tiny.yaml"]


def test_ctrl_c_in_the_quadratics_keeps_the_run_and_the_plot(
    recipe: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(refreshes: int, power: int) -> None:
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr("jorge_tune.diagnose.diagnose.study_quadratic", interrupted)
    assert _run("tiny.yaml", *_SHORT, "--plot", "d.html") == 130
    out, err = capsys.readouterr()
    sentence = "The diagnosis was interrupted: stopped by SIGINT in the convex quadratics, after the whole run."
    assert err == f"{_DATA}tiny-jorge: {sentence}\nwrote d.html\n"
    assert f"{sentence} The readings below were made before." in out
    assert "Directions: " in out
    assert "6 steps, 3 of them read, on 2 blocks" in out
    assert out.rstrip().endswith("Note: 2 of 2 convex quadratics are left out: interrupted by Ctrl-C")
    assert "<h1>Diagnosis: tiny-jorge</h1>" in Path("d.html").read_text()
