"""One run's process as its worker sees it: who starts it, how it is followed to its end, what its end means."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from jorge_tune.compare.run_directories import Evaluation, Run, read_run
from jorge_tune.errors import InputError, JorgeTuneError, RunDirectoryError
from jorge_tune.files import boot, open_regular, take
from jorge_tune.recipe.recipe_files import parse_recipe
from jorge_tune.recipe.schema import Recipe
from jorge_tune.records import Record, RunDirectory, parse_record
from jorge_tune.study.jobs.client import ProcessEnd, RunJob
from jorge_tune.study.jobs.faults import Cause
from jorge_tune.study.stop import WorkerStops

_LOOK_SECONDS = 1.0  # a run that says nothing is looked at so often
_STOP_SECONDS = 120.0  # that a run may take for its checkpoint once it is asked to stop
_OUT_OF_SPACE = ("No space left on device", "Disk quota exceeded")
_BUSY = "another process is training in it"


class RunningChild(Protocol):
    """A run in its process, see `client.Child`."""

    def fileno(self) -> int:
        """Readable when something happened."""

    def poll(self, timeout: float | None = 0.0) -> ProcessEnd | None:
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
    """Who starts runs, see `client.RunLauncher`."""

    def start(self, job: RunJob) -> RunningChild:
        """Start one."""


def follow(child: RunningChild, orders: WorkerStops, ask: Callable[[], str | None]) -> ProcessEnd:
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


def cause_of(ended: ProcessEnd) -> Cause:
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


def was_busy(ended: ProcessEnd) -> bool:
    """Whether the run found its directory in the hands of another process, which is then just leaving it."""
    return ended.outcome == "failed" and _BUSY in ended.reason


def ended_run(folder: Path, recipe_text: str) -> Run | None:
    """The run of this very recipe in a directory, if it has come to its end; such a run is not started again.

    A directory with something else in it is for the run itself to refuse.
    """
    if not RunDirectory(folder).records.is_file():
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


class RunFollower:
    """Reads a run directory's records as they grow; a directory that is not there yet has none.

    Superseded readings are dropped where a run resumes, as `read_records` does. The readings are those of the part
    that selects: the first part that is ever read, since the test part comes last or alone.
    """

    def __init__(self, folder: Path) -> None:
        self._path = RunDirectory(folder).records
        self._offset = self._lines = 0
        self._part: str | None = None
        self.readings: list[Evaluation] = []
        self.furthest = 0  # the largest step of any record, superseded ones too, plus 1; 0: no record
        self.outcome: str | None = None  # of a run that has ended
        self.seed: int | None = None

    def read(self) -> bool:
        """Take in what was appended; whether there was anything.

        Raises:
            RunDirectoryError: a line is no record.
        """
        try:
            with os.fdopen(open_regular(self._path, error=RunDirectoryError), "rb") as file:
                file.seek(self._offset)
                content = file.read()
        except FileNotFoundError:
            return False
        except OSError as error:
            raise RunDirectoryError(f"{self._path}: cannot read the records ({error.strerror})") from error
        whole = content.rfind(b"\n") + 1  # a line that is being written is read next time
        for line in content[:whole].split(b"\n")[:-1]:
            self._lines += 1
            self._take(parse_record(line, f"{self._path}:{self._lines}"))
        self._offset += whole
        return whole > 0

    def _take(self, record: Record) -> None:
        kind, step = record["kind"], record["step"]
        self.furthest = max(self.furthest, step + 1)
        self.outcome = record["outcome"] if kind == "end" else None
        if kind == "start":
            self.readings = [reading for reading in self.readings if reading.step <= step]
            self.seed = record["seed"]
        elif kind == "evaluation":
            self._part = self._part or record["part"]
            if record["part"] == self._part:
                place = float(record["epoch"]), float(record["train_seconds"])
                self.readings.append(Evaluation(step, *place, record["metrics"]))


_POLL_SECONDS = 0.5


class Machine:
    """This machine's runs in one directory. Whoever wants to be alone shuts the gate and waits for the others."""

    def __init__(self, runs: Path) -> None:
        self._lock = runs / "workers" / f"machine-{boot()[:8] or 'unnamed'}"
        self._gate = self._lock.with_suffix(".gate")

    @contextlib.contextmanager
    def holding(self, wait: Callable[[float], bool], *, alone: bool = False) -> Iterator[bool]:
        """Be one of the runs here, or the only one.

        Args:
            wait: waits that many seconds; True if there is no more use in waiting, and then nothing is held.
            alone: wait until no other run holds the machine, and let none begin meanwhile.
        """
        with _opened(self._gate) as gate, _opened(self._lock) as lock:
            held = _patiently(gate, wait, shared=not alone) and _patiently(lock, wait, shared=not alone)
            if not alone:
                take(gate, shared=True, release=True)
            yield held


def _patiently(descriptor: int, wait: Callable[[float], bool], *, shared: bool) -> bool:
    while not take(descriptor, shared=shared):
        if wait(_POLL_SECONDS):
            return False
    return True


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[int]:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = open_regular(path, os.O_RDWR | os.O_CREAT, mode=0o600)  # whoever can open it can hold it
    except OSError as error:
        raise InputError(f"{path.parent}: cannot be written ({error.strerror}); give another --runs") from error
    try:
        yield descriptor
    finally:
        os.close(descriptor)
