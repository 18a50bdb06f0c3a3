"""The parts of a report that come from a diagnosis: Jorge's direction along a run, and on convex quadratics."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from jorge_tune.compare.statistics import Spread, spread
from jorge_tune.diagnose.diagnosis import NEWTON_CAPS, SIDES, TOP_DIRECTIONS, Diagnosis, QuadraticStudy, SideReading
from jorge_tune.diagnose.diagnosis_words import tables
from jorge_tune.reports.parts import Axis, Figure, Section, Series
from jorge_tune.untrusted import in_figure

_FLOOR = 1e-4  # root errors below are drawn there: they differ by rounding alone
_LEAST_WEIGHT = 1e-16  # of a refresh, so that a logarithm exists


def diagnosis_sections(diagnosis: Diagnosis) -> list[Section]:
    """Figures along the run, figures of the quadratics, then all tables; what was not read is left out."""
    sections = []
    if diagnosis.measured_steps:
        text = (
            "Thick lines are medians over blocks, or over the sides of blocks; bands are the range over blocks, thin "
            "lines single sides. A click on a name hides its lines."
        )
        sections.append(Section(name="run", title="Along the run", text=text, figures=run_figures(diagnosis)))
    if diagnosis.quadratics:
        text = f"Lines are medians over problems, bands their range. Root errors below {_FLOOR:g} are drawn there."
        figures = [
            figure
            for number, study in enumerate(diagnosis.quadratics, start=1)
            for figure in quadratic_figures(study, number)
        ]
        sections.append(Section(name="quadratics", title="On a convex quadratic", text=text, figures=figures))

    found = list(tables(diagnosis))
    if found:
        sections.append(Section(name="tables", title="Tables", tables=found))
    return sections


def run_figures(diagnosis: Diagnosis) -> list[Figure]:
    """Cosines, averaging weights, preconditioners, graft ratio and spectra against the step."""
    trace = diagnosis.trace
    weights = _by_side(diagnosis, "weights", "1 - b2 of the last refresh", lambda side: max(1 - side.b2, _LEAST_WEIGHT))
    shares = _by_side(diagnosis, "shares", "Newest gradient's share of tr A", lambda side: side.newest_share)
    losses = [loss if math.isfinite(loss) else None for loss in trace.loss]
    return [
        _exactness(diagnosis),
        _agreement(diagnosis),
        weights,
        shares,
        _by_side(diagnosis, "condition", "Condition number of L and R", lambda side: side.condition),
        _by_side(diagnosis, "asymmetry", "Asymmetry ||L - L^T|| / ||L||", lambda side: side.asymmetry, is_log=False),
        _along(diagnosis, "graft", "Graft ratio ||SGD's step|| / ||Jorge's||", trace.graft_ratio),
        _along(diagnosis, "loss", "Training loss", losses),
        _by_side(
            diagnosis, "dimension", "Intrinsic dimension (b2 0.999)", lambda side: side.shampoo_intrinsic_dimension
        ),
        _masses(diagnosis),
    ]


def quadratic_figures(study: QuadraticStudy, number: int = 1) -> list[Figure]:
    """Root errors, and how far each descent has come, against the number of refreshes."""
    x = [point.refreshes for point in study.points]
    errors = [
        _median_line(_label(name), look, x, [_floored(point.root_errors[name]) for point in study.points])
        for look, name in enumerate(study.points[0].root_errors)
    ]
    losses = [
        _median_line(_label(name), look, x, [point.losses[name] for point in study.points], with_band=False)
        for look, name in enumerate(study.points[0].losses)
    ]

    about = f"eigenvalues {study.eigenvalues}"
    return [
        _figure(f"root-errors-{number}", f"Root error, {about}", "refreshes", "root error", errors, x_ticks=x),
        _figure(
            f"descents-{number}",
            f"How far each descent came, {about}",
            "refreshes",
            "f / f(start)",
            losses,
            x_ticks=x,
        ),
    ]


def _exactness(diagnosis: Diagnosis) -> Figure:
    """Every direction's cosine to the exact one."""
    pairs = {"Jorge": ("jorge", "exact"), "SGD": ("exact", "sgd")}
    pairs |= {f"Newton x {k}": ("exact", f"newton-{k}") for k in NEWTON_CAPS}
    return _cosines(diagnosis, "exactness", "Cosine to the exact root's direction", pairs)


def _agreement(diagnosis: Diagnosis) -> Figure:
    """Jorge's cosine to every other direction."""
    pairs = {"to the exact root": ("jorge", "exact"), "to SGD": ("jorge", "sgd")}
    pairs |= {f"to Newton x {k}": ("jorge", f"newton-{k}") for k in NEWTON_CAPS}
    pairs |= {"to Shampoo, b2 0.999": ("jorge", "shampoo")}
    return _cosines(diagnosis, "agreement", "Cosine of Jorge's direction", pairs)


