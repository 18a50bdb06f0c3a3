"""What holds for every report's page: it draws its twin's numbers, and fetches nothing."""

from __future__ import annotations

import json
import re
from typing import Any

from jorge_tune.reports.parts import figures_of

_LINKS = re.compile(
    r"<(?:link|img|iframe|script|source|object)[^>]*\b(?:src|href|data)\s*=|@import|url\(", re.IGNORECASE
)


def drawn_figures(page: str) -> dict[str, dict[str, Any]]:
    """The figures that a page holds, by their keys: what its script will draw."""
    opening, found = '<script type="application/json" class="figure-data" data-key="', {}
    for piece in page.split(opening)[1:]:
        key, _, rest = piece.partition('">')
        found[key] = json.loads(rest.partition("</script>")[0])
    return found


def assert_figures_equal_the_twin(page: str, twin: dict[str, Any]) -> None:
    """Every number of every figure in the page is the twin's, and the twin's figures are all there."""
    drawn = drawn_figures(page)
    expected = {figure["key"]: figure for figure in figures_of(twin) if figure["series"]}
    assert list(drawn) == list(expected), "each key once, in order"
    for key, figure in expected.items():
        traces = {(trace["meta"]["series"], trace["meta"]["part"]): trace for trace in drawn[key]["data"]}
        assert len(traces) == len(drawn[key]["data"]), "no trace is another's double"
        for series in figure["series"]:
            trace = traces.pop((series["name"], "bars" if series["kind"] in ("bars", "spans") else "line"))
            assert (trace["x"], trace["y"]) == (list(series["x"]), list(series["y"]))
            assert trace.get("base") == series.get("base")
            assert trace.get("hovertext") == series.get("text")
            if "low" in series and series["kind"] == "points":
                bars = zip(trace["error_y"]["array"], trace["error_y"]["arrayminus"], strict=True)
                ranges = zip(series["y"], series["low"], series["high"], strict=True)
                assert list(bars) == [(high - y, y - low) for y, low, high in ranges]
            elif "low" in series:
                band = traces.pop((series["name"], "band"))
                assert band["x"] == list(series["x"]) + list(series["x"])[::-1]
                assert band["y"] == list(series["high"]) + list(series["low"])[::-1]
        assert not traces
        levels = [(s["y0"], s["y1"], s["name"]) for s in drawn[key]["layout"]["shapes"] if s.get("xref") == "paper"]
        assert levels == [(place, place, text) for place, text in figure["marks"]]


def assert_page_stands_alone(page: str) -> None:
    """No address is fetched, and no figure is without its script."""
    own = re.sub(r"<script>.*?</script>", "", page, flags=re.DOTALL)  # plotly's own text holds addresses it never asks
    assert not _LINKS.search(own)
    assert "http" not in own
    assert page.count("<script>") == 2
    assert 'name="viewport"' in page
    assert "@media print" in page
    assert "prefers-color-scheme: dark" in page
