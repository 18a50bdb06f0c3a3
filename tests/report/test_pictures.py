"""Figures, the page and the terminal's plot show what was measured, and the page needs no network."""

import importlib.util
import re
import struct
import subprocess
import sys

import pytest

from jorge_tune.compare.comparison import compare
from jorge_tune.compare.curves import contender_curves, interesting_range
from jorge_tune.compare.run_directories import read_contenders
from jorge_tune.errors import InputError
from jorge_tune.files import write_whole
from jorge_tune.report.figures import COLOURS, comparison_figure, comparison_poster, write_pngs
from jorge_tune.report.html import comparison_page
from jorge_tune.report.text_plot import text_plot
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


def test_a_figure_has_a_thin_line_per_seed_a_thick_median_and_the_target(comparison):
    figure = comparison_figure(comparison, "train_seconds")
    widths = [(trace.name, trace.line.width, trace.line.color) for trace in figure.data]
    assert widths[3] == ("sgd", 3, COLOURS[0])
    assert widths[7] == ("jorge", 3, COLOURS[1])
    assert {width for _, width, _ in widths[:3]} == {1}
    assert list(figure.data[7].x) == [2, 4, 6]
    assert figure.layout.shapes[0].y0 == comparison.target.value
    assert [trace.name for trace in figure.data if trace.showlegend] == ["sgd", "jorge"]


def test_the_poster_has_both_axes_and_one_legend(comparison):
    figure = comparison_poster(comparison)
    assert len(figure.data) == 16
    assert [trace.name for trace in figure.data if trace.showlegend] == ["sgd", "jorge"]
    assert (figure.layout.xaxis.title.text, figure.layout.xaxis2.title.text) == ("epoch", "training seconds")


def test_the_page_carries_all_it_needs(comparison):
    page = comparison_page(comparison, "Race <of> two")
    assert "<title>Race &lt;of&gt; two</title>" in page
    assert not re.search(r"<(script|link|img|iframe)[^>]*\b(src|href)\s*=", page)
    assert "@import" not in page.split("<script>")[0]
    assert page.count('class="plotly-graph-div"') == 2
    assert "jorge against sgd: won in epochs" in page
    assert 'name="viewport"' in page


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
    assert text_plot(flat, "epoch") == ""
    assert comparison_figure(flat, "epoch").layout.yaxis.range is None


def test_the_terminals_plot(comparison):
    lines = text_plot(comparison, "epoch", width=60, height=10).splitlines()
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


def test_a_png_or_the_reason_why_not(comparison, tmp_path):
    poster, curves = comparison_poster(comparison), comparison_figure(comparison, "epoch")
    missing = write_pngs({tmp_path / "poster.png": poster, tmp_path / "deep" / "curves.png": curves})
    if importlib.util.find_spec("kaleido") is None or BROWSER is None:
        assert missing.startswith("no PNG written: ")
        assert not list(tmp_path.rglob("*.png"))
        pytest.skip(missing)
    assert missing is None
    assert _size(tmp_path / "poster.png") == (2 * poster.layout.width, 2 * poster.layout.height)
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
        "jorge_tune.report.figures, jorge_tune.report.html, jorge_tune.report.text_plot; "
        "print(sorted({'torch', 'numpy', 'plotly', 'sklearn', 'optuna'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
