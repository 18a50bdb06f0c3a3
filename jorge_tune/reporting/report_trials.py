"""How a trial of a study came to its end, and how it is told; from plain data alone."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from jorge_tune.recipe.render import scalar
from jorge_tune.reporting.escaped import in_figure
from jorge_tune.reporting.report_parts import Look

Trial = Mapping[str, Any]
Study = Mapping[str, Any]

LOOKS: dict[str, Look] = {
    "completed": 0,
    "over the constraint": 1,
    "pruned": 4,
    "without a value": 5,
    "diverged": 3,
    "failed": "muted",
    "running": 2,
}
"""How a trial came to its end, each in its own colour and marker; the order of legends."""


def end_of(trial: Trial) -> str:
    """A key of `LOOKS`, or "waiting"."""
    if trial["state"] != "complete":
        return str(trial["state"])
    if trial["value"] is None or not math.isfinite(trial["value"]):
        return "diverged" if trial["attributes"].get("diverged") else "without a value"
    return "completed" if trial["feasible"] else "over the constraint"


def has_value(trial: Trial) -> bool:
    """Whether it has a finite value to be drawn at."""
    return trial["state"] == "complete" and trial["value"] is not None and math.isfinite(trial["value"])


def said(trial: Trial) -> str:
    """A trial in one line, for the pointer."""
    value = f", {trial['value']:.5g}" if has_value(trial) else ""
    point = ", ".join(f"{path.rpartition('.')[2]} {scalar(value)}" for path, value in trial["values"].items())
    return in_figure(f"trial {trial['number']}: {end_of(trial)}{value}" + (f" ({point})" if point else ""))
