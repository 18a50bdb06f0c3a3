"""One run's process as its worker sees it: who starts it, how it is followed to its end, what its end means."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

from jorge_tune.compare.run_directories import Evaluation, Run, read_run
from jorge_tune.errors import InputError, JorgeTuneError, RunDirectoryError
from jorge_tune.files import boot, open_regular, take
from jorge_tune.recipe.recipe_files import parse_recipe
from jorge_tune.records import Record, RunDirectory, parse_record
from jorge_tune.runs.run_start import without_places
from jorge_tune.study.jobs.client import ProcessEnd, RunJob
from jorge_tune.study.jobs.faults import Cause
from jorge_tune.study.stop import WorkerStops

_LOOK_SECONDS = 1.0  # between two looks at a run that reports nothing
_STOP_SECONDS = 120.0  # that a run may take for its checkpoint after a stop request
_LOCK_POLL_SECONDS = 0.5  # between two tries to take a lock of the machine
_OUT_OF_SPACE = ("No space left on device", "Disk quota exceeded")
_BUSY = "another process is training in it"


class RunningChild(Protocol):
    """A run in its process, see `client.Child`."""

    def fileno(self) -> int:
        """A descriptor that is readable when something happened."""

    def poll(self, timeout: float | None = 0.0) -> ProcessEnd | None:
        """Take in what happened, and return how the run ended once it has."""

    def stop(self, reason: str) -> None:
        """Ask for a checkpoint and the end."""

    def kill(self) -> None:
        """End it now."""

    def keep(self, seconds: float, grace: float) -> None:
        """Allow it so many more seconds without another such message; after them it has the grace seconds to end."""

    def close(self) -> None:
        """Let go of it; it ends."""


class Runs(Protocol):
    """Who starts runs, see `client.RunLauncher`."""

    def start(self, job: RunJob) -> RunningChild:
        """Start one."""


def follow(child: RunningChild, orders: WorkerStops, ask: Callable[[], str | None]) -> ProcessEnd:
    """Wait until a run has ended, and stop it where there is a reason to.

    Args:
        child: the run.
        orders: cut the waits short.
        ask: called whenever something happened, and once a second; returns a reason for the run to stop, or None.
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
    """The cause of an end that this worker did not ask for."""
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
    """Whether another process was still training in the run's directory, and is probably about to leave it."""
    return ended.outcome == "failed" and _BUSY in ended.reason


def ended_run(folder: Path, recipe_text: str) -> Run | None:
    """The run of exactly this recipe in a directory, if it has ended; such a run is not started again.

    A directory that holds something else gives None here; the run itself refuses it.
    """
    if not RunDirectory(folder).records.is_file():
        return None
    try:
        run = read_run(folder)
    except JorgeTuneError:
        return None
    asked = parse_recipe(recipe_text, str(folder)).recipe
    return run if run.ended and without_places(run.recipe) == without_places(asked) else None


class RunFollower:
    """Reads a run directory's records as they grow; a directory that is not there yet has none.

    Where a run resumes, the readings after that step are dropped, as `read_records` does. The readings are those of the
    part that selects: the first part that is evaluated, since the test part comes last or alone.
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
        """Take in what was appended, and return whether there was anything.

        Raises:
            RunDirectoryError: a line is not a record, or the file cannot be read.
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


class Machine:
    """This machine's runs in one directory, by a lock that each of them shares.

    A run that must be alone closes the gate, so that no other begins, and waits until the others have ended.
    """

    def __init__(self, runs: Path) -> None:
        self._lock = runs / "workers" / f"machine-{boot()[:8] or 'unnamed'}"
        self._gate = self._lock.with_suffix(".gate")

    @contextlib.contextmanager
    def holding(self, wait: Callable[[float], bool], *, alone: bool = False) -> Iterator[bool]:
        """Hold the machine as one of its runs, or as the only one.

        Args:
            wait: waits that many seconds; returns True to give up waiting, and then nothing is held.
            alone: wait until no other run holds the machine, and let none begin meanwhile.
        """
        with _open_lock(self._gate) as gate, _open_lock(self._lock) as lock:
            held = _take_patiently(gate, wait, shared=not alone) and _take_patiently(lock, wait, shared=not alone)
            if not alone:
                take(gate, shared=True, release=True)
            yield held


def _take_patiently(descriptor: int, wait: Callable[[float], bool], *, shared: bool) -> bool:
    while not take(descriptor, shared=shared):
        if wait(_LOCK_POLL_SECONDS):
            return False
    return True


@contextlib.contextmanager
def _open_lock(path: Path) -> Iterator[int]:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = open_regular(path, os.O_RDWR | os.O_CREAT, mode=0o600)  # whoever can open a lock file can hold it
    except OSError as error:
        raise InputError(f"{path.parent}: cannot be written ({error.strerror}); give another --runs") from error
    try:
        yield descriptor
    finally:
        os.close(descriptor)
