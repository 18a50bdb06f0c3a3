"""Lines that a script prints, read by regular expressions with named groups."""

from __future__ import annotations

import re
from collections.abc import Sequence

from jorge_tune.logs.rows import LogRow

_PLACES = ("epoch", "step", "seconds", "part")
_COLOURS = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
_LONGEST = 2**16  # characters of a line that is searched; a progress bar of hours has them all on one line


class StdoutLog:
    """Rows from lines: what a match names, together with the place that was named last.

    A carriage return ends a line too, as progress bars use it.

    Args:
        patterns: regular expressions with named groups.
        name: of what is read, in words.
        places: the groups that name an epoch, a step, seconds or a part; later rows keep them until they change.
    """

    def __init__(self, patterns: Sequence[str], places: Sequence[str] = _PLACES, name: str = "its output") -> None:
        self._name = name
        self._patterns = [re.compile(pattern) for pattern in patterns]
        self._places = frozenset(places)
        self._place: dict[str, object] = {}
        self._torn = ""
        self._number = 0
        self._rows: list[LogRow] = []
        self.notes: list[str] = []

    def source(self) -> str:
        """The file that is read, or where it is looked for."""
        return self._name

    def skip(self) -> list[LogRow]:
        """Nothing: what is printed is read as it comes."""
        return []

    def feed(self, text: str, clock: float | None = None) -> None:
        """Take in what was printed."""
        *lines, self._torn = re.split(r"\r\n|\r|\n", self._torn + text)
        self._torn = self._torn[-_LONGEST:]
        for line in lines:
            self._take(line, clock)

    def read(self, *, at_end: bool = False) -> list[LogRow]:
        """The rows since the last call. Raises as every `LogReader`."""
        if at_end and self._torn:
            self._take(self._torn, None)
            self._torn = ""
        rows, self._rows = self._rows, []
        return rows

    def _take(self, line: str, clock: float | None) -> None:
        self._number += 1
        line = _COLOURS.sub("", line)[:_LONGEST]
        for pattern in self._patterns:
            for match in pattern.finditer(line):
                found = {name: value for name, value in match.groupdict().items() if value is not None}
                self._place |= {name: value for name, value in found.items() if name in self._places}
                if found.keys() - self._places:
                    self._rows.append(LogRow({**self._place, **found}, f"output line {self._number}", clock=clock))
