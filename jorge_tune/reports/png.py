"""Figures of a report's JSON twin as PNG files. kaleido and plotly are imported inside the functions."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from jorge_tune.files import write_whole
from jorge_tune.reports.draw import PALETTES, drawn, with_colours
from jorge_tune.reports.page import figure_for_picture

Data = Mapping[str, Any]

_POSTER_WIDTH, _POSTER_HEIGHT = 1200, 520
_GAP = 0.05  # of a poster's width, between two figures


def write_pngs(figures: Mapping[Path, Any]) -> str | None:
    """Write each plotly figure to its path as PNG where kaleido and a browser are there; else say what is missing.

    One browser draws them all: starting it takes seconds, a figure half of one.
    """
    if importlib.util.find_spec("kaleido") is None:
        return "no PNG written: the package kaleido is missing (pip install 'jorge-tune[png]'); HTML needs none"
    from plotly.io import write_images

    with TemporaryDirectory() as folder:
        pictures = [Path(folder) / f"{number}.png" for number in range(len(figures))]
        layouts = [figure.layout for figure in figures.values()]  # whose sizes `write_images` does not read
        sizes = {"width": [each.width for each in layouts], "height": [each.height for each in layouts]}

        try:
            write_images(list(figures.values()), pictures, scale=2, **sizes)
        except Exception as error:  # kaleido and its browser raise errors of many kinds, none of them ours
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            return f"no PNG written: kaleido could not draw with Chrome or Chromium ({reason})"

        for path, picture in zip(figures, pictures, strict=True):
            write_whole(path, picture.read_bytes(), force=True, make_folders=True)
    return None


def poster(figures: Sequence[Data]) -> Any:
    """Figures of a twin that show the same series side by side as one plotly figure, with one legend.

    They share their y axis. None of them may have a strip below it.
    """
    from plotly.graph_objects import Figure

    width = (1 - _GAP * (len(figures) - 1)) / len(figures)
    whole = figure_for_picture(figures[0]).layout.to_plotly_json()
    whole |= {"width": _POSTER_WIDTH, "height": _POSTER_HEIGHT, "shapes": [], "annotations": []}
    whole["title"], whole["margin"] = {"text": ""}, whole["margin"] | {"t": 24}  # a page's heading says it
    traces: list[dict[str, Any]] = []

    for number, figure in enumerate(figures):
        found = with_colours(drawn(figure), PALETTES["light"])
        name = "" if number == 0 else str(number + 1)
        left = number * (width + _GAP)
        legend = {} if number == 0 else {"showlegend": False}
        traces += [trace | {"xaxis": f"x{name}", "yaxis": f"y{name}"} | legend for trace in found["data"]]

        whole[f"xaxis{name}"] = found["layout"]["xaxis"] | {"domain": [left, left + width], "anchor": f"y{name}"}
        shared = {} if number == 0 else {"matches": "y", "showticklabels": False, "title": {"text": ""}}
        whole[f"yaxis{name}"] = found["layout"]["yaxis"] | {"anchor": f"x{name}"} | shared
        whole["shapes"] += [_in_cell(shape, name) | legend for shape in found["layout"]["shapes"]]
    return Figure({"data": traces, "layout": whole})


def _in_cell(shape: dict[str, Any], name: str) -> dict[str, Any]:
    """A level or upright line, in the cell of a poster whose axes have that number."""
    ends = {side: f"{side[0]}{name}" for side in ("xref", "yref")}
    if "xref" in shape:
        return shape | ends | {"xref": f"x{name} domain"}
    return shape | ends | {"yref": f"y{name} domain"}
