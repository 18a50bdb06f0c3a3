"""Pictures of a diagnosis, and its page. plotly is imported inside the functions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import isfinite
from typing import TYPE_CHECKING, Any, NamedTuple

from jorge_tune.compare.statistics import Spread, spread
from jorge_tune.diagnose.diagnosis import NEWTON_CAPS, SIDES, TOP_DIRECTIONS, Diagnosis, QuadraticStudy, SideReading
from jorge_tune.diagnose.diagnosis_words import diagnosis_verdict, heading, tables
from jorge_tune.report.figures import COLOURS
from jorge_tune.report.html import bullets, figure_grid, html_table, page
from jorge_tune.untrusted import escape

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

_SYMBOLS = ("circle", "diamond", "square", "triangle-up", "cross", "x", "star")
_DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "solid", "dash")
_FONT = {"family": "system-ui, -apple-system, Segoe UI, Roboto, sans-serif", "size": 13}
_FLOOR = 1e-4  # root errors below are drawn there: they differ by rounding alone


class RangeLine(NamedTuple):
    """A median with its range, point by point; None where there is nothing."""

    name: str
    x: Sequence[float]
    spreads: Sequence[Spread | None]
    band: bool = True


def diagnosis_page(diagnosis: Diagnosis, title: str) -> str:
    """The whole page of a diagnosis: verdict, tables, figures, notes."""
    sections = [
        f"<h1>{escape(title)}</h1>",
        f'<p class="lead">{escape(heading(diagnosis))}</p>',
        "<h2>Verdict</h2>",
        bullets(diagnosis_verdict(diagnosis)),
    ]
    run = run_figures(diagnosis) if diagnosis.measured_steps else []
    studies = [figure for study in diagnosis.quadratics for figure in quadratic_figures(study)]
    if run:
        sections += [
            "<h2>Along the run</h2>",
            figure_grid(run),
            "<p>Thick lines are medians over blocks, or over their sides; bands and thin lines are their range and "
            "each of them. A click on a name hides its lines.</p>",
        ]
    if studies:
        sections += ["<h2>On a convex quadratic</h2>", figure_grid(studies, first=len(run) + 1)]
        sections.append(
            f"<p>Medians over problems; bands are their range. Root errors below {_FLOOR:g} are drawn there.</p>"
        )
    for name, table in tables(diagnosis):
        sections += [f"<h2>{escape(name)}</h2>", html_table(table)]
    if diagnosis.notes:
        sections += ["<h2>Notes</h2>", bullets(diagnosis.notes)]
    return page(title, sections)


def run_figures(diagnosis: Diagnosis) -> list[Figure]:
    """Cosines, averaging weights, preconditioners, graft ratio and spectra against the step."""
    return [
        _exactness(diagnosis),
        _agreement(diagnosis),
        _by_side(diagnosis, "1 - b2 of the last refresh", lambda side: max(1 - side.b2, 1e-16), log=True),
        _by_side(diagnosis, "newest gradient's share of tr A", lambda side: side.newest_share, log=True),
        _by_side(diagnosis, "condition number of L, R", lambda side: side.condition, log=True),
        _by_side(diagnosis, "asymmetry ||L - L^T|| / ||L||", lambda side: side.asymmetry),
        _along(diagnosis, "graft ratio ||SGD's step|| / ||Jorge's||", diagnosis.trace.graft_ratio),
        _along(diagnosis, "training loss", [loss if isfinite(loss) else None for loss in diagnosis.trace.loss]),
        _by_side(diagnosis, "intrinsic dimension (b2 0.999)", lambda s: s.shampoo_intrinsic_dimension, log=True),
        _masses(diagnosis),
    ]


def quadratic_figures(study: QuadraticStudy) -> list[Figure]:
    """Root errors, and how far each descent has come, against the number of refreshes."""
    x = [point.refreshes for point in study.points]
    errors = [
        RangeLine(_label(name), x, [_floored(point.root_errors[name]) for point in study.points])
        for name in study.points[0].root_errors
    ]
    losses = [
        RangeLine(_label(name), x, [point.losses[name] for point in study.points], band=False)
        for name in study.points[0].losses
    ]
    note = f"eigenvalues {study.eigenvalues}"
    return [
        _figure(errors, "refreshes", f"root error, {note}", log_x=True, log_y=True),
        _figure(losses, "refreshes", f"f / f(start), {note}", log_x=True, log_y=True),
    ]


def _exactness(diagnosis: Diagnosis) -> Figure:
    """Every direction's cosine to the exact one."""
    found = {"Jorge": ("jorge", "exact"), "SGD": ("exact", "sgd")}
    found |= {f"Newton x {k}": ("exact", f"newton-{k}") for k in NEWTON_CAPS}
    return _cosines(diagnosis, found, "cosine to the exact root's direction")


def _agreement(diagnosis: Diagnosis) -> Figure:
    """Jorge's cosine to every other direction."""
    found = {"to the exact root": ("jorge", "exact"), "to SGD": ("jorge", "sgd")}
    found |= {f"to Newton x {k}": ("jorge", f"newton-{k}") for k in NEWTON_CAPS}
    found |= {"to Shampoo, b2 0.999": ("jorge", "shampoo")}
    return _cosines(diagnosis, found, "cosine of Jorge's direction")


