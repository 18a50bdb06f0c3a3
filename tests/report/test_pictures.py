"""Figures, the page and the terminal's plot show what was measured, and the page needs no network."""

import importlib.util
import re
import struct
import subprocess
import sys
from dataclasses import replace
from xml.etree import ElementTree

import pytest

from jorge_tune.compare.comparison import compare
from jorge_tune.compare.curves import contender_curves, interesting_range
from jorge_tune.compare.run_directories import read_contenders
from jorge_tune.errors import InputError
from jorge_tune.files import write_whole
from jorge_tune.reports.draw import COLOURS
from jorge_tune.reports.of_runs import curve_figures
from jorge_tune.reports.page import figure_for_picture, report_page
from jorge_tune.reports.png import poster, write_pngs
from jorge_tune.reports.report import runs_report
from jorge_tune.reports.svg import svg_picture
from jorge_tune.reports.text_plot import race_curves
from tests.compare.race_folders import COSINE, JORGE, SGD, STEP, write_race, write_run
from tests.report.browser import BROWSER


@pytest.fixture
def comparison(tmp_path):
    contenders = {
        "sgd": ({0: [0.2, 0.6, 0.8], 1: [0.4, 0.5, 0.9], 2: [0.3, 0.7, 0.7]}, SGD, COSINE, 1.0),
        "jorge": ({0: [0.5, 0.9, 0.9], 1: [0.6, 0.9, 0.95], 2: [0.7, 0.9, 0.9]}, JORGE, STEP, 2.0),
    }
    return compare(read_contenders(write_race(tmp_path, contenders)))


def test_the_median_curve(comparison):
    sgd, jorge = contender_curves(comparison)
    assert sgd.median.epochs == [1, 2, 3]
    assert sgd.median.values == [0.3, 0.6, 0.8]
    assert jorge.median.seconds == [2, 4, 6]
    assert [run.label for run in sgd.runs] == ["sgd, seed 0", "sgd, seed 1", "sgd, seed 2"]


@pytest.fixture
def figures(comparison):
    return {figure.key: figure.to_json() for figure in curve_figures(comparison)}


def test_a_figure_has_a_thin_line_per_seed_a_thick_median_and_the_target(comparison, figures):
    traces = {trace.name: trace for trace in figure_for_picture(figures["metric-by-seconds"]).data}
    assert traces["sgd"].line.color == COLOURS[0]
    assert traces["jorge"].line.color == COLOURS[1]
    assert traces["sgd"].line.width > 2 * traces["sgd, seeds"].line.width
    assert traces["sgd, seeds"].y.count(None) == 3, "one line ends per seed"
    assert list(traces["sgd, seeds"].y[:3]) == [0.2, 0.6, 0.8]
    assert list(traces["jorge"].x) == [2, 4, 6]
    shapes = figure_for_picture(figures["metric-by-seconds"]).layout.shapes
    assert shapes[0].y0 == comparison.target.value
    assert [name for name, trace in traces.items() if trace.showlegend] == ["sgd", "jorge"]


def test_many_seeds_are_a_band_without_thin_lines(tmp_path):
    values = {seed: [0.5, 0.6 + seed / 100] for seed in range(25)}
    many = compare(read_contenders(write_race(tmp_path, {"sgd": (values, SGD, COSINE, 1.0)})))
    assert [series.kind for series in curve_figures(many)[0].series] == ["line"]
    assert curve_figures(many)[0].series[0].high[-1] == 0.84


def test_the_poster_has_both_axes_and_one_legend(figures):
    figure = poster(list(figures.values()))
    assert len(figure.data) == 12
    assert [trace.name for trace in figure.data if trace.showlegend] == ["sgd", "jorge"]
    assert (figure.layout.xaxis.title.text, figure.layout.xaxis2.title.text) == ("epoch", "training seconds")
    assert {trace.xaxis for trace in figure.data} == {"x", "x2"}
    assert [shape.xref for shape in figure.layout.shapes] == ["x domain", "x2 domain"]
    assert [shape.showlegend for shape in figure.layout.shapes] == [True, False]


def test_the_page_carries_all_it_needs(comparison):
    page = report_page(replace(runs_report(comparison), title="Race <of> two").to_json())
    assert "<title>Race &lt;of&gt; two</title>" in page
    assert not re.search(r"<(script|link|img|iframe)[^>]*\b(src|href)\s*=", page)
    assert "@import" not in page.split("<script>")[0]
    assert page.count('class="plot"') == 4
    assert "jorge against sgd: won in epochs" in page
    assert 'name="viewport"' in page


