"""Pictures of a comparison. plotly is imported inside the functions: importing this module costs nothing."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from jorge_tune.compare.comparison import Comparison
from jorge_tune.compare.curves import AXIS_TITLES, Axis, ContenderCurves, contender_curves, interesting_range
from jorge_tune.compare.verdict import show_value
from jorge_tune.files import write_whole

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Okabe and Ito's colours, told apart with any kind of colour vision; their yellow is too pale on white."""
_SYMBOLS = ("circle", "diamond", "square", "triangle-up", "cross", "x", "star")
_FONT = {"family": "system-ui, -apple-system, Segoe UI, Roboto, sans-serif", "size": 13}


def nth_look(looks: Sequence[str], number: int) -> str:
    """The look of a number; where colours begin anew, one further, so that no two series of 49 look the same."""
    return looks[(number + number // len(COLOURS)) % len(looks)]


def comparison_figure(comparison: Comparison, axis: Axis) -> Figure:
    """The metric against one axis: a thin line per seed, a thick one per contender's median, the target."""
    import plotly.graph_objects as go

    figure = go.Figure()
    _add_curves(figure, comparison, axis, {}, show_legend=True)
    figure.update_layout(**_layout(comparison))
    return figure


def comparison_poster(comparison: Comparison) -> Figure:
    """Both axes side by side in one figure, for a picture file."""
    from plotly.subplots import make_subplots

    figure = make_subplots(rows=1, cols=2, shared_yaxes=True, horizontal_spacing=0.06)
    for column, axis in enumerate(AXIS_TITLES, start=1):
        _add_curves(figure, comparison, axis, {"row": 1, "col": column}, show_legend=column == 1)
    figure.update_layout(**_layout(comparison), width=1200, height=520)
    return figure


def write_pngs(figures: Mapping[Path, Figure]) -> str | None:
    """Write each figure to its path as PNG where kaleido and a browser are there; else say what is missing, in words.

    One browser draws them all: starting it takes seconds, a figure half of one.
    """
    if importlib.util.find_spec("kaleido") is None:
        return "no PNG written: the package kaleido is missing (pip install 'jorge-tune[png]'); HTML needs none"
    from plotly.io import write_images

    with TemporaryDirectory() as folder:
        drawn = [Path(folder) / f"{number}.png" for number in range(len(figures))]
        layouts = [figure.layout for figure in figures.values()]  # whose sizes `write_images` does not read
        sizes = {"width": [each.width for each in layouts], "height": [each.height for each in layouts]}
        try:
            write_images(list(figures.values()), drawn, scale=2, **sizes)
        except Exception as error:  # kaleido and its browser raise errors of many kinds, none of them ours
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            return f"no PNG written: kaleido could not draw with Chrome or Chromium ({reason})"
        for path, picture in zip(figures, drawn, strict=True):
            write_whole(path, picture.read_bytes(), force=True, make_folders=True)
    return None


def _add_curves(figure: Figure, comparison: Comparison, axis: Axis, cell: dict[str, int], *, show_legend: bool) -> None:
    curves = contender_curves(comparison)
    for contender in curves:
        look = (COLOURS[contender.place % len(COLOURS)], nth_look(_SYMBOLS, contender.place))
        for trace in _traces(contender, axis, look, show_legend):
            figure.add_trace(trace, **cell)
    figure.add_hline(
        y=comparison.target.value,
        line={"color": "#555", "width": 1.2, "dash": "dash"},
        annotation={
            "text": f"target {show_value(comparison.target.value)}",
            "font": {"color": "#555", "size": 12},
        },
        annotation_position="top left",
        **cell,
    )
    figure.update_xaxes(title_text=AXIS_TITLES[axis], rangemode="tozero", **cell)
    figure.update_yaxes(range=_range(comparison, curves), **cell)


def _traces(contender: ContenderCurves, axis: Axis, look: tuple[str, str], show_legend: bool) -> Sequence[Any]:
    import plotly.graph_objects as go

    colour, symbol = look
    shared = {"legendgroup": contender.name, "mode": "lines"}
    thin = [
        go.Scatter(
            x=run.along(axis),
            y=run.values,
            name=run.label,
            line={"color": colour, "width": 1},
            opacity=0.55,
            showlegend=False,
            hovertemplate="%{y:.4g} at %{x:.4g}",
            **shared,
        )
        for run in contender.runs
    ]
    median = go.Scatter(
        x=contender.median.along(axis),
        y=contender.median.values,
        name=contender.name,
        line={"color": colour, "width": 3},
        marker={"symbol": symbol, "size": 7, "color": colour, "maxdisplayed": 12},
        showlegend=show_legend,
        hovertemplate="%{y:.4g} at %{x:.4g} (median)",
        **{**shared, "mode": "lines+markers"},
    )
    return [*thin, median]


def _layout(comparison: Comparison) -> dict[str, Any]:
    grid = {
        "gridcolor": "#e6e6e6",
        "zeroline": False,
        "linecolor": "#999",
        "ticks": "outside",
        "automargin": True,
    }
    return {
        "template": "none",
        "font": _FONT,
        "paper_bgcolor": "white",
        "plot_bgcolor": "white",
        "margin": {"l": 56, "r": 16, "t": 48, "b": 48},
        "hovermode": "closest",
        "xaxis": grid,
        "yaxis": {**grid, "title": {"text": f"{comparison.metric} ({comparison.part})"}},
        "xaxis2": grid,
        "yaxis2": grid,
        "legend": {"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom"},
    }


def _range(comparison: Comparison, curves: list[ContenderCurves]) -> list[float] | None:
    found = interesting_range(curves, comparison.lower_is_better)
    if found is None:
        return None
    return [min(found[0], comparison.target.value), max(found[1], comparison.target.value)]
