from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from jorge_tune.cli import main
from jorge_tune.cli.output import clock_time
from jorge_tune.recipe.recipe_files import read_recipe
from jorge_tune.records import RunDirectory, outcome_of, read_records

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


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "tiny.yaml"
    path.write_text(_RECIPE)
    return path


def _run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as exit_info:
        main(["train", *arguments])
    assert isinstance(exit_info.value.code, int)
    return exit_info.value.code


def test_trains_into_its_default_folder_and_prints_a_table(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _run("tiny.yaml", "--seed", "4", "--set", "optimizer.lr=0.05", "--threads", "1") == 0
    out, err = capsys.readouterr()
    folder = RunDirectory(Path("runs/tiny/seed-4"))
    trained = read_recipe(folder.recipe)
    assert (trained.seed, trained.optimizer.lr) == (4, 0.05)
    rows = dict(line.split("  ", 1) for line in out.splitlines())
    assert rows["outcome"].strip() == "finished"
    assert 0.2 < float(rows["validation top1"]) < 1
    assert rows["run directory"].strip() == "runs/tiny/seed-4"
    data, *evaluations = err.splitlines()
    assert data == "data: digits, 10 classes, 1x8x8; train 1078, validation 359, test 360 images"
    assert [line.split("  ")[0] for line in evaluations] == ["step 9/18", "step 18/18", "step 18/18"]
    assert "ETA 0:00:0" in err
    assert "samples/s" in err


def test_json_is_plain_data_on_stdout(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _run("tiny.yaml", "--out", "there", "--format", "json") == 0
    data = json.loads(capsys.readouterr().out)
    assert data["outcome"] == "finished"
    assert (data["step"], data["epoch"], data["part"]) == (18, 2.0, "validation")
    assert set(data["metrics"]) == {"loss", "top1"}
    assert data["best"]["value"] >= data["metrics"]["top1"]


def test_a_limit_in_steps_is_no_interruption_and_resumes(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _run("tiny.yaml", "--max-steps", "5") == 0
    assert "interrupted: stopped after 5 steps, as requested" in capsys.readouterr().out
    assert _run("tiny.yaml") == 2
    assert "--resume" in capsys.readouterr().err
    assert _run("tiny.yaml", "--resume") == 0
    assert outcome_of(read_records(Path("runs/tiny/seed-0/records.jsonl"))) == "finished"


def test_divergence_exits_with_3(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _run("tiny.yaml", "--set", "optimizer.lr=1e30") == 3
    assert "diverged: the loss was first not finite at step" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["no-such-recipe"], "neither a file nor a shipped recipe"),
        (["tiny.yaml", "--set", "optimizer.lr=fast"], "optimizer.lr"),
        (["tiny.yaml", "--set", "task.model.name=resnet999"], "unknown model 'resnet999'"),
        (["tiny.yaml", "--set", "task.data.name=cifar10"], "train --download"),
        (["tiny.yaml", "--device", "cuda:99"], "device: 'cuda:99' cannot be used here"),
        (["coco/maskrcnn-sgd"], "task.kind: this version cannot train a detection task"),
        (["tiny.yaml", "--seed", "-1"], "--seed"),
        (["tiny.yaml", "--seed", "4294967296"], "--seed"),
        (["tiny.yaml", "--seed", "9" * 400], "--seed"),
        (["tiny.yaml", "--out", "tiny.yaml"], "tiny.yaml: is a file"),
    ],
)
def test_bad_input_is_one_message_and_writes_nothing(
    recipe: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert _run(*arguments) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert "Traceback" not in captured.err
    assert captured.out == ""
    assert os.listdir() == ["tiny.yaml"]


def test_a_kind_of_task_that_cannot_be_trained_is_refused_before_torch_is_imported(tmp_path: Path) -> None:
    program = (
        "import sys\nfrom jorge_tune.cli import main\n"
        "try:\n    main(['train', 'coco/maskrcnn-sgd'])\n"
        "except SystemExit as ended:\n    print(ended.code, 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout == "2 False\n"
    assert "detection" in done.stderr


def test_ctrl_c_leaves_a_resumable_run(recipe: Path) -> None:
    command = [sys.executable, "-m", "jorge_tune", "train", str(recipe), "--out", "run", "--log-every", "1"]
    command += ["--set", "epochs=5000", "--format", "json"]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2]), "OMP_NUM_THREADS": "1"}
    child = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    records = Path("run/records.jsonl")
    while child.poll() is None and not (records.is_file() and b'"step"' in records.read_bytes()[200:]):
        time.sleep(0.05)
    child.send_signal(signal.SIGINT)
    out, err = child.communicate(timeout=120)
    assert child.returncode == 130, err
    told = json.loads(out)
    assert (told["outcome"], told["reason"]) == ("interrupted", "stopped by SIGINT")
    assert Path("run/checkpoint/last.pt").is_file()
    more = ["run", "--resume", "--set", "epochs=5000", "--max-steps", str(told["step"] + 1)]
    assert _run(str(recipe), "--out", *more) == 0
    ended = read_records(records)[-1]
    assert (ended["outcome"], ended["step"]) == ("interrupted", told["step"] + 1)


def test_a_terminal_shows_a_live_line(recipe: Path) -> None:
    pty = pytest.importorskip("pty", reason="needs a pseudo-terminal")
    leader, follower = pty.openpty()
    command = [sys.executable, "-m", "jorge_tune", "train", str(recipe), "--out", "run", "--log-every", "1"]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2]), "OMP_NUM_THREADS": "1"}
    environment |= {"TERM": "xterm", "COLUMNS": "160"}
    child = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=follower)
    os.close(follower)
    shown = b""
    while True:
        try:
            piece = os.read(leader, 65536)
        except OSError:  # how Linux says that the other end is closed
            break
        if not piece:
            break
        shown += piece
    os.close(leader)
    assert child.wait(timeout=60) == 0
    text = re.sub(rb"\x1b\[[0-9;?]*[A-Za-z]", b"", shown).decode()
    assert "18/18" in text
    assert re.search(r"tiny .*18/18.* ETA 0:00:00  loss \d\.\d{4}  test top1 \d\.\d{4}  \d+ samples/s", text)


@pytest.mark.parametrize(("seconds", "shown"), [(0, "0:00:00"), (0.2, "0:00:01"), (61.2, "0:01:02"), (7325, "2:02:05")])
def test_clock_times(seconds: float, shown: str) -> None:
    assert clock_time(seconds) == shown
