"""The part of a report that comes from a shadow probe: what each step lowered, and how noisy the directions are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from jorge_tune.compare.verdict import Table
from jorge_tune.reports.parts import Axis, Figure, Section, Series

_COSINES = {
    "gradient_cosine": "gradients of two batches",
    "direction_cosine": "the same, preconditioned",
    "step_cosine": "the run's step and the recipe's",
}


def shadow_section(data: Mapping[str, Any], name: str) -> Section:
    """A shadow probe as its result was saved. Raises KeyError or TypeError where the format is another one."""
    readings = [reading for reading in data["readings"] if reading["decreases"]]
    lengths = [decrease["length"] for decrease in readings[0]["decreases"]] if readings else []
    figures = [_decreases(readings, data, index, length, name) for index, length in enumerate(lengths)]
    return Section(
        name=f"shadow-{name}",
        title=f"Shadow probe: {data['proposed']}'s steps in a run of {data['stepped']}",
        text="At each reading both steps start from the same weights and have the same length. A decrease says how "
        "much a step lowers the mean loss of batches that neither step has seen.",
        lines=[data["sentence"], data["caution"]],
        figures=[*figures, _noise(readings, name)],
        tables=[("", _ratios(data))],
    )


def _decreases(
    readings: Sequence[Mapping[str, Any]], data: Mapping[str, Any], index: int, length: float, name: str
) -> Figure:
    x = [reading["step"] for reading in readings]
    names = {"run": f"{data['stepped']}'s own step", "recipe": f"{data['proposed']}'s step"}
    series = [
        Series(name=label, kind="line", look=look, x=x, y=[reading["decreases"][index][key] for reading in readings])
        for look, (key, label) in enumerate(names.items())
    ]
    return Figure(
        key=f"shadow-{name}-{index}",
        title=f"How far a step lowers the loss, at {length:g} times its length",
        x=Axis(title="step"),
        y=Axis(title="decrease of the loss"),
        series=series,
        marks=[(0.0, "no change")],
        empty="" if readings else "there is no reading",
    )


def _noise(readings: Sequence[Mapping[str, Any]], name: str) -> Figure:
    series = []
    for look, (key, label) in enumerate(_COSINES.items()):
        known = [reading for reading in readings if reading[key] is not None]
        if known:
            x, y = [reading["step"] for reading in known], [reading[key] for reading in known]
            series.append(Series(name=label, kind="line", look=look, x=x, y=y))
    return Figure(
        key=f"shadow-{name}-cosines",
        title="Cosines between directions",
        x=Axis(title="step"),
        y=Axis(title="cosine"),
        series=series,
        caption="A cosine near 1 between two batches means little noise.",
        empty="" if series else "there is no reading",
    )


def _ratios(data: Mapping[str, Any]) -> Table:
    headings = ["length", "times as far", "95 %", "ahead on", "readings"]
    rows = []
    for length, ratio in data["ratios"].items():
        if ratio is None:
            rows.append([f"{length}x", "-", "-", "-", "-"])
            continue
        high = "no bound" if ratio["high"] is None else f"{ratio['high']:.2f}"
        span = "-" if ratio["low"] is None else f"{ratio['low']:.2f} to {high}"
        rows.append([f"{length}x", f"{ratio['value']:.2f}", span, str(ratio["ahead"]), str(ratio["readings"])])
    return Table(headings, rows, headings[1:])
