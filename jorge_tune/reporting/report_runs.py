"""The parts of a report that come from run folders: the race, its curves, rates, iteration times, recipes, machines."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from jorge_tune.errors import JorgeTuneError
from jorge_tune.measure.comparison import Comparison, Standing
from jorge_tune.measure.statistics import median
from jorge_tune.reporting.calibration import show_seconds
from jorge_tune.reporting.curves import AXIS_TITLES, contender_curves, interesting_range, not_finite
from jorge_tune.reporting.report_lines import Banded, banded, banded_curves
from jorge_tune.reporting.report_parts import Axis, Figure, Section, Sentence, Series
from jorge_tune.reporting.report_traces import RunTrace, schedule_line, trace_of
from jorge_tune.reporting.summary import Table, comparison_table, show_value, target_sentence
from jorge_tune.reporting.verdict import deciding, details, headline, headline_outcome, word

_LOG_RANGE = 20.0  # of learning rates, from which on their axis is logarithmic


@dataclass(frozen=True)
class Traced:
    """One contender with what its records say between evaluations; `notes` name what could not be read."""

    standing: Standing
    traces: tuple[RunTrace, ...]
    notes: tuple[str, ...]


def traced(comparison: Comparison) -> list[Traced]:
    """Every contender's runs that were measured."""
    return [_traced(standing) for standing in comparison.standings]


def race_verdict(comparison: Comparison) -> list[Sentence]:
    """The headline, then the lines; those that set a contender against the first begin with the word for it."""
    lines = details(comparison).splitlines()
    paired = [standing.against_first for standing in comparison.standings[1:]]
    outcomes = ["" if each is None else word(deciding(each), each.pairs) for each in paired]
    outcomes += [""] * (len(lines) - len(outcomes))
    told = [Sentence(line, word_of) for line, word_of in zip(lines, outcomes, strict=True)]  # type: ignore[arg-type]
    if len(comparison.standings) == 1:
        return told
    return [Sentence(headline(comparison), headline_outcome(comparison)), *told]  # type: ignore[arg-type]


def race_sections(comparison: Comparison, contenders: Sequence[Traced]) -> list[Section]:
    """Table, curves, learning rates and iteration times."""
    metric = f"{comparison.metric} ({comparison.part})"
    return [
        Section(name="contenders", title="Contenders", tables=[("", comparison_table(comparison))]),
        Section(
            name="curves",
            title=f"Curves of {metric}",
            text="Lines are medians over seeds, bands their range. A double click on a figure shows all of it, the "
            "first steep part too; a click on a name hides its line.",
            figures=curve_figures(comparison),
        ),
        Section(
            name="pace",
            title="Learning rate and iteration time",
            tables=[("", pace_table(contenders, compares_seconds=comparison.compares_seconds))],
            figures=[rate_figure(contenders), pace_figure(contenders)],
        ),
    ]


def race_sentence(comparison: Comparison) -> str:
    """What the race is measured against."""
    sentence = target_sentence(comparison)
    return sentence[0].upper() + sentence[1:] + "."


def curve_figures(comparison: Comparison) -> list[Figure]:
    """The metric against epochs, and against training seconds."""
    curves = contender_curves(comparison)
    found = interesting_range(curves, comparison.lower_is_better)
    target = comparison.target.value
    bounds = None if found is None else (min(found[0], target), max(found[1], target))
    title = f"{comparison.metric} ({comparison.part})"
    unread = not_finite(comparison)
    shared = [] if comparison.compares_seconds else ["Seconds do not compare: the runs were not alone on one device."]
    figures = []
    for axis, x_title in AXIS_TITLES.items():
        series = []
        for contender in curves:
            line = banded_curves(contender, axis)
            series.append(_banded_line(contender.name, contender.place, line, len(contender.runs)))
        figures.append(
            Figure(
                key=f"metric-by-{axis.replace('train_', '')}",
                title=f"{title} against {x_title}",
                x=Axis(title=x_title),
                y=Axis(title=title, bounds=bounds),
                series=series,
                marks=[(target, f"target {show_value(target)}")] if series else [],
                caption=" ".join(unread + ([] if axis == "epoch" else shared)),
                empty="" if series else f"no run has a finite {comparison.metric}",
            )
        )
    return figures


