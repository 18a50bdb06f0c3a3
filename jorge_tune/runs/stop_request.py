"""A request to stop a run, made by a signal or by whoever holds it."""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StopRequest:
    """A request to stop a run soon; while it is entered, Ctrl-C and SIGTERM make it.

    Signals are heard in the main thread only; elsewhere `ask` makes the request. A second Ctrl-C stops at once.
    """

    def __init__(self) -> None:
        self.reason: str | None = None
        self._before: dict[signal.Signals, Any] = {}

    def ask(self, reason: str) -> None:
        """Ask the run to stop after its current step."""
        self.reason = self.reason or reason

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._handle) for number in _SIGNALS}
        return self

    def __exit__(self, *exc_info: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.reason is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.ask(f"stopped by {signal.Signals(number).name}")
