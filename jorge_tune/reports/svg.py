"""A figure of a report's JSON twin as a small SVG picture, for where no script runs: notes, attachments, README files.

It draws what has numbers on both axes: lines, curves, points, steps and threads, their bands, and level lines.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from jorge_tune.reports.draw import COLOURS, PALETTES
from jorge_tune.untrusted import escape

Data = Mapping[str, Any]
Point = tuple[float, float]

_WIDTH, _HEIGHT = 640, 256  # of the whole, and of the part inside the axes
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 16, 38, 46  # margins; the rows of the legend are added at the top
_LEGEND_ROW = 20
_DASHES = ("", "6 3", "2 3", "8 3 2 3")
_TICKS = 5
_MOST_DOTS = 60  # points of a line, from which on it is drawn without dots
_PALETTE = PALETTES["light"]


def svg_picture(figure: Data, *, named: int = 6) -> str:
    """The whole picture; "" where nothing in the figure is finite.

    Args:
        figure: of a twin, as `parts.Figure.to_json` gives it.
        named: how many series the legend lists before it counts the rest.
    """
    series = [one for one in figure["series"] if _points(one)]
    if not series:
        return ""
    legend = _Legend.of([one for one in series if not one.get("quiet")], named)
    frame = _frame(figure, series, _TOP + _LEGEND_ROW * legend.rows)
    height = frame.top + _HEIGHT + _BOTTOM
    middle = frame.top + _HEIGHT / 2

    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" width="{_WIDTH}" '
            f'height="{height}" font-family="system-ui, sans-serif" font-size="12">',
            f'<rect width="{_WIDTH}" height="{height}" fill="#fff"/>',
            f'<clipPath id="frame"><rect x="{_LEFT}" y="{frame.top}" width="{_WIDTH - _LEFT - _RIGHT}" '
            f'height="{_HEIGHT}"/></clipPath>',
            _text(_LEFT, 20, figure["title"], size=14),
            legend.drawn,
            _grid(frame),
            '<g clip-path="url(#frame)">',
            *(_band(one, frame) for one in series if "low" in one),
            *(_series(one, frame) for one in series),
            "</g>",
            *(_level(value, name, frame) for value, name in figure["marks"]),
            _text((_LEFT + _WIDTH - _RIGHT) / 2, height - 10, figure["x"].get("title", ""), anchor="middle"),
            _text(14, middle, figure["y"].get("title", ""), anchor="middle", turned=True),
            "</svg>\n",
        ]
    )


class _Scale(NamedTuple):
    """One axis: its ends as they are drawn (logarithms, on a logarithmic axis), and its ticks."""

    low: float
    high: float
    is_log: bool
    ticks: Sequence[tuple[float, str]]

    def share(self, value: float) -> float:
        """Where a value lies between the ends, 0 to 1."""
        placed = math.log10(max(value, 10**self.low)) if self.is_log else value
        return (placed - self.low) / (self.high - self.low)


class _Frame(NamedTuple):
    """The part inside the axes: where it begins, and what its axes show."""

    top: int
    x: _Scale
    y: _Scale

    def place(self, point: Point) -> Point:
        """A point of a series in pixels."""
        across = _LEFT + self.x.share(point[0]) * (_WIDTH - _LEFT - _RIGHT)
        return across, self.top + (1 - self.y.share(point[1])) * _HEIGHT


class _Legend(NamedTuple):
    """The drawn legend, and how many rows it takes."""

    drawn: str
    rows: int

    @classmethod
    def of(cls, series: Sequence[Data], named: int) -> _Legend:
        """Entries from left to right, in a new row where one would not fit."""
        entries = [(one["name"], _stroke(one)) for one in series[:named]]
        if len(series) > named:
            entries.append((f"and {len(series) - named} more", ""))

        parts, x, row = [], float(_LEFT), 0
        for name, stroke in entries:
            wide = 40 + 7 * len(name)
            if x > _LEFT and x + wide > _WIDTH - _RIGHT:
                x, row = float(_LEFT), row + 1
            y = _TOP + _LEGEND_ROW * row
            line = f'<path d="M{x:.0f} {y}h22" fill="none" {stroke}/>' if stroke else ""
            parts.append(line + _text(x + 27, y + 4, name))
            x += wide
        return cls("\n".join(parts), row + 1 if entries else 0)


def _frame(figure: Data, series: Sequence[Data], top: int) -> _Frame:
    points = [point for one in series for point in _points(one)]
    xs, ys = [x for x, _ in points], [y for _, y in points]
    if not figure["x"].get("log") and min(xs) >= 0:
        xs.append(0.0)
    if "bounds" not in figure["y"]:
        ys += [value for value, _ in figure["marks"]]
        ys += [value for one in series for side in ("low", "high") for value in one.get(side, ())]
    return _Frame(top, _scale(figure["x"], xs), _scale(figure["y"], ys))


def _scale(axis: Data, values: Sequence[float]) -> _Scale:
    """Round ends around all values, or just the axis's bounds."""
    is_log = bool(axis.get("log"))
    bounds = axis.get("bounds")
    held = [math.log10(value) if is_log else value for value in (bounds or values) if value > 0 or not is_log] or [0.0]
    places = _ticks(min(held), max(held))
    low, high = (min(held), max(held)) if bounds else (places[0], places[-1])

    if "ticks" in axis:
        named = [(math.log10(place) if is_log else place, text) for place, text in axis["ticks"]]
    else:
        named = [(place, f"{10**place if is_log else place:.5g}") for place in places]
    return _Scale(low, high, is_log, [(place, text) for place, text in named if low <= place <= high])


