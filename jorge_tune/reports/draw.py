"""A figure of a report's JSON twin in plotly's terms: `data` and `layout` as plain data. plotly itself is not needed.

Every trace names its series in `meta`, and its numbers are the twin's numbers without a change. Colours are named by
tokens (`@0` to `@6`, `@ink`, ...), which `PALETTES` resolves for a light and a dark page.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Okabe and Ito's colours, told apart with any kind of colour vision; their yellow is too pale on white."""
FONT = "system-ui, -apple-system, Segoe UI, Roboto, sans-serif"
_DARK = ("#4aa8e0", "#f0803c", "#2bbd92", "#dd9ac0", "#f0b83a", "#9ad6f7", "#ffffff")
PALETTES: dict[str, dict[str, str]] = {
    "light": {f"@{number}": colour for number, colour in enumerate(COLOURS)}
    | {"@ink": "#1c1c1c", "@muted": "#6b6b6b", "@grid": "#e3e3e3", "@line": "#9a9a9a", "@paper": "#ffffff"},
    "dark": {f"@{number}": colour for number, colour in enumerate(_DARK)}
    | {"@ink": "#e8e8e8", "@muted": "#a3a3a3", "@grid": "#33373d", "@line": "#6f757d", "@paper": "#15181c"},
}
"""Okabe and Ito's colours; on a dark page the dark ones of them are lighter, and black is white."""
_SYMBOLS = ("circle", "diamond", "square", "x", "triangle-down", "triangle-up", "star")
_DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot", "12px,3px,3px,3px,3px,3px")
_BAND_OPACITY = 0.16
_LEVEL_DASHES = ("dash", "dot", "dashdot")
_MANY = 200  # points, from which on each is drawn smaller
_DECADES_APART, _MOST_DECADES = 0.9, 5.0  # of a logarithmic axis: from which on ticks are fewer, and fewer still
_STRIP = 0.09  # of the height, for what has no value

Data = Mapping[str, Any]