def _cosines(diagnosis: Diagnosis, key: str, title: str, pairs: dict[str, tuple[str, str]]) -> Figure:
    steps = diagnosis.measured_steps
    series = [
        _median_line(name, look, steps, [spread(diagnosis.cosines(*pair, step)) for step in steps], with_band=look < 2)
        for look, (name, pair) in enumerate(pairs.items())
    ]
    return _figure(key, title, "step", "cosine", series, is_log_y=False)


def _by_side(
    diagnosis: Diagnosis, key: str, title: str, value: Callable[[SideReading], float], *, is_log: bool = True
) -> Figure:
    """A thin line per side of a block, a thick one for the median of the left sides and of the right ones."""
    series = []
    for look, side in enumerate(SIDES):
        at: dict[int, list[float]] = {step: [] for step in diagnosis.measured_steps}
        x: list[float | None] = []
        y: list[float | None] = []
        text: list[str | None] = []
        for block in diagnosis.blocks:
            points = [(reading.step, value(reading.sides[side])) for reading in block.measured if side in reading.sides]
            for step, found in points:
                at[step].append(found)
            x += [*(step for step, _ in points), None]
            y += [*(found for _, found in points), None]
            text += [*(in_figure(f"{block.name} {side}: {found:.4g} at step {step}") for step, found in points), None]

        name = f"{side}, single sides"
        series.append(Series(name=name, kind="threads", look=look, x=x, y=y, text=text, quiet=True, group=side))
        steps, spreads = list(at), [spread(found) for found in at.values()]
        series.append(_median_line(side, look, steps, spreads, with_band=False))
    return _figure(key, title, "step", "", series, is_log_y=is_log)


def _along(diagnosis: Diagnosis, key: str, title: str, values: Sequence[float | None]) -> Figure:
    """One number at every step of the run."""
    points = [(step, value) for step, value in zip(diagnosis.trace.steps, values, strict=True) if value is not None]
    x, y = [step for step, _ in points], [value for _, value in points]
    series = [Series(name="the run", kind="curve", look=0, x=x, y=y, quiet=True)] if points else []
    return _figure(key, title, "step", "", series)


def _masses(diagnosis: Diagnosis) -> Figure:
    """The spectral mass of both kinds of averages, as last read; a side of no more directions holds all of it."""
    last = [side for block in diagnosis.blocks if block.measured for side in block.measured[-1].sides.values()]
    kinds = (("Shampoo's averages, b2 0.999", "shampoo_mass"), ("Jorge's averages", "mass"))
    series = []
    for look, (name, field) in enumerate(kinds):
        spreads = [spread([getattr(side, field).get(top, 1.0) for side in last]) for top in TOP_DIRECTIONS]
        series.append(_median_line(name, look, TOP_DIRECTIONS, spreads))
    return Figure(
        key="masses",
        title="Spectral mass in the top l directions, at the end",
        x=Axis(title="directions l", log=True, ticks=[(top, str(top)) for top in TOP_DIRECTIONS]),
        y=Axis(title="share of the trace"),
        series=series,
    )


def _figure(
    key: str,
    title: str,
    x_title: str,
    y_title: str,
    series: Sequence[Series],
    *,
    x_ticks: Sequence[int] | None = None,
    is_log_y: bool = True,
) -> Figure:
    """With `x_ticks` the x axis is logarithmic. So is y, unless its values span no decade: it would have no ticks."""
    ticks = None if x_ticks is None else [(place, str(place)) for place in x_ticks]
    values = [value for one in series for value in one.y if value is not None]
    spans = bool(values) and min(values) > 0 and max(values) > 10 * min(values)
    return Figure(
        key=key,
        title=title,
        x=Axis(title=x_title, log=x_ticks is not None, ticks=ticks),
        y=Axis(title=y_title, log=is_log_y and spans),
        series=series,
        empty="" if values else "nothing finite was read",
        height=380,
    )


def _median_line(
    name: str, look: int, x: Sequence[float], spreads: Sequence[Spread | None], *, with_band: bool = True
) -> Series:
    """Medians as a line, with the range as a band where one is wanted; what was not read is left out."""
    points = [(place, found) for place, found in zip(x, spreads, strict=True) if found is not None]
    return Series(
        name=name,
        kind="line",
        look=look,
        x=[place for place, _ in points],
        y=[found.median for _, found in points],
        low=[found.low for _, found in points] if with_band else None,
        high=[found.high for _, found in points] if with_band else None,
        group=name,
    )


def _floored(found: Spread) -> Spread:
    return Spread(max(found.median, _FLOOR), max(found.low, _FLOOR), max(found.high, _FLOOR), found.count)


def _label(name: str) -> str:
    return name.replace("newton-", "Newton x ").replace("sgd", "SGD").replace("shampoo", "Shampoo")
