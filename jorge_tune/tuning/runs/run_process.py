"""One run's process as its worker sees it: who starts it, how it is followed to its end, what its end means."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from jorge_tune.errors import JorgeTuneError
from jorge_tune.measure.runs import Run, read_run
from jorge_tune.recipe.io import parse_recipe
from jorge_tune.recipe.schema import Recipe
from jorge_tune.records import RunFolder
from jorge_tune.tuning.runs.children import Ended, RunJob
from jorge_tune.tuning.runs.faults import Cause
from jorge_tune.tuning.runs.orders import Orders

_LOOK_SECONDS = 1.0  # a run that says nothing is looked at so often
_STOP_SECONDS = 120.0  # that a run may take for its checkpoint once it is asked to stop
_OUT_OF_SPACE = ("No space left on device", "Disk quota exceeded")
_BUSY = "another process is training in it"


class RunningChild(Protocol):
    """A run in its process, see `children.Child`."""

    def fileno(self) -> int:
        """Readable when something happened."""

    def poll(self, timeout: float | None = 0.0) -> Ended | None:
        """Take in what happened; how it ended, once it has."""

    def stop(self, reason: str) -> None:
        """Ask for a checkpoint and the end."""

    def kill(self) -> None:
        """End it now."""

    def keep(self, seconds: float, grace: float) -> None:
        """Let it go on for so long without hearing this again; then it has so much grace to end by itself."""

    def close(self) -> None:
        """Let go of it; it ends."""


class Runs(Protocol):
    """Who starts runs, see `children.RunServer`."""

    def start(self, job: RunJob) -> RunningChild:
        """Start one."""


def follow(child: RunningChild, orders: Orders, ask: Callable[[], str | None]) -> Ended:
    """Wait for a run's end, and bring it about where there is a reason to.

    Args:
        child: the run.
        orders: cut the waits short.
        ask: looked up whenever something happened, and once a second; a reason for the run to stop.
    """
    deadline: float | None = None
    while (ended := child.poll(0.0)) is None:
        if deadline is None:
            reason = ask()
            if reason is not None:
                child.stop(reason)
                deadline = time.monotonic() + _STOP_SECONDS
        elif time.monotonic() > deadline:
            child.kill()
        orders.wait(_LOOK_SECONDS, child.fileno())
    return ended


def cause_of(ended: Ended) -> Cause:
    """Why a run broke off that nobody here had asked to stop."""
    if any(words in ended.reason for words in _OUT_OF_SPACE):
        return "disk full"
    if ended.out_of_memory:
        return "out of memory"
    if ended.outcome == "killed":
        return "killed"
    if ended.outcome == "interrupted":
        return "preempted"
    return "bad input" if ended.input_error else "broke off"


def was_busy(ended: Ended) -> bool:
    """Whether the run found its folder in the hands of another process, which is then just leaving it."""
    return ended.outcome == "failed" and _BUSY in ended.reason


def ended_run(folder: Path, recipe_text: str) -> Run | None:
    """The run of this very recipe in a folder, if it has come to its end; such a run is not started again.

    A folder with something else in it is for the run itself to refuse.
    """
    if not RunFolder(folder).records.is_file():
        return None
    try:
        run = read_run(folder)
    except JorgeTuneError:
        return None
    asked = parse_recipe(recipe_text, str(folder)).recipe
    return run if run.ended and _without_places(run.recipe) == _without_places(asked) else None


def _without_places(recipe: Recipe) -> Recipe:
    """Where the data lie and who loads them makes no other run."""
    if recipe.task is None or recipe.task.data is None:
        return recipe
    return replace(recipe, task=replace(recipe.task, data=replace(recipe.task.data, root="", workers=0)))
