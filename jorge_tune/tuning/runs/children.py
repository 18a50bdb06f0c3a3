"""Runs as child processes: a client of the machine's run server, for a worker that has no torch.

One connection belongs to one run; each message is one line of JSON.

to the run      {recipe, out, device, threads, download, directory, path, environment, lease}, once; lease: [until,
                grace] by the machine's clock, or null
                {stop: reason}
                {lease: [seconds, grace]}      without a newer one it ends by itself after that time
from the run    {event: started, pid}
                {event: evaluation, step}      a record of it is in the run folder
                {event: end, outcome, reason, out_of_memory, input_error}
from the server {event: exit, code, signal, out_of_memory}   the process is gone, its lock and memory with it

The connection's end tells both sides what no message could: a run whose worker is gone writes a checkpoint and ends.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from jorge_tune.errors import JorgeTuneError
from jorge_tune.tuning.runs.run_server_start import (
    Place,
    find_place,
    knock,
    last_words,
    server_of,
    start_if_missing,
    without_secrets,
)

_ATTEMPTS = 3
_START_SECONDS = 180.0  # torch read over a slow network for the first time
_CHUNK_BYTES = 1 << 16
_TAIL_LINES, _LINE_LENGTH = 3, 160

ChildOutcome = Literal["finished", "diverged", "interrupted", "failed", "killed"]


@dataclass(frozen=True)
class RunJob:
    """One run for a child process.

    Args:
        recipe_text: the recipe, seed included.
        out: the run folder; what it holds of this run is continued.
        device: "auto", "cpu", "cuda", "cuda:1", ...
        threads: CPU threads; None leaves it to torch.
        download: fetch a data set of torchvision that is not there.
        lease: until when, by `hardware.machine_clock`, it may go on without hearing of its worker, and how many
            seconds it then has to end by itself; None: as long as its worker lives.
    """

    recipe_text: str
    out: str
    device: str = "auto"
    threads: int | None = None
    download: bool = False
    lease: tuple[float, float] | None = None


@dataclass(frozen=True)
class Ended:
    """How a run's process ended.

    Args:
        outcome: a run's own, or `killed`: the process died without a word.
        reason: one sentence; empty for a finished run.
        out_of_memory: memory was what it died of, the GPU's or (by the kernel's count of such kills) the machine's.
        input_error: the recipe, its data or its folder cannot be used; another attempt would fail in the same way.
    """

    outcome: ChildOutcome
    reason: str
    out_of_memory: bool = False
    input_error: bool = False


class RunServer:
    """The server on this machine that starts runs for processes like this one; made by `connect`."""

    def __init__(self, place: Place) -> None:
        self._place = place

    @classmethod
    def connect(cls, *, idle_seconds: float = 60.0, grace_seconds: float = 10.0) -> RunServer:
        """Find the server or start it, without waiting for torch to be loaded.

        Raises:
            InputError: this machine cannot have one.
            JorgeTuneError: it cannot be started.
        """
        place = find_place(idle_seconds, grace_seconds)
        start_if_missing(place)
        return cls(place)

    def start(self, job: RunJob) -> Child:
        """Start a run, in this process's folder and environment; a server that died is replaced.

        Raises:
            JorgeTuneError: the server cannot be started or does not answer.
        """
        folder = Path(job.out).absolute()
        line = {
            "recipe": job.recipe_text,
            "out": str(folder),
            "device": job.device,
            "threads": job.threads,
            "download": job.download,
            "directory": os.getcwd(),
            "path": sys.path,
            "environment": without_secrets(os.environ),
            "lease": job.lease,
        }
        message = json.dumps(line).encode() + b"\n"
        deadline = time.monotonic() + _START_SECONDS
        for _ in range(_ATTEMPTS):
            connection = knock(self._place)
            if connection is None:
                start_if_missing(self._place)
                connection = knock(self._place)
            child = connection and _begin(connection, message, folder, deadline)
            if child:
                return child
        words = last_words(self._place)
        raise JorgeTuneError("the run server ended before it started a run" + (f": {words}" if words else ""))


class Child:
    """One run in its process. Close it (or use it as a context manager) to leave early: the run then ends too.

    `stop` and `kill` may be called from any thread.
    """

    def __init__(self, connection: socket.socket, pid: int, folder: Path, received: bytes = b"") -> None:
        self.pid, self.folder = pid, folder
        self.evaluations = 0  # recorded so far, as told
        self._connection, self._received = connection, b""
        self._end: dict[str, Any] | None = None
        self._exit: dict[str, Any] | None = None
        self._ended: Ended | None = None
        self._closing = threading.Lock()
        self._process: int | None = None  # a descriptor, since the number may soon be another's
        with contextlib.suppress(OSError):  # it is gone already
            self._process = os.pidfd_open(pid)
        self._digest(received)

    def __enter__(self) -> Child:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def fileno(self) -> int:
        """For select and poll: readable when `poll` has something to take in; -1 once it has told the end."""
        return self._connection.fileno()

    def poll(self, timeout: float | None = 0.0) -> Ended | None:
        """Take in what happened: how the run ended once its process is gone, else None.

        Args:
            timeout: seconds to wait for anything to happen (an evaluation, the end); None waits as long as it takes.
        """
        while self._ended is None and _readable(self._connection, timeout):
            before = self.evaluations
            self._take_in()
            if self.evaluations > before:
                break
        return self._ended

    def stop(self, reason: str) -> None:
        """Ask the run to finish its step, write a checkpoint and end as interrupted."""
        with contextlib.suppress(OSError):  # it is gone; `poll` tells
            self._connection.send(json.dumps({"stop": reason}).encode() + b"\n")

    def keep(self, seconds: float, grace: float) -> None:
        """Let it go on for so many seconds; without hearing this again it then writes a checkpoint and ends."""
        with contextlib.suppress(OSError):
            self._connection.send(json.dumps({"lease": [seconds, grace]}).encode() + b"\n")

    def kill(self) -> None:
        """End the process at once; `poll` tells when it is gone."""
        with self._closing, contextlib.suppress(ProcessLookupError):
            if self._process is not None:
                signal.pidfd_send_signal(self._process, signal.SIGKILL)

    def close(self) -> None:
        """Give up the connection: a run that still trains writes a checkpoint and ends."""
        with self._closing:
            self._connection.close()
            if self._process is not None:
                os.close(self._process)
                self._process = None

    def _take_in(self) -> None:
        try:
            chunk = self._connection.recv(_CHUNK_BYTES)
        except BlockingIOError:
            return
        except ConnectionResetError:
            chunk = b""
        self._digest(chunk)
        if not chunk or self._exit is not None:
            self._ended = _ending(self._end, self._exit, self.folder)
            self.close()

    def _digest(self, chunk: bytes) -> None:
        *lines, self._received = (self._received + chunk).split(b"\n")
        for message in map(json.loads, lines):
            match message["event"]:
                case "evaluation":
                    self.evaluations += 1
                case "end":
                    self._end = message
                case "exit":
                    self._exit = message


def _begin(connection: socket.socket, message: bytes, folder: Path, deadline: float) -> Child | None:
    """The run, once its process says that it is there; None if the server left instead."""
    try:
        connection.sendall(message)
        received = b""
        while b"\n" not in received:
            connection.settimeout(max(deadline - time.monotonic(), 0.001))
            chunk = connection.recv(_CHUNK_BYTES)
            if not chunk:
                connection.close()
                return None
            received += chunk
    except (BrokenPipeError, ConnectionResetError):
        connection.close()
        return None
    except TimeoutError as error:
        server = f"the run server (process {server_of(connection)})"
        connection.close()
        raise JorgeTuneError(f"{server} did not start a run in {_START_SECONDS:g} s; does it hang? End it") from error
    except BaseException:
        connection.close()
        raise
    line, _, rest = received.partition(b"\n")
    answer = json.loads(line)
    if answer["event"] == "started":
        connection.setblocking(False)
        return Child(connection, answer["pid"], folder, rest)
    connection.close()
    if answer["event"] == "refused":
        raise JorgeTuneError(f"the run server could not start a run: {answer['reason']}")
    return None  # killed in its first moment


def _readable(connection: socket.socket, timeout: float | None) -> bool:
    poller = select.poll()
    poller.register(connection, select.POLLIN)
    return bool(poller.poll(None if timeout is None else 1000 * timeout))


def _ending(end: dict[str, Any] | None, gone: dict[str, Any] | None, folder: Path) -> Ended:
    """From what the run said last and what the server saw of its death."""
    if end is not None:
        return Ended(end["outcome"], end["reason"], end["out_of_memory"], end["input_error"])
    said = _last_output(folder)
    if gone is None:
        return Ended("killed", f"the run's process died, and its server before it{said}")
    if gone["signal"] is None:
        return Ended("failed", f"the run's process left with exit code {gone['code']}{said}")
    for_memory = " for want of memory" if gone["out_of_memory"] else ""
    return Ended("killed", f"killed by {_signal_name(gone['signal'])}{for_memory}{said}", gone["out_of_memory"])


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # the real-time ones have no names
        return f"signal {number}"


def _last_output(folder: Path) -> str:
    """What the process printed last, for the end of a sentence; of a crash, what it was and where."""
    try:
        lines = (folder / "output.txt").read_text(errors="replace").split("\n")
    except OSError:
        return ""
    said = [line.strip()[:_LINE_LENGTH] for line in lines if line.strip()]
    crashes = [index for index, line in enumerate(said) if line.startswith("Fatal Python error")]
    if crashes:
        stack = [line for line in said[crashes[-1] :] if line.startswith(("Current thread", "File "))]
        current = [index for index, line in enumerate(stack) if line.startswith("Current thread")]
        said = [said[crashes[-1]], *(stack[current[0] + 1 : current[0] + 2] if current else [])]
    return "; it said: " + " | ".join(said[-_TAIL_LINES:]) if said else ""
