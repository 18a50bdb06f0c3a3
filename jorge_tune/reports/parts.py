"""The parts of a report as plain data: series, figures, tables, sections. Nothing here draws.

The JSON twin of a report holds exactly these parts; pages and pictures are made from it alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from jorge_tune.compare.verdict import Table
from jorge_tune.records import portable

FORMAT = 1

Kind = Literal["line", "curve", "threads", "steps", "points", "bars", "spans"]
Look = int | Literal["ink", "muted"]
"""A number picks colour, dash and marker together, so that none of them has to be seen to tell two series apart."""


@dataclass(frozen=True, kw_only=True)
class Series:
    """One set of points; `x`, `y` and whatever else is given are of equal length. None breaks a line.

    A line has markers, a curve none; threads are many thin lines in one, steps a line that rises at its points alone.

    `low` and `high` make a band around a line, and error bars at points. A span begins at `base` and is `x` long; a
    bar is `x` long. Series of one `group` share an entry of the legend, which a `quiet` one never has. `text` is shown
    under the pointer. What is in the `strip` lies below the figure, at names on y; a `strong` series stands out among
    its likes.
    """

    name: str
    kind: Kind
    look: Look
    x: Sequence[Any]
    y: Sequence[Any]
    low: Sequence[float] | None = None
    high: Sequence[float] | None = None
    base: Sequence[float] | None = None
    text: Sequence[str | None] | None = None
    strip: bool = False
    strong: bool = False
    group: str | None = None
    quiet: bool = False

    def to_json(self) -> dict[str, Any]:
        """Plain data, without the fields that are not set."""
        return _given(vars(self))


@dataclass(frozen=True, kw_only=True)
class Axis:
    """One axis; `ticks` are (place, text), `bounds` the first view of it."""

    title: str = ""
    log: bool = False
    bounds: tuple[float, float] | None = None
    ticks: Sequence[tuple[float, str]] | None = None
    names: bool = False  # places are texts, listed from the top

    def to_json(self) -> dict[str, Any]:
        """Plain data, without the fields that are not set."""
        return _given(vars(self))


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One figure. Without series it is empty, and `empty` says why. `marks` are level lines, `posts` upright ones."""

    key: str
    title: str
    x: Axis
    y: Axis
    series: Sequence[Series] = ()
    marks: Sequence[tuple[float, str]] = ()
    posts: Sequence[tuple[float, str]] = ()
    labels: Sequence[tuple[float, float, str]] = ()  # texts at places
    caption: str = ""
    empty: str = ""
    height: int = 420  # pixels

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        axes = {"x": self.x.to_json(), "y": self.y.to_json()}
        return {**vars(self), **axes, "series": [one.to_json() for one in self.series]}


@dataclass(frozen=True)
class Listing:
    """A text that keeps its lines (a recipe), under a title."""

    title: str
    text: str


@dataclass(frozen=True, kw_only=True)
class Section:
    """A part of the page with a heading. `name` is its place in the address of the page."""

    name: str
    title: str
    text: str = ""
    lines: Sequence[str] = ()
    tables: Sequence[tuple[str, Table]] = ()
    figures: Sequence[Figure] = ()
    listings: Sequence[Listing] = ()

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "name": self.name,
            "title": self.title,
            "text": self.text,
            "lines": list(self.lines),
            "tables": [{"title": title, **table._asdict()} for title, table in self.tables],
            "figures": [figure.to_json() for figure in self.figures],
            "listings": [vars(listing) for listing in self.listings],
        }


@dataclass(frozen=True)
class Sentence:
    """One line of a verdict; `outcome` is its result in one word, "" where it has none."""

    text: str
    outcome: Literal["", "won", "lost", "tied", "undecided", "held", "beaten"] = ""


@dataclass(frozen=True, kw_only=True)
class Report:
    """A whole report; `data` holds what the sections were made from, for other programs."""

    kind: Literal["runs", "study", "calibration", "probe", "diagnosis", "measurements", "example"]
    title: str
    lead: str
    verdict: Sequence[Sentence]
    sections: Sequence[Section]
    made_by: str
    data: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """The JSON twin: everything that the page shows, with NaN and infinities as strings."""
        data = {
            "format": FORMAT,
            **vars(self),
            "verdict": [vars(sentence) for sentence in self.verdict],
            "sections": [section.to_json() for section in self.sections],
        }
        return portable(data)  # type: ignore[return-value]


def _given(values: Mapping[str, Any]) -> dict[str, Any]:
    """What is neither None nor False."""
    return {name: value for name, value in values.items() if value is not None and value is not False}


def figures_of(twin: dict[str, Any]) -> list[dict[str, Any]]:
    """All figures of a twin in the order of the page."""
    return [figure for section in twin["sections"] for figure in section["figures"]]
