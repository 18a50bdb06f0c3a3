"""The parts of a report that come from a study: verdict, confirmation, search, trials, settings. From plain data."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

from jorge_tune.compare.statistics import spread
from jorge_tune.compare.verdict import Table
from jorge_tune.recipe.render import scalar
from jorge_tune.reports.parts import Axis, Figure, Look, Section, Sentence, Series
from jorge_tune.untrusted import in_figure

_SINGLE_SHOT = "Single-shot tuning"  # the first words of the sentence that sums everything up


def study_verdict(study: Study) -> list[Sentence]:
    """The headline, whether single-shot tuning held, and then everything else."""
    judged = study["verdict"]
    lead = judged.get("headline")
    outcomes = {text: judged["single_shot"]["outcome"] for text in judged["sentences"] if text.startswith(_SINGLE_SHOT)}
    order = sorted(judged["sentences"], key=lambda text: (text != lead, text not in outcomes))
    return [Sentence(text, outcomes.get(text, "")) for text in order]


def study_lead(study: Study) -> str:
    """How many trials have ended, and what the objective is."""
    ended = sum(end_of(trial) not in ("running", "waiting") for trial in study["trials"])
    better = "lower is better" if study["lower_is_better"] else "higher is better"
    constraint = "" if study["constraint"] is None else f", keeping {study['constraint']}"
    return f"{ended} of {study['total']} trials have ended. Objective: {study['objective']} ({better}){constraint}."


def confirmation_section(study: Study) -> Section:
    """Baseline, bootstrap and best on the confirmation seeds."""
    held = {name: values for name, values in study["confirmation"].items() if values}
    if not held:
        text = "No confirmation run has ended, so nothing is known beyond the seeds of the search."
        return Section(name="confirmation", title="Confirmation", text=text)
    return Section(
        name="confirmation",
        title="Confirmation",
        text="The seeds are new: the search did not use them. A gain is the paired difference per seed; it is positive "
        "where the first contender is better. Brackets hold the middle 95 % of resampled medians.",
        tables=[("", _contender_table(study, held)), ("Gains", _gain_table(study))],
        figures=[_seed_figure(study, held)],
    )


def search_sections(study: Study) -> list[Section]:
    """History, importance, all parameters, each parameter, the timeline."""
    return [
        Section(name="search", title="The search", figures=[history_figure(study), importance_figure(study)]),
        Section(name="parallel", title="All parameters at once", figures=[parallel_figure(study)]),
        Section(
            name="slices",
            title="Each parameter alone",
            text="Points of one choice are spread sideways so that they do not cover each other. The strip below shows "
            "trials without a finite value.",
            figures=slice_figures(study),
        ),
        Section(name="timeline", title="Timeline", figures=[timeline_figure(study)]),
    ]


def trial_section(study: Study) -> Section:
    """All trials, the best first."""
    sign = 1 if study["lower_is_better"] else -1

    def rank(trial: Trial) -> tuple[int, float, int]:
        if has_value(trial):
            return (0 if trial["feasible"] else 1), sign * trial["value"], trial["number"]
        return 2, 0.0, trial["number"]

    paths = [parameter["path"] for parameter in study["parameters"]]
    short = _short(paths)
    rows = [_trial_row(trial, study, paths) for trial in sorted(study["trials"], key=rank)]

    columns = ["trial", study["objective"], "end", *short, "iteration time", "seconds", "worker", "remark"]
    kept = [i for i, name in enumerate(columns) if i < 3 or any(row[i] != "-" for row in rows)]
    right = [name for name in columns if name not in ("end", "worker", "remark")]
    table = Table([columns[i] for i in kept], [[row[i] for i in kept] for row in rows], right)
    text = "The best trial comes first. A click on a heading sorts the table." if rows else "There are no trials."
    return Section(name="trials", title="Trials", text=text, tables=[("", table)] if rows else [])


def settings_section(study: Study) -> Section:
    """The search space and the study's settings."""
    rows = []
    for parameter in study["parameters"]:
        if parameter["kind"] == "factor":
            domain = f"{scalar(parameter['low'])} to {scalar(parameter['high'])}, logarithmic"
        else:
            domain = ", ".join(scalar(label) for label in parameter["labels"])
        rows.append([parameter["path"], scalar(parameter["bootstrap"]), domain])

    facts = [[name, _fact(value)] for name, value in study["facts"].items()]
    facts.append(["storage", study["storage"]])
    return Section(
        name="settings",
        title="Search space and settings",
        tables=[
            ("The space", Table(["field", "bootstrap", "searched"], rows, [])),
            ("The study", Table(["", "value"], facts, [])),
        ],
    )


def _contender_table(study: Study, held: Mapping[str, Mapping[int, float]]) -> Table:
    rows = []
    for name, values in held.items():
        found = spread(list(values.values()))
        assert found is not None
        shown = [_value(value, study) for value in (found.median, found.low, found.high)]
        rows.append([_named(name, study), str(found.count), *shown])
    headings = ["contender", "seeds", f"median {study['objective']}", "lowest", "highest"]
    return Table(headings, rows, headings[1:])


