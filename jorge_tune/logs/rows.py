"""What every log reader gives, rows of named values as they stand in the log; and the fault of a log."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from jorge_tune.errors import InputError


class LogError(InputError):
    """A log that cannot be read as what it should be: the message says where, and what would help."""


@dataclass(frozen=True)
class LogRow:
    """One row of a log.

    Args:
        values: by column; text, or numbers where the format has numbers.
        where: names the row in messages, `metrics.csv:3` say.
        part: of the data that was read, where the format itself says it.
        clock: when it was written, by `time.monotonic` on this machine; None where the log does not say.
        wall: the same in seconds since 1970.
    """

    values: Mapping[str, object]
    where: str
    part: str | None = None
    clock: float | None = None
    wall: float | None = None


class LogReader(Protocol):
    """Reads one run's log while it grows."""

    notes: list[str]
    """What was left out, and why."""

    def read(self, *, at_end: bool = False) -> list[LogRow]:
        """The rows since the last call. What is not whole yet waits, unless the log has come to its end.

        Raises:
            LogError: it cannot be read.
        """
        ...

    def skip(self) -> list[LogRow]:
        """Take what is there already for an earlier stretch's, and give it.

        Raises:
            LogError: it cannot be read.
        """
        ...

    def source(self) -> str:
        """The file that is read, or where it is looked for."""
        ...