def _ticks(low: float, high: float) -> list[float]:
    """Round numbers, evenly spaced, of which the first and the last hold all between them."""
    span = (high - low) or abs(high) or 1.0
    rough = span / _TICKS
    unit = 10.0 ** math.floor(math.log10(rough))
    step = next(unit * factor for factor in (1, 2, 5, 10) if unit * factor >= rough)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [number * step for number in range(first, max(last, first + 1) + 1)]


def _points(series: Data) -> list[Point]:
    return [pair for pair in zip(series["x"], series["y"], strict=True) if _is_place(pair)]


def _is_place(pair: tuple[Any, Any]) -> bool:
    return all(isinstance(value, (int, float)) and math.isfinite(value) for value in pair)


def _grid(frame: _Frame) -> str:
    marks = []
    bottom = frame.top + _HEIGHT
    for place, text in frame.x.ticks:
        at = _LEFT + (place - frame.x.low) / (frame.x.high - frame.x.low) * (_WIDTH - _LEFT - _RIGHT)
        marks.append(f'<path d="M{at:.1f} {bottom}V{frame.top}" stroke="{_PALETTE["@grid"]}"/>')
        marks.append(_text(at, bottom + 16, text, anchor="middle"))
    for place, text in frame.y.ticks:
        at = frame.top + (1 - (place - frame.y.low) / (frame.y.high - frame.y.low)) * _HEIGHT
        marks.append(f'<path d="M{_LEFT} {at:.1f}H{_WIDTH - _RIGHT}" stroke="{_PALETTE["@grid"]}"/>')
        marks.append(_text(_LEFT - 6, at + 4, text, anchor="end"))
    return "\n".join(marks)


def _band(series: Data, frame: _Frame) -> str:
    x = list(series["x"])
    there, back = zip(x, series["high"], strict=True), zip(x[::-1], list(series["low"])[::-1], strict=True)
    edge = [frame.place(point) for point in [*there, *back] if _is_place(point)]
    path = "L".join(f"{x:.1f} {y:.1f}" for x, y in edge)
    return f'<path d="M{path}Z" fill="{_colour(series["look"])}" fill-opacity="0.16"/>'


def _series(series: Data, frame: _Frame) -> str:
    """Its lines, which a missing value breaks, and its dots."""
    kind, pieces = series["kind"], _pieces(series, frame)
    places = [place for piece in pieces for place in piece]
    path = "".join(_path(piece, kind == "steps") for piece in pieces) if kind != "points" else ""
    line = f'<path d="{path}" fill="none" {_stroke(series)}/>' if path else ""
    has_dots = kind == "points" or (kind == "line" and len(places) <= _MOST_DOTS)
    colour = _colour(series["look"])
    dots = "".join(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.5" fill="{colour}"/>' for x, y in places)
    return line + (dots if has_dots else "")


def _pieces(series: Data, frame: _Frame) -> list[list[Point]]:
    pieces: list[list[Point]] = [[]]
    for pair in zip(series["x"], series["y"], strict=True):
        if _is_place(pair):
            pieces[-1].append(frame.place(pair))
        elif series["kind"] == "threads" or pair[1] is None:
            pieces.append([])
    return [piece for piece in pieces if piece]


def _path(places: Sequence[Point], is_stepped: bool) -> str:
    if not is_stepped:
        return "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in places)
    return f"M{places[0][0]:.1f} {places[0][1]:.1f}" + "".join(f"H{x:.1f}V{y:.1f}" for x, y in places[1:])


def _level(value: float, name: str, frame: _Frame) -> str:
    if not 0 <= frame.y.share(value) <= 1:
        return ""
    at = frame.top + (1 - frame.y.share(value)) * _HEIGHT
    text = _text(_LEFT + 4, at - 5, name, colour=_PALETTE["@muted"])
    return f'<path d="M{_LEFT} {at:.1f}H{_WIDTH - _RIGHT}" stroke="{_PALETTE["@muted"]}" stroke-dasharray="5 4"/>{text}'


def _text(
    x: float,
    y: float,
    text: str,
    *,
    anchor: str = "start",
    size: int = 0,
    colour: str = _PALETTE["@ink"],
    turned: bool = False,
) -> str:
    turn = f' transform="rotate(-90 {x:.1f} {y:.1f})"' if turned else ""
    height = f' font-size="{size}"' if size else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{colour}"{height}{turn}>{escape(text)}</text>'


def _colour(look: int | str) -> str:
    return COLOURS[look % len(COLOURS)] if isinstance(look, int) else _PALETTE[f"@{look}"]


def _stroke(series: Data) -> str:
    """Colours first; where they begin anew, another dash."""
    look = series["look"]
    width = 1 if series["kind"] == "threads" else 2
    dash = _DASHES[(look // len(COLOURS)) % len(_DASHES)] if isinstance(look, int) else ""
    dashes = f' stroke-dasharray="{dash}"' if dash else ""
    thin = ' stroke-opacity="0.45"' if series["kind"] == "threads" else ""
    return f'stroke="{_colour(look)}" stroke-width="{width}"{dashes}{thin}'
