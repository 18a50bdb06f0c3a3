"""Why a worker should leave at once: a signal, its supervisor's death, the study's stop, a fault.

The first order stands. A second Ctrl-C or SIGTERM ends the process at once: its run sees the connection close.
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

Kind = Literal["signal", "supervisor", "study", "fault"]

EXIT_INTERRUPTED = 130


class WorkerStop(NamedTuple):
    """Leave; `kind` is who says so, `reason` why in words."""

    kind: Kind
    reason: str


class WorkerStops:
    """Where orders arrive; waits are cut short by one.

    Args:
        at_once: the last thing that is done when a second signal comes.
    """

    def __init__(self, at_once: Callable[[], None] = lambda: None) -> None:
        self._at_once = at_once
        self._order: WorkerStop | None = None
        self.first_signal: signal.Signals | None = None
        """What came first, if any did."""
        self._read, self._write = os.pipe()
        os.set_blocking(self._write, False)

    @property
    def order(self) -> WorkerStop | None:
        """The first order given."""
        return self._order

    def fileno(self) -> int:
        """Readable once there is an order, or after `wake`."""
        return self._read

    def give(self, kind: Kind, reason: str) -> None:
        """Order to leave; from any thread, and from a signal handler."""
        self._order = self._order or WorkerStop(kind, reason)
        self.wake()

    def wake(self) -> None:
        """Cut the present wait short."""
        with contextlib.suppress(BlockingIOError):  # it is full of wakings
            if self._write >= 0:
                os.write(self._write, b".")

    def wait(self, seconds: float, *others: int) -> bool:
        """Wait for an order, a waking, or one of other descriptors to become readable; whether an order stands."""
        if self._order is None or others:
            ready, _, _ = select.select([self._read, *others], [], [], max(0.0, seconds))
            if self._read in ready:
                os.read(self._read, 4096)
        return self._order is not None

    def close(self) -> None:
        """Close the descriptors."""
        write, self._write = self._write, -1
        os.close(write)
        os.close(self._read)

    @contextlib.contextmanager
    def listening(self, supervisor: int | None = None) -> Iterator[WorkerStops]:
        """Take signals (in the main thread) and the supervisor's death (a pipe that it holds open) as orders."""
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
        self.give("signal", f"stopped by {self.first_signal.name}")

    def _watch(self, descriptor: int) -> None:
        with contextlib.suppress(OSError):
            while os.read(descriptor, 64):
                pass
        self.give("supervisor", "the process that started this worker is gone")
