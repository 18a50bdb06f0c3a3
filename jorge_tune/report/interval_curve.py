"""Iteration time against the refresh interval: drawn with characters, and as a figure (plotly inside functions)."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from jorge_tune.calibrate.calibrate_recipe import RecipeCalibration
from jorge_tune.calibrate.calibration_words import (
    base_seconds,
    baseline_name,
    cost_of,
    curve_intervals,
    show_seconds,
    verification_of,
)
from jorge_tune.report.figures import COLOURS

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

_MARGIN = 10
_POINTS = 100  # of a smooth curve


def text_curve(calibrated: RecipeCalibration, *, width: int = 72, height: int = 12) -> str:
    """Time against interval, the interval's axis logarithmic; the budget dotted, the chosen interval as X."""
    cost, base = cost_of(calibrated), base_seconds(calibrated)
    intervals = curve_intervals(calibrated)
    columns = width - _MARGIN - 1
    budget = base * (1 + calibrated.overhead)
    right = math.log(intervals[-1])
    values = [base * cost.at(math.exp(column / (columns - 1) * right)).value for column in range(columns)]
    low, high = min(base, values[-1]), max(*values, budget)

    def row_of(value: float) -> int:
        return round((high - value) / (high - low) * (height - 1))

    canvas = [[" "] * columns for _ in range(height)]
    canvas[row_of(budget)] = list(". " * columns)[:columns]
    for column, value in enumerate(values):
        canvas[row_of(value)][column] = "o"
    labels = {0: high, height - 1: low, row_of(budget): budget}
    chosen = calibrated.choice.interval
    if chosen is not None:
        place = round(math.log(chosen) / right * (columns - 1))
        canvas[row_of(base * cost.at(chosen).value)][place] = "X"
    lines = [f"time of a step:  o predicted   . {baseline_name(calibrated)} {100 * calibrated.overhead:+g} %"]
    if chosen is not None:
        lines[0] += f"   X interval {chosen}"
    for row, cells in enumerate(canvas):
        label = show_seconds(labels[row]) if row in labels else ""
        lines.append(f"{label:>{_MARGIN - 1}} |{''.join(cells)}".rstrip())
    return "\n".join([*lines, " " * _MARGIN + "+" + "-" * columns, _axis(intervals, columns)])


def interval_figure(calibrated: RecipeCalibration) -> Figure:
    """The curve with its 95 % band, the budget, and the intervals that were run."""
    import plotly.graph_objects as go

    cost, base = cost_of(calibrated), base_seconds(calibrated)
    shown = curve_intervals(calibrated)  # plotly's own ticks say 2 for 20
    last = math.log(shown[-1])
    xs = [math.exp(index / (_POINTS - 1) * last) for index in range(_POINTS)]
    at = [cost.at(x) for x in xs]
    blue, orange, green = COLOURS[:3]
    band = go.Scatter(
        x=[*xs, *reversed(xs)],
        y=[1e3 * base * e.high for e in at] + [1e3 * base * e.low for e in reversed(at)],
        fill="toself",
        mode="none",
        fillcolor="rgba(0, 114, 178, 0.18)",
        name="95 % bounds",
        hoverinfo="skip",
    )
    line = go.Scatter(
        x=xs, y=[1e3 * base * e.value for e in at], mode="lines", line={"color": blue, "width": 3}, name="predicted"
    )
    runs = calibrated.measurements.verifications
    points = go.Scatter(
        x=[v.interval for v in runs],
        y=[1e3 * base * v.ratio for v in runs],
        mode="markers",
        marker={"size": 11, "symbol": "x", "color": orange},
        name="as it ran",
    )
    figure = go.Figure([band, line, points])
    budget = {"line": {"color": green, "dash": "dash"}, "annotation_position": "top right"}
    figure.add_hline(
        y=1e3 * base * (1 + calibrated.overhead), annotation_text=f"budget {100 * calibrated.overhead:+g} %", **budget
    )
    figure.add_hline(y=1e3 * base, line={"color": "#555"}, annotation_text=baseline_name(calibrated))
    figure.update_layout(
        template="none",
        title={"text": f"{calibrated.recipe.name} on {calibrated.profile.device}"},
        xaxis={"type": "log", "title": {"text": "refresh interval"}, "gridcolor": "#e6e6e6", "tickvals": shown},
        yaxis={"title": {"text": "milliseconds per step"}, "gridcolor": "#e6e6e6"},
        width=900,
        height=520,
    )
    return figure


def interval_page(calibrated: RecipeCalibration) -> str:
    """The figure as a page that fetches nothing."""
    page: str = interval_figure(calibrated).to_html(include_plotlyjs=True, full_html=True)
    return page


def measured_ratio(calibrated: RecipeCalibration) -> float | None:
    """The chosen interval's step as it ran, over the prediction; 1 means that they agree."""
    ran = verification_of(calibrated)
    return None if ran is None else ran.ratio / cost_of(calibrated).at(ran.interval).value


def _axis(intervals: list[int], columns: int) -> str:
    """The intervals under their columns, those that fit."""
    cells = [" "] * columns
    free = 0
    for interval in intervals:
        text = str(interval)
        place = min(round(math.log(interval) / math.log(intervals[-1]) * (columns - 1)), columns - len(text))
        if place >= free:
            cells[place : place + len(text)] = text
            free = place + len(text) + 1
    return " " * (_MARGIN + 1) + "".join(cells).rstrip() + "  interval"
