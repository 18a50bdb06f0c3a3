"""`jorge-tune calibrate-freq` as a user runs it; timings are scripted where an outcome must be known."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from jorge_tune.calibration import bench as batch_limit
from jorge_tune.cli import main
from jorge_tune.cli.calibration_options import parse_overhead
from jorge_tune.recipe.recipe_files import read_recipe
from tests.calibration.scripted_bench import ScriptedBench, loaded_from, noisy

RECIPE = """\
# tuned by hand
version: 1
name: tiny
task:
  kind: classification
  model: {name: mlp, args: {hidden: [16]}}
  data: {name: digits}
optimizer:
  name: jorge  # ours
  lr: 0.1
epochs: 2
batch_size: 128
"""


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("JORGE_TUNE_CACHE", str(tmp_path / "cache"))
    (tmp_path / "tiny.yaml").write_text(RECIPE)
    return tmp_path


@pytest.fixture
def script(monkeypatch):
    """What the next scripted bench is made of."""
    script = {"disturbance": noisy(0.005)}

    @contextmanager
    def open_scripted(recipe, device, *, real_data=False):
        interval = recipe.optimizer.refresh_interval
        yield ScriptedBench(interval=interval if isinstance(interval, int) else 10, **script)

    monkeypatch.setattr(batch_limit, "open_bench", open_scripted)
    return script


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(["calibrate-freq", "--device", "cpu", *arguments])
    assert isinstance(ended.value.code, int)
    return ended.value.code


@pytest.mark.usefixtures("script")
def test_an_interval_a_table_a_curve_and_the_cache(capsys):
    assert run("tiny.yaml") == 0
    shown = capsys.readouterr()
    interval = int(re.match(r"refresh_interval (\d+): the smallest", shown.out)[1])
    assert re.search(rf"^interval {interval}, as it ran +\d+ ms +\+\d\.\d % \[.*\]$", shown.out, re.M)
    assert re.search(r"^18 warm refreshes, extra +\d+ ms +\d+ % of the training$", shown.out, re.M)
    assert "X interval" in shown.out
    assert "for several it is an estimate" in shown.out
    assert "from the cache" not in shown.out
    assert [line for line in shown.err.splitlines() if line] == ["warming up", "measuring", "verifying"]
    assert run("tiny.yaml") == 0
    again = capsys.readouterr()
    assert "from the cache" in again.out
    assert again.err == ""
    assert again.out.splitlines()[0] == shown.out.splitlines()[0]
    assert run("tiny.yaml", "--remeasure") == 0
    assert "measuring" in capsys.readouterr().err


@pytest.mark.usefixtures("script")
def test_json_is_plain_data_on_stdout(capsys):
    assert run("tiny.yaml", "--format", "json") == 0
    data = json.loads(capsys.readouterr().out)
    assert (data["outcome"], data["from_cache"], data["recipe"]) == ("interval", False, "tiny")
    assert data["interval"] == data["verified"]["interval"]
    assert data["facts"]["batch_size"] == 128


@pytest.mark.usefixtures("script")
def test_writing_keeps_the_comments(here, capsys):
    assert run("tiny.yaml", "--write") == 0
    text = (here / "tiny.yaml").read_text()
    written = read_recipe("tiny.yaml")
    assert written.optimizer.refresh_interval > 1
    assert written.calibration.device == "a scripted device"
    assert written.calibration.overhead == 0.1
    assert "# tuned by hand" in text
    assert "name: jorge  # ours" in text
    assert "wrote tiny.yaml" in capsys.readouterr().err
    assert run("tiny.yaml", "--write", "--overhead", "30%") == 0
    assert read_recipe("tiny.yaml").optimizer.refresh_interval < written.optimizer.refresh_interval


def test_infeasible_says_what_would_help_and_writes_nothing(here, script, capsys):
    script["extra"] = 0.03
    assert run("tiny.yaml", "--write") == 4
    shown = capsys.readouterr().out
    assert shown.startswith("infeasible: even without a refresh")
    assert "What would help:\n- a batch of " in shown
    assert (here / "tiny.yaml").read_text() == RECIPE


def test_unstable_shows_no_figures_and_keeps_nothing(here, script, capsys):
    script["disturbance"] = loaded_from(15, 1.5)
    assert run("tiny.yaml", "--write", "--plot", "curve.html") == 4
    shown = capsys.readouterr()
    assert shown.out.startswith("unstable: the baseline's own step became")
    assert "nothing refreshed" not in shown.out
    assert "no plot written" in shown.err
    assert sorted(os.listdir(here)) == ["tiny.yaml"]
    assert (here / "tiny.yaml").read_text() == RECIPE


def test_check_is_for_machines(here, script, capsys):
    (here / "fast.yaml").write_text(RECIPE.replace("lr: 0.1", "lr: 0.1\n  refresh_interval: 2"))
    assert run("tiny.yaml", "--check") == 0
    assert capsys.readouterr().out.startswith("inside: interval 10 adds +7.")
    assert run("fast.yaml", "--check", "--format", "json") == 1
    data = json.loads(capsys.readouterr().out)
    assert (data["outcome"], data["interval"]) == ("over", 2)
    assert data["ratio"]["value"] == pytest.approx(1.19, abs=0.01)
    assert run("fast.yaml", "--check", "--overhead", "25%") == 0
    script["disturbance"] = loaded_from(10, 1.5)
    assert run("tiny.yaml", "--check") == 4
    assert "unstable" in capsys.readouterr().out
    assert not (here / "cache").exists()


@pytest.mark.usefixtures("script")
def test_the_curve_as_a_page(here, capsys):
    assert run("tiny.yaml", "--plot", "curve.html") == 0
    assert "wrote curve.html" in capsys.readouterr().err
    assert "refresh interval" in (here / "curve.html").read_text()
    assert run("tiny.yaml", "--plot", "curve.html") == 2
    assert "curve.html: exists already" in capsys.readouterr().err
    assert run("tiny.yaml", "--plot", "curve.html", "--force") == 0


@pytest.mark.usefixtures("script")
def test_without_a_recipe_a_built_in_one_is_measured(capsys):
    assert run() == 0
    shown = capsys.readouterr()
    assert "no RECIPE given; measuring cifar10/resnet-small-sgd" in shown.err
    assert "refresh_interval" in shown.out
    assert "assumed" not in shown.out
    assert run("cifar10/resnet-small-sgd") == 0
    assert "Note: no image can be read below data/cifar10/train: 32 pixels are assumed" in capsys.readouterr().out


@pytest.mark.usefixtures("script")
def test_an_sgd_recipe_is_bootstrapped_first(here, capsys):
    (here / "sgd.yaml").write_text(RECIPE.replace("name: jorge", "name: sgd"))
    assert run("sgd.yaml") == 0
    assert "sgd.yaml: trains with sgd; measuring the Jorge recipe" in capsys.readouterr().err
    assert run("sgd.yaml", "--write") == 2
    assert "`jorge-tune bootstrap sgd.yaml --calibrate`" in capsys.readouterr().err


BAD_INPUT = {
    "a device": (["tiny.yaml", "--device", "tpu"], "device must be auto, cpu, cuda"),
    "a contradiction": (["tiny.yaml", "--gpu"], "--gpu and --device cpu contradict each other"),
    "no overhead": (["tiny.yaml", "--overhead", "0"], "must be greater than 0"),
    "a negative overhead": (["tiny.yaml", "--overhead", "-5%"], "must be greater than 0"),
    "a word": (["tiny.yaml", "--overhead", "some"], "write 10% or 0.1"),
    "ten or ten percent": (["tiny.yaml", "--overhead", "10"], "'10' means 1000 %; write 10%"),
    "nothing to write": (["--write"], "--write needs a RECIPE"),
    "nothing to check": (["--check"], "--check needs a RECIPE"),
    "both": (["tiny.yaml", "--write", "--check"], "--write and --check contradict"),
    "a plot": (["tiny.yaml", "--plot", "curve.pdf"], "must end in .html or .png"),
    "no such recipe": (["no-such-recipe"], "neither a file nor a shipped recipe"),
    "a shipped one": (["imagenet/resnet50-256-jorge", "--write"], "recipes cp imagenet/resnet50-256-jorge"),
    "another kind": (["coco/deeplabv3-jorge"], "this version cannot train a segmentation task"),
}


@pytest.mark.parametrize(("arguments", "told"), BAD_INPUT.values(), ids=BAD_INPUT)
def test_bad_input_is_one_message_and_writes_nothing(here, capsys, arguments, told):
    assert run(*arguments) == 2
    shown = capsys.readouterr()
    assert told in shown.err
    assert "Traceback" not in shown.err
    assert shown.out == ""
    assert sorted(os.listdir(here)) == ["tiny.yaml"]


def test_recipes_that_have_no_iteration(here, capsys):
    (here / "bare.yaml").write_text("name: bare\noptimizer: {name: jorge, lr: 1}\nepochs: 3\nbatch_size: 1\n")
    assert run("bare.yaml") == 2
    assert "recipe bare: has no task" in capsys.readouterr().err
    (here / "auto.yaml").write_text(RECIPE.replace("lr: 0.1", "lr: 0.1\n  refresh_interval: auto"))
    assert run("auto.yaml", "--check") == 2
    assert "must be a number, got 'auto'" in capsys.readouterr().err
    (here / "wrong.yaml").write_text(RECIPE.replace("hidden: [16]", "in_features: 63"))
    assert run("wrong.yaml") == 2
    assert "task.model: its forward fails on images of shape 1x8x8" in capsys.readouterr().err


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_the_devices_there_are_are_named(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["calibrate-freq", "tiny.yaml", "--gpu"])
    assert ended.value.code == 2
    assert re.search(r"'cuda' cannot be used here \(.*\); usable here: cpu \(", capsys.readouterr().err)


@pytest.mark.usefixtures("script")
def test_a_damaged_cache_is_named_and_measured_anew(here, capsys):
    run("tiny.yaml")
    (path,) = (here / "cache" / "calibrations").iterdir()
    path.write_text("{")
    capsys.readouterr()
    assert run("tiny.yaml") == 0
    assert f"{path}: is damaged" in capsys.readouterr().err
    assert sorted(p.name for p in path.parent.iterdir()) == [path.name, path.name + ".damaged"]


@pytest.mark.parametrize(
    ("text", "fraction"), [("10%", 0.1), ("0.1", 0.1), (" 5 % ", 0.05), ("250%", 2.5), (".02", 0.02)]
)
def test_overheads(text, fraction):
    assert parse_overhead(text) == pytest.approx(fraction)


def test_ctrl_c_leaves_nothing_behind(here):
    command = [sys.executable, "-u", "-m", "jorge_tune", "calibrate-freq", "tiny.yaml", "--device", "cpu", "--write"]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2]), "OMP_NUM_THREADS": "1"}
    child = subprocess.Popen(
        [*command, "--seconds", "600"], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    for line in child.stderr:
        if line.strip() == "measuring":
            break
    child.send_signal(signal.SIGINT)
    out, err = child.communicate(timeout=120)
    assert child.returncode == 130, err
    assert out == ""
    assert "interrupted" in err
    assert sorted(os.listdir(here)) == ["tiny.yaml"]
    assert (here / "tiny.yaml").read_text() == RECIPE
