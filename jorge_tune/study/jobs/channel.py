"""What a worker and its run tell each other: JSON messages over one connection, whose end tells each of the other's.

to the run      {recipe, out, device, threads, download, directory, path, environment, lease}, once; lease: [until,
                grace] by the machine's clock, or null
                {stop: reason}
                {lease: [seconds, grace]}      without a newer one the run ends by itself after that time
from the run    {event: started, pid}
                {event: evaluation, step}      the run directory has a record of it
                {event: end, outcome, reason, out_of_memory, input_error}
from the fork server
                {event: refused, reason}       no process could be made
                {event: exit, code, signal, out_of_memory}   the process is gone, its lock and memory with it
"""

from __future__ import annotations

import contextlib
import json
import select
from collections.abc import Mapping
from multiprocessing.connection import Connection
from typing import Any


class Channel:
    """One end of a connection. Nothing is unpickled: what arrives is JSON."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def fileno(self) -> int:
        """Readable when there is a message, or when the other side is gone; -1 once closed."""
        return -1 if self._connection.closed else self._connection.fileno()

    def send(self, message: Mapping[str, Any]) -> None:
        """Send a message, however long the other side takes to make room for it.

        Raises:
            OSError: the other side is gone.
        """
        self._connection.send_bytes(json.dumps(message).encode())

    def offer(self, message: Mapping[str, Any]) -> None:
        """Send a message if the other side is there and takes it at once.

        Offers fill at most a quarter of the connection's buffer (Linux reports no room beyond that), so a last message
        still fits, and `send` does not wait for a side that stands still.
        """
        with contextlib.suppress(OSError):
            if self._events(select.POLLOUT) & select.POLLOUT:
                self.send(message)

    def receive(self, timeout: float | None = None) -> dict[str, Any] | None:
        """The next message, or None if none comes within so many seconds; None waits as long as it takes.

        Raises:
            EOFError: the other side is gone.
        """
        try:
            if not self._connection.poll(timeout):
                return None
            message: dict[str, Any] = json.loads(self._connection.recv_bytes())
        except OSError as error:
            raise EOFError from error
        return message

    def is_abandoned(self) -> bool:
        """Whether the other side is gone, even if it left messages behind."""
        return bool(self._events(0) & select.POLLHUP)

    def close(self) -> None:
        """Close this end."""
        self._connection.close()

    def _events(self, asked: int) -> int:
        """What `poll` reports at once, of hang-ups and of the events asked for."""
        poller = select.poll()
        poller.register(self._connection, asked)
        return sum(events for _, events in poller.poll(0))
