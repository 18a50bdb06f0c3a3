"""Figures of a search: its history, slices, parallel coordinates, importances. From plain data alone."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from jorge_tune.recipe.render import scalar
from jorge_tune.reporting.report_parts import Axis, Figure, Look, Series
from jorge_tune.reporting.report_trials import LOOKS, Study, Trial, end_of, has_value, said

_MARGIN = 0.08  # of the range of values, between the worst one and the rail of trials without a value
_JITTER = 0.6180339887  # spreads the points of a choice by their numbers, the same each time
_IMPORTANCE = (
    "PED-ANOVA: how unlike all {trials} trials the {good} best ones lie, one parameter at a time. It says what the "
    "search learnt inside its ranges, not what a parameter is worth beyond them."
)
_RAIL = "Trials without a finite value lie on the line at the edge."


def history_figure(study: Study) -> Figure:
    """Every trial's value in order, and the best feasible one so far."""
    rail = _rail(study)
    series = _by_end(study, lambda trial: trial["number"], rail)
    x, y = _best_so_far(study)
    if x:
        series.insert(0, Series(name="best so far", kind="steps", look="ink", x=x, y=y))
    marks = _levels(study)
    return Figure(
        key="history",
        title="Search history",
        x=Axis(title="trial"),
        y=Axis(title=study["objective"]),
        series=series if x or series else [],
        marks=marks if series else [],
        caption=_RAIL if any(not has_value(trial) for trial in study["trials"]) else "",
        empty="" if series else "no trial has ended",
    )


def slice_figures(study: Study) -> list[Figure]:
    """One figure per parameter: the objective against its value."""
    rail = _rail(study)
    figures = []
    for parameter in study["parameters"]:
        place, axis, bootstrap = _scale(parameter)
        series = _by_end(study, place, rail)
        figures.append(
            Figure(
                key=f"slice-{parameter['name'].replace('_', '-')}",
                title=parameter["path"],
                x=axis,
                y=Axis(title=study["objective"]),
                series=series,
                posts=[(bootstrap, "bootstrap")] if series else [],
                empty="" if series else "no trial has ended",
                height=340,
            )
        )
    return figures


def parallel_figure(study: Study) -> Figure:
    """Every trial as one line over all parameters to its value; the best tenth on top."""
    parameters, rows = study["parameters"], [trial for trial in study["trials"] if has_value(trial)]
    values = [trial["value"] for trial in rows]
    low, high = (min(values), max(values)) if values else (0.0, 1.0)
    series = []
    for name, look, members in _ranks(study, rows):
        x: list[float | None] = []
        y: list[float | None] = []
        text: list[str | None] = []
        for trial in members:
            places = [_position(parameter, trial) for parameter in parameters]
            places.append((trial["value"] - low) / (high - low) if high > low else 0.5)
            x += [*map(float, range(len(places))), None]
            y += [*places, None]
            text += [said(trial)] * len(places) + [None]
        if members:
            series.append(Series(name=name, kind="threads", look=look, x=x, y=y, text=text))
    last = len(parameters)
    ticks = [(float(i), p["path"].rpartition(".")[2]) for i, p in enumerate(parameters)]
    labels = [(float(i), place, text) for i, p in enumerate(parameters) for place, text in _stops(p)]
    labels += [(float(last), 0.0, f"{low:.4g}"), (float(last), 1.0, f"{high:.4g}")] if values else []
    return Figure(
        key="parallel",
        title="Parallel coordinates",
        x=Axis(ticks=[*ticks, (float(last), study["objective"])], bounds=(-0.35, last + 0.35)),
        y=Axis(bounds=(-0.06, 1.06), ticks=[]),
        series=series,
        posts=[(float(i), "") for i in range(last + 1)] if series else [],
        labels=labels if series else [],
        caption="Each line is a trial with a value. A click on a name in the legend hides its lines.",
        empty="" if series else "no trial has completed with a value",
        height=460,
    )


def importance_figure(study: Study) -> Figure:
    """Which parameters set the good trials apart."""
    found = study["verdict"]["importances"]
    paths = {parameter["name"]: parameter["path"] for parameter in study["parameters"]}
    shares = sorted(found["shares"].items(), key=lambda pair: pair[1])
    bars = Series(
        name="share",
        kind="bars",
        look=0,
        x=[100 * share for _, share in shares],
        y=[paths.get(name, name) for name, _ in shares],
        quiet=True,
    )
    return Figure(
        key="importance",
        title="Importance of the parameters",
        x=Axis(title="share in %"),
        y=Axis(names=True),
        series=[bars] if shares else [],
        caption=_IMPORTANCE.format(**found) if shares else "",
        empty="" if shares else f"not enough to tell: {found['reason']}",
        height=150 + 34 * max(len(shares), 2),
    )