def nth_look(looks: Sequence[str], number: int) -> str:
    """The look of a number; where colours begin anew, one further, so that no two series of 49 look the same."""
    return looks[(number + number // len(COLOURS)) % len(looks)]


def drawn(figure: Data) -> dict[str, Any]:
    """`{"data": [...], "layout": {...}}` of one figure of a twin."""
    traces = [trace for series in figure["series"] for trace in _traces(series)]
    return {"data": traces, "layout": _layout(figure)}


def with_colours(value: Any, palette: Mapping[str, str]) -> Any:
    """The result of `drawn` with colours in place of tokens."""
    if isinstance(value, str):
        return palette.get(value, value)
    if isinstance(value, Mapping):
        return {key: with_colours(item, palette) for key, item in value.items()}
    if isinstance(value, list):
        return [with_colours(item, palette) for item in value]
    return value


def _traces(series: Data) -> list[dict[str, Any]]:
    shared = {
        "name": series["name"],
        "legendgroup": series.get("group") or series["name"],
        "showlegend": not series.get("quiet", False),
    }
    if series["kind"] in ("bars", "spans"):
        return [{**shared, **_bars(series)}]

    line = {**shared, **_line(series)}
    if "low" not in series:
        return [line]
    if series["kind"] == "points":
        return [line | {"error_y": _error_bars(series)}]
    return [{**shared, **_band(series), "showlegend": False}, line]


def _error_bars(series: Data) -> dict[str, Any]:
    """Each point's range, as plotly wants it: distances from the point."""
    ranges = list(zip(series["y"], series["low"], series["high"], strict=True))
    return {
        "type": "data",
        "symmetric": False,
        "array": [high - y for y, _, high in ranges],
        "arrayminus": [y - low for y, low, _ in ranges],
        "thickness": 1.4,
        "width": 4,
    }


def _band(series: Data) -> dict[str, Any]:
    """A closed line: forward along the highest values, back along the lowest ones."""
    x = list(series["x"])
    return {
        "type": "scatter",
        "mode": "lines",
        "x": x + x[::-1],
        "y": list(series["high"]) + list(series["low"])[::-1],
        "fill": "toself",
        "fillcolor": _colour(series["look"]),
        "opacity": _BAND_OPACITY,
        "line": {"width": 0},
        "hoverinfo": "skip",
        "meta": {"series": series["name"], "part": "band"},
    }


def _line(series: Data) -> dict[str, Any]:
    kind, look = series["kind"], series["look"]
    colour, number = _colour(look), look if isinstance(look, int) else None
    trace: dict[str, Any] = {
        "type": "scatter",
        "mode": {"line": "lines+markers", "points": "markers"}.get(kind, "lines"),
        "x": list(series["x"]),
        "y": list(series["y"]),
        "meta": {"series": series["name"], "part": "line"},
        **_pointer(series, "%{y:.5g} at %{x:.5g}"),
    }
    if series.get("strip"):
        trace["yaxis"] = "y2"

    if kind != "points":
        dash = "solid" if number is None or kind == "threads" else nth_look(_DASHES, number)
        trace["line"] = {"color": colour, "width": _width(series), "dash": dash}
        trace["line"] |= {"shape": "hv"} if kind == "steps" else {}

    if kind in ("line", "points"):
        symbol = "x-thin-open" if number is None else nth_look(_SYMBOLS, number)
        trace["marker"] = {
            "color": colour,
            "symbol": symbol,
            "size": 7 if len(series["x"]) < _MANY else 4.5,
            "maxdisplayed": 14 if kind == "line" else 0,
        }
        trace["marker"] |= {"opacity": 0.8} if kind == "points" else {}
    if kind == "threads":
        trace["opacity"] = 0.8 if series.get("strong") else 0.45
    return trace


def _bars(series: Data) -> dict[str, Any]:
    """Bars from 0, or spans from their beginnings."""
    look = series["look"]
    trace: dict[str, Any] = {
        "type": "bar",
        "orientation": "h",
        "x": list(series["x"]),
        "y": list(series["y"]),
        "marker": {"color": _colour(look), "line": {"width": 0}},
        "meta": {"series": series["name"], "part": "bars"},
        **_pointer(series, "%{y}: %{x:.3g}"),
    }
    if series["kind"] == "spans":
        trace["base"] = list(series["base"])
        trace["marker"]["pattern"] = {"shape": _pattern(look), "size": 6, "solidity": 0.35}
        trace["marker"]["line"] = {"width": 0.5 if len(series["x"]) < _MANY else 0, "color": "@paper"}
    return trace


def _pointer(series: Data, template: str) -> dict[str, Any]:
    if "text" in series:
        return {"hovertext": list(series["text"]), "hovertemplate": "%{hovertext}<extra></extra>"}
    return {"hovertemplate": template}


def _layout(figure: Data) -> dict[str, Any]:
    shapes = [
        {"type": "line", "xref": "paper", "x0": 0, "x1": 1, "y0": y, "y1": y, **_rule(text, number)}
        for number, (y, text) in enumerate(figure["marks"])
    ]
    shapes += [
        {"type": "line", "yref": "paper", "y0": 0, "y1": 1, "x0": x, "x1": x, **_rule(text, number + len(shapes))}
        for number, (x, text) in enumerate(figure["posts"])
    ]

    has_strip = any(series.get("strip") for series in figure["series"])
    layout = {
        "font": {"family": FONT, "size": 12.5, "color": "@ink"},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "margin": {"l": 52, "r": 14, "t": 24, "b": 44},
        "hovermode": "closest",
        "hoverlabel": {"align": "left"},
        "barmode": "overlay",
        "bargap": 0.25,
        "xaxis": _axis(figure["x"], "x") | _log_ticks(figure, "x") | ({"anchor": "y2"} if has_strip else {}),
        "yaxis": _axis(figure["y"], "y")
        | _log_ticks(figure, "y")
        | ({"domain": [_STRIP + 0.05, 1]} if has_strip else {}),
        "legend": {
            "orientation": "h",
            "x": 0,
            "y": 1.02,
            "yanchor": "bottom",
            "font": {"size": 12},
            "tracegroupgap": 2,
        },
        "shapes": shapes,
        "annotations": [_text(x, y, text) for x, y, text in figure["labels"]],
    }
    if has_strip:
        strip = {"domain": [0, _STRIP], "type": "category", "fixedrange": True, "zeroline": False, "showgrid": False}
        layout["yaxis2"] = {**strip, "linecolor": "@line", "ticks": "", "automargin": True}
    return layout


def _axis(axis: Data, side: str) -> dict[str, Any]:
    look: dict[str, Any] = {
        "title": {"text": axis.get("title", ""), "standoff": 8},
        "gridcolor": "@grid",
        "linecolor": "@line",
        "tickcolor": "@line",
        "zeroline": False,
        "ticks": "outside",
        "automargin": True,
        "exponentformat": "e",
    }

    if axis.get("log"):
        look |= {"type": "log", "exponentformat": "none"}

    if axis.get("names"):
        look |= {"type": "category", "autorange": "reversed" if axis.get("ticks") else True, "ticks": ""}
        if axis.get("ticks"):
            look |= {"categoryorder": "array", "categoryarray": [text for _, text in axis["ticks"]]}
        return look

    if "ticks" in axis:
        look |= {"tickvals": [place for place, _ in axis["ticks"]], "ticktext": [text for _, text in axis["ticks"]]}
        look["showgrid"] = side == "y" and bool(axis["ticks"])
    if "bounds" in axis:
        look["range"] = [math.log10(end) if axis.get("log") else end for end in axis["bounds"]]
    return look


def _log_ticks(figure: Data, side: str) -> dict[str, Any]:
    """Ticks at 1, 2 and 5 alone where the axis is long, at powers of ten where it is longer: more would overlap."""
    if "ticks" in figure[side] or not figure[side].get("log"):
        return {}
    values = [v for series in figure["series"] for v in series[side] if isinstance(v, (int, float)) and v > 0]
    decades = math.log10(max(values) / min(values)) if values else 0.0
    if decades > _MOST_DECADES:
        return {"dtick": math.ceil(decades / _MOST_DECADES), "exponentformat": "e"}
    return {"dtick": "D2"} if decades > _DECADES_APART else {}


def _text(x: float, y: float, text: str) -> dict[str, Any]:
    font = {"color": "@ink", "size": 11.5}
    return {"x": x, "y": y, "text": text, "showarrow": False, "font": font, "bgcolor": "@paper", "opacity": 0.85}


def _rule(text: str, number: int) -> dict[str, Any]:
    """The style of a level or upright line, and its entry in the legend where it has a name."""
    line = {"color": "@muted" if text else "@line", "width": 1.4, "dash": _LEVEL_DASHES[number % len(_LEVEL_DASHES)]}
    return {"line": line, "layer": "above" if text else "below", "name": text, "showlegend": bool(text)}


def _width(series: Data) -> float:
    if series["kind"] != "threads":
        return 2.4
    return 1.0 if not series.get("strong") else 1.9 if len(series["x"]) < _MANY else 1.3


def _colour(look: int | str) -> str:
    return f"@{look % len(COLOURS)}" if isinstance(look, int) else f"@{look}"


def _pattern(look: int | str) -> str:
    return ("", "/", ".", "x", "\\", "-", "+")[look] if isinstance(look, int) else "|"
