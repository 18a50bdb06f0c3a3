"""Runs of commands: what they are started with, what becomes of what they report, and every way in which they end."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from jorge_tune.command.output_file import OutputFile
from jorge_tune.command.run_command import run_command
from jorge_tune.errors import InputError, KilledCommandError, RunDirectoryError, TrainingError
from jorge_tune.files import is_held
from jorge_tune.recipe.recipe_files import read_recipe
from jorge_tune.recipe.schema import JorgeSection, MetricsSection
from jorge_tune.records import RunDirectory, of_kind, outcome_of
from jorge_tune.runs.run_journal import RunProgress
from jorge_tune.runs.stop_request import StopRequest
from tests.command.scripts import (
    HEAD,
    TRAINS,
    command_recipe,
    is_alive,
    log_of,
    pid_in,
    python_path,
    records_of,
    run_script,
    top1_of,
    write_script,
)
from tests.small_disk import fill, grow, small_disk
from tests.waiting import wait_until


def test_what_a_script_reports_becomes_the_records_of_a_run(tmp_path):
    seen: list[RunProgress] = []
    result = run_script(
        tmp_path,
        """
        print("hello", flush=True)
        jorge_tune.report(step=0, epoch=0, top1=0.1)
        for epoch in range(1, 4):
            jorge_tune.report(step=10 * epoch, epoch=epoch, part="train", loss=1 / epoch, lr=0.1 / epoch)
            jorge_tune.report(step=10 * epoch, epoch=epoch, top1=0.5 + 0.1 * epoch)
            jorge_tune.report(step=10 * epoch, epoch=epoch, loss=2 / epoch)
        jorge_tune.report(step=30, epoch=3, part="test", top1=0.75)
        """,
        progress=seen.append,
    )
    assert (result.outcome, result.reason, result.step, result.epoch) == ("finished", "", 30, 3.0)
    assert result.metrics == {"top1": 0.8, "loss": 2 / 3}
    assert result.test_metrics == {"top1": 0.75}
    assert result.best is not None
    assert (result.best.metric, result.best.value, result.best.epoch) == ("top1", 0.8, 3.0)
    assert seen[0].event == "start"
    assert seen[-1].metrics["top1"] == 0.8

    records = records_of(tmp_path / "run")
    start, end = records[0], records[-1]
    assert (start["kind"], start["seed"], start["resumed"], start["clock"]) == ("start", 0, False, "wall")
    assert (end["outcome"], end["exit_code"]) == ("finished", 0)
    steps = [(r["step"], r["loss"], r["lr"]) for r in of_kind(records, "step")]
    assert steps == [(10, 1.0, [0.1]), (20, 0.5, [0.05]), (30, 1 / 3, [0.1 / 3])]
    validation = list(of_kind(records, "evaluation", "validation"))
    assert [r["metrics"]["top1"] for r in validation] == [0.1, 0.6, 0.7, 0.8]
    assert validation[0]["train_seconds"] == 0  # the report of step 0 starts the clock
    assert validation[-1]["train_seconds"] >= validation[1]["train_seconds"]
    assert (tmp_path / "run" / "output.txt").read_text() == "hello\n"
    environment = json.loads((tmp_path / "run" / "environment.json").read_text())
    assert environment["device_type"] == "cpu"


def test_a_command_gets_placeholders_variables_and_the_callers_directory(tmp_path, monkeypatch):
    script = write_script(
        tmp_path,
        """
        Path("said.json").write_text(json.dumps([sys.argv[1:], dict(os.environ), sys.executable]))
        jorge_tune.report(epoch=3, top1=0.5)
        """,
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MINE", "kept")
    words = ("{recipe}", "--lr={optimizer.lr}", "{seed}", "{run}/x", "{device}", "{{{name}}}", "{epochs}", "two words")
    recipe = command_recipe(script, *words, seed=7)
    run_command(recipe, Path("there"), device="cpu", threads=2)

    run = tmp_path / "there"
    arguments, environment, executable = json.loads((tmp_path / "said.json").read_text())
    file = str(run / "recipe.yaml")
    assert arguments == [file, "--lr=0.1", "7", f"{run}/x", "cpu", "{scripted}", "3", "two words"]
    assert read_recipe(file) == recipe
    assert executable == sys.executable  # of a bare `python`
    given = {name: environment.get(f"JORGE_TUNE_{name}") for name in ("RECIPE", "RUN", "SEED", "DEVICE", "RESUMED")}
    assert given == {"RECIPE": file, "RUN": str(run), "SEED": "7", "DEVICE": "cpu", "RESUMED": "0"}
    assert (environment["MINE"], environment["OMP_NUM_THREADS"]) == ("kept", "2")


def test_a_command_may_be_one_line_with_quotes(tmp_path):
    write_script(tmp_path, TRAINS)
    recipe = command_recipe(command=f"'{sys.executable}' '{tmp_path}/train.py' --note 'a b'")
    assert run_command(recipe, tmp_path / "run", device="cpu").outcome == "finished"


def test_a_run_that_has_ended_is_read_and_another_one_is_refused(tmp_path):
    run_script(tmp_path, TRAINS)
    before = (tmp_path / "run" / "records.jsonl").read_bytes()
    assert run_script(tmp_path, TRAINS, resume=True, grace=5.0).outcome == "finished"
    assert (tmp_path / "run" / "records.jsonl").read_bytes() == before
    with pytest.raises(RunDirectoryError, match="holds another run"):
        run_script(tmp_path, TRAINS, resume=True, epochs=9)


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (("no-such-program-here", "x"), "the program 'no-such-program-here' is not there"),
        (("./train.sh",), "is not a program that can be run"),
    ],
)
def test_a_program_that_is_not_there_is_bad_input_and_writes_nothing(tmp_path, monkeypatch, command, words):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "train.sh").write_text("echo")
    with pytest.raises(InputError, match=words):
        run_command(command_recipe(command=command), tmp_path / "run", device="cpu")
    assert not (tmp_path / "run").exists()


def test_an_interval_that_is_not_resolved_is_bad_input(tmp_path):
    jorge = JorgeSection(lr=0.1, refresh_interval="auto")
    with pytest.raises(InputError, match=r"measure it there with jorge_tune\.calibrate, or give a number"):
        run_script(tmp_path, TRAINS, optimizer=jorge)


def test_a_script_that_fails_is_told_with_its_code_and_last_words(tmp_path):
    with pytest.raises(TrainingError, match=r"exited with code 3; it said: first \| last words"):
        run_script(tmp_path, TRAINS + "print('first\\nlast words')\nsys.exit(3)\n")
    end = records_of(tmp_path / "run")[-1]
    assert (end["outcome"], end["exit_code"]) == ("failed", 3)
    assert len(top1_of(tmp_path / "run")) == 3  # nothing that was reported is lost


def test_a_script_that_reports_nothing_is_told_so(tmp_path):
    with pytest.raises(TrainingError, match=r"ended without a value in .*reports\.jsonl; it said: done"):
        run_script(tmp_path, "print('done')")
    assert outcome_of(records_of(tmp_path / "run")) == "failed"


def test_a_script_that_only_reports_its_training_is_told_what_it_reports(tmp_path):
    with pytest.raises(TrainingError, match="has no evaluation, only step; loss"):
        run_script(tmp_path, "jorge_tune.report(step=1, part='train', loss=1.0)")


def test_a_script_that_hangs_is_ended_after_its_silence(tmp_path):
    body = "Path('pid').write_text(f'{os.getpid()}\\n')\nos.chdir('/')\ntime.sleep(1000)\n"
    with contextlib.chdir(tmp_path), pytest.raises(TrainingError, match=r"no value came for 0\.5 s"):
        run_script(tmp_path, body, silence=0.5)
    assert not is_alive(pid_in(tmp_path / "pid")())
    assert outcome_of(records_of(tmp_path / "run")) == "failed"


@pytest.mark.parametrize("value", ["nan", "inf"])
def test_a_loss_that_is_no_number_is_a_divergence_and_ends_the_script(tmp_path, value):
    body = f"jorge_tune.report(step=5, epoch=1, top1=0.5, loss=float('{value}'))\ntime.sleep(1000)\n"
    result = run_script(tmp_path, body)
    assert (result.outcome, result.reason) == ("diverged", f"the validation loss was {value} at step 5")


def test_another_metric_may_be_no_number(tmp_path):
    result = run_script(tmp_path, "jorge_tune.report(epoch=3, top1=0.5, recall=float('nan'))")
    assert result.outcome == "finished"


@pytest.mark.parametrize(
    ("second", "words"),
    [
        ("step=4, epoch=1, top1=0.6", "the step goes back from 5 to 4; a run only goes on"),
        ("step=5, epoch=1, top1=0.6", "a second value of top1 for step 5"),
        (
            "step=6, epoch=1, top1=60",
            r"must be a fraction for top1, at most 1, got 60 \(60 looks like percent: that is",
        ),
    ],
)
def test_reports_that_contradict_each_other_end_the_run_and_keep_what_was_there(tmp_path, second, words):
    body = (
        f"jorge_tune.report(step=5, epoch=1, top1=0.5)\ntime.sleep(0.6)\njorge_tune.report({second})\ntime.sleep(1000)"
    )
    with pytest.raises(TrainingError, match=words):
        run_script(tmp_path, body)
    assert top1_of(tmp_path / "run") == [(5, 1.0, 0.5)]
    assert outcome_of(records_of(tmp_path / "run")) == "failed"


def test_a_script_may_end_early_and_measure_another_metric_and_that_is_said(tmp_path):
    result = run_script(tmp_path, "jorge_tune.report(epoch=2, accuracy=0.5)")
    assert result.outcome == "finished"
    assert "no evaluation has the target's metric top1; there is accuracy" in result.reason
    assert "the command ended after 2 of 3 epochs" in result.reason
    assert result.best is None


def test_epochs_that_count_from_0_are_told_by_the_first(tmp_path):
    run_script(tmp_path, "for epoch in range(3):\n    jorge_tune.report(epoch=epoch, top1=0.5 + 0.1 * epoch)\n")
    assert [(epoch, round(top1, 6)) for _, epoch, top1 in top1_of(tmp_path / "run")] == [(1, 0.5), (2, 0.6), (3, 0.7)]
    assert "counts" not in records_of(tmp_path / "run")[1]


def test_steps_alone_count_as_epochs_unless_their_number_is_given(tmp_path):
    body = "for step in (5, 10):\n    jorge_tune.report(step=step, top1=0.5)\n"
    run_script(tmp_path, body, out="a", epochs=None, steps=10)
    assert [(step, epoch) for step, epoch, _ in top1_of(tmp_path / "a")] == [(5, 5.0), (10, 10.0)]
    assert records_of(tmp_path / "a")[1]["counts"] == "steps"
    run_script(tmp_path, body, out="b", metrics=MetricsSection(steps_per_epoch=4))
    assert [(step, epoch) for step, epoch, _ in top1_of(tmp_path / "b")] == [(5, 1.25), (10, 2.5)]


def test_what_a_script_leaves_behind_is_ended(tmp_path):
    body = """
    deaf = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(99)"
    own_session = subprocess.Popen([sys.executable, "-c", deaf], start_new_session=True, stdout=subprocess.PIPE)
    own_session.stdout.read(2)
    in_group = subprocess.Popen(["sleep", "1000"])
    (jorge_tune.run_directory() / "pids").write_text(f"{own_session.pid} {in_group.pid}")
    jorge_tune.report(epoch=3, top1=0.5)
    os._exit(0)
    """
    assert run_script(tmp_path, body).outcome == "finished"
    pids = (tmp_path / "run" / "pids").read_text().split()
    assert [is_alive(int(pid)) for pid in pids] == [False, False]


def stop_after_the_first_evaluation(stop: StopRequest):
    def on_progress(progress: RunProgress) -> None:
        if progress.event == "evaluation":
            stop.ask("enough")

    return {"stop": stop, "progress": on_progress}


LISTENS = """
done = jorge_tune.run_directory() / "checkpoint.txt"
first = int(done.read_text()) if done.exists() else 1
for step in range(first, 60):
    jorge_tune.report(step=step, top1=step / 100)
    time.sleep(0.05)
    if jorge_tune.should_stop():
        done.write_text(str(step + 1))
        break
