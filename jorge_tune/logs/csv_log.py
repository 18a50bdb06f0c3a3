"""CSV with a header: a row for each epoch or step; empty cells are values that the row does not have.

The headers tell Ultralytics (padded; `time` in seconds since the start), Lightning (sparse rows, written anew at each
flush) and timm (accuracies in percent; a row without an evaluation is shorter than its header).
"""

from __future__ import annotations

import csv
from collections import Counter

from jorge_tune.logs.line_log import FindPath, LineLog
from jorge_tune.logs.rows import LogError, LogRow
from jorge_tune.untrusted import shown

_DELIMITERS = ",;\t"
_TIMM = frozenset({"epoch", "train_loss", "eval_top1", "eval_top5"})
_PERCENT = ("eval_top1", "eval_top5")


class CsvLog(LineLog):
    """Rows by the names in the header, which may come again and must then be the same."""

    def __init__(self, find: FindPath, expected: str) -> None:
        super().__init__(find, expected)
        self.begin()

    def begin(self) -> None:
        """Forget the log that was read before."""
        self._header: list[str] = []
        self._delimiter = ","

    def row(self, text: str, where: str) -> LogRow | None:
        """The row on a line; None for a line that is none."""
        if not self._header:
            self._begin_with(text, where)
            return None
        cells = self._cells(text, where)
        if cells == self._header:
            return None  # some scripts write it again when they resume
        if len(cells) < len(self._header):
            self.notes.append(f"{where}: has {len(cells)} values for {len(self._header)} columns and is left out")
            return None
        if len(cells) > len(self._header):
            raise LogError(f"{where}: has {len(cells)} values for {len(self._header)} columns; is its header whole?")
        values: dict[str, object] = {
            name: cell for name, cell in zip(self._header, cells, strict=True) if cell and name
        }
        return LogRow(self._understood(values), where)

    def _begin_with(self, text: str, where: str) -> None:
        self._delimiter = max(_DELIMITERS, key=text.count)
        header = self._cells(text, where)
        twice = [name for name, times in Counter(header).items() if times > 1 and name]
        if twice:
            raise LogError(f"{where}: the column {shown(twice[0])} is there twice; is this a log in CSV?")
        if not any(name and not _is_number(name) for name in header):
            raise LogError(f"{where}: must name the columns, got {shown(text)}; is this a log in CSV?")
        self._header = header

    def _cells(self, text: str, where: str) -> list[str]:
        try:
            cells = next(csv.reader([text], delimiter=self._delimiter))
        except csv.Error as error:
            raise LogError(f"{where}: not CSV ({error})") from error
        return [cell.strip() for cell in cells]

    def _understood(self, values: dict[str, object]) -> dict[str, object]:
        """The values with what the program that writes such a header is known to mean."""
        if set(self._header) >= _TIMM:
            values |= {name: float(str(values[name])) / 100 for name in _PERCENT if _is_number(values.get(name, ""))}
        if "time" in self._header and any(name.startswith("metrics/") for name in self._header):
            values["seconds"] = values.pop("time", "")
        return {name: value for name, value in values.items() if value != ""}


def _is_number(text: object) -> bool:
    try:
        float(str(text))
    except ValueError:
        return False
    return True
