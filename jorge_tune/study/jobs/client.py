"""Runs as child processes, for a worker that has no torch: forked by a server, followed by a connection each."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from multiprocessing.connection import Pipe
from pathlib import Path
from typing import Any, Literal

from jorge_tune.errors import InputError, JorgeTuneError
from jorge_tune.recipe.user_code import NO_PLACES, CodePlaces
from jorge_tune.study.jobs.channel import Channel

_ATTEMPTS = 3
_START_SECONDS = 180.0  # torch read over a slow network for the first time
_LEAVE_SECONDS = 5.0  # that a fork server may take to leave once its last run has ended
_TAIL_LINES, _LINE_LENGTH = 3, 160
_SECRETS = ("JORGE_TUNE_STORAGE", "OPTUNA_STORAGE", "PGPASSWORD", "PGPASSFILE", "MYSQL_PWD")

ChildOutcome = Literal["finished", "diverged", "interrupted", "failed", "killed"]


@dataclass(frozen=True)
class RunJob:
    """One run for a child process.

    Args:
        recipe_text: the recipe, seed included.
        out: the run directory; a run that it already holds is resumed.
        device: "auto", "cpu", "cuda", "cuda:1", ...
        threads: CPU threads; None leaves it to torch.
        download: whether to download a torchvision data set that is missing.
        code: where the modules that the recipe names may lie.
        loggers: where to copy the records to: `csv`, `tensorboard`, `wandb`.
        lease: until when, by `hardware.machine_clock`, it may go on without hearing of its worker, and how many
            seconds it then has to end by itself; None: as long as its worker lives.
    """

    recipe_text: str
    out: str
    device: str = "auto"
    threads: int | None = None
    download: bool = False
    code: CodePlaces = NO_PLACES
    loggers: tuple[str, ...] = ()
    lease: tuple[float, float] | None = None


@dataclass(frozen=True)
class ProcessEnd:
    """How a run's process ended.

    Args:
        outcome: the run's own, or `killed`: the process died before it could say how it ended.
        reason: one sentence; empty for a finished run.
        out_of_memory: it ended for lack of memory: the GPU's, or the machine's by the kernel's count of OOM kills.
        input_error: the recipe, its data or its directory cannot be used; another attempt would fail the same way.
    """

    outcome: ChildOutcome
    reason: str
    out_of_memory: bool = False
    input_error: bool = False


class RunLauncher:
    """Starts runs through a fork server, a child of this process or of the one that lends it.

    The server starts when it is first needed. It ends with the last process that holds a launcher for it, once its runs
    have ended. One that died is replaced; a process that was lent it then starts a server of its own.

    Args:
        grace_seconds: a run whose worker is gone is killed after that long.
        lent: the descriptor that `lend` gave to the process that started this one.
        with_torch: whether a server of this process's own loads torch beforehand; runs of commands need none.
    """

    def __init__(self, *, grace_seconds: float = 10.0, lent: int | None = None, with_torch: bool = True) -> None:
        self._grace_seconds, self._with_torch = grace_seconds, with_torch
        self._process: subprocess.Popen[bytes] | None = None
        self._requests: socket.socket | None = None
        if lent is not None:
            self._requests = socket.socket(fileno=lent)
            self._requests.set_inheritable(False)

    def __enter__(self) -> RunLauncher:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    @property
    def server_pid(self) -> int | None:
        """The fork server's process number; None for one that is lent, or not started."""
        return None if self._process is None else self._process.pid

    def warm_up(self) -> None:
        """Start the server unless it is there, without waiting until it has loaded torch.

        Raises:
            InputError: this system cannot fork runs.
            JorgeTuneError: the server cannot be started.
        """
        if self._process is not None and self._process.poll() is not None:
            self.close()
        if self._requests is None:
            self._start_server()

    def lend(self) -> int:
        """A descriptor by which child processes (`pass_fds`) use this launcher's server. Raises as `warm_up` does."""
        self.warm_up()
        assert self._requests is not None
        return self._requests.fileno()

    def start(self, job: RunJob) -> Child:
        """Start a run, in this process's directory and environment.

        Raises:
            JorgeTuneError: the server cannot be started or does not answer.
        """
        directory = Path(job.out).absolute()
        message = {
            "recipe": job.recipe_text,
            "out": str(directory),
            "device": job.device,
            "threads": job.threads,
            "download": job.download,
            "code": job.code,
            "loggers": job.loggers,
            "directory": os.getcwd(),
            "path": sys.path,
            "environment": without_secrets(os.environ),
            "lease": job.lease,
        }
        deadline = time.monotonic() + _START_SECONDS
        for _ in range(_ATTEMPTS):
            self.warm_up()
            channel = self._request()
            child = channel and self._begin(channel, message, directory, deadline)
            if child:
                return child
        raise JorgeTuneError("the run's process ended before it started to train" + self._server_end())

    def close(self) -> None:
        """Let go of the server. The one that starts it waits until it has left, and its runs with it."""
        if self._requests is not None:
            self._requests.close()
            self._requests = None
        if self._process is None:
            return

        self._process.terminate()  # it leaves at once while it loads torch, else when its last run has ended
        try:
            self._process.wait(self._grace_seconds + _LEAVE_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None

    def _start_server(self) -> None:
        """Start a server of this process's own; it queues requests at once and serves them when torch is loaded."""
        if not sys.platform.startswith("linux"):
            raise InputError(
                f"studies fork their runs from a server, which needs Linux, not {sys.platform}; WSL has it"
            )
        ours, theirs = socket.socketpair()
        with theirs:
            module = "jorge_tune.study.jobs.fork_server"
            loads = [] if self._with_torch else ["light"]
            try:
                self._process = subprocess.Popen(
                    [sys.executable, "-P", "-m", module, str(theirs.fileno()), str(self._grace_seconds), *loads],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,  # it must not hold a pipe open whose end tells of this process's death
                    stderr=subprocess.DEVNULL,
                    cwd="/",
                    env=environment_for_torch() | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
                    pass_fds=(theirs.fileno(),),
                    start_new_session=True,  # Ctrl-C is for whoever waits
                )
            except OSError as error:
                ours.close()
                raise JorgeTuneError(f"the fork server cannot be started ({error.strerror})") from error
        self._requests = ours

    def _request(self) -> Channel | None:
        """A connection to a run that is being forked; None if the server is gone, which is then forgotten."""
        assert self._requests is not None
        ours, theirs = Pipe()
        try:
            socket.send_fds(self._requests, [b"r"], [theirs.fileno()])
        except (BrokenPipeError, ConnectionResetError):
            ours.close()
            self.close()
            return None
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        return Channel(ours)

    def _begin(self, channel: Channel, message: Mapping[str, Any], directory: Path, deadline: float) -> Child | None:
        """The run, once its process says that it is there; None if it ended before."""
        try:
            with contextlib.suppress(OSError):  # a server that refuses the run closes its end; its reason is still read
                channel.send(message)
            answer = channel.receive(max(0.0, deadline - time.monotonic()))
        except EOFError:
            channel.close()
            return None
        except BaseException:
            channel.close()
            raise

        if answer is not None and answer["event"] == "started":
            return Child(channel, answer["pid"], directory)
        channel.close()
        if answer is None:
            server = "the fork server" if self.server_pid is None else f"the fork server (process {self.server_pid})"
            raise JorgeTuneError(f"{server} did not start a run in {_START_SECONDS:g} s; does it hang? End it")
        if answer["event"] == "refused":
            raise JorgeTuneError(f"the fork server could not start a run: {answer['reason']}")
        return None  # killed in its first moment

    def _server_end(self) -> str:
        """How the server ended, for the end of a sentence; empty while it is there."""
        code = None if self._process is None else self._process.poll()
        if code is None:
            return ""
        how = f"was killed by {_signal_name(-code)}" if code < 0 else f"left with exit code {code}"
        return f": the fork server {how}"


class Child:
    """One run in its process. Close it (or use it as a context manager) to leave early: the run then ends too.

    `stop` and `kill` may be called from any thread.
    """

    def __init__(self, channel: Channel, pid: int, directory: Path) -> None:
        self.pid, self.directory = pid, directory
        self.evaluations = 0  # recorded so far, as reported
        self._channel = channel
        self._last_message: dict[str, Any] | None = None
        self._process_end: ProcessEnd | None = None
        self._lock = threading.Lock()  # nobody sends or kills by a descriptor that is being closed
        self._process: int | None = None  # a descriptor, since the number may soon be another's
        with contextlib.suppress(OSError):  # it is gone already
            self._process = os.pidfd_open(pid)

    def __enter__(self) -> Child:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def fileno(self) -> int:
        """For select and poll: readable when `poll` has something to take in; -1 once it has told the end."""
        return self._channel.fileno()

    def poll(self, timeout: float | None = 0.0) -> ProcessEnd | None:
        """Take in what happened: how the run ended once its process is gone, else None.

        Args:
            timeout: seconds to wait for anything to happen (an evaluation, the end); None waits as long as it takes.
        """
        while self._process_end is None:
            try:
                message = self._channel.receive(timeout)
            except EOFError:  # the process and its server are gone
                self._finish(None)
                break
            if message is None:
                break
            match message["event"]:
                case "evaluation":
                    self.evaluations += 1
                    timeout = 0.0
                case "end":
                    self._last_message = message
                case "exit":
                    self._finish(message)
        return self._process_end

    def stop(self, reason: str) -> None:
        """Ask the run to finish its step, write a checkpoint and end as interrupted."""
        self._offer({"stop": reason})

    def keep(self, seconds: float, grace: float) -> None:
        """Let it go on for so many seconds; without hearing this again it then writes a checkpoint and ends."""
        self._offer({"lease": [seconds, grace]})

    def kill(self) -> None:
        """End the process at once; `poll` tells when it is gone."""
        with self._lock, contextlib.suppress(ProcessLookupError):
            if self._process is not None:
                signal.pidfd_send_signal(self._process, signal.SIGKILL)

    def close(self) -> None:
        """Give up the connection: a run that still trains writes a checkpoint and ends."""
        with self._lock:
            self._channel.close()
            if self._process is not None:
                os.close(self._process)
                self._process = None

    def _offer(self, message: Mapping[str, Any]) -> None:
        with self._lock:
            self._channel.offer(message)

    def _finish(self, exit_message: dict[str, Any] | None) -> None:
        self._process_end = _ending(self._last_message, exit_message, self.directory)
        self.close()


def _ending(last_message: dict[str, Any] | None, exit_message: dict[str, Any] | None, directory: Path) -> ProcessEnd:
    """How it ended, from the run's last message and from what the server saw of its death."""
    if last_message is not None:
        return ProcessEnd(*(last_message[name] for name in ("outcome", "reason", "out_of_memory", "input_error")))
    said = _last_output(directory)
    if exit_message is None:
        return ProcessEnd("killed", f"the run's process died, and its server before it{said}")
    if exit_message["signal"] is None:
        return ProcessEnd("failed", f"the run's process left with exit code {exit_message['code']}{said}")
    for_memory = " out of memory" if exit_message["out_of_memory"] else ""
    return ProcessEnd(
        "killed", f"killed by {_signal_name(exit_message['signal'])}{for_memory}{said}", exit_message["out_of_memory"]
    )


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # the real-time ones have no names
        return f"signal {number}"


def _last_output(directory: Path) -> str:
    """The last lines that the process printed, for the end of a sentence; after a crash, its signal and place."""
    try:
        lines = (directory / "output.txt").read_text(errors="replace").split("\n")
    except OSError:
        return ""
    said = [line.strip()[:_LINE_LENGTH] for line in lines if line.strip()]
    crashes = [index for index, line in enumerate(said) if line.startswith("Fatal Python error")]
    if crashes:
        stack = [line for line in said[crashes[-1] :] if line.startswith(("Current thread", "File "))]
        current = [index for index, line in enumerate(stack) if line.startswith("Current thread")]
        said = [said[crashes[-1]], *(stack[current[0] + 1 : current[0] + 2] if current else [])]
    return "; it said: " + " | ".join(said[-_TAIL_LINES:]) if said else ""


def without_secrets(environment: Mapping[str, str]) -> dict[str, str]:
    """An environment for processes that need no database."""
    return {name: value for name, value in environment.items() if name not in _SECRETS}


def environment_for_torch() -> dict[str, str]:
    """This process's without its secrets; OpenMP's idle threads sleep unless the user chose otherwise."""
    return {"OMP_WAIT_POLICY": "PASSIVE"} | without_secrets(os.environ)
