"""The parts of a report that come from run directories: race, curves, rates, iteration times, recipes, machines."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from jorge_tune.calibration.calibration_words import show_seconds
from jorge_tune.compare.comparison import Comparison, Standing
from jorge_tune.compare.curves import (
    AXIS_TITLES,
    Banded,
    ContenderCurves,
    CurveAxis,
    banded,
    banded_curves,
    contender_curves,
    interesting_range,
    not_finite,
)
from jorge_tune.compare.run_directories import Run
from jorge_tune.compare.statistics import median
from jorge_tune.compare.verdict import (
    Table,
    comparison_table,
    deciding,
    details,
    headline,
    headline_outcome,
    show_value,
    target_sentence,
    word,
)
from jorge_tune.errors import JorgeTuneError
from jorge_tune.recipe.bootstrap import bootstrap
from jorge_tune.recipe.derivation import Derivation
from jorge_tune.recipe.render import render_recipe, scalar
from jorge_tune.recipe.schedule import lr_factor, total_steps
from jorge_tune.recipe.schema import AdamWSection, KroneckerFields, Recipe, SGDSection
from jorge_tune.records import Record, RunDirectory, read_records
from jorge_tune.reports.parts import Axis, Figure, Listing, Section, Sentence, Series
from jorge_tune.reports.svg import svg_picture
from jorge_tune.untrusted import in_figure

_LOG_RANGE = 20.0  # of learning rates, from which on their axis is logarithmic
_MOST_SEED_LINES = 24  # thin lines of single runs; more of them hide the medians


@dataclass(frozen=True)
class Traced:
    """One contender with what its records say between evaluations; `notes` list the runs that could not be read."""

    standing: Standing
    traces: tuple[RunTrace, ...]
    notes: tuple[str, ...]


def traced(comparison: Comparison) -> list[Traced]:
    """The measured runs of every contender."""
    return [_traced(standing) for standing in comparison.standings]


def race_verdict(comparison: Comparison) -> list[Sentence]:
    """The headline, then one sentence per contest; each carries its outcome."""
    lines = details(comparison).splitlines()
    paired = [standing.against_first for standing in comparison.standings[1:]]
    outcomes = ["" if each is None else word(deciding(each)) for each in paired]
    outcomes += [""] * (len(lines) - len(outcomes))
    sentences = [Sentence(line, word_of) for line, word_of in zip(lines, outcomes, strict=True)]  # type: ignore[arg-type]
    if len(comparison.standings) == 1:
        return sentences
    return [Sentence(headline(comparison), headline_outcome(comparison)), *sentences]  # type: ignore[arg-type]


def race_sections(comparison: Comparison, contenders: Sequence[Traced]) -> list[Section]:
    """Table, curves, learning rates and iteration times."""
    metric = f"{comparison.metric} ({comparison.part})"
    figures = curve_figures(comparison)
    shows_seeds = any(series.kind == "threads" for series in figures[0].series)
    lines = (
        "Thick lines are medians over seeds, thin lines single seeds" if shows_seeds else "Lines are medians over seeds"
    )
    return [
        Section(name="contenders", title="Contenders", tables=[("", comparison_table(comparison))]),
        Section(
            name="curves",
            title=f"Curves of {metric}",
            text=f"{lines}, bands their range. The first steep part is cut off: a double click on a figure shows "
            "all of it. A click on a name hides its lines.",
            figures=figures,
        ),
        Section(
            name="pace",
            title="Learning rate and iteration time",
            tables=[("", pace_table(contenders, compares_seconds=comparison.compares_seconds))],
            figures=[rate_figure(contenders), pace_figure(contenders)],
        ),
    ]


def race_sentence(comparison: Comparison) -> str:
    """The target as a sentence."""
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
    why = comparison.clock_fault or "the runs were not alone on one device"
    shared = [] if comparison.compares_seconds else [f"Seconds do not compare: {why}."]
    shows_seeds = sum(len(contender.runs) for contender in curves) <= _MOST_SEED_LINES

    figures = []
    for axis, x_title in AXIS_TITLES.items():
        series = []
        for contender in curves:
            line = banded_curves(contender, axis)
            if len(contender.runs) > 1 and shows_seeds:
                series.append(_seed_lines(contender, axis))
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
    """Each recipe's schedule as a line, and the recorded rates as points."""
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
        caption="Lines show the recipes' schedules (of a gen schedule, its base). Points show the recorded rates.",
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
        caption="Training seconds between two records, divided by the steps between them, without evaluation. Runs on "
        "one machine slow each other down; calibrate-freq measures while nothing else runs.",
        empty="" if series else "no run has two records to measure between",
    )


