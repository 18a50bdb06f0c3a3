"""Small training scripts for the tests of commands: the standard library and jorge_tune.reporting, no torch."""

from __future__ import annotations

import contextlib
import os
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

from jorge_tune.command.run_command import run_command
from jorge_tune.recipe.schema import MetricsSection, Recipe, SGDSection, Target, TaskSection
from jorge_tune.records import Record, RunDirectory, of_kind, read_records
from jorge_tune.runs.run_result import RunResult

HEAD = "import json, os, signal, subprocess, sys, time\nfrom pathlib import Path\nimport jorge_tune\n"
TRAINS = """
for epoch in range(1, 4):
    jorge_tune.report(step=10 * epoch, epoch=epoch, top1=0.5 + 0.1 * epoch, loss=1 / epoch)
"""


def write_script(folder: Path, body: str, name: str = "train.py") -> Path:
    """A script with the usual imports."""
    path = folder / name
    path.write_text(HEAD + textwrap.dedent(body))
    return path


def command_recipe(
    script: Path | None = None,
    *arguments: str,
    command: tuple[str, ...] | str | None = None,
    metrics: MetricsSection | None = None,
    grace: float | None = None,
    silence: float | None = None,
    **changes: Any,
) -> Recipe:
    """A recipe whose task is a script, or another command."""
    task = TaskSection(
        kind="command",
        command=command or ("python", str(script), *arguments),
        metrics=metrics,
        grace_seconds=grace,
        silence_seconds=silence,
    )
    values: dict[str, Any] = {
        "name": "scripted",
        "optimizer": SGDSection(lr=0.1, momentum=0.9),
        "epochs": 3,
        "batch_size": 64,
        "target": Target(metric="top1", value=0.9),
    }
    return Recipe(**(values | {"task": task} | changes))


def run_script(tmp_path: Path, body: str, *, out: str = "run", **changes: Any) -> RunResult:
    """Write a script and run it, without a run before."""
    of_run = {key: changes.pop(key) for key in ("resume", "stop", "progress", "max_steps", "device") if key in changes}
    recipe = command_recipe(write_script(tmp_path, body), **changes)
    return run_command(recipe, tmp_path / out, **({"device": "cpu"} | of_run))


def records_of(folder: Path) -> list[Record]:
    return read_records(RunDirectory(folder).records)


def top1_of(folder: Path) -> list[tuple[int, float, float]]:
    """Step, epoch and accuracy of each evaluation."""
    return [(r["step"], r["epoch"], r["metrics"]["top1"]) for r in of_kind(records_of(folder), "evaluation")]


def log_of(folder: Path) -> str:
    return RunDirectory(folder).log.read_text()


def is_alive(pid: int) -> bool:
    """Whether a process runs; a zombie does not."""
    with contextlib.suppress(OSError, IndexError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    return False


def pid_in(path: Path) -> Callable[[], int]:
    """A process number that a script writes; 0 until it is there."""

    def read() -> int:
        text = path.read_text() if path.exists() else ""
        return int(text) if text.endswith("\n") else 0

    return read


def python_path() -> dict[str, str]:
    """The environment in which a fresh process finds this package."""
    return {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