def rate_figure(contenders: Sequence[Traced]) -> Figure:
    """Each recipe's schedule as a line, what was recorded as points on it."""
    series: list[Series] = []
    for look, one in enumerate(contenders):
        if not one.traces:
            continue
        per_epoch = next((trace.steps_per_epoch for trace in one.traces if trace.steps_per_epoch), None)
        name = one.standing.name
        if per_epoch is not None:
            x, y = schedule_line(one.standing.contender.recipe, per_epoch)
            series.append(Series(name=name, kind="steps", look=look, x=x, y=y, group=name))
        points = sorted({point for trace in one.traces for point in trace.rates})
        if points:
            x, y = [epoch for epoch, _ in points], [rate for _, rate in points]
            quiet = per_epoch is not None
            recorded = Series(name=f"{name}, recorded", kind="points", look=look, x=x, y=y, quiet=quiet, group=name)
            series.append(recorded)
    rates = [rate for one in series for rate in one.y if rate > 0]
    is_log = bool(rates) and max(rates) > _LOG_RANGE * min(rates)
    return Figure(
        key="learning-rate",
        title="Learning rate against epoch",
        x=Axis(title="epoch"),
        y=Axis(title="learning rate", log=is_log),
        series=series,
        caption="Lines are the recipes' schedules (under a gen schedule, its base), points what was recorded.",
        empty="" if series else "no run recorded a learning rate",
    )


def pace_figure(contenders: Sequence[Traced]) -> Figure:
    """Seconds per iteration along the training, median and range over seeds."""
    series = []
    for look, one in enumerate(contenders):
        lines = [trace.paces for trace in one.traces if trace.paces]
        if lines:
            line = banded([[(epoch, 1e3 * seconds) for epoch, seconds in points] for points in lines])
            series.append(_banded_line(one.standing.name, look, line, len(lines)))
    return Figure(
        key="iteration-time",
        title="Iteration time along the training",
        x=Axis(title="epoch"),
        y=Axis(title="milliseconds per iteration"),
        series=series,
        caption="Training seconds from one record to the next, over the steps between; evaluation is not in them. Runs "
        "that shared a machine slow each other down: calibrate-freq measures alone.",
        empty="" if series else "no run has two records to tell it from",
    )


def pace_table(contenders: Sequence[Traced], *, compares_seconds: bool) -> Table:
    """The median iteration of each contender, and its parts as far as they were read; a ratio where seconds compare."""
    rows = []
    first: float | None = None
    for one in contenders:
        found = [
            _middle([getattr(trace, name) for trace in one.traces])
            for name in ("iteration_seconds", "forward_seconds", "optimizer_seconds")
        ]
        first = found[0] if first is None else first
        ratio = "-" if found[0] is None or not first or not compares_seconds else f"{found[0] / first:.2f}"
        rows.append([one.standing.name, *("-" if v is None else show_seconds(v) for v in found), ratio])
    headings = ["contender", "iteration", "forward", "optimizer's step", "of the first"]
    kept = [i for i in range(len(headings)) if any(row[i] != "-" for row in rows)]
    return Table([headings[i] for i in kept], [[row[i] for i in kept] for row in rows], headings[1:])


def _banded_line(name: str, look: int, line: Banded, runs: int) -> Series:
    """A median line, with a band where there is more than one run."""
    low, high = (line.low, line.high) if runs > 1 else (None, None)
    return Series(name=name, kind="line", look=look, x=line.x, y=line.y, low=low, high=high)


def _traced(standing: Standing) -> Traced:
    measured = {score.seed for score in standing.scores}
    traces, notes = [], []
    for run in standing.contender.runs:
        if run.seed not in measured:
            continue
        try:
            traces.append(trace_of(run))
        except (JorgeTuneError, OSError) as error:
            notes.append(f"{run.folder}: its steps cannot be read ({error})")
            continue
        if traces[-1].is_torn:
            notes.append(f"{run.folder}: the last line of its records is torn, and was left out")
    return Traced(standing, tuple(traces), tuple(notes))


def _middle(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return median(known) if known else None