"""


def test_a_script_that_listens_writes_its_checkpoint_and_goes_on_from_there(tmp_path):
    changes = {"epochs": None, "steps": 59}
    result = run_script(tmp_path, LISTENS, **stop_after_the_first_evaluation(StopRequest()), **changes)
    assert (result.outcome, result.reason) == ("interrupted", "enough")
    assert records_of(tmp_path / "run")[-1]["exit_code"] == 0  # it was left to end by itself
    stopped_at = top1_of(tmp_path / "run")[-1][0]
    assert not (tmp_path / "run" / "stop").exists()
    before = result.train_seconds

    assert run_script(tmp_path, LISTENS, resume=True, **changes).outcome == "finished"
    assert [step for step, _, _ in top1_of(tmp_path / "run")] == list(range(1, 60))
    starts = list(of_kind(records_of(tmp_path / "run"), "start"))
    assert [(start["step"], start["resumed"]) for start in starts] == [(0, False), (stopped_at, True)]
    assert records_of(tmp_path / "run")[-1]["train_seconds"] > before


def test_a_script_that_cannot_resume_starts_anew_and_that_is_said(tmp_path):
    body = (
        "print(os.environ['JORGE_TUNE_RESUMED'])\n" + TRAINS + "time.sleep(0.1 if Path(sys.argv[1]).exists() else 1000)"
    )
    (tmp_path / "script").mkdir()
    marker = tmp_path / "marker"
    recipe = command_recipe(write_script(tmp_path, body), str(marker))
    stop = StopRequest()
    run_command(recipe, tmp_path / "run", device="cpu", **stop_after_the_first_evaluation(stop))
    marker.touch()
    assert run_command(recipe, tmp_path / "run", device="cpu", resume=True).outcome == "finished"
    assert [step for step, _, _ in top1_of(tmp_path / "run")] == [10, 20, 30]  # of the second stretch alone
    assert "did not go on from an earlier place: it starts from its first step" in log_of(tmp_path / "run")
    assert (tmp_path / "run" / "output.txt").read_text() == "0\n1\n"


def test_a_script_that_neither_listens_nor_minds_sigterm_is_killed(tmp_path):
    deaf = "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n" + TRAINS + "time.sleep(1000)"
    result = run_script(tmp_path, deaf, grace=0.3, **stop_after_the_first_evaluation(StopRequest()))
    assert result.outcome == "interrupted"
    assert records_of(tmp_path / "run")[-1]["signal"] == signal.SIGKILL


def test_sigterm_alone_ends_a_plain_script(tmp_path):
    result = run_script(tmp_path, TRAINS + "time.sleep(1000)", **stop_after_the_first_evaluation(StopRequest()))
    assert result.outcome == "interrupted"
    assert records_of(tmp_path / "run")[-1]["signal"] == signal.SIGTERM


def test_a_limit_in_steps_stops_the_script(tmp_path):
    result = run_script(tmp_path, TRAINS + "time.sleep(1000)", max_steps=20)
    assert result.outcome == "interrupted"
    assert re.fullmatch("stopped after [23]0 steps, as requested", result.reason)


def test_a_script_that_somebody_kills_is_told_apart(tmp_path):
    with pytest.raises(KilledCommandError, match="the command was killed by SIGKILL") as error:
        run_script(tmp_path, TRAINS + "os.kill(os.getpid(), signal.SIGKILL)")
    assert not error.value.out_of_memory


def test_nothing_outlives_a_run_that_is_killed_and_its_directory_is_free_then(tmp_path):
    body = """
    child = subprocess.Popen(["sleep", "1000"], start_new_session=True)
    (jorge_tune.run_directory() / "pids").write_text(f"{os.getpid()} {child.pid}\\n")
    jorge_tune.report(epoch=1, top1=0.5)
    time.sleep(1000)
    """
    write_script(tmp_path, body)
    (tmp_path / "a.yaml").write_text(
        "version: 1\nname: a\ntask: {kind: command, command: [python, train.py]}\n"
        "optimizer: {name: sgd, lr: 1.0}\nepochs: 3\nbatch_size: 1\n"
    )
    command = [sys.executable, "-m", "jorge_tune", "train", "a.yaml", "--out", "run", "--device", "cpu"]
    with subprocess.Popen(command, cwd=tmp_path, env=python_path(), stderr=subprocess.DEVNULL) as process:
        pids = tmp_path / "run" / "pids"
        wait_until(lambda: pids.exists() and pids.read_text().endswith("\n"))
        assert is_held(tmp_path / "run" / "log.txt")
        process.kill()
    wait_until(lambda: not any(is_alive(int(pid)) for pid in pids.read_text().split()))
    wait_until(lambda: not is_held(tmp_path / "run" / "log.txt"))


def test_ctrl_c_in_a_terminal_reaches_the_run_alone(tmp_path):
    write_script(tmp_path, LISTENS)
    (tmp_path / "a.yaml").write_text(
        "version: 1\nname: a\ntask: {kind: command, command: [python, train.py]}\n"
        "optimizer: {name: sgd, lr: 1.0}\nsteps: 59\nbatch_size: 1\n"
    )
    command = [sys.executable, "-m", "jorge_tune", "train", "a.yaml", "--out", "run", "--device", "cpu"]
    process = subprocess.Popen(
        command, cwd=tmp_path, env=python_path(), stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    wait_until(lambda: (tmp_path / "run" / "listens").exists())
    os.killpg(process.pid, signal.SIGINT)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "interrupted: stopped by SIGINT" in out
    assert (tmp_path / "run" / "checkpoint.txt").exists()


def test_a_directory_in_use_is_refused(tmp_path):
    stop, began = StopRequest(), threading.Event()
    body, errors = TRAINS + "time.sleep(1000)", []

    def first() -> None:
        with contextlib.suppress(TrainingError):
            run_script(tmp_path, body, stop=stop, progress=lambda progress: began.set())

    thread = threading.Thread(target=first)
    thread.start()
    began.wait(60)
    try:
        run_script(tmp_path, body, resume=True)
    except RunDirectoryError as error:
        errors.append(str(error))
    stop.ask("done")
    thread.join(60)
    assert "another process is training in it" in errors[0]


def test_a_full_disk_is_told_as_such_and_the_run_goes_on_when_there_is_room(tmp_path):
    body = """
    for epoch in range(1, 4):
        jorge_tune.report(epoch=epoch, top1=0.5)
        print("x" * 100_000, flush=True)
        time.sleep(0.1)
    """
    with small_disk(tmp_path / "disk", "1m") as disk:
        fill(disk, 60_000)
        write_script(tmp_path, body)
        recipe = command_recipe(tmp_path / "train.py")
        with pytest.raises(TrainingError, match="No space left on device"):
            run_command(recipe, disk / "run", device="cpu")
        grow(disk, "4m")
        assert run_command(recipe, disk / "run", device="cpu", resume=True).outcome == "finished"
        assert [epoch for _, epoch, _ in top1_of(disk / "run")] == [1, 2, 3]


def test_output_is_kept_up_to_a_size(tmp_path):
    with OutputFile(tmp_path, largest=100) as output:
        for number in range(100):
            output.write(f"line {number}\n".encode())
        assert output.last_lines() == "; it said: line 97 | line 98 | line 99"
    kept = (tmp_path / "output.1.txt").read_text() + (tmp_path / "output.txt").read_text()
    assert kept.endswith("line 98\nline 99\n")
    assert 100 <= len(kept) < 250


def test_a_command_is_run_without_torch(tmp_path):
    write_script(tmp_path, TRAINS)
    program = (
        "import sys\nfrom pathlib import Path\nsys.path[:0] = [sys.argv[1]]\n"
        "from tests.command.scripts import command_recipe\nfrom jorge_tune.one_run import train_any\n"
        "train_any(command_recipe(Path(sys.argv[2])), Path(sys.argv[3]), device='cpu')\n"
        "print(*[name for name in ('torch', 'numpy', 'optuna', 'click') if name in sys.modules])\n"
    )
    places = [str(Path(__file__).parents[2]), str(tmp_path / "train.py"), str(tmp_path / "run")]
    answer = subprocess.run(
        [sys.executable, "-c", program, *places], capture_output=True, text=True, check=True, env=python_path()
    )
    assert answer.stdout == "\n"
    assert HEAD  # the script itself loads no torch either
    assert outcome_of(records_of(tmp_path / "run")) == "finished"
    assert RunDirectory(tmp_path / "run").recipe.is_file()
