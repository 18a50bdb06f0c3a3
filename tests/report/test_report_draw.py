"""Figures from plain data: looks that differ in more than colour, and plotly's own rules kept."""

import itertools

import pytest

from jorge_tune.reports.draw import PALETTES, drawn, with_colours
from jorge_tune.reports.page import figure_for_picture, report_page
from jorge_tune.reports.parts import Axis, Figure, Report, Section, Series, figures_of
from tests.report.report_checks import drawn_figures


def figure(*series, **more):
    whole = Figure(key="one", title="One", x=Axis(title="x"), y=Axis(title="y"), series=series, **more)
    report = Report(
        kind="runs", title="", lead="", verdict=(), made_by="", sections=[Section(name="a", title="a", figures=[whole])]
    )
    return figures_of(report.to_json())[0]


def series(kind="line", look=0, **more):
    return Series(**{"name": f"{kind} {look}", "kind": kind, "look": look, "x": [1, 2], "y": [3.0, 4.0]} | more)


def test_lines_differ_in_dash_and_marker_not_in_colour_alone():
    found = drawn(figure(*(series(look=look) for look in range(6))))["data"]
    for one, other in itertools.combinations(found, 2):
        assert one["line"]["dash"] != other["line"]["dash"]
        assert one["marker"]["symbol"] != other["marker"]["symbol"]
        assert one["line"]["color"] != other["line"]["color"]


def test_no_two_of_many_lines_look_the_same():
    found = drawn(figure(*(series(look=look) for look in range(21))))["data"]
    looks = {(one["line"]["color"], one["line"]["dash"]) for one in found}
    assert len(looks) == len({(one["line"]["color"], one["marker"]["symbol"]) for one in found}) == 21


def test_a_look_of_zero_is_a_look():
    assert figure(series(look=0))["series"][0]["look"] == 0


@pytest.mark.parametrize("theme", PALETTES)
def test_every_colour_is_known_in_both_themes(theme):
    kinds = ("line", "curve", "threads", "steps", "points", "bars")
    all_kinds = [series(kind, look) for kind in kinds for look in (0, 6, "ink", "muted")]
    spans = series("spans", 1, base=[0.0, 1.0], text=["a", "b"])
    band = series("line", 5, name="band", low=[2.0, 3.0], high=[4.0, 5.0])
    below = series("points", 3, name="below", y=["no value", "no value"], strip=True)
    made = drawn(
        figure(*all_kinds, spans, band, below, marks=[(3.5, "level")], posts=[(1.5, "")], labels=[(1.0, 2.0, "t")])
    )
    assert "@" not in str(with_colours(made, PALETTES[theme]))


def test_plotly_accepts_what_is_drawn():
    pytest.importorskip("plotly")
    spec = figure(
        series("points", 3, y=["no value", "no value"], strip=True),
        series("spans", 1, base=[0.0, 1.0], text=["a", "b"]),
        series("threads", 1, x=[0.0, 1.0], y=[0.5, None], text=["a", None], strong=True),
        series("line", 2, low=[2.0, 3.0], high=[4.0, 5.0]),
        marks=[(3.5, "level")],
        posts=[(1.5, "bootstrap")],
        labels=[(1.0, 2.0, "t")],
    )
    made = figure_for_picture(spec)
    assert [trace.type for trace in made.data] == ["scatter", "bar", "scatter", "scatter", "scatter"]
    assert made.data[0].yaxis == "y2"
    assert made.layout.paper_bgcolor == "white"
    log = Figure(
        key="k", title="t", x=Axis(log=True, title="x"), y=Axis(names=True, ticks=[(0, "a"), (1, "b")])
    ).to_json()
    assert figure_for_picture(log).layout.xaxis.type == "log"


def test_the_strip_has_an_axis_of_its_own_only_where_it_is_used():
    with_strip = drawn(figure(series(), series("points", 3, name="s", y=["no value"] * 2, strip=True)))["layout"]
    without = drawn(figure(series()))["layout"]
    assert with_strip["yaxis"]["domain"][0] > with_strip["yaxis2"]["domain"][1]
    assert "yaxis2" not in without
    assert "domain" not in without["yaxis"]


def test_no_text_ends_the_script_that_holds_a_figure():
    name = "</script><script>alert(1)</script>"
    whole = Figure(key="one", title="One", x=Axis(), y=Axis(), series=[series(name=name)])
    sections = [Section(name="a", title="a", figures=[whole])]
    twin = Report(kind="runs", title="", lead="", verdict=(), made_by="", sections=sections).to_json()
    page = report_page(twin)
    assert name not in page
    assert drawn_figures(page)["one"]["data"][0]["name"] == name
