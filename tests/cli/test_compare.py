"""`compare` from the outside: real trainings of an epoch or two, written run directories, bad input."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from jorge_tune.cli import main
from jorge_tune.cli.cmd_compare import parse_target
from jorge_tune.errors import InputError
from jorge_tune.records import read_records
from tests.compare.race_folders import COSINE, JORGE, SGD, STEP, write_race, write_run
from tests.report.report_checks import assert_figures_equal_the_twin

RECIPE = """\
version: 1
name: {name}
task:
  kind: classification
  model: {{name: mlp}}
  data: {{name: digits}}
optimizer: {optimizer}
epochs: 2
batch_size: 128
"""


def run(*arguments):
    """The exit code."""
    with pytest.raises(SystemExit) as ended:
        main(["compare", *map(str, arguments)])
    return ended.value.code


def write_recipe(path, optimizer="{name: sgd, lr: 0.1, momentum: 0.9}", name=None):
    path.write_text(RECIPE.format(name=name or path.stem, optimizer=optimizer))
    return path


@pytest.fixture
def folders(tmp_path):
    contenders = {
        "sgd": ({0: [0.5, 0.7, 0.8], 1: [0.5, 0.7, 0.8]}, SGD, COSINE, 1.0),
        "jorge": ({0: [0.5, 0.8, 0.9], 1: [0.6, 0.9, 0.9]}, JORGE, STEP, 2.0),
    }
    return write_race(tmp_path / "runs", contenders)


def test_two_recipes_raced_then_reused_then_read(tmp_path, capsys):
    sgd = write_recipe(tmp_path / "sgd.yaml")
    jorge = write_recipe(tmp_path / "jorge.yaml", "{name: jorge, lr: 0.1, weight_decay: 1.0e-3}")
    arguments = [sgd, jorge, "--seeds", "0-1", "--out", tmp_path / "out", "--device", "cpu", "--format", "json"]
    assert run(*arguments) == 0
    first = capsys.readouterr()
    trained = [line.split("] ")[1] for line in first.err.splitlines() if line.startswith("[")]
    assert trained == [
        "sgd, seed 0: finished",
        "jorge, seed 0: finished",
        "sgd, seed 1: finished",
        "jorge, seed 1: finished",
    ]
    data = json.loads(first.out)
    assert [(c["name"], c["runs"]) for c in data["contenders"]] == [("sgd", 2), ("jorge", 2)]
    assert data["part"] == "validation"
    assert data["contenders"][0]["test"] is not None
    before = (tmp_path / "out" / "sgd" / "seed-1" / "records.jsonl").read_bytes()
    assert run(*arguments) == 0
    second = capsys.readouterr()
    assert second.err.count("reused") == 4
    assert second.out == first.out
    assert (tmp_path / "out" / "sgd" / "seed-1" / "records.jsonl").read_bytes() == before
    assert run(tmp_path / "out" / "sgd", tmp_path / "out" / "jorge", "--format", "json") == 0
    assert json.loads(capsys.readouterr().out) == data


def test_runs_of_one_seed_start_alike(tmp_path, capsys):
    """With a rate of almost nothing every contender stays at its initial weights: their losses must agree."""
    still = [write_recipe(tmp_path / f"{name}.yaml", f"{{name: {name}, lr: 1.0e-12}}") for name in ("sgd", "adamw")]
    assert run(*still, "--seeds", "3", "--out", tmp_path / "out", "--device", "cpu", "--metric", "loss") == 0
    losses = []
    for name in ("sgd", "adamw"):
        records = read_records(tmp_path / "out" / name / "seed-3" / "records.jsonl")
        losses.append([r["metrics"]["loss"] for r in records if r["kind"] == "evaluation"])
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    assert "tied in epochs" in capsys.readouterr().out


def test_run_folders_alone_are_only_read(folders, tmp_path, capsys):
    before = sorted((path, path.stat().st_mtime_ns) for path in tmp_path.rglob("*"))
    assert run(*folders, "--target", "0.8") == 0
    out = capsys.readouterr().out
    assert out.startswith("target: top1 >= 0.8 (given), read on the validation part")
    assert "jorge against sgd: won in epochs" in out
    assert sorted((path, path.stat().st_mtime_ns) for path in tmp_path.rglob("*")) == before


def test_a_lost_race_is_no_error(folders, capsys):
    assert run(*folders, "--reference", "jorge") == 0
    assert "sgd against jorge: lost in epochs" in capsys.readouterr().out


def test_of_run_directories_sgd_is_the_reference_and_that_is_said(folders, tmp_path, capsys):
    headline = "Jorge reached sgd's final accuracy (0.8) in 0.67x the epochs of sgd, earlier on 2 of 2 seeds"
    for given in (folders[::-1], [tmp_path / "runs"], [folders[1].parent]):
        assert run(*given) == 0
        shown = capsys.readouterr().out
        assert shown.split("\nVerdict\n")[1].startswith(headline)
        assert "jorge against sgd: won in epochs" in shown
        assert "Note: sgd is the reference, since it is trained with SGD; --reference takes another" in shown
    assert run(*folders) == 0  # given first: no choice was made
    assert "is the reference" not in capsys.readouterr().out


def test_without_sgd_the_first_given_is_the_reference(folders, tmp_path, capsys):
    other = write_run(tmp_path / "adam" / "seed-0", [0.5, 0.6, 0.7], name="adam", optimizer="{name: adamw, lr: 0.1}")
    assert run(folders[1], other.parent) == 0
    shown = capsys.readouterr().out
    assert "adam against jorge: lost" in shown
    assert "is the reference" not in shown


def test_a_reference_that_is_no_contender_is_refused_before_anything_is_trained(folders, tmp_path, capsys):
    recipe = write_recipe(tmp_path / "mlp.yaml")
    assert run(recipe, folders[0], "--reference", "sdg", "--out", tmp_path / "out") == 2
    assert "--reference: must be one of mlp, sgd, got 'sdg'" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_recipe_can_race_against_run_folders(folders, tmp_path, capsys):
    recipe = write_recipe(tmp_path / "mlp.yaml")
    assert (
        run(folders[0], recipe, "--set", "epochs=1", "--seeds", "0", "--out", tmp_path / "out", "--device", "cpu") == 0
    )
    out, err = capsys.readouterr()
    assert "mlp and sgd are not paired by their seeds: task.model differs" in out
    assert err.splitlines()[-1] == "[1/1] mlp, seed 0: finished"


def test_the_plot(folders, tmp_path, capsys):
    plot = tmp_path / "race.html"
    assert run(*folders, "--plot", plot) == 0
    assert plot.read_text().startswith("<!doctype html>")
    assert run(*folders, "--plot", plot) == 2
    assert "exists already" in capsys.readouterr().err
    assert run(*folders, "--plot", plot, "--force") == 0


def test_the_plots_numbers_alone(folders, tmp_path):
    assert run(*folders, "--plot", tmp_path / "race.html") == 0
    assert run(*folders, "--plot", tmp_path / "race.json") == 0
    twin = json.loads((tmp_path / "race.json").read_text())
    assert_figures_equal_the_twin((tmp_path / "race.html").read_text(), twin)
    assert [section["name"] for section in twin["sections"]][:3] == ["contenders", "curves", "pace"]


def test_a_png_is_written_or_missed_with_a_reason(folders, tmp_path, capsys):
    plot = tmp_path / "race.png"
    assert run(*folders, "--plot", plot) == 0
    assert ("no PNG written" in capsys.readouterr().err) != plot.exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere.yaml"], "neither a file nor a shipped recipe"),
        (["digits/cnn-sdg"], "digits/cnn-sgd"),
        (["RUNS", "--target", "top1=high"], "--target must be a number"),
        (["RUNS", "--target", "nan"], "--target must be a number"),
        (["RUNS", "--target", "top1=0.5", "--metric", "loss"], "give one of them"),
        (["RUNS", "--metric", "top7"], "no metric 'top7'"),
        (
            ["RUNS", "--target", "top1=95"],
            "--target must be a fraction for top1, greater than 0 and at most 1, got 95",
        ),
        (["RUNS", "--target", "95"], "(95 looks like percent: write 0.95)"),
        (["RUNS", "--target", "loss=-1"], "--target must be greater than 0 for loss, got -1"),
        (["digits/mlp-sgd", "--target", "top1=95"], "--target must be a fraction for top1"),
        (["digits/mlp-sgd", "--target", "95"], "--target must be a fraction for top1"),
        (["digits/mlp-sgd", "--metric", "accuracy"], "--metric must be top1, top5 or loss for a classification"),
        (["digits/mlp-sgd", "--set", "target={metric: top1, value: 95}"], "target.value: must be a fraction for top1"),
        (["coco/maskrcnn-sgd", "coco/maskrcnn-jorge"], "task.kind: this version cannot train a detection task"),
        (["RUNS", "--set", "epochs=1"], "run directories only"),
        (["RUNS", "--plot", "race.pdf"], "must end in .html or .png"),
        (["RUNS", "--seeds", "4-0"], "must go up"),
        (["RUNS", "--seeds", "0,0"], "must name each seed once"),
        (["RUNS", "--seeds", "a"], "must be a list of seeds"),
        (["RUNS", "--seeds", "0-99999999999"], "at most 1000 seeds"),
        (["digits/mlp-sgd", "--seeds", "4294967296"], "up to 4294967295"),
        (["RUNS", "--seeds", "9" * 5000], "up to 4294967295"),
        (["EMPTY"], "no run directory here or below"),
        (["digits/mlp-sgd", "digits/mlp-sgd", "--set", "optimizer.lr=none"], "--set 'optimizer.lr=none'"),
        ([], "A B..."),
    ],
)
def test_bad_input_is_one_clear_message(folders, tmp_path, capsys, arguments, message):
    (tmp_path / "empty").mkdir()
    places = {"RUNS": folders[0], "EMPTY": tmp_path / "empty"}
    assert run(*[places.get(a, a) for a in arguments], "--out", tmp_path / "out") == 2
    out, err = capsys.readouterr()
    assert message in err
    assert out == ""
    assert "Traceback" not in err
    assert not (tmp_path / "out").exists()


def test_the_last_recipes_fault_is_found_before_anything_is_trained(tmp_path, capsys):
    good = write_recipe(tmp_path / "good.yaml")
    bad = write_recipe(tmp_path / "bad.yaml", "{name: 'no.such.module:Class', lr: 0.1}")
    assert run(good, bad, "--out", tmp_path / "out") == 2
    assert "no.such.module" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_folder_with_another_recipes_run_is_refused(tmp_path, capsys):
    recipe = write_recipe(tmp_path / "sgd.yaml")
    write_run(tmp_path / "out" / "sgd" / "seed-0", [0.5])
    assert run(recipe, "--out", tmp_path / "out", "--seeds", "0") == 2
    assert "holds another run" in capsys.readouterr().err


def test_targets():
    assert parse_target(None, "loss") == ("loss", None)
    assert parse_target("0.5", None) == (None, 0.5)
    assert parse_target("top1=0.5", None) == ("top1", 0.5)
    assert parse_target("0.5", "top1") == ("top1", 0.5)
    with pytest.raises(InputError):
        parse_target("=0.5", None)


@pytest.mark.skipif(os.name != "posix", reason="signals are sent the POSIX way")
def test_ctrl_c_leaves_a_race_that_the_same_command_takes_up(tmp_path):
    recipes = [write_recipe(tmp_path / f"{name}.yaml") for name in ("one", "two")]
    command = [sys.executable, "-m", "jorge_tune", "compare", *map(str, recipes), "--device", "cpu"]
    command += ["--seeds", "0", "--out", str(tmp_path / "out"), "--set", "epochs=400", "--target", "0.5"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as race:
        records = tmp_path / "out" / "one" / "seed-0" / "records.jsonl"
        deadline = time.monotonic() + 120
        while not (records.exists() and b"evaluation" in records.read_bytes()):
            assert time.monotonic() < deadline
            assert race.poll() is None
            time.sleep(0.05)
        race.send_signal(signal.SIGINT)
        out, err = race.communicate(timeout=120)
    assert race.returncode == 130
    assert out == ""
    assert "the same command again to resume" in err
    assert not (tmp_path / "out" / "two").exists()
    stopped = read_records(records)
    assert stopped[-1]["outcome"] == "interrupted"
    assert stopped[-1]["step"] > 0
