"""Which rows of a log were read before, where the log is written anew."""

from __future__ import annotations

from collections.abc import Iterable

from jorge_tune.logs.rows import LogRow


class RowMemory:
    """Keeps the rows that were given, to leave them out where a log repeats them from its start.

    Lightning's CSV logger and Hugging Face's trainer state are written anew with all their rows. After a restart they
    hold those up to the checkpoint, and then other ones.
    """

    def __init__(self) -> None:
        self._known: list[int] = []
        self._place = 0

    def restart(self) -> None:
        """The log begins again: what comes next is compared with what was given."""
        self._place = 0

    def forget(self) -> None:
        """What was given counts no more."""
        self._known.clear()
        self._place = 0

    def new(self, rows: Iterable[LogRow]) -> list[LogRow]:
        """Those of the rows that were not given before."""
        fresh = []
        for row in rows:
            mark = hash(tuple(sorted((key, str(value)) for key, value in row.values.items())))
            if self._place < len(self._known) and self._known[self._place] == mark:
                self._place += 1
                continue
            del self._known[self._place :]
            self._known.append(mark)
            self._place += 1
            fresh.append(row)
        return fresh
