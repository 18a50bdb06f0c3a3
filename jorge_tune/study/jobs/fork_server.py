"""The run server: a process that has torch and torchvision loaded and forks a child for every run.

It must stay forkable: no thread of its own, no OpenMP region (a child of libgomp's with a pool that did not come along
hangs in its first one) and no CUDA before a fork. So it computes nothing, ever. It reads nothing either: a connection
is handed to the child that is forked for it, and the server keeps a copy to tell of the child's death, to see the
worker's, and to end a child that outlives its worker by more than the grace time.
"""

from __future__ import annotations

import contextlib
import fcntl
import gc
import importlib
import json
import os
import select
import signal
import socket
import sys
import time
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jorge_tune.hardware import oom_kills
from jorge_tune.study.jobs.child import run_child

_LOADED_BEFOREHAND = (  # what a run would import else
    *("torchmetrics", "torchvision", "torch.utils.serialization.config"),
    *("importlib.resources.readers", "sklearn.datasets.data", "sklearn.datasets.descr"),
    *("jorge_tune.training.runner", "jorge_tune.training.tasks.classification"),
)
_BACKLOG = 128
_EXHAUSTED_SECONDS = 0.2  # between two tries while the machine has no descriptors left


@dataclass
class _Run:
    """A child: the server's copy of its connection, and since when the worker is gone."""

    connection: socket.socket
    orphaned_at: float | None = None


