"""The parts of a report that come from measurements: calibrations of the refresh interval, and probes.

Both are read as the plain data that their commands print with `--format json`, or that a study keeps.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from jorge_tune.calibrate.calibration_words import show_seconds
from jorge_tune.compare.verdict import Table
from jorge_tune.errors import InputError
from jorge_tune.report.parts import Axis, Figure, Section, Series

_KINDS = {"own": "its own batch", "fresh": "fresh batches"}
_CURVE_POINTS = 61  # of a parabola
_INTERVALS = tuple(mantissa * 10**exponent for exponent in range(4) for mantissa in (1, 2, 5))


def measured_parts(data: object, source: str) -> tuple[dict[str, Any] | None, dict[str, Any] | None]:
    """The calibration and the probe in what a command printed: calibrate-freq, probe, or bootstrap with both.

    Raises:
        InputError: neither is in it.
    """
    if isinstance(data, dict):
        calibration = data if {"curve", "baseline_seconds", "overhead"} <= data.keys() else data.get("calibration")
        probe = data if {"readings", "schedule", "points"} <= data.keys() else data.get("probe")
        if isinstance(calibration, dict) or isinstance(probe, dict):
            return calibration, probe
    raise InputError(
        f"{source}: holds neither a calibration nor a probe; give what `calibrate-freq`, `probe` or `bootstrap` "
        "printed with --format json"
    )


def calibration_section(data: Mapping[str, Any], name: str) -> Section:
    """A calibration's curve, and what it came to. Raises KeyError or TypeError where it is another format's."""
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


def cost_section(costs: Mapping[str, Mapping[str, Any]], overhead: float | None, dropped: str | None) -> Section | None:
    """A study's own calibrations: iteration time against the interval; None where it has none."""
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
        text="Measured alone on the machine, in iterations of the baseline.",
        lines=[] if dropped is None else [f"The constraint on the iteration time was dropped: {dropped}."],
        figures=[_interval_figure("calibration", series, marks)],
        tables=[("", Table(headings, rows, headings[2:5]))],
    )


def probe_section(data: Mapping[str, Any], name: str) -> Section:
    """A probe: lr* beside the schedule, and the loss along each step. Raises KeyError or TypeError likewise."""
    readings = [reading for reading in data["readings"] if reading["own"] or reading["fresh"]]
    figures = [_rates(data, readings, name)]
    figures += [_along_step(reading, name) for reading in readings]
    return Section(
        name=f"probe-{name}",
        title=f"Probe of the steps: {data['recipe']}",
        text="The loss along the optimizer's own steps. 1 is the step as it was made; points are mean losses less the "
        "parabola's value at 0, lines the parabolas, upright lines their lowest points x*; lr* is x* times the rate.",
        lines=[*data.get("words", ()), *data["notes"]],
        figures=figures,
    )


def _interval_figure(key: str, series: Sequence[Series], marks: Sequence[tuple[float, str]]) -> Figure:
    return Figure(
        key=key,
        title="Iteration time against the refresh interval",
        x=Axis(title="refresh interval (steps)", log=True),
        y=Axis(title="iterations of the baseline"),
        series=series,
        marks=[*marks, (1.0, "baseline")],
    )


def _rates(data: Mapping[str, Any], readings: Sequence[Mapping[str, Any]], name: str) -> Figure:
    series = []
    for look, (label, key) in enumerate((("the recipe's schedule", "schedule"), ("in force", "walked")), start=2):
        pairs = [(step, rate) for step, rate in data[key] if rate > 0]
        if pairs:
            x, y = [step for step, _ in pairs], [rate for _, rate in pairs]
            series.append(Series(name=label, kind="steps", look="muted" if look == 2 else "ink", x=x, y=y))
    for look, (field, label) in enumerate(_KINDS.items()):
        found = [(r["step"], r["lr"] * _optimum(r[field])) for r in readings if _optimum(r[field]) is not None]
        if found:
            x, y = [step for step, _ in found], [rate for _, rate in found]
            series.append(Series(name=f"lr* on {label}", kind="points", look=look, x=x, y=y))
    return Figure(
        key=f"probe-rates-{name}",
        title="lr* beside the schedule",
        x=Axis(title="step"),
        y=Axis(title="learning rate", log=True),
        series=series,
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
    return Figure(
        key=f"probe-{name}-step-{reading['step']}",
        title=f"The loss along step {reading['step']} (lr {reading['lr']:.3g})",
        x=Axis(title="times the step"),
        y=Axis(title="loss - loss at 0"),
        series=series,
        posts=posts,
        empty="" if series else "the losses are not finite",
    )


def _optimum(line: Mapping[str, Any] | None) -> float | None:
    return None if line is None or line["fit"] is None else line["fit"]["optimum"]


def _finite(value: object) -> bool:
    return isinstance(value, (int, float)) and abs(value) != float("inf") and value == value
