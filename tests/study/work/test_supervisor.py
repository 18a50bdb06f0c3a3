"""Worker processes under a supervisor: signals, its death, their deaths."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from optuna.trial import TrialState

from jorge_tune.hardware import Gpu
from jorge_tune.study import supervisor as module
from jorge_tune.study.storage.open import open_storage
from jorge_tune.study.study import open_study
from jorge_tune.study.supervisor import Supervisor, shares
from jorge_tune.study.worker import WorkerStart
from tests.small_disk import fill, small_disk
from tests.study.small_studies import small_plan, sqlite_at
from tests.waiting import wait_until

_SUPERVISE = """
import json, os, sys
from pathlib import Path
from jorge_tune.study.supervisor import Supervisor
from jorge_tune.study.worker import WorkerStart
from tests.study.small_studies import sqlite_at
folder = Path(sys.argv[1])
start = WorkerStart(study="small", runs=str(folder / "runs"), device="cpu", threads=1)
def report(message, worker):
    print(json.dumps([message.what, message.trial, message.state, worker, supervisor.pids]), flush=True)
def last_word():
    os.write(1, b'["the last word", null, "", null, []]\\n')
supervisor = Supervisor(sqlite_at(folder), [start] * 2, report, last_word)
worker_exit = supervisor.supervise()
print(json.dumps(worker_exit), flush=True)
sys.exit(worker_exit.exit_code)
"""


class Supervised:
    """A long study under a supervisor in a process of its own."""

    def __init__(self, folder: Path, *, epochs: int = 3000) -> None:
        plan = small_plan(trials=6, epochs=epochs)
        self.opened = open_study(open_storage(sqlite_at(folder)), plan, lambda name: folder / "runs")
        self.folder = folder
        self.process = subprocess.Popen(
            [sys.executable, "-c", _SUPERVISE, str(folder)],
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
            cwd=Path(__file__).parents[3],
        )
        self.lines: list[list] = []

    def until(self, condition, seconds: float = 90.0) -> None:
        """Read what it says until something holds."""
        guard = threading.Timer(seconds, self.process.kill)
        guard.start()
        while not condition():
            line = self.process.stdout.readline()
            assert line, f"the supervisor left: {self.lines}"
            self.lines.append(json.loads(line))
        guard.cancel()

    def until_both_train(self) -> list[int]:
        """The pids of the workers, once each has a checkpoint to lose."""
        self.until(lambda: sum(line[2] == "running" for line in self.lines) >= 2)
        wait_until(lambda: len(list(self.folder.glob("runs/trial-*/seed-0/checkpoint/last.pt"))) >= 2)
        return self.lines[-1][4]

    def rest(self) -> list[list]:
        self.lines += [json.loads(line) for line in self.process.stdout]
        self.process.wait(30)
        self.process.stdout.close()
        return self.lines

    def states(self) -> list[TrialState]:
        return [trial.state for trial in self.opened.study.get_trials()]

    def outcomes(self) -> list[str]:
        """How each run last ended, by its records."""
        found = []
        for path in sorted(self.folder.glob("runs/trial-*/seed-0/records.jsonl")):
            last = json.loads(path.read_text().splitlines()[-1])
            found.append(last.get("outcome", "still training"))
        return found


def is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_ends_trials_as_resumable(tmp_path, number):
    supervised = Supervised(tmp_path)
    workers = supervised.until_both_train()
    supervised.process.send_signal(number)
    lines = supervised.rest()
    assert supervised.process.returncode == 130
    assert lines[-1][0] == "interrupted"
    assert [line[0] for line in lines if line[2] == "waiting"] == [f"stopped by {number.name}"] * 2
    assert supervised.states() == [TrialState.WAITING] * 2
    assert supervised.outcomes() == ["interrupted", "interrupted"]
    assert not any(is_alive(pid) for pid in workers)


def test_a_second_signal_ends_all_at_once(tmp_path):
    supervised = Supervised(tmp_path)
    workers = supervised.until_both_train()
    for pid in workers:
        os.kill(pid, signal.SIGSTOP)  # they will not hear of the first one
    supervised.process.send_signal(signal.SIGINT)
    supervised.until(lambda: "checkpoint" in supervised.lines[-1][0])
    supervised.process.send_signal(signal.SIGINT)
    assert supervised.process.wait(10) == 130
    assert supervised.rest()[-1][0] == "the last word"
    wait_until(lambda: not any(is_alive(pid) for pid in workers), 10)
    wait_until(lambda: supervised.outcomes() == ["interrupted", "interrupted"], 30)  # the runs see their workers' end


def test_workers_end_when_their_supervisor_is_killed(tmp_path):
    supervised = Supervised(tmp_path)
    workers = supervised.until_both_train()
    supervised.process.kill()
    supervised.process.wait()
    supervised.process.stdout.close()
    wait_until(lambda: not any(is_alive(pid) for pid in workers), 30)
    assert supervised.states() == [TrialState.WAITING] * 2
    assert supervised.outcomes() == ["interrupted", "interrupted"]


def test_a_killed_worker_is_started_again_and_its_trial_resumed(tmp_path):
    supervised = Supervised(tmp_path, epochs=120)
    workers = supervised.until_both_train()
    os.kill(workers[0], signal.SIGKILL)
    lines = supervised.rest()
    assert supervised.process.returncode == 0
    assert any(line[0] == "ended (killed by SIGKILL) and is started again" for line in lines)
    assert any(line[0] == "lost by its worker; it waits to be resumed" for line in lines)
    assert supervised.states() == [TrialState.COMPLETE] * 6
    resumed = [path.read_text().count('"resumed":true') for path in tmp_path.glob("runs/trial-*/seed-0/records.jsonl")]
    assert sum(resumed) == 1
    assert lines[-1][:2] == ["done", ""]


def test_bad_input_of_one_worker_ends_all_and_is_told_once(tmp_path):
    plan = small_plan(trials=4)
    address = sqlite_at(tmp_path)
    open_study(open_storage(address), plan, lambda name: tmp_path / "runs")
    starts = [WorkerStart(study="small", runs=str(tmp_path / "runs"), device=device) for device in ("cpu", "cuda:77")]
    left = Supervisor(address, starts).supervise()
    assert left.exit_code == 2
    assert "cuda:77" in left.reason


@pytest.mark.parametrize("workers", [1, 2])
def test_a_storage_on_a_full_disk_ends_all_at_once_and_is_told_as_it_is(tmp_path, workers):
    told = []
    with small_disk(tmp_path / "small") as disk, contextlib.closing(open_storage(sqlite_at(disk))) as storage:
        open_study(storage, small_plan(trials=4), lambda name: tmp_path / "runs")
        fill(disk, left=0)
        start = WorkerStart(study="small", runs=str(tmp_path / "runs"), device="cpu", threads=1)
        left = Supervisor(sqlite_at(disk), [start] * workers, lambda t, w: told.append(t.what)).supervise()
    assert (left.kind, left.exit_code) == ("fault", 1)
    assert left.reason.endswith("the disk is full; make room and start again, nothing that was stored is lost")
    assert not any("is started again" in what for what in told)


def test_a_study_that_is_not_there_is_bad_input(tmp_path):
    address = sqlite_at(tmp_path)
    open_storage(address)
    left = Supervisor(address, [WorkerStart(study="none", runs=str(tmp_path / "runs"))]).supervise()
    assert (left.kind, left.exit_code) == ("error", 2)
    assert "no study 'none' in this storage" in left.reason


def test_workers_that_die_at_once_are_not_started_for_ever(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_RESTART_PAUSES", (0.0,))
    monkeypatch.setattr(
        WorkerStart,
        "command",
        lambda self: [sys.executable, "-c", "import os; print('no luck'); os.kill(os.getpid(), 9)"],
    )
    told = []
    left = Supervisor(
        sqlite_at(tmp_path), [WorkerStart(study="x", runs="y")] * 2, lambda t, w: told.append(t)
    ).supervise()
    assert (left.kind, left.exit_code) == ("error", 1)
    assert left.reason == "worker 1 ended again and again: no luck"
    assert sum("is started again" in one.what for one in told) == 2 * module._MOST_RESTARTS


def test_the_storage_travels_by_environment_alone(tmp_path):
    seen = tmp_path / "seen"
    program = (
        f"import os, sys; open({str(seen)!r}, 'w').write(os.environ['JORGE_TUNE_STORAGE'] + chr(10) + str(sys.argv))"
    )

    class Looking(WorkerStart):
        def command(self):
            return [sys.executable, "-c", program, *super().command()[2:]]

    Supervisor(sqlite_at(tmp_path), [Looking(study="x", runs="y")]).supervise()
    url, arguments = seen.read_text().split("\n")
    assert url == sqlite_at(tmp_path).url
    assert "study.db" not in arguments


def test_gpus_are_dealt_out_and_cores_divided(monkeypatch):
    monkeypatch.setattr(module, "usable_cores", lambda: tuple(range(8)))
    monkeypatch.setattr(module, "torch_cuda_build", lambda: "12.8")
    monkeypatch.setattr(module, "visible_gpus", lambda nvidia: (Gpu("a", "1"), Gpu("a", "2")))
    assert shares(3, "auto", None) == [("cuda:0", 2), ("cuda:1", 2), ("cuda:0", 2)]
    assert shares(2, "cuda:1", 3) == [("cuda:1", 3), ("cuda:1", 3)]
    assert shares(4, "cpu", None) == [("cpu", 2)] * 4
    assert shares(1, "cpu", None) == [("cpu", None)]
    monkeypatch.setattr(module, "torch_cuda_build", lambda: None)
    assert shares(2, "auto", None) == [("auto", 4), ("auto", 4)]
