"""A run directory is free the moment its run is dead, whatever the run's loader processes do."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from jorge_tune import files as locks
from jorge_tune.recipe.recipe_files import write_recipe
from jorge_tune.records import RunDirectory
from jorge_tune.training import train
from tests.training.conftest import make_image_folder
from tests.training.small_recipes import folder_recipe
from tests.waiting import wait_until

_TRAIN = """
import sys
from pathlib import Path
from jorge_tune.recipe.recipe_files import read_recipe
from jorge_tune.training import train
import time

def report(progress):
    if progress.event == "step" and progress.step == 2:
        print("trains", flush=True)
        time.sleep(600)

train(read_recipe(sys.argv[1]), Path(sys.argv[2]), progress=report)
"""


def _children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="asks the kernel for a process's children")
def test_loader_processes_that_outlive_a_killed_run_do_not_hold_its_folder(tmp_path: Path) -> None:
    root = make_image_folder(tmp_path / "images", size=16, count=40)
    recipe = folder_recipe(root, workers=2)
    write_recipe(tmp_path / "recipe.yaml", recipe)
    folder = RunDirectory(tmp_path / "run")
    command = [sys.executable, "-W", "ignore", "-c", _TRAIN, tmp_path / "recipe.yaml", folder.root]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "trains\n"
        loaders = _children(process.pid)
        assert len(loaders) >= 2
        assert locks.is_held(folder.log)
        for loader in loaders:
            os.kill(loader, signal.SIGSTOP)  # as one that waits for a disk: it does not notice its parent's death
        process.kill()
        process.wait()
    try:
        assert all(Path(f"/proc/{loader}").exists() for loader in loaders)
        assert not locks.is_held(folder.log)
        assert train(folder_recipe(root), folder.root, resume=True).outcome == "finished"
    finally:
        for loader in loaders:
            os.kill(loader, signal.SIGKILL)
            os.kill(loader, signal.SIGCONT)
    wait_until(lambda: not any(_runs(loader) for loader in loaders))


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in ("Z", "X")
    except OSError:
        return False


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_descriptor_that_is_let_go_is_not_closed_in_children(tmp_path: Path) -> None:
    descriptor = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    locks.keep_from_children(descriptor)
    assert _child_has(descriptor) is False
    locks.let_children_have(descriptor)
    assert _child_has(descriptor) is True
    os.close(descriptor)


def _child_has(descriptor: int) -> bool:
    """Asked of a child that was forked as loader processes are."""
    child = os.fork()
    if child == 0:
        try:
            os.fstat(descriptor)
        except OSError:
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