def _gain_table(study: Study) -> Table:
    rows = [
        [
            f"{_named(gain['contender'], study)} against {_named(gain['against'], study)}",
            f"{gain['median']:+.3g}",
            f"{gain['low']:+.3g} to {gain['high']:+.3g}",
            f"{gain['wins']}/{gain['ties']}/{gain['losses']}",
            "-" if gain["p_corrected"] is None else f"{gain['p_corrected']:.2g}",
        ]
        for gain in study["verdict"]["gains"]
    ]
    headings = ["contest", "median gain", "95 %", "better/level/worse", "p"]
    return Table(headings, rows, headings[1:])


def _seed_figure(study: Study, held: Mapping[str, Mapping[int, float]]) -> Figure:
    """Every contender's value on every seed."""
    series = []
    for look, (name, values) in enumerate(held.items()):
        known = {seed: value for seed, value in sorted(values.items()) if math.isfinite(value)}
        if known:
            x, y = list(known), list(known.values())
            series.append(Series(name=_named(name, study), kind="points", look=look, x=x, y=y))
    return Figure(
        key="confirmation",
        title="Confirmation, seed by seed",
        x=Axis(title="seed", ticks=[(seed, str(seed)) for seed in sorted({seed for one in series for seed in one.x})]),
        y=Axis(title=study["objective"]),
        series=series,
        caption=f"A run that {study['worst']} has no point." if study["worst"] else "",
        empty="" if series else "no run reached a finite value",
    )


def _trial_row(trial: Trial, study: Study, paths: Sequence[str]) -> list[str]:
    value = "-" if trial["state"] != "complete" or trial["value"] is None else _value(trial["value"], study)
    held, attributes = trial["values"], trial["attributes"]
    ratio = attributes.get("iteration_time")
    remark = "; ".join(str(text) for text in [attributes.get("reason"), *attributes.get("changes", ())] if text)
    return [
        str(trial["number"]),
        value,
        end_of(trial),
        *(scalar(held[path]) if path in held else "-" for path in paths),
        "-" if ratio is None else f"{ratio:.3f}",
        "-" if trial["seconds"] is None else f"{trial['seconds']:.3g}",
        trial["worker"] or "-",
        remark or "-",
    ]


def _short(paths: Sequence[str]) -> list[str]:
    """The last part of each path, or the whole path where last parts are equal."""
    last = [path.rpartition(".")[2] for path in paths]
    return [path if last.count(name) > 1 else name for path, name in zip(paths, last, strict=True)]


def _named(name: str, study: Study) -> str:
    best = study["verdict"]["best"]
    return f"trial {best['number']}" if name == "best" and best is not None else name


def _value(value: float, study: Study) -> str:
    return str(study["worst"]) if math.isinf(value) else f"{value:.4g}"


def _fact(value: Any) -> str:
    if value is None:
        return "-"
    return ", ".join(map(str, value)) or "-" if isinstance(value, list) else str(value)


_MARGIN = 0.12  # of the first view, around what sets it
_SPREAD = 0.05  # of a choice's lines in parallel coordinates
_JITTER = 0.6180339887  # spreads the points of a choice by their numbers, the same each time
_IMPORTANCE = (
    "PED-ANOVA: how much the {good} best trials differ from all {trials} trials, one parameter at a time. It describes "
    "the search inside its ranges and says nothing about values outside them."
)
_STRIP = "The strip below shows trials without a finite value."
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
    """Each trial is one line through its parameters to its value. The best tenth is drawn last, on top."""
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
        caption="Each line is one trial with a value. A click on a name in the legend hides its lines.",
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
        empty="" if shares else f"importance is not known: {found['reason']}",
        height=150 + 34 * max(len(shares), 2),
    )


def first_view(study: Study) -> tuple[tuple[float, float] | None, str]:
    """The range of values to show first, and what lies outside in words. None: show all values.

    A few trials that are far behind would press all others into one line.
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
    """One series per way to end. Trials without a value go into the strip; a trial whose place is None is left out."""
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
    """A function that places a trial along a parameter, the axis, and the place of the bootstrap."""
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
        spread = 0.5 * _sideways(trial)
        return _index(labels, trial["point"][name]) + spread

    return place, axis, float(_index(labels, parameter["held"]))


def _position(parameter: Mapping[str, Any], trial: Trial) -> float | None:
    """Between 0 and 1 along a parameter's range. Choices are moved a little so that lines do not cover each other."""
    if parameter["kind"] == "choice":
        count = len(parameter["labels"])
        index = _index(parameter["labels"], trial["point"][parameter["name"]])
        return _SPREAD * _sideways(trial) + (0.5 if count == 1 else index / (count - 1))
    value, low, high = trial["values"][parameter["path"]], parameter["low"], parameter["high"]
    return math.log(value / low) / math.log(high / low) if high > low else 0.5


def _sideways(trial: Trial) -> float:
    """Between -0.5 and 0.5, always the same for a trial's number."""
    place: float = trial["number"] * _JITTER % 1
    return place - 0.5


