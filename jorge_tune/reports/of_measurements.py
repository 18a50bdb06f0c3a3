"""The parts of a report that come from measurements: calibrations of the refresh interval, and probes.

A probe, and a calibration that was stored, are read as the plain data that their commands print with `--format json`
or that a study keeps. A calibration that was just made has more to show.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from jorge_tune.calibration.calibrate_recipe import RecipeCalibration
from jorge_tune.calibration.calibration_words import (
    base_seconds,
    baseline_name,
    cost_of,
    curve_intervals,
    part_table,
    show_seconds,
    time_table,
)
from jorge_tune.compare.verdict import Table
from jorge_tune.errors import InputError
from jorge_tune.reports.parts import Axis, Figure, Section, Series

_KINDS = {"own": "its own batch", "fresh": "fresh batches"}
_CURVE_POINTS = 61  # of a parabola
_COST_POINTS = 100  # of the curve of a calibration
_INTERVALS = tuple(mantissa * 10**exponent for exponent in range(4) for mantissa in (1, 2, 5))


class MeasuredParts(NamedTuple):
    """What a file of measurements holds, each as plain data."""

    calibration: dict[str, Any] | None
    probe: dict[str, Any] | None
    shadow: dict[str, Any] | None


def measured_parts(data: object, source: str) -> MeasuredParts:
    """What calibrate-freq, probe or bootstrap printed, or what a shadow probe saved.

    Raises:
        InputError: the data hold none of these.
    """
    if isinstance(data, dict):
        parts = MeasuredParts(
            data if {"curve", "baseline_seconds", "overhead"} <= data.keys() else data.get("calibration"),
            data if {"readings", "schedule", "points"} <= data.keys() else data.get("probe"),
            data.get("shadow"),
        )
        if any(isinstance(part, dict) for part in parts):
            return parts
    raise InputError(
        f"{source}: holds neither a calibration nor a probe; give a file that `calibrate-freq`, `probe` or `bootstrap` "
        "printed with --format json, or that a shadow probe saved"
    )


def calibration_section(data: Mapping[str, Any], name: str) -> Section:
    """A stored calibration: its curve and its result. Raises KeyError or TypeError where the format is another one."""
    base, budget = data["baseline_seconds"], 1 + data["overhead"]
    x = [interval for interval, _ in data["curve"]]
    series = [
        Series(name="predicted", kind="curve", look=0, x=x, y=[seconds / base for _, seconds in data["curve"]]),
    ]
    if data["verified"] is not None:
        ran = data["verified"]
        series.append(Series(name="as it ran", kind="points", look=1, x=[ran["interval"]], y=[ran["ratio"]]))

    figure = _interval_figure(f"calibration-{name}", series, [(budget, f"budget {100 * data['overhead']:+g} %")])
    chosen = "none" if data["interval"] is None else str(data["interval"])
    rows = [
        ["recipe", data["recipe"]],
        ["device", data["device"]],
        ["refresh interval", chosen],
        ["outcome", f"{data['outcome']}: {data['reason']}"],
        ["baseline's iteration", show_seconds(base)],
        ["measured on", data["measured_on"]],
        ["fingerprint", data["fingerprint"]],
    ]

    return Section(
        name=f"calibration-{name}",
        title=f"Calibration of the refresh interval: {data['recipe']}",
        figures=[figure],
        tables=[("", Table(["", "value"], rows, []))],
        lines=[*data["notes"], *data["warnings"]],
    )


def measured_cost_sections(calibrated: RecipeCalibration) -> list[Section]:
    """A calibration that was just made: its curve with 95 % bounds, every interval that ran, and the tables."""
    tables = [("What a step takes", time_table(calibrated)), ("Where the time goes", part_table(calibrated))]
    return [
        Section(
            name="curve",
            title="The curve",
            text="Times are in iterations of the baseline; the tables below give seconds. The band holds 95 % of the "
            "resampled curves.",
            figures=[measured_cost_figure(calibrated)],
        ),
        Section(name="tables", title="Tables", tables=tables),
    ]


def measured_cost_figure(calibrated: RecipeCalibration) -> Figure:
    """The predicted curve with its 95 % band, the budget, and the intervals that were run."""
    cost, base = cost_of(calibrated), base_seconds(calibrated)
    shown = curve_intervals(calibrated)
    last = math.log(shown[-1])
    x = [math.exp(index / (_COST_POINTS - 1) * last) for index in range(_COST_POINTS)]
    at = [cost.at(interval) for interval in x]
    predicted = Series(
        name="predicted",
        kind="curve",
        look=0,
        x=x,
        y=[estimate.value for estimate in at],
        low=[estimate.low for estimate in at],
        high=[estimate.high for estimate in at],
        text=[f"{show_seconds(base * e.value)} at interval {k:.3g}" for k, e in zip(x, at, strict=True)],
    )

    runs = calibrated.measurements.verifications
    ran = Series(
        name="as it ran",
        kind="points",
        look=1,
        x=[run.interval for run in runs],
        y=[run.ratio for run in runs],
        text=[f"{show_seconds(base * run.ratio)} at interval {run.interval}" for run in runs],
    )
    chosen = calibrated.choice.interval
    return _interval_figure(
        "interval",
        [predicted, ran] if runs else [predicted],
        [(1 + calibrated.overhead, f"budget {100 * calibrated.overhead:+g} %")],
        baseline=baseline_name(calibrated),
        ticks=[(interval, str(interval)) for interval in shown],
        posts=[] if chosen is None else [(chosen, f"interval {chosen}")],
    )


def cost_section(costs: Mapping[str, Mapping[str, Any]], overhead: float | None, dropped: str | None) -> Section | None:
    """The calibrations of a study: iteration time against the interval. None where the study has none."""
    if not costs:
        return None
    series = []
    for look, (key, cost) in enumerate(costs.items()):
        y = [cost["plain"] + cost["refresh"] / interval for interval in _INTERVALS]
        name = f"{cost['device']}, {key[:8]}"
        series.append(Series(name=name, kind="curve", look=look, x=_INTERVALS, y=y))

    marks = [] if overhead is None else [(1 + overhead, f"budget {100 * overhead:+g} %")]
    rows = [
        [
            key[:8],
            cost["device"],
            show_seconds(cost["base_seconds"]),
            f"{cost['plain']:.3f}",
            f"{cost['refresh']:.3f}",
            f"{cost['outcome']}: {cost['reason']}",
        ]
        for key, cost in costs.items()
    ]

    headings = ["fingerprint", "device", "baseline's iteration", "without refresh", "one refresh", "outcome"]
    return Section(
        name="calibration",
        title="Calibration of the refresh interval",
        text="Iteration times were measured while nothing else ran. The unit is the baseline's iteration.",
        lines=[] if dropped is None else [f"The study dropped its limit on the iteration time: {dropped}."],
        figures=[_interval_figure("calibration", series, marks)],
        tables=[("", Table(headings, rows, headings[2:5]))],
    )


def probe_section(data: Mapping[str, Any], name: str) -> Section:
    """A probe: lr* and the schedule, and the loss along each step. Raises KeyError or TypeError likewise."""
    readings = [reading for reading in data["readings"] if reading["own"] or reading["fresh"]]
    figures = [_rates(data, readings, name)]
    figures += [_along_step(reading, name) for reading in readings]
    return Section(
        name=f"probe-{name}",
        title=f"Probe of the steps: {data['recipe']}",
        text="The loss along the optimizer's own steps; 1 is the step as it was made. Points are mean losses minus the "
        "parabola's value at 0; lines are the parabolas. Upright lines mark the lowest points x*, level lines the "
        "intervals of x*. lr* is x* times the learning rate.",
        lines=[*data.get("words", ()), *data["notes"]],
        figures=figures,
    )


def _interval_figure(
    key: str,
    series: Sequence[Series],
    marks: Sequence[tuple[float, str]],
    *,
    baseline: str = "baseline",
    ticks: Sequence[tuple[float, str]] | None = None,
    posts: Sequence[tuple[float, str]] = (),
) -> Figure:
    return Figure(
        key=key,
        title="Iteration time against the refresh interval",
        x=Axis(title="refresh interval (steps)", log=True, ticks=ticks),
        y=Axis(title="iterations of the baseline"),
        series=series,
        marks=[*marks, (1.0, baseline)],
        posts=posts,
    )


def _rates(data: Mapping[str, Any], readings: Sequence[Mapping[str, Any]], name: str) -> Figure:
    series = []
    for look, (label, key) in enumerate((("the recipe's schedule", "schedule"), ("in force", "walked")), start=2):
        pairs = [(step, rate) for step, rate in data[key] if rate > 0]
        if pairs:
            x, y = [step for step, _ in pairs], [rate for _, rate in pairs]
            series.append(Series(name=label, kind="steps", look="muted" if look == 2 else "ink", x=x, y=y))

    for look, (field, label) in enumerate(_KINDS.items()):
        found = [reading for reading in readings if _optimum(reading[field]) is not None]
        if found:
            ranges = [_optimum_range(reading[field]) for reading in found]
            rates = Series(
                name=f"lr* on {label}",
                kind="points",
                look=look,
                x=[reading["step"] for reading in found],
                y=[reading["lr"] * _optimum(reading[field]) for reading in found],
                low=[reading["lr"] * low for reading, (low, _) in zip(found, ranges, strict=True)],
                high=[reading["lr"] * high for reading, (_, high) in zip(found, ranges, strict=True)],
            )
            series.append(rates)

    return Figure(
        key=f"probe-rates-{name}",
        title="lr* and the schedule",
        x=Axis(title="step"),
        y=Axis(title="learning rate", log=True),
        series=series,
        caption="Bars are the intervals of lr*, where there is one." if readings else "",
        empty="" if series else "no step was read",
    )


def _along_step(reading: Mapping[str, Any], name: str) -> Figure:
    series: list[Series] = []
    posts: list[tuple[float, str]] = []
    for look, (field, label) in enumerate(_KINDS.items()):
        line = reading[field]
        if line is None or line["fit"] is None:
            continue
        fit, xs = line["fit"], line["multipliers"]
        points = [(x, loss - fit["level"]) for x, loss in zip(xs, line["losses"], strict=True) if _finite(loss)]
        x, y = [place for place, _ in points], [loss for _, loss in points]
        shared: dict[str, Any] = {"look": look, "group": label}
        series.append(Series(name=f"{label}: {fit['verdict']}", kind="points", x=x, y=y, **shared))

        places = [xs[0] + (xs[-1] - xs[0]) * index / (_CURVE_POINTS - 1) for index in range(_CURVE_POINTS)]
        curve = [x * (fit["slope"] + x * fit["curvature"] / 2) for x in places]
        series.append(Series(name=f"{label}, parabola", kind="curve", x=places, y=curve, quiet=True, **shared))

        optimum = _optimum(line)
        if optimum is not None and optimum <= xs[-1]:
            posts.append((optimum, f"x* {'own' if field == 'own' else 'fresh'}"))
            span = [min(end, xs[-1]) for end in _optimum_range(line)]
            depth = optimum * (fit["slope"] + optimum * fit["curvature"] / 2)
            held = Series(
                name=f"{label}, interval of x*",
                kind="threads",
                x=span,
                y=[depth] * 2,
                quiet=True,
                strong=True,
                **shared,
            )
            series.append(held)
    return Figure(
        key=f"probe-{name}-step-{reading['step']}",
        title=f"The loss along step {reading['step']} (lr {reading['lr']:.3g})",
        x=Axis(title=f"step {reading['step']}: times the step"),
        y=Axis(title="loss - loss at 0"),
        series=series,
        posts=posts,
        empty="" if series else "the losses are not finite",
    )


def _optimum(line: Mapping[str, Any] | None) -> float | None:
    return None if line is None or line["fit"] is None else line["fit"]["optimum"]


def _optimum_range(line: Mapping[str, Any]) -> tuple[float, float]:
    """The interval of x*; x* itself where there is none, or where rounding makes x* a bound."""
    interval = line.get("interval")
    if interval is None or line["fit"].get("at_least"):
        return line["fit"]["optimum"], line["fit"]["optimum"]
    low, high = interval
    return low, high


def _finite(value: object) -> bool:
    return isinstance(value, (int, float)) and abs(value) != float("inf") and value == value
