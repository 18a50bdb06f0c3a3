"""JSON lines: an object a line, as many loops write them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jorge_tune.logs.line_log import LineLog
from jorge_tune.logs.rows import LogError, LogRow
from jorge_tune.untrusted import parse_json, shown


class JsonLinesLog(LineLog):
    """Objects line by line; an object in an object is named by both keys, as `val/loss`."""

    def row(self, text: str, where: str) -> LogRow | None:
        """The row on a line; None for a line that is none."""
        try:
            value = parse_json(text, allow_nan=True)
        except ValueError as error:
            raise LogError(f"{where}: {error}; is this a log of JSON lines?") from error
        if not isinstance(value, dict):
            raise LogError(f"{where}: must be an object, got {shown(value)}; is this a log of JSON lines?")
        return LogRow(flat(value), where)

    def unfinished_row(self, text: str, where: str) -> LogRow | None:
        """The row on a last line without an end; None where it cannot be known to be whole."""
        try:
            return self.row(text, where)
        except LogError:  # a JSON object that is whole ends with its brace
            return None


def flat(value: Mapping[str, Any], prefix: str = "") -> dict[str, object]:
    """Nested objects as one, the keys joined by slashes."""
    made: dict[str, object] = {}
    for key, item in value.items():
        if isinstance(item, dict):
            made |= flat(item, f"{prefix}{key}/")
        else:
            made[f"{prefix}{key}"] = item
    return made