def _by_end(study: Study, place: Any, rail: float) -> list[Series]:
    """The trials that ended, by how; None as a place leaves one out."""
    series = []
    for name, look in LOOKS.items():
        members = [t for t in study["trials"] if end_of(t) == name and name != "running" and place(t) is not None]
        if members:
            series.append(
                Series(
                    name=name,
                    kind="points",
                    look=look,
                    x=[place(trial) for trial in members],
                    y=[trial["value"] if has_value(trial) else rail for trial in members],
                    text=[said(trial) for trial in members],
                )
            )
    return series


def _rail(study: Study) -> float:
    """Where trials without a value are drawn: beyond the worst one."""
    values = [trial["value"] for trial in study["trials"] if has_value(trial)]
    if not values:
        return 0.0
    margin = _MARGIN * (max(values) - min(values)) or 0.01 * abs(max(values)) or 0.01
    return max(values) + margin if study["lower_is_better"] else min(values) - margin


def _best_so_far(study: Study) -> tuple[list[float], list[float]]:
    better = min if study["lower_is_better"] else max
    x: list[float] = []
    y: list[float] = []
    for trial in study["trials"]:
        if has_value(trial) and trial["feasible"]:
            x.append(trial["number"])
            y.append(better(y[-1], trial["value"]) if y else trial["value"])
    last = max((trial["number"] for trial in study["trials"] if trial["state"] != "waiting"), default=0)
    if x and last > x[-1]:
        x, y = [*x, last], [*y, y[-1]]
    return x, y


def _levels(study: Study) -> list[tuple[float, str]]:
    """Bootstrap and baseline as level lines."""
    marks = [("baseline", study["baseline"])]
    marks += [("bootstrap", trial["value"]) for trial in study["trials"] if trial["number"] == 0 and has_value(trial)]
    return [(value, name) for name, value in marks if value is not None and math.isfinite(value)]


def _scale(parameter: Mapping[str, Any]) -> tuple[Any, Axis, float]:
    """Where a trial lies along a parameter, the axis, and the bootstrap's place."""
    path, name = parameter["path"], parameter["name"]
    if parameter["kind"] == "factor":
        axis = Axis(title=path, log=True)
        return (lambda trial: trial["values"].get(path)), axis, parameter["bootstrap"]
    labels = parameter["labels"]
    ticks = [(float(index), scalar(label)) for index, label in enumerate(labels)]
    axis = Axis(title=path, ticks=ticks, bounds=(-0.6, len(labels) - 0.4))

    def place(trial: Trial) -> float | None:
        if name not in trial["point"]:
            return None
        spread = 0.5 * (trial["number"] * _JITTER % 1 - 0.5)
        return _index(labels, trial["point"][name]) + spread

    return place, axis, float(_index(labels, parameter["held"]))


def _position(parameter: Mapping[str, Any], trial: Trial) -> float | None:
    """Between 0 and 1 along a parameter's range."""
    if parameter["kind"] == "choice":
        count = len(parameter["labels"])
        return 0.5 if count == 1 else _index(parameter["labels"], trial["point"][parameter["name"]]) / (count - 1)
    value, low, high = trial["values"][parameter["path"]], parameter["low"], parameter["high"]
    return math.log(value / low) / math.log(high / low) if high > low else 0.5


def _index(labels: Sequence[Any], label: Any) -> int:
    return next(i for i, known in enumerate(labels) if known == label and type(known) is type(label))


def _stops(parameter: Mapping[str, Any]) -> list[tuple[float, str]]:
    """The texts along a parameter's line."""
    if parameter["kind"] == "factor":
        return [(0.0, scalar(parameter["low"])), (1.0, scalar(parameter["high"]))]
    labels = parameter["labels"]
    return [(i / (len(labels) - 1) if len(labels) > 1 else 0.5, scalar(label)) for i, label in enumerate(labels)]


def _ranks(study: Study, rows: Sequence[Trial]) -> list[tuple[str, Look, list[Trial]]]:
    """Trials by how good they are, the best last."""
    sign = 1 if study["lower_is_better"] else -1
    feasible = sorted((row for row in rows if row["feasible"]), key=lambda row: (sign * row["value"], row["number"]))
    tenth, half = max(1, len(feasible) // 10), max(1, len(feasible) // 2)
    return [
        ("over the constraint", "muted", [row for row in rows if not row["feasible"]]),
        ("the other half", 5, feasible[half:]),
        ("the better half", 0, feasible[tenth:half]),
        ("the best tenth", 1, feasible[:tenth]),
    ]