def pace_table(contenders: Sequence[Traced], *, compares_seconds: bool) -> Table:
    """Each contender's median iteration time and its parts; the ratio to the first one where seconds compare."""
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

    headings = ["contender", "iteration", "forward", "optimizer's step", "ratio to the first"]
    kept = [i for i in range(len(headings)) if any(row[i] != "-" for row in rows)]
    return Table([headings[i] for i in kept], [[row[i] for i in kept] for row in rows], headings[1:])


def _seed_lines(contender: ContenderCurves, axis: CurveAxis) -> Series:
    """Every run of a contender as a thin line; None stands between two of them."""
    x: list[float | None] = []
    y: list[float | None] = []
    text: list[str | None] = []
    for run in contender.runs:
        x += [*run.along(axis), None]
        y += [*run.values, None]
        text += [*(f"{in_figure(run.label)}: {value:.5g}" for value in run.values), None]
    name, look = f"{contender.name}, seeds", contender.place
    return Series(name=name, kind="threads", look=look, x=x, y=y, text=text, quiet=True, group=contender.name)


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
            notes.append(f"{run.folder}: the last line of its records is torn (not complete) and is left out")
    return Traced(standing, tuple(traces), tuple(notes))


def _middle(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return median(known) if known else None


_MOST_POINTS = 400  # of a schedule's line


@dataclass(frozen=True)
class RunTrace:
    """One run between its evaluations.

    `rates` are (epoch, learning rate of the first group) as recorded, `paces` (epoch, seconds per iteration) from one
    record to the next. Forward and optimizer seconds are medians, or None where no record has them. `is_torn` says that
    the last line of the records is not complete.
    """

    seed: int
    rates: tuple[tuple[float, float], ...]
    paces: tuple[tuple[float, float], ...]
    forward_seconds: float | None
    optimizer_seconds: float | None
    steps_per_epoch: float | None
    is_torn: bool

    @property
    def iteration_seconds(self) -> float | None:
        """The median iteration time; None where there are no two records to measure between."""
        return median([seconds for _, seconds in self.paces]) if self.paces else None


def trace_of(run: Run) -> RunTrace:
    """Read a run's records again, for what happened between its evaluations.

    Raises:
        RunDirectoryError: the records are damaged.
    """
    path = RunDirectory(run.folder).records
    records = read_records(path)
    whole = [record for record in records if record["step"] and _is_number(record.get("epoch")) and record["epoch"] > 0]
    return RunTrace(
        seed=run.seed,
        rates=tuple(_rates(records)),
        paces=tuple(_paces(records)),
        forward_seconds=_median_of(records, "forward_seconds"),
        optimizer_seconds=_median_of(records, "optimizer_seconds"),
        steps_per_epoch=whole[-1]["step"] / whole[-1]["epoch"] if whole else None,
        is_torn=not path.read_bytes().endswith(b"\n") and path.stat().st_size > 0,
    )


def schedule_line(recipe: Recipe, steps_per_epoch: float) -> tuple[list[float], list[float]]:
    """Epochs and learning rates of a recipe's schedule from first to last step; of a `gen` recipe, its base."""
    per_epoch = max(1, round(steps_per_epoch))
    factor, length = lr_factor(recipe, per_epoch), total_steps(recipe, per_epoch)
    count = min(length, _MOST_POINTS)
    steps = sorted({round(index * (length - 1) / max(count - 1, 1)) for index in range(count)})
    return [step / per_epoch for step in steps], [recipe.optimizer.lr * factor(step) for step in steps]


def _rates(records: Sequence[Record]) -> list[tuple[float, float]]:
    """The recorded rates; the last one where a step has two readings (GeN)."""
    found: dict[int, tuple[float, float]] = {}
    for record in records:
        rates = record.get("lr")
        if record["kind"] not in ("step", "rate") or not _is_number(record.get("epoch")):
            continue
        if isinstance(rates, list) and rates and _is_number(rates[0]):
            found[record["step"]] = (record["epoch"], rates[0])
    return [found[step] for step in sorted(found)]


def _paces(records: Sequence[Record]) -> list[tuple[float, float]]:
    """Seconds per step from each record to the next one of the same session, at the epoch of the second one."""
    paces = []
    before: Record | None = None
    for record in records:
        if not (_is_number(record.get("train_seconds")) and _is_number(record.get("epoch"))):
            continue
        if before is not None and record["kind"] != "start":
            steps, seconds = record["step"] - before["step"], record["train_seconds"] - before["train_seconds"]
            if steps <= 0:
                continue  # two records of one step
            if seconds > 0:
                paces.append((float(record["epoch"]), seconds / steps))
        before = record
    return paces


def _median_of(records: Sequence[Record], name: str) -> float | None:
    values = [record[name] for record in records if record["kind"] == "step" and _is_number(record.get(name))]
    return median(values) if values else None


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def recipe_section(recipes: Sequence[tuple[str, Recipe]], reasons: Mapping[str, Sequence[Derivation]]) -> Section:
    """The recipes of the runs, and the reasons for their values where the rules give them."""
    tables, lines = [], []
    for name, found in reasons.items():
        carried = [one.field for one in found if not (one.changed or one.formula or one.source)]
        tables.append(
            (f"Why {name} has these values", reason_table([one for one in found if one.field not in carried]))
        )
        if carried:
            lines.append(f"{name}: carried over without a change: {', '.join(carried)}.")
    listings = [Listing(name, render_recipe(recipe, reasons.get(name, ()))) for name, recipe in recipes]
    return Section(name="recipes", title="Recipes and their reasons", lines=lines, tables=tables, listings=listings)


def reason_table(derivations: Sequence[Derivation]) -> Table:
    """One row per field: before, after, why."""
    rows = []
    for derivation in derivations:
        why = derivation.rule + (f": {derivation.formula}" if derivation.formula else "")
        why += f" ({derivation.source})" if derivation.source else ""
        before, after = ("-" if value is None else scalar(value) for value in (derivation.before, derivation.after))
        rows.append([derivation.field, before, after, why])
    return Table(["field", "before", "after", "why"], rows, [])


def reasons_of(recipes: Sequence[tuple[str, Recipe]]) -> dict[str, tuple[Derivation, ...]]:
    """The rules' reasons, for each recipe that the rules make from another one here; its interval may differ."""
    found: dict[str, tuple[Derivation, ...]] = {}
    tuned = [recipe for _, recipe in recipes if isinstance(recipe.optimizer, (SGDSection, AdamWSection))]
    for name, recipe in recipes:
        for before in tuned:
            for schedule in (None, "keep", "step"):
                made = bootstrap(before, schedule=schedule)
                if name not in found and _is_made(recipe, made.recipe):
                    found[name] = made.derivations
    return found


def environment_section(runs: Sequence[Run], notes: Sequence[str] = ()) -> Section:
    """The machines and versions of the runs, one column per distinct environment.json."""
    kinds: dict[str, int] = {}
    for run in runs:
        text = _environment(run)
        if text is not None:
            kinds[text] = kinds.get(text, 0) + 1

    if not kinds:
        text = "No run recorded its environment (environment.json is missing)."
        return Section(name="environment", title="Environment", text=text, lines=notes)

    flat = [_flat(json.loads(text)) for text in kinds]
    fields = list(dict.fromkeys(name for one in flat for name in one))
    rows = [["runs", *(str(count) for count in kinds.values())]]
    rows += [[name, *(one.get(name, "-") for one in flat)] for name in fields]

    headings = ["", *(f"environment {number}" for number in range(1, len(flat) + 1))]
    table = Table(headings if len(flat) > 1 else ["", "value"], rows, [])
    return Section(name="environment", title="Environment", tables=[("", table)], lines=notes)


def _is_made(recipe: Recipe, made: Recipe) -> bool:
    if not isinstance(recipe.optimizer, KroneckerFields) or not isinstance(made.optimizer, KroneckerFields):
        return False
    if type(recipe.optimizer) is not type(made.optimizer):
        return False
    alike = replace(recipe.optimizer, refresh_interval=made.optimizer.refresh_interval)
    return (alike, recipe.schedule, recipe.batch_size) == (made.optimizer, made.schedule, made.batch_size)


def _environment(run: Run) -> str | None:
    return None if run.environment is None else json.dumps(run.environment, sort_keys=True)


def _flat(held: Mapping[str, object], start: str = "") -> dict[str, str]:
    flat: dict[str, str] = {}
    for name, value in held.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{start}{name} ")
        else:
            flat[f"{start}{name}"] = "-" if value is None else str(value)
    return flat


def curve_picture(title: str, runs: Sequence[Run], metric: str, target: float | None = None) -> str:
    """A metric against the epoch as SVG, one line per run; "" where no reading is finite.

    Readings are those of the validation part, or of the test part where there is no validation part.

    Args:
        title: the text above the picture.
        runs: their seeds name the lines.
        metric: the metric's name in the records.
        target: a value to draw as a level line.
    """
    part = "validation" if any("validation" in run.evaluations for run in runs) else "test"
    series = []
    for look, run in enumerate(runs):
        points = _finite_readings(run, metric)
        x, y = [epoch for epoch, _ in points], [value for _, value in points]
        if points:
            series.append(Series(name=f"seed {run.seed}", kind="line", look=look, x=x, y=y))

    figure = Figure(
        key="curves",
        title=title,
        x=Axis(title="epoch"),
        y=Axis(title=f"{metric} ({part})"),
        series=series,
        marks=[] if target is None else [(target, f"target {target:g}")],
    )
    return svg_picture(figure.to_json())


def _finite_readings(run: Run, metric: str) -> list[tuple[float, float]]:
    found = run.evaluations.get("validation") or run.evaluations.get("test", ())
    points = [(reading.epoch, reading.metrics.get(metric, math.nan)) for reading in found]
    return [point for point in points if math.isfinite(point[1])]
