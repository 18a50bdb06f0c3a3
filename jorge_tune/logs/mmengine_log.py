"""MMEngine's scalars.json, which is JSON lines: training rows with `iter`, evaluations with a `step` alone.

By default that step is the epoch (`LoggerHook.log_metric_by_epoch`), while a loop by iterations has the iteration
there. The training row before tells which: the step is near its epoch, or near its iteration.
"""

from __future__ import annotations

from jorge_tune.logs.jsonl_log import JsonLinesLog
from jorge_tune.logs.line_log import FindPath
from jorge_tune.logs.rows import LogRow

_OF_TRAINING = ("iter", "lr")


class MMEngineLog(JsonLinesLog):
    """Rows whose `step` is always a step, and whose `epoch` counts epochs that are done."""

    def __init__(self, find: FindPath, expected: str) -> None:
        super().__init__(find, expected)
        self.begin()

    def begin(self) -> None:
        """Forget the log that was read before."""
        self._iteration: float | None = None
        self._epoch: float | None = None

    def row(self, text: str, where: str) -> LogRow | None:
        """The row on a line; None for a line that is none."""
        read = super().row(text, where)
        assert read is not None
        values = dict(read.values)
        if any(key in values for key in _OF_TRAINING):
            self._iteration = _number(values.pop("iter", values.get("step")))
            self._epoch = _number(values.pop("epoch", None))  # of the epoch that is under way
            return LogRow({**values, "step": self._iteration}, where, "train")
        step = _number(values.pop("step", None))
        return LogRow({**values, ("epoch" if self._is_epoch(step) else "step"): step}, where, "validation")

    def _is_epoch(self, step: float | None) -> bool:
        if step is None or self._iteration is None:
            return True
        epoch = 0 if self._epoch is None else self._epoch
        return abs(step - epoch) < abs(step - self._iteration)


def _number(value: object) -> float | None:
    return value if isinstance(value, (int, float)) and not isinstance(value, bool) else None
