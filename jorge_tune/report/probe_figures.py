"""Pictures of a probe, and its page: parabolas with their points, lr* beside the schedule. plotly inside functions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from jorge_tune.probe.probe_result import LineReading, ProbeResult, StepReading
from jorge_tune.probe.probe_words import heading, table, words
from jorge_tune.report.figures import COLOURS
from jorge_tune.report.html import bullets, figure_grid, html_table, page
from jorge_tune.untrusted import escape

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

_KINDS = {"its own batch": ("own", "circle", "solid"), "fresh batches": ("fresh", "diamond", "dash")}
_FONT = {"family": "system-ui, -apple-system, Segoe UI, Roboto, sans-serif", "size": 13}
_CURVE_POINTS = 81  # of a parabola, drawn from its points at -2 to 2 a little further
_SIDEWAYS = 0.015  # of the walked length, between the two marks of one step


def probe_page(probed: ProbeResult, title: str) -> str:
    """The whole page of a probe: words, table, figures, notes."""
    sections = [
        f"<h1>{escape(title)}</h1>",
        f'<p class="lead">{escape(heading(probed))}</p>',
        "<h2>What it says</h2>",
        bullets(words(probed)),
        "<h2>Table</h2>",
        html_table(table(probed)),
    ]
    lines = [reading for reading in probed.readings if reading.own or reading.fresh]
    sections += ["<h2>lr* beside the schedule</h2>", figure_grid([rate_figure(probed)])]
    if lines:
        sections += [
            "<h2>The loss along the step</h2>",
            figure_grid([line_figure(reading) for reading in lines], first=2),
            "<p>Points are mean losses less the parabola's value at 0, curves the parabolas. 1 is the step as it was "
            "made; a vertical line marks x*, the band beside it its interval.</p>",
        ]
    if probed.notes:
        sections += ["<h2>Notes</h2>", bullets(probed.notes)]
    return page(title, sections)


def line_figure(reading: StepReading) -> Figure:
    """Both parabolas of one step with their points."""
    import plotly.graph_objects as go

    figure = go.Figure()
    for number, (name, (field, symbol, dash)) in enumerate(_KINDS.items()):
        line: LineReading | None = getattr(reading, field)
        if line is None or line.fit is None:
            continue
        colour, xs = COLOURS[number], line.multipliers
        places = [xs[0] + (xs[-1] - xs[0]) * i / (_CURVE_POINTS - 1) for i in range(_CURVE_POINTS)]
        level = line.fit.level
        points = {
            "x": list(xs),
            "y": [loss - level for loss in line.losses],
            "name": f"{name}: {line.fit.verdict}",
            "mode": "markers",
            "marker": {"symbol": symbol, "size": 10, "color": colour},
        }
        curve = {"color": colour, "width": 2, "dash": dash}
        figure.add_scatter(**points)
        figure.add_scatter(
            x=places, y=[line.fit.at(x) - level for x in places], mode="lines", line=curve, showlegend=False
        )
        _mark_optimum(figure, line, colour, dash)
    figure.update_layout(**_layout(f"step {reading.step}: times the step (lr {reading.lr:.3g})", "loss - loss at 0"))
    figure.update_xaxes(zeroline=True, zerolinecolor="#bbb", range=[-2.3, 2.3])
    figure.update_yaxes(exponentformat="power")
    return figure


def rate_figure(probed: ProbeResult) -> Figure:
    """lr* with its intervals, the rates that were in force, and the recipe's schedule, over the steps."""
    import plotly.graph_objects as go

    figure = go.Figure()
    above = [(step, rate) for step, rate in probed.schedule if rate > 0]
    _add_rates(figure, above, "the recipe's schedule", {"color": "#777", "width": 2, "dash": "dot"})
    _add_rates(figure, [pair for pair in probed.walked if pair[1] > 0], "in force", {"color": "#000", "width": 2})
    last = max([reading.step for reading in probed.readings] or [1])
    for number, (name, (field, symbol, dash)) in enumerate(_KINDS.items()):
        found = [(r, getattr(r, field)) for r in probed.readings if getattr(r, field) is not None]
        found = [(reading, line) for reading, line in found if line.optimum is not None]
        bounds = [line.fit.at_least for _, line in found]  # which have no interval
        ranges = [
            (line.optimum, line.optimum) if bound or line.interval is None else line.interval
            for (_, line), bound in zip(found, bounds, strict=True)
        ]
        figure.add_scatter(
            x=[r.step + (number - 0.5) * _SIDEWAYS * last for r, _ in found],
            y=[line.optimum * r.lr for r, line in found],
            error_y={
                "type": "data",
                "symmetric": False,
                "array": [(high - line.optimum) * r.lr for (r, line), (_, high) in zip(found, ranges, strict=True)],
                "arrayminus": [(line.optimum - low) * r.lr for (r, line), (low, _) in zip(found, ranges, strict=True)],
            },
            name=f"lr* on {name}",
            mode="lines+markers",
            line={"color": COLOURS[number], "width": 1, "dash": dash},
            marker={"symbol": symbol, "size": 10, "color": COLOURS[number]},
        )
    figure.update_layout(**_layout("step", "learning rate"))
    figure.update_yaxes(type="log", exponentformat="power")
    return figure


def _add_rates(figure: Figure, pairs: Sequence[tuple[int, float]], name: str, line: dict[str, Any]) -> None:
    figure.add_scatter(x=[step for step, _ in pairs], y=[rate for _, rate in pairs], name=name, mode="lines", line=line)


def _mark_optimum(figure: Figure, line: LineReading, colour: str, dash: str) -> None:
    """x* as a vertical line, its interval as a band, as far as they are in the picture."""
    if line.optimum is None or line.optimum > line.multipliers[-1]:
        return
    figure.add_vline(x=line.optimum, line={"color": colour, "width": 1.5, "dash": dash})
    if line.interval is not None:
        high = min(line.interval.high, 2.3)
        figure.add_vrect(x0=line.interval.low, x1=high, fillcolor=colour, opacity=0.1, line_width=0)


def _layout(x_title: str, y_title: str) -> dict[str, Any]:
    def axis(title: str) -> dict[str, Any]:
        look = {"gridcolor": "#e6e6e6", "zeroline": False, "linecolor": "#999", "ticks": "outside", "automargin": True}
        return {**look, "title": {"text": title}}

    return {
        "template": "none",
        "font": _FONT,
        "paper_bgcolor": "white",
        "plot_bgcolor": "white",
        "margin": {"l": 56, "r": 16, "t": 64, "b": 48},
        "hovermode": "closest",
        "xaxis": axis(x_title),
        "yaxis": axis(y_title),
        "legend": {"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom"},
    }
