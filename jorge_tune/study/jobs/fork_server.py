"""The fork server: a process that has torch and torchvision loaded and forks a child for every run.

It is a child of the command that needs it and leaves with the last process that can ask it for a run.

It must stay forkable: no thread of its own, no OpenMP region (a child of libgomp's with a pool that did not come along
hangs in its first one) and no CUDA before a fork. So it computes nothing, ever. A request is one byte and a connection,
which is handed to the child that is forked for it. The server reads nothing from it; it keeps a copy to tell of the
child's death, to see the worker's, and to end a child that outlives its worker by more than the grace time.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import os
import select
import signal
import socket
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection

from jorge_tune.hardware import oom_kills
from jorge_tune.study.jobs.channel import Channel

_LOADED_BEFOREHAND = (  # a run would otherwise import these
    *("numpy", "torch", "torchmetrics", "torchvision", "torch.utils.serialization.config"),
    *("importlib.resources.readers", "sklearn.datasets.data", "sklearn.datasets.descr"),
    *("jorge_tune.training.runner", "jorge_tune.training.tasks.classification"),
)
_LOADED_FOR_COMMANDS = ("jorge_tune.command.run_command",)
_EXHAUSTED_SECONDS = 0.2  # between two tries while the process has no descriptors left


@dataclass
class _Run:
    """A child: the server's copy of its connection, and since when the worker is gone."""

    channel: Channel
    orphaned_at: float | None = None


class ForkServer:
    """Forks, reaps and reports deaths, until nobody can ask for a run any more and the last run has ended.

    Args:
        requests: where connections come from; its end says that nobody is left.
        run_child: what a child does with its connection; it does not return.
        grace_seconds: a child whose worker is gone is killed after that long.
    """

    def __init__(
        self, requests: socket.socket, run_child: Callable[[Channel, float], None], grace_seconds: float
    ) -> None:
        self._requests, self._run_child, self._grace_seconds = requests, run_child, grace_seconds
        self._runs: dict[int, _Run] = {}
        self._oom_kills = 0
        self._poll = select.poll()
        self._wake, self._waker = os.pipe()
        for end in (self._wake, self._waker):
            os.set_blocking(end, False)
        self._is_leaving = False

    def serve(self) -> None:
        """Until nobody can ask any more, or SIGTERM; either way until the last run has ended."""
        signal.set_wakeup_fd(self._waker, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda number, frame: None)
        signal.signal(signal.SIGTERM, self._leave)
        signal.signal(signal.SIGINT, self._leave)
        self._poll.register(self._requests, select.POLLIN)
        self._poll.register(self._wake, select.POLLIN)

        while self._runs or not self._is_leaving:
            for descriptor, _ in self._poll.poll(self._patience()):
                if descriptor == self._requests.fileno():
                    self._answer()
                elif descriptor == self._wake:
                    with contextlib.suppress(BlockingIOError):
                        os.read(self._wake, 4096)
                else:
                    self._orphan(descriptor)
            self._reap()
            self._end_orphans()

    def _patience(self) -> float | None:
        """Milliseconds until something is due that no event announces."""
        due = [run.orphaned_at + self._grace_seconds for run in self._runs.values() if run.orphaned_at is not None]
        return 1000 * max(0.0, min(due) - time.monotonic()) + 1 if due else None

    def _answer(self) -> None:
        """Fork a child for a request."""
        try:
            channel = _next_request(self._requests)
        except EOFError:
            self._poll.unregister(self._requests)
            self._is_leaving = True
            return
        if channel is None:  # whoever asked sees the connection end, and asks again
            time.sleep(_EXHAUSTED_SECONDS)
            return
        try:
            pid = os.fork()
        except OSError as error:
            channel.offer({"event": "refused", "reason": f"no process can be made ({error.strerror})"})
            channel.close()
            return

        if pid == 0:
            self._become_child(channel)
        self._oom_kills = oom_kills() or 0  # earlier kills do not concern this run
        self._runs[pid] = _Run(channel)
        self._poll.register(channel, 0)  # hang-ups alone: what the worker says is for the child

    def _become_child(self, channel: Channel) -> None:
        """Let go of all that is the server's, run, and never come back."""
        try:
            signal.set_wakeup_fd(-1)
            for number in (signal.SIGCHLD, signal.SIGTERM):
                signal.signal(number, signal.SIG_DFL)
            signal.signal(signal.SIGINT, signal.default_int_handler)
            self._requests.close()
            os.close(self._wake)
            os.close(self._waker)
            for run in self._runs.values():
                run.channel.close()
            self._run_child(channel, self._grace_seconds)
        finally:  # never back into the server's loop
            os._exit(1)

    def _orphan(self, descriptor: int) -> None:
        """The worker of a run has gone; the child sees it too and has the grace time to end."""
        self._poll.unregister(descriptor)
        for run in self._runs.values():
            if run.channel.fileno() == descriptor:
                run.orphaned_at = time.monotonic()

    def _end_orphans(self) -> None:
        now = time.monotonic()
        for pid, run in self._runs.items():
            if run.orphaned_at is not None and now - run.orphaned_at >= self._grace_seconds:
                os.kill(pid, signal.SIGKILL)
                run.orphaned_at = now  # try again later: a process inside the kernel may take a while

    def _reap(self) -> None:
        """Report how children died, and kill what they left behind in their process groups."""
        look = os.WEXITED | os.WNOHANG | os.WNOWAIT
        dead = [(pid, status) for pid in self._runs if (status := os.waitid(os.P_PID, pid, look)) is not None]
        kills = (oom_kills() or 0) if dead else self._oom_kills
        for pid, status in dead:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(pid, signal.SIGKILL)  # before the number is free: loader workers of a killed run
            os.waitpid(pid, 0)
            self._report_exit(self._runs.pop(pid), status, kills > self._oom_kills)
        self._oom_kills = kills

    def _report_exit(self, run: _Run, status: os.waitid_result, was_oom_kill_counted: bool) -> None:
        exited = status.si_code == os.CLD_EXITED
        message = {
            "event": "exit",
            "code": status.si_status if exited else None,
            "signal": None if exited else status.si_status,
            "out_of_memory": status.si_status == signal.SIGKILL and not exited and was_oom_kill_counted,
        }
        with contextlib.suppress(OSError):
            run.channel.send(message)
        if run.orphaned_at is None:
            self._poll.unregister(run.channel)
        run.channel.close()

    def _leave(self, number: int, frame: object) -> None:
        self._is_leaving = True


