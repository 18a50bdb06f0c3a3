"""The fork server of the tests: one for all modules, impatient with runs whose worker is gone."""

from __future__ import annotations

import atexit
import os
import time
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from jorge_tune.recipe.recipe_files import render_recipe
from jorge_tune.recipe.schema import CustomOptimizerSection, Recipe
from jorge_tune.study.jobs.client import ProcessEnd, RunJob, RunLauncher
from tests.training.small_recipes import digits_recipe

GRACE_SECONDS = 1.0
SECRETS = {
    "JORGE_TUNE_STORAGE": "postgresql://user:hunter2@host/db",
    "OPTUNA_STORAGE": "mysql://user:hunter2@host/db",
    "PGPASSWORD": "hunter2",
}


@cache
def server_of_the_tests() -> RunLauncher:
    """Started in an environment with secrets, so that a test can look for them."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in SECRETS.items():
            patch.setenv(name, value)
        patch.setenv("LEFT_BY_WHOEVER_STARTED_IT", "1")
        server = RunLauncher(grace_seconds=GRACE_SECONDS)
        atexit.register(server.close)
        run(server, digits_recipe(), Path("/proc/run"))  # waits for torch, and cannot write
        return server


def lent_launcher(**options: Any) -> RunLauncher:
    """A launcher for commands in this process, lent the tests' server as a supervisor lends its own to its workers.

    A server of its own would load torch anew for every command.
    """
    if options.get("lent") is not None:
        return RunLauncher(**options)
    return RunLauncher(lent=os.dup(server_of_the_tests().lend()), **options)


@pytest.fixture
def one_fork_server(monkeypatch: pytest.MonkeyPatch) -> None:
    """Studies and races that commands of this test run in this process are forked from the tests' server."""
    for module in ("run_study", "worker"):
        monkeypatch.setattr(f"jorge_tune.study.{module}.RunLauncher", lent_launcher)


def job(recipe: Recipe, out: Path, **changes: Any) -> RunJob:
    return RunJob(render_recipe(recipe), str(out), **({"device": "cpu", "threads": 1} | changes))


def run(server: RunLauncher, recipe: Recipe, out: Path, **changes: Any) -> ProcessEnd:
    """A run from start to end."""
    with server.start(job(recipe, out, **changes)) as child:
        return end_of(child)


def end_of(child: Any, seconds: float = 60) -> ProcessEnd:
    deadline = time.monotonic() + seconds
    while (ended := child.poll(1.0)) is None:
        assert time.monotonic() < deadline
    return ended


def odd(act: str, mark: Path | None = None, **changes: Any) -> Recipe:
    """A small recipe whose third step does something odd."""
    optimizer = CustomOptimizerSection(
        name="tests.training.odd_optimizers:Odd", lr=0.1, args={"act": act} | ({"mark": str(mark)} if mark else {})
    )
    return replace(digits_recipe(), optimizer=optimizer, **changes)


def long_recipe() -> Recipe:
    """Minutes of evaluations."""
    return digits_recipe(epochs=2000)


def pid_of(server: RunLauncher) -> int:
    assert server.server_pid is not None
    return server.server_pid


def children_of(pid: int) -> list[int]:
    return [int(number) for number in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def is_alive(pid: int) -> bool:
    """Whether a process is there and no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
