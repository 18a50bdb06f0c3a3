"""A small picture of a run's readings along its epochs, as SVG: it takes a few kilobytes and opens anywhere."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from jorge_tune.measure.runs import Run
from jorge_tune.reporting.escaped import escape
from jorge_tune.reporting.figures import COLOURS

_WIDTH, _HEIGHT = 640, 360
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 16, 58, 46  # margins
_DASHES = ("", "6 3", "2 3", "8 3 2 3")
_NAMED = 6  # lines that the legend lists
_TICKS = 5

Point = tuple[float, float]


class Line(NamedTuple):
    """One run's readings."""

    name: str
    points: Sequence[Point]


def curve_picture(title: str, runs: Sequence[Run], metric: str, target: float | None = None) -> str:
    """A metric against the epoch, one line per run, on the part that selects; "" where no reading is finite.

    Args:
        title: above it.
        runs: with their seeds for names.
        metric: as the records call it.
        target: drawn as a level line.
    """
    lines = [Line(f"seed {run.seed}", _readings(run, metric)) for run in runs]
    lines = [line for line in lines if line.points]
    if not lines:
        return ""
    part = "validation" if any("validation" in run.evaluations for run in runs) else "test"
    xs = _ticks(0.0, max(x for line in lines for x, _ in line.points))
    values = [y for line in lines for _, y in line.points] + ([] if target is None else [target])
    ys = _ticks(min(values), max(values))
    body = [_grid(xs, ys), *(_drawn(line, number, xs, ys) for number, line in enumerate(lines))]
    if target is not None:
        body.append(_level(target, xs, ys))
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" width="{_WIDTH}" '
            f'height="{_HEIGHT}" font-family="system-ui, sans-serif" font-size="12">',
            f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="#fff"/>',
            _text(_LEFT, 20, title, size=14),
            _legend(lines),
            *body,
            _text((_LEFT + _WIDTH - _RIGHT) / 2, _HEIGHT - 10, "epoch", anchor="middle"),
            _text(14, (_TOP + _HEIGHT - _BOTTOM) / 2, f"{metric} ({part})", anchor="middle", turned=True),
            "</svg>\n",
        ]
    )


def _readings(run: Run, metric: str) -> list[Point]:
    found = run.evaluations.get("validation") or run.evaluations.get("test", ())
    points = [(reading.epoch, reading.metrics.get(metric, math.nan)) for reading in found]
    return [point for point in points if math.isfinite(point[1])]


def _ticks(low: float, high: float) -> list[float]:
    """Round numbers, evenly spaced, of which the first and the last hold all between them."""
    span = (high - low) or abs(high) or 1.0
    rough = span / _TICKS
    unit = 10.0 ** math.floor(math.log10(rough))
    step = next(unit * factor for factor in (1, 2, 5, 10) if unit * factor >= rough)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [number * step for number in range(first, max(last, first + 1) + 1)]


def _place(point: Point, xs: Sequence[float], ys: Sequence[float]) -> Point:
    across = (point[0] - xs[0]) / (xs[-1] - xs[0])
    up = (point[1] - ys[0]) / (ys[-1] - ys[0])
    return _LEFT + across * (_WIDTH - _LEFT - _RIGHT), _HEIGHT - _BOTTOM - up * (_HEIGHT - _TOP - _BOTTOM)


def _grid(xs: Sequence[float], ys: Sequence[float]) -> str:
    marks = []
    for x in xs:
        at, bottom = _place((x, ys[0]), xs, ys)
        marks.append(f'<path d="M{at:.1f} {bottom:.1f}V{_TOP}" stroke="#e3e3e3"/>')
        marks.append(_text(at, bottom + 16, f"{x:g}", anchor="middle"))
    for y in ys:
        _, at = _place((xs[0], y), xs, ys)
        marks.append(f'<path d="M{_LEFT} {at:.1f}H{_WIDTH - _RIGHT}" stroke="#e3e3e3"/>')
        marks.append(_text(_LEFT - 6, at + 4, f"{y:.5g}", anchor="end"))
    return "\n".join(marks)


def _drawn(line: Line, number: int, xs: Sequence[float], ys: Sequence[float]) -> str:
    places = [_place(point, xs, ys) for point in line.points]
    path = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in places)
    dots = ""
    if len(places) <= 60:
        dots = "".join(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.5" fill="{_colour(number)}"/>' for x, y in places)
    return f'<path d="{path}" fill="none" {_stroke(number)}/>{dots}'


def _level(value: float, xs: Sequence[float], ys: Sequence[float]) -> str:
    _, at = _place((xs[0], value), xs, ys)
    name = _text(_WIDTH - _RIGHT - 4, at - 5, f"target {value:g}", anchor="end", colour="#6b6b6b")
    return f'<path d="M{_LEFT} {at:.1f}H{_WIDTH - _RIGHT}" stroke="#6b6b6b" stroke-dasharray="5 4"/>{name}'


def _legend(lines: Sequence[Line]) -> str:
    shown, x = [], float(_LEFT)
    for number, line in enumerate(lines[:_NAMED]):
        shown.append(f'<path d="M{x:.0f} 38h22" {_stroke(number)}/>' + _text(x + 27, 42, line.name))
        x += 40 + 7 * len(line.name)
    rest = len(lines) - _NAMED
    return "\n".join([*shown, _text(x, 42, f"and {rest} more")] if rest > 0 else shown)


def _text(
    x: float,
    y: float,
    text: str,
    *,
    anchor: str = "start",
    size: int = 0,
    colour: str = "#1c1c1c",
    turned: bool = False,
) -> str:
    turn = f' transform="rotate(-90 {x:.1f} {y:.1f})"' if turned else ""
    height = f' font-size="{size}"' if size else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{colour}"{height}{turn}>{escape(text)}</text>'


def _colour(number: int) -> str:
    return COLOURS[number % len(COLOURS)]


def _stroke(number: int) -> str:
    dash = _DASHES[(number // len(COLOURS)) % len(_DASHES)]
    return f'stroke="{_colour(number)}" stroke-width="2"' + (f' stroke-dasharray="{dash}"' if dash else "")