class ForkServer:
    """Accepts, forks, reaps, until nobody has needed it for `idle_seconds`."""

    def __init__(self, listener: socket.socket, idle_seconds: float, grace_seconds: float) -> None:
        self._listener, self._idle_seconds, self._grace_seconds = listener, idle_seconds, grace_seconds
        self._runs: dict[int, _Run] = {}
        self._oom_kills = oom_kills() or 0
        self._poll = select.poll()
        self._wake, self._waker = os.pipe()
        for end in (self._wake, self._waker):
            os.set_blocking(end, False)
        self._asked_to_leave = False

    def serve(self) -> None:
        """Until idle, or asked to leave; runs that still train go on without a server."""
        signal.set_wakeup_fd(self._waker, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda number, frame: None)
        signal.signal(signal.SIGTERM, self._leave)
        signal.signal(signal.SIGINT, self._leave)
        self._poll.register(self._listener, select.POLLIN)
        self._poll.register(self._wake, select.POLLIN)
        idle_since = time.monotonic()
        while not self._asked_to_leave:
            for descriptor, _ in self._poll.poll(1000 * self._patience(idle_since)):
                if descriptor == self._listener.fileno():
                    self._accept()
                elif descriptor == self._wake:
                    with contextlib.suppress(BlockingIOError):
                        os.read(self._wake, 4096)
                else:
                    self._orphan(descriptor)
            self._reap()
            self._end_orphans()
            if self._runs:
                idle_since = time.monotonic()
            elif time.monotonic() - idle_since >= self._idle_seconds:
                return

    def _patience(self, idle_since: float) -> float:
        """Seconds until something is due that no event announces."""
        now = time.monotonic()
        due = [run.orphaned_at + self._grace_seconds for run in self._runs.values() if run.orphaned_at is not None]
        if not self._runs:
            due.append(idle_since + self._idle_seconds)
        return max(0.0, min(due) - now) + 0.001 if due else 3600.0

    def _accept(self) -> None:
        try:
            connection, _ = self._listener.accept()
        except OSError:  # out of descriptors: the connection waits in the queue
            time.sleep(_EXHAUSTED_SECONDS)
            return
        try:
            pid = os.fork()
        except OSError as error:
            _tell(connection, {"event": "refused", "reason": f"no process can be made ({error.strerror})"})
            connection.close()
            return
        if pid == 0:
            self._become_child(connection)
        self._oom_kills = oom_kills() or 0  # earlier ones are others'
        self._runs[pid] = _Run(connection)
        self._poll.register(connection, 0)  # hang-ups alone: what the worker says is for the child

    def _become_child(self, connection: socket.socket) -> None:
        """Let go of all that is the server's, run, and never come back."""
        try:
            signal.set_wakeup_fd(-1)
            for number in (signal.SIGCHLD, signal.SIGTERM):
                signal.signal(number, signal.SIG_DFL)
            signal.signal(signal.SIGINT, signal.default_int_handler)
            self._listener.close()
            os.close(self._wake)
            os.close(self._waker)
            for run in self._runs.values():
                run.connection.close()
            run_child(connection, self._grace_seconds)
        except BaseException:  # never back into the server's loop
            traceback.print_exc()
        finally:
            os._exit(1)

    def _orphan(self, descriptor: int) -> None:
        """The worker of a run has gone; the child sees it too and has the grace time to end."""
        self._poll.unregister(descriptor)
        for run in self._runs.values():
            if run.connection.fileno() == descriptor:
                run.orphaned_at = time.monotonic()

    def _end_orphans(self) -> None:
        now = time.monotonic()
        for pid, run in self._runs.items():
            if run.orphaned_at is not None and now - run.orphaned_at >= self._grace_seconds:
                os.kill(pid, signal.SIGKILL)
                run.orphaned_at = now  # a process in the kernel's hands may take a while

    def _reap(self) -> None:
        """Tell how children died, and end what they left behind in their process groups."""
        look = os.WEXITED | os.WNOHANG | os.WNOWAIT
        dead = [(pid, found) for pid in self._runs if (found := os.waitid(os.P_PID, pid, look)) is not None]
        kills = (oom_kills() or 0) if dead else self._oom_kills
        for pid, found in dead:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(pid, signal.SIGKILL)  # before the number is free: loader workers of a killed run
            os.waitpid(pid, 0)
            self._tell_exit(self._runs.pop(pid), found, kills > self._oom_kills)
        self._oom_kills = kills

    def _tell_exit(self, run: _Run, found: os.waitid_result, an_oom_kill_was_counted: bool) -> None:
        exited = found.si_code == os.CLD_EXITED
        gone = {
            "event": "exit",
            "code": found.si_status if exited else None,
            "signal": None if exited else found.si_status,
            "out_of_memory": found.si_status == signal.SIGKILL and not exited and an_oom_kill_was_counted,
        }
        _tell(run.connection, gone)
        if run.orphaned_at is None:
            self._poll.unregister(run.connection)
        run.connection.close()

    def _leave(self, number: int, frame: object) -> None:
        self._asked_to_leave = True


def main() -> None:
    """Serve the listening socket that was handed over; settings come as JSON in the last argument."""
    settings: Mapping[str, Any] = json.loads(sys.argv[-1])
    listener = socket.socket(fileno=settings["listener"])
    listener.set_inheritable(False)
    listener.setblocking(False)
    listener.listen(_BACKLOG)  # again, as this process: its number is what the kernel tells those who connect
    gc.disable()
    for name in _LOADED_BEFOREHAND:
        importlib.import_module(name)
    gc.collect()
    gc.freeze()  # so that a child's collector does not touch, and thereby copy, what it shares
    ForkServer(listener, settings["idle_seconds"], settings["grace_seconds"]).serve()
    _remove(settings)


def _remove(settings: Mapping[str, Any]) -> None:
    """Take the server's files away, unless a successor is being started."""
    with contextlib.suppress(OSError), open(settings["lock"], "r+b") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        for name in ("socket", "log", "lock"):
            Path(settings[name]).unlink(missing_ok=True)


def _tell(connection: socket.socket, message: Mapping[str, Any]) -> None:
    """A line, if the worker is there and takes it."""
    with contextlib.suppress(OSError):
        connection.send(json.dumps(message).encode() + b"\n", socket.MSG_DONTWAIT)
