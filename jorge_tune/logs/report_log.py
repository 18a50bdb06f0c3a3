"""What a script reports by `jorge_tune.report`: JSON lines in the run directory."""

from __future__ import annotations

from jorge_tune.logs.jsonl_log import JsonLinesLog
from jorge_tune.logs.rows import LogError, LogRow
from jorge_tune.records import from_portable
from jorge_tune.reporting import PARTS
from jorge_tune.untrusted import shown


class ReportLog(JsonLinesLog):
    """Reports as rows, whose part and clock are known."""

    def row(self, text: str, where: str) -> LogRow | None:
        """The row on a line; None for a line that is none."""
        read = super().row(text, where)
        assert read is not None
        values = dict(read.values)
        part, clock = values.pop("part", None), values.pop("clock", None)
        if not isinstance(part, str) or part not in PARTS:
            raise LogError(f"{where}: part must be train, validation or test, got {shown(part)}")
        named = {name.removeprefix("metrics/"): from_portable(value) for name, value in values.items()}
        return LogRow(named, where, part, clock if isinstance(clock, (int, float)) else None)
