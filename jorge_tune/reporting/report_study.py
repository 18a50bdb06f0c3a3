"""The parts of a report that come from a study: verdict, confirmation, search, trials, settings. From plain data."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from jorge_tune.measure.statistics import spread
from jorge_tune.recipe.render import scalar
from jorge_tune.reporting.report_parts import Axis, Figure, Section, Sentence, Series
from jorge_tune.reporting.report_search import (
    history_figure,
    importance_figure,
    parallel_figure,
    slice_figures,
)
from jorge_tune.reporting.report_timeline import timeline_figure
from jorge_tune.reporting.report_trials import Study, Trial, end_of, has_value
from jorge_tune.reporting.summary import Table

_SINGLE_SHOT = "Single-shot tuning"  # how the sentence begins that sums all up


def study_verdict(study: Study) -> list[Sentence]:
    """The headline, whether single-shot tuning held, and then everything else."""
    told = study["verdict"]
    lead = told.get("headline")
    outcomes = {text: told["single_shot"]["outcome"] for text in told["sentences"] if text.startswith(_SINGLE_SHOT)}
    order = sorted(told["sentences"], key=lambda text: (text != lead, text not in outcomes))
    return [Sentence(text, outcomes.get(text, "")) for text in order]


def study_lead(study: Study) -> str:
    """What was searched for, and in what."""
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
        text="On seeds that the search did not see. A gain is the paired difference per seed, positive where it speaks "
        "for the first; in brackets the middle 95 % of resampled medians.",
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
            text="Points of a choice are spread sideways, so that they can be told apart. Trials without a finite "
            "value lie in the strip below.",
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
    text = "Best first. A click on a heading sorts." if rows else "There are no trials."
    return Section(name="trials", title="Trials", text=text, tables=[("", table)] if rows else [])


def settings_section(study: Study) -> Section:
    """The space, and how it was searched."""
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
        title="What was searched, and how",
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
        empty="" if series else "no run came to a finite value",
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
    """The last parts of the paths, whole where these would be the same."""
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
