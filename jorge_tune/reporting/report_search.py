"""Figures of a search: its history, slices, parallel coordinates, importances. From plain data alone."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from jorge_tune.recipe.render import scalar
from jorge_tune.reporting.report_parts import Axis, Figure, Look, Series
from jorge_tune.reporting.report_trials import LOOKS, Study, Trial, end_of, has_value, said

_MARGIN = 0.12  # of the first view, around what sets it
_SPREAD = 0.05  # of a choice's lines in parallel coordinates
_JITTER = 0.6180339887  # spreads the points of a choice by their numbers, the same each time
_IMPORTANCE = (
    "PED-ANOVA: how unlike all {trials} trials the {good} best ones lie, one parameter at a time. It says what the "
    "search learnt inside its ranges, not what a parameter is worth beyond them."
)
_STRIP = "Trials without a finite value lie in the strip below."
_BEST = "the best tenth"
_NO_VALUE = "no value"
_FEW = 10  # trials with a value; fewer are all shown
_KEPT = 0.8  # of the trials with a value, the best ones, set the first view
_FAR = 2.5  # times as wide must the whole range be for a narrower view


def history_figure(study: Study) -> Figure:
    """Every trial's value in order, and the best feasible one so far."""
    series = _by_end(study, lambda trial: trial["number"])
    bounds, outside = first_view(study)
    x, y = _best_so_far(study)
    if x:
        series.insert(0, Series(name="best so far", kind="steps", look="ink", x=x, y=y))
    return Figure(
        key="history",
        title="Search history",
        x=Axis(title="trial"),
        y=Axis(title=study["objective"], bounds=bounds),
        series=series,
        marks=_levels(study) if series else [],
        caption=" ".join(text for text in (_STRIP if _has_strip(series) else "", outside) if text),
        empty="" if series else "no trial has ended",
    )


def slice_figures(study: Study) -> list[Figure]:
    """One figure per parameter: the objective against its value."""
    bounds, outside = first_view(study)
    figures = []
    for parameter in study["parameters"]:
        place, axis, bootstrap = _scale(parameter)
        series = _by_end(study, place)
        figures.append(
            Figure(
                key=f"slice-{parameter['name'].replace('_', '-')}",
                title=parameter["path"],
                x=axis,
                y=Axis(title=study["objective"], bounds=bounds),
                series=series,
                posts=[(bootstrap, "bootstrap")] if series else [],
                caption=outside,
                empty="" if series else "no trial has ended",
                height=360,
            )
        )
    return figures


def parallel_figure(study: Study) -> Figure:
    """Every trial as one line over all parameters to its value; the best tenth on top."""
    parameters, rows = study["parameters"], [trial for trial in study["trials"] if has_value(trial)]
    values = [trial["value"] for trial in rows]
    whole = (min(values), max(values)) if values else (0.0, 1.0)
    bounds, _ = first_view(study)
    low, high = whole if bounds is None else (max(bounds[0], whole[0]), min(bounds[1], whole[1]))
    series = []
    for name, look, members in _ranks(study, rows):
        x: list[float | None] = []
        y: list[float | None] = []
        text: list[str | None] = []
        for trial in members:
            places = [_position(parameter, trial) for parameter in parameters]
            places.append((min(max(trial["value"], low), high) - low) / (high - low) if high > low else 0.5)
            x += [*map(float, range(len(places))), None]
            y += [*places, None]
            text += [said(trial)] * len(places) + [None]
        if members:
            series.append(Series(name=name, kind="threads", look=look, x=x, y=y, text=text, strong=name == _BEST))
    last = len(parameters)
    ticks = [(float(i), p["path"].rpartition(".")[2]) for i, p in enumerate(parameters)]
    labels = [(float(i), place, text) for i, p in enumerate(parameters) for place, text in _stops(p)]
    worse = "" if bounds is None else "<br>or worse"
    ends = (f"{low:.4g}", f"{high:.4g}{worse}") if study["lower_is_better"] else (f"{low:.4g}{worse}", f"{high:.4g}")
    labels += [(float(last), 0.0, ends[0]), (float(last), 1.0, ends[1])] if values else []
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


def first_view(study: Study) -> tuple[tuple[float, float] | None, str]:
    """The range of values that a figure shows first, and in words what lies outside; None: all of them.

    A few trials far behind the others would press these into a line.
    """
    values = sorted(trial["value"] for trial in study["trials"] if has_value(trial))
    if len(values) < _FEW:
        return None, ""
    kept = (
        values[: math.ceil(_KEPT * len(values))]
        if study["lower_is_better"]
        else values[int((1 - _KEPT) * len(values)) :]
    )
    width = kept[-1] - kept[0]
    if not 0 < width < (values[-1] - values[0]) / _FAR:
        return None, ""
    low, high = kept[0] - _MARGIN * width, kept[-1] + _MARGIN * width
    count = sum(not low <= value <= high for value in values)
    what = "1 trial that did worse lies" if count == 1 else f"{count} trials that did worse lie"
    return (low, high), f"{what} outside the first view; a double click shows all."


def _has_strip(series: Sequence[Series]) -> bool:
    return any(one.strip for one in series)


def _by_end(study: Study, place: Callable[[Trial], Any]) -> list[Series]:
    """The trials that ended, by how; those without a value in the strip. None as a place leaves one out."""
    series = []
    for name, look in LOOKS.items():
        members = [t for t in study["trials"] if end_of(t) == name and name != "running" and place(t) is not None]
        if members:
            with_value = has_value(members[0])
            series.append(
                Series(
                    name=name,
                    kind="points",
                    look=look,
                    x=[place(trial) for trial in members],
                    y=[trial["value"] if with_value else _NO_VALUE for trial in members],
                    text=[said(trial) for trial in members],
                    strip=not with_value,
                )
            )
    if series and all(one.strip for one in series):  # else there is no axis to hang the strip below
        return [replace(one, strip=False) for one in series]
    return series


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
        spread = 0.5 * _beside(trial)
        return _index(labels, trial["point"][name]) + spread

    return place, axis, float(_index(labels, parameter["held"]))


def _position(parameter: Mapping[str, Any], trial: Trial) -> float | None:
    """Between 0 and 1 along a parameter's range; of a choice a little beside, so that lines can be told apart."""
    if parameter["kind"] == "choice":
        count = len(parameter["labels"])
        index = _index(parameter["labels"], trial["point"][parameter["name"]])
        return _SPREAD * _beside(trial) + (0.5 if count == 1 else index / (count - 1))
    value, low, high = trial["values"][parameter["path"]], parameter["low"], parameter["high"]
    return math.log(value / low) / math.log(high / low) if high > low else 0.5


def _beside(trial: Trial) -> float:
    """Between -0.5 and 0.5, from a trial's number."""
    place: float = trial["number"] * _JITTER % 1
    return place - 0.5


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
        (_BEST, 1, feasible[:tenth]),
    ]