def _next_request(requests: socket.socket) -> Channel | None:
    """The connection of whoever asks for a run; None if this process has no descriptor left for it.

    Raises:
        EOFError: nobody is left who could ask.
    """
    data, descriptors, _, _ = socket.recv_fds(requests, 1, 1, socket.MSG_CMSG_CLOEXEC)
    if not data:
        raise EOFError
    return Channel(Connection(descriptors[0])) if descriptors else None


def _refuse_all(requests: socket.socket, reason: str) -> None:
    """Answer every request with the reason why no run can be started, until nobody is left."""
    with contextlib.suppress(EOFError):
        while True:
            channel = _next_request(requests)
            if channel is not None:
                channel.offer({"event": "refused", "reason": reason})
                channel.close()


def main() -> None:
    """Load torch and serve; the arguments are the descriptor for requests, the grace seconds, and perhaps `light`."""
    requests = socket.socket(fileno=int(sys.argv[1]))
    requests.set_inheritable(False)
    gc.disable()
    try:
        from jorge_tune.study.jobs.child import run_child

        for name in _LOADED_FOR_COMMANDS if "light" in sys.argv[3:] else _LOADED_BEFOREHAND:
            importlib.import_module(name)
    except Exception as error:  # a broken installation, say
        _refuse_all(requests, f"{type(error).__name__}: {error}")
        return
    gc.collect()
    gc.freeze()  # so that a child's collector does not touch, and thereby copy, what it shares
    ForkServer(requests, run_child, float(sys.argv[2])).serve()


if __name__ == "__main__":
    main()