def _index(labels: Sequence[Any], label: Any) -> int:
    return next(i for i, known in enumerate(labels) if known == label and type(known) is type(label))


def _stops(parameter: Mapping[str, Any]) -> list[tuple[float, str]]:
    """The labels along a parameter's line."""
    if parameter["kind"] == "factor":
        return [(0.0, scalar(parameter["low"])), (1.0, scalar(parameter["high"]))]
    labels = parameter["labels"]
    return [(i / (len(labels) - 1) if len(labels) > 1 else 0.5, scalar(label)) for i, label in enumerate(labels)]


def _ranks(study: Study, rows: Sequence[Trial]) -> list[tuple[str, Look, list[Trial]]]:
    """The trials in groups from worst to best."""
    sign = 1 if study["lower_is_better"] else -1
    feasible = sorted((row for row in rows if row["feasible"]), key=lambda row: (sign * row["value"], row["number"]))
    tenth, half = max(1, len(feasible) // 10), max(1, len(feasible) // 2)
    return [
        ("over the constraint", "muted", [row for row in rows if not row["feasible"]]),
        ("the other half", 5, feasible[half:]),
        ("the better half", 0, feasible[tenth:half]),
        (_BEST, 1, feasible[:tenth]),
    ]


_MOST_LANES = 24  # workers that get a lane each
_UNITS = (("hours", 3600), ("minutes", 60), ("seconds", 1))


def timeline_figure(study: Study) -> Figure:
    """Which worker ran which trial, and when."""
    rows = [trial for trial in study["trials"] if trial["started"] is not None]
    if not rows:
        empty = "no trial has started"
        return Figure(key="timeline", title="Timeline of trials", x=Axis(), y=Axis(), empty=empty)

    times = {row["number"]: _times(row) for row in rows}
    start = min(begin for begin, _ in times.values())
    end = max(stop or begin for begin, stop in times.values())
    unit, size = next((u, s) for u, s in _UNITS if end - start >= 3 * s or s == 1)

    lanes = _lanes(rows, times, end)
    series = []
    for name, look in LOOKS.items():
        members = [row for row in rows if end_of(row) == name]
        if members:
            spans = [times[row["number"]] for row in members]
            series.append(
                Series(
                    name=name,
                    kind="spans",
                    look=look,
                    base=[(begin - start) / size for begin, _ in spans],
                    x=[((end if stop is None else stop) - begin) / size for begin, stop in spans],
                    y=[lanes[row["number"]] for row in members],
                    text=[said(row) for row in members],
                )
            )

    order = sorted(set(lanes.values()), key=lambda lane: min(times[n][0] for n, held in lanes.items() if held == lane))
    return Figure(
        key="timeline",
        title="Timeline of trials",
        x=Axis(title=f"{unit} since the first trial began"),
        y=Axis(names=True, ticks=[(float(index), lane) for index, lane in enumerate(order)]),
        series=series,
        caption="A trial that was interrupted and resumed is shown from its last start.",
        height=min(170 + 26 * len(order), 800),
    )


def _times(trial: Trial) -> tuple[float, float | None]:
    begin = datetime.fromisoformat(trial["started"]).timestamp()
    return begin, None if trial["ended"] is None else datetime.fromisoformat(trial["ended"]).timestamp()


def _lanes(rows: Sequence[Trial], times: Mapping[int, tuple[float, float | None]], end: float) -> dict[int, str]:
    """One lane per worker. Where the workers are too many, as few lanes as trials that ran at the same time."""
    workers = {row["number"]: in_figure(row["worker"] or "unknown worker") for row in rows}
    if len(set(workers.values())) <= _MOST_LANES:
        return workers
    free: list[float] = []
    lanes: dict[int, str] = {}
    for number in sorted(times, key=lambda number: times[number][0]):
        begin, stop = times[number]
        lane = next((index for index, until in enumerate(free) if until <= begin), len(free))
        free[lane : lane + 1] = [end if stop is None else stop]
        lanes[number] = f"lane {lane + 1}"
    return lanes


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
"""How a trial ended, each with its own colour and marker, in the order of the legend."""


def end_of(trial: Trial) -> str:
    """A key of `LOOKS`, or "waiting"."""
    if trial["state"] != "complete":
        return str(trial["state"])
    if trial["value"] is None or not math.isfinite(trial["value"]):
        return "diverged" if trial["attributes"].get("diverged") else "without a value"
    return "completed" if trial["feasible"] else "over the constraint"


def has_value(trial: Trial) -> bool:
    """Whether it has a finite value."""
    return trial["state"] == "complete" and trial["value"] is not None and math.isfinite(trial["value"])


def said(trial: Trial) -> str:
    """A trial in one line, to be shown under the pointer."""
    value = f", {trial['value']:.5g}" if has_value(trial) else ""
    point = ", ".join(f"{path.rpartition('.')[2]} {scalar(value)}" for path, value in trial["values"].items())
    return in_figure(f"trial {trial['number']}: {end_of(trial)}{value}" + (f" ({point})" if point else ""))