def _cosines(diagnosis: Diagnosis, found: dict[str, tuple[str, str]], title: str) -> Figure:
    steps = diagnosis.measured_steps
    lines = [
        RangeLine(name, steps, [spread(diagnosis.cosines(*pair, step)) for step in steps], band=number < 2)
        for number, (name, pair) in enumerate(found.items())
    ]
    return _figure(lines, "step", title)


def _by_side(diagnosis: Diagnosis, title: str, value: Callable[[SideReading], float], *, log: bool = False) -> Figure:
    """A thin line per side of a block, a thick one for the median of the left sides and of the right ones."""
    import plotly.graph_objects as go

    steps = diagnosis.measured_steps
    at: dict[tuple[str, int], list[float]] = {}
    thin: list[Any] = []
    for block in diagnosis.blocks:
        for number, side in enumerate(SIDES):
            points = [(r.step, value(r.sides[side])) for r in block.measured if side in r.sides]
            for step, found in points:
                at.setdefault((side, step), []).append(found)
            line = {"color": COLOURS[number], "width": 1, "dash": _DASHES[number]}
            thin.append(
                go.Scatter(
                    x=[step for step, _ in points],
                    y=[found for _, found in points],
                    name=f"{block.name} {side}",
                    legendgroup=side,
                    showlegend=False,
                    mode="lines",
                    opacity=0.5,
                    line=line,
                )
            )
    lines = [RangeLine(side, steps, [spread(at.get((side, step), [])) for step in steps], band=False) for side in SIDES]
    figure = _figure(lines, "step", title, log_y=log)
    figure.add_traces(thin)
    return figure


def _along(diagnosis: Diagnosis, title: str, values: Sequence[float | None]) -> Figure:
    """One number at every step of the run."""
    spreads = [None if value is None else spread([value]) for value in values]
    line = RangeLine("the run", diagnosis.trace.steps, spreads, band=False)
    return _figure([line], "step", title, log_y=True, markers=False)


def _masses(diagnosis: Diagnosis) -> Figure:
    """The spectral mass of both kinds of averages, as last read; a side of no more directions holds all of it."""
    last = [side for block in diagnosis.blocks if block.measured for side in block.measured[-1].sides.values()]
    lines = [
        RangeLine(
            name,
            TOP_DIRECTIONS,
            [spread([getattr(side, field).get(top, 1.0) for side in last]) for top in TOP_DIRECTIONS],
        )
        for name, field in (("Shampoo's averages, b2 0.999", "shampoo_mass"), ("Jorge's averages", "mass"))
    ]
    figure = _figure(lines, "directions l", "spectral mass in the top l, at the end", log_x=True)
    figure.update_xaxes(tickvals=TOP_DIRECTIONS, ticktext=[str(top) for top in TOP_DIRECTIONS])
    return figure


def _figure(
    lines: Sequence[RangeLine],
    x_title: str,
    y_title: str,
    *,
    log_x: bool = False,
    log_y: bool = False,
    markers: bool = True,
) -> Figure:
    """Medians as thick lines in colours and symbols of their own, ranges as bands behind them."""
    import plotly.graph_objects as go

    figure = go.Figure()
    for number, line in enumerate(lines):
        colour = COLOURS[number % len(COLOURS)]
        points = [(x, found) for x, found in zip(line.x, line.spreads, strict=True) if found is not None]
        x = [place for place, _ in points]
        shared = {"legendgroup": line.name}
        if line.band:
            edge = [found.high for _, found in points] + [found.low for _, found in reversed(points)]
            red, green, blue = (int(colour[k : k + 2], 16) for k in (1, 3, 5))
            fill = {"fill": "toself", "fillcolor": f"rgba({red},{green},{blue},0.13)", "line": {"width": 0}}
            band = {**shared, **fill, "mode": "lines", "hoverinfo": "skip", "showlegend": False}
            figure.add_trace(go.Scatter(x=[*x, *reversed(x)], y=edge, **band))
        look = {
            "mode": "lines+markers" if markers else "lines",
            "line": {"color": colour, "width": 2.5, "dash": _DASHES[number % len(_DASHES)]},
            "marker": {"symbol": _SYMBOLS[number % len(_SYMBOLS)], "size": 7, "color": colour, "maxdisplayed": 14},
        }
        y = [found.median for _, found in points]
        figure.add_trace(go.Scatter(x=x, y=y, name=line.name, hovertemplate="%{y:.4g} at %{x}", **shared, **look))
    figure.update_layout(**_layout(x_title, y_title, log_x, log_y))
    return figure


def _layout(x_title: str, y_title: str, log_x: bool, log_y: bool) -> dict[str, Any]:
    def axis(title: str, log: bool) -> dict[str, Any]:
        look = {"gridcolor": "#e6e6e6", "zeroline": False, "linecolor": "#999", "ticks": "outside", "automargin": True}
        return {**look, "title": {"text": title}, **({"type": "log", "exponentformat": "power"} if log else {})}

    return {
        "template": "none",
        "font": _FONT,
        "paper_bgcolor": "white",
        "plot_bgcolor": "white",
        "margin": {"l": 56, "r": 16, "t": 64, "b": 48},
        "hovermode": "closest",
        "xaxis": axis(x_title, log_x),
        "yaxis": axis(y_title, log_y),
        "legend": {"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom"},
    }


def _floored(found: Spread) -> Spread:
    return Spread(max(found.median, _FLOOR), max(found.low, _FLOOR), max(found.high, _FLOOR), found.count)


def _label(name: str) -> str:
    return name.replace("newton-", "Newton x ").replace("sgd", "SGD").replace("shampoo", "Shampoo")
