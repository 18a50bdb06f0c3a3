"""Kernel locks in a runs directory: who lives, what trains, who is alone."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from jorge_tune.errors import InputError
from jorge_tune.records import RunDirectory
from jorge_tune.runs.run_journal import RunJournal
from jorge_tune.study.jobs.job import Machine
from jorge_tune.study.runs_directory import Presence, forget, is_training, life_of, workers_in

_HOLDER = """
import sys, time
from pathlib import Path
from jorge_tune.study.runs_directory import Presence
presence = Presence(Path(sys.argv[1]), "w-1")
presence.update(trial=3)
print("there", flush=True)
time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path):
    process = subprocess.Popen([sys.executable, "-c", _HOLDER, str(tmp_path)], stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"there\n"
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


def test_a_worker_is_alive_until_the_moment_it_is_killed(holder, tmp_path):
    assert life_of(tmp_path, "w-1") == "alive"
    (seen,) = workers_in(tmp_path)
    assert (seen.worker, seen.life, seen.facts["trial"]) == ("w-1", "alive", 3)
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert life_of(tmp_path, "w-1") == "dead"
    forget(tmp_path, "w-1")
    assert workers_in(tmp_path) == []
    assert life_of(tmp_path, "w-1") == "unknown"


def test_another_machines_locks_prove_nothing(holder, tmp_path):
    (tmp_path / "workers" / "w-1.lock").write_text("a kernel of another machine's")
    assert life_of(tmp_path, "w-1") == "unknown"


def test_a_worker_that_leaves_leaves_no_trace(tmp_path):
    with Presence(tmp_path, "w-2") as presence:
        assert life_of(tmp_path, "w-2") == "alive"
        presence.update(state="training")
        assert json.loads((tmp_path / "workers" / "w-2.json").read_text())["pid"] == os.getpid()
    assert list((tmp_path / "workers").iterdir()) == []


def test_facts_are_written_no_more_often_than_a_display_looks(tmp_path, monkeypatch):
    monkeypatch.setattr("jorge_tune.study.runs_directory._LEAST_SECONDS", 60.0)  # however long the writing takes
    with Presence(tmp_path, "w-3") as presence:
        presence.update(epoch=0)
        for epoch in range(1, 50):
            presence.update(at_once=False, epoch=epoch)
        assert json.loads((tmp_path / "workers" / "w-3.json").read_text())["epoch"] == 0
        presence.update(state="waiting")
        held = json.loads((tmp_path / "workers" / "w-3.json").read_text())
        assert (held["epoch"], held["state"]) == (49, "waiting")


def test_a_folder_that_cannot_be_written_is_bad_input(tmp_path):
    (tmp_path / "workers").write_text("a file")
    with pytest.raises(InputError, match="give another --runs"):
        Presence(tmp_path, "w-1")


def test_a_run_folder_is_training_while_its_journal_is_open(tmp_path):
    folder = RunDirectory(tmp_path / "run")
    assert not is_training(folder.root)
    folder.root.mkdir()
    with RunJournal(folder):
        assert is_training(folder.root)
    assert not is_training(folder.root)


def never(seconds: float) -> bool:
    time.sleep(min(seconds, 0.02))
    return False


def test_runs_share_a_machine_and_one_may_have_it_alone(tmp_path):
    machine = Machine(tmp_path)
    with machine.holding(never) as first, machine.holding(never) as second:
        assert first
        assert second
        with machine.holding(lambda seconds: True, alone=True) as alone:
            assert not alone
    with machine.holding(never, alone=True) as alone:
        assert alone
        with machine.holding(lambda seconds: True) as other:
            assert not other


def test_whoever_waits_to_be_alone_lets_no_other_begin(tmp_path):
    machine, order, leave, shut = Machine(tmp_path), [], threading.Event(), threading.Event()

    def in_vain(seconds: float) -> bool:
        shut.set()  # it has the gate by now, and waits for who is inside
        return never(seconds)

    def be_alone() -> None:
        with machine.holding(in_vain, alone=True):
            order.append("alone")

    with machine.holding(never):
        waiting = threading.Thread(target=be_alone)
        waiting.start()
        assert shut.wait(20)
        with machine.holding(lambda seconds: leave.wait(0.2) or True) as late:
            assert not late
        assert order == []
    waiting.join(10)
    assert order == ["alone"]
    with machine.holding(never) as again:
        assert again
