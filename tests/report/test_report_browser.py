"""A report in a real browser without a network: every figure is drawn, and a phone needs no sideways scrolling."""

import re

import pytest

from jorge_tune.reports.page import report_page
from jorge_tune.reports.parts import figures_of
from tests.report.browser import needs_browser, rendered
from tests.report.test_report_runs import folders, twin_of
from tests.report.test_report_study import ENDS, report_of, study, trial

FRAME = """<!doctype html><body style="margin:0"><iframe id="frame" src="report.html"
style="border:0;width:{width}px;height:900px"></iframe><script>
const frame = document.getElementById("frame");
setInterval(() => {{
  const page = frame.contentDocument, root = page.documentElement;
  const drawn = [...page.querySelectorAll(".plot")].filter((plot) => plot.querySelector(".main-svg")).length;
  document.body.dataset.seen = [root.dataset.drawn ?? "", drawn, root.scrollWidth, root.clientWidth].join(" ");
}}, 200);
</script>"""


def study_twin(_):
    trials = [trial(number, ENDS[number % 7], value=0.8 + number / 500, lr=0.03 + number / 200) for number in range(35)]
    return report_of(study(trials))


def race_twin(root):
    return twin_of(folders(root / "runs"), target=0.8)


@needs_browser
@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("make", [study_twin, race_twin])
def test_every_figure_is_drawn_and_nothing_is_wider_than_the_page(tmp_path, width, make):
    twin = make(tmp_path)
    (tmp_path / "report.html").write_text(report_page(twin))
    (tmp_path / "frame.html").write_text(FRAME.format(width=width))
    options = ("--allow-file-access-from-files", "--proxy-bypass-list=<-loopback>")
    size = ("--virtual-time-budget=20000", "--window-size=1400,900")
    document = rendered((tmp_path / "frame.html").as_uri(), tmp_path / "profile", *options, *size)
    seen = re.search(r'data-seen="([^"]*)"', document)
    assert seen is not None, document
    ready, drawn, scroll, client = (int(number or -1) for number in seen[1].split(" "))
    expected = sum(bool(figure["series"]) for figure in figures_of(twin))
    assert (ready, drawn) == (expected, expected)
    assert scroll <= client <= width