def test_an_svg_has_every_line_the_band_and_the_target(figures):
    drawn = svg_picture(figures["metric-by-seconds"])
    root = ElementTree.fromstring(drawn)
    strokes = [path.get("stroke") for path in root.iter("{http://www.w3.org/2000/svg}path") if path.get("fill")]
    assert strokes.count(COLOURS[0]) == strokes.count(COLOURS[1]) == 3  # in the legend, thin, thick
    assert drawn.count('fill-opacity="0.16"') == 2
    texts = {element.text for element in root.iter("{http://www.w3.org/2000/svg}text")}
    assert {"sgd", "jorge", "target 0.8", "training seconds", "top1 (validation)"} <= texts
    assert "sgd, seeds" not in texts


def test_an_svg_on_logarithmic_axes_keeps_its_places():
    axes = {"x": {"log": True, "ticks": [[1, "1"], [100, "100"]]}, "y": {"log": True}}
    line = {"name": "a", "kind": "steps", "look": 0, "x": [1, 10, 100], "y": [0.0, 1e-3, 1e3]}
    drawn = svg_picture({"key": "k", "title": "t", "series": [line], "marks": [], **axes})
    assert "M64.0 314.0H344.0V282.0H624.0V90.0" in drawn  # from 1e-4, for the 0, to 1e4
    assert ">10000</text>" in drawn


def test_the_steep_part_is_cut_on_the_right_side(comparison):
    curves = contender_curves(comparison)
    low, high = interesting_range(curves, lower_is_better=False)
    assert 0.3 < low < 0.5
    assert high > 0.95
    low, high = interesting_range(curves, lower_is_better=True)
    assert low < 0.2
    assert 0.7 < high < 0.95


def test_a_flat_race_draws_without_a_range(tmp_path):
    flat = compare(read_contenders([write_run(tmp_path / "a", [0.5, 0.5])]))
    assert race_curves(flat, "epoch") == ""
    assert curve_figures(flat)[0].y.bounds is None


def test_the_terminals_plot(comparison):
    lines = race_curves(comparison, "epoch", width=60, height=10).splitlines()
    assert lines[0] == "top1 (validation):  o sgd   * jorge   . target"
    assert len(lines) == 13
    assert max(len(line) for line in lines) <= 60
    body = "\n".join(lines[1:11])
    assert body.count("*") > 10
    assert body.count("o") > 10
    assert any(line.startswith("     0.8 |") for line in lines)
    assert lines[-1].endswith("epoch 3")
    first_star = next(i for i, line in enumerate(lines[1:]) if "*" in line)
    first_o = next(i for i, line in enumerate(lines[1:]) if "o" in line)
    assert first_star < first_o


def test_a_png_or_the_reason_why_not(figures, tmp_path):
    both, curves = poster(list(figures.values())), figure_for_picture(figures["metric-by-epoch"])
    missing = write_pngs({tmp_path / "poster.png": both, tmp_path / "deep" / "curves.png": curves})
    if importlib.util.find_spec("kaleido") is None or BROWSER is None:
        assert missing.startswith("no PNG written: ")
        assert not list(tmp_path.rglob("*.png"))
        pytest.skip(missing)
    assert missing is None
    assert _size(tmp_path / "poster.png") == (2 * both.layout.width, 2 * both.layout.height)
    assert min(_size(tmp_path / "deep" / "curves.png")) > 500


def _size(path):
    """Width and height, from the header of a PNG."""
    header = path.read_bytes()[:24]
    assert header.startswith(b"\x89PNG")
    return struct.unpack(">II", header[16:])


def test_files_appear_whole(tmp_path):
    write_whole(tmp_path / "deep" / "page.html", b"one", force=True, make_folders=True)
    write_whole(tmp_path / "deep" / "page.html", b"two", force=True, make_folders=True)
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["page.html"]
    assert (tmp_path / "deep" / "page.html").read_bytes() == b"two"
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(InputError, match="cannot be written"):
        write_whole(tmp_path / "file" / "page.html", b"", force=True, make_folders=True)


def test_reading_and_judging_run_folders_needs_no_heavy_package():
    code = (
        "import sys, jorge_tune.compare.comparison, jorge_tune.compare.race, jorge_tune.compare.verdict, "
        "jorge_tune.reports.report, jorge_tune.reports.png, jorge_tune.reports.svg, jorge_tune.reports.text_plot; "
        "print(sorted({'torch', 'numpy', 'plotly', 'sklearn', 'optuna'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
