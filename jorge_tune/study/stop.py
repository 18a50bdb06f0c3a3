"""Requests that a worker stops at once: by a signal, its supervisor's death, the study's stop request, or a fault.

The first request stands. A second Ctrl-C or SIGTERM ends the process at once; its run then sees the connection close.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Literal, NamedTuple

from jorge_tune.errors import EXIT_INTERRUPTED

Kind = Literal["signal", "supervisor", "study", "fault"]


class WorkerStop(NamedTuple):
    """A request to stop: who asks for it, and the reason in words."""

    kind: Kind
    reason: str


class WorkerStops:
    """Receives stop requests; a request ends a wait early.

    Args:
        at_once: called when a second signal comes, just before the process ends.
    """

    def __init__(self, at_once: Callable[[], None] = lambda: None) -> None:
        self._at_once = at_once
        self._request: WorkerStop | None = None
        self.first_signal: signal.Signals | None = None
        """The first signal that came, if any did."""
        self._read, self._write = os.pipe()
        os.set_blocking(self._write, False)

    @property
    def request(self) -> WorkerStop | None:
        """The first stop request; None while there is none."""
        return self._request

    def fileno(self) -> int:
        """A descriptor that is readable once there is a request, or after `wake`."""
        return self._read

    def ask(self, kind: Kind, reason: str) -> None:
        """Ask the worker to stop; from any thread, and from a signal handler."""
        self._request = self._request or WorkerStop(kind, reason)
        self.wake()

    def wake(self) -> None:
        """End the present wait early."""
        with contextlib.suppress(BlockingIOError):  # the pipe is full, so the wait ends anyway
            if self._write >= 0:
                os.write(self._write, b".")

    def wait(self, seconds: float, *others: int) -> bool:
        """Wait for a request, for `wake`, or until one of the other descriptors is readable.

        Returns:
            Whether there is a request.
        """
        if self._request is None or others:
            ready, _, _ = select.select([self._read, *others], [], [], max(0.0, seconds))
            if self._read in ready:
                os.read(self._read, 4096)

        return self._request is not None

    def close(self) -> None:
        """Close the descriptors."""
        write, self._write = self._write, -1
        os.close(write)
        os.close(self._read)

    @contextlib.contextmanager
    def listening(self, supervisor: int | None = None) -> Iterator[WorkerStops]:
        """Take signals (in the main thread) and the supervisor's death as stop requests.

        Args:
            supervisor: the read end of a pipe that only the supervisor holds open.
        """
        before = {}
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                before[number] = signal.signal(number, self._on_signal)
        if supervisor is not None:
            threading.Thread(target=self._watch, args=(supervisor,), name="supervisor", daemon=True).start()

        try:
            yield self
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self.first_signal is not None:
            self._at_once()
            os._exit(EXIT_INTERRUPTED)

        self.first_signal = signal.Signals(number)
        self.ask("signal", f"stopped by {self.first_signal.name}")

    def _watch(self, descriptor: int) -> None:
        with contextlib.suppress(OSError):
            while os.read(descriptor, 64):
                pass
        self.ask("supervisor", "the process that started this worker is gone")
