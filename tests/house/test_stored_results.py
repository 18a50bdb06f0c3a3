"""What `studies/` holds is whole: reports and pictures are rebuilt from what is stored beside them, number by number.

`python -m tests.house.test_stored_results` writes every stored report.json and curves.svg anew.
"""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path
from typing import Any

import pytest

from jorge_tune.cli import main
from jorge_tune.reports.page import report_page
from jorge_tune.reports.parts import figures_of
from jorge_tune.reports.svg import svg_picture
from tests.report.report_checks import assert_figures_equal_the_twin, assert_page_stands_alone

STUDIES = Path(__file__).parents[2] / "studies"
RACE = ("sgd-cosine", "control-cosine", "sgd-linear", "sgd-constant", "jorge-cosine", "gen-sgd", "gen-sgd-linear")
RACE += ("gen-sgd-linear-earlier", "gen-jorge", "gen-jorge-linear", "gen-jorge-linear-earlier")
STORED = {
    "digits-study": ["digits", "--storage", "sqlite:///study.sqlite", "--runs", "runs"],
    "cifar10-race": [*(f"runs/cifar-{name}" for name in RACE), "--side-by-side"],
}
LARGEST_PICTURE = 60_000  # bytes
_NAMED = 12  # contenders in the legend of a picture

pytestmark = pytest.mark.skipif(not STUDIES.is_dir(), reason="a source distribution has no studies/")


def rebuilt(name: str) -> Any:
    """The report of a stored result as `report` prints it now."""
    out = io.StringIO()
    with contextlib.chdir(STUDIES / name), contextlib.redirect_stdout(out), pytest.raises(SystemExit) as ended:
        main(["report", *STORED[name], "--format", "json"])
    assert ended.value.code == 0
    return json.loads(out.getvalue())


def picture_of(twin: Any) -> str:
    """The curves of a report against epochs."""
    return svg_picture(next(figure for figure in figures_of(twin) if figure["key"] == "metric-by-epoch"), named=_NAMED)


@pytest.mark.parametrize("name", STORED)
def test_a_stored_report_and_its_page_are_rebuilt_from_what_is_stored(name: str) -> None:
    stored, found = json.loads((STUDIES / name / "report.json").read_text()), rebuilt(name)
    assert found.keys() == stored.keys()
    for part in found.keys() - {"made_by"}:
        assert_same(found[part], stored[part], part)

    page = report_page(found)
    assert_figures_equal_the_twin(page, found)
    assert_page_stands_alone(page)


@pytest.mark.parametrize("name", STORED)
def test_a_stored_picture_is_small_and_shows_the_stored_report(name: str) -> None:
    picture = (STUDIES / name / "curves.svg").read_text()
    assert picture == picture_of(json.loads((STUDIES / name / "report.json").read_text()))
    assert len(picture.encode()) <= LARGEST_PICTURE


def test_no_generated_page_is_stored() -> None:
    assert not list(STUDIES.rglob("*.html"))


def assert_same(found: Any, stored: Any, where: str) -> None:
    """Equal, numbers to ten digits: sums over the trees of an importance differ by a rounding between processors."""
    if isinstance(stored, dict):
        assert found.keys() == stored.keys(), where
        for key, value in stored.items():
            assert_same(found[key], value, f"{where}.{key}")
    elif isinstance(stored, list):
        assert len(found) == len(stored), where
        for number, value in enumerate(stored):
            assert_same(found[number], value, f"{where}[{number}]")
    else:
        assert found == (pytest.approx(stored, rel=1e-10) if isinstance(stored, float) else stored), where


if __name__ == "__main__":
    for each in STORED:
        twin = rebuilt(each)
        (STUDIES / each / "report.json").write_text(json.dumps(twin, indent=1, allow_nan=False) + "\n")
        (STUDIES / each / "curves.svg").write_text(picture_of(twin))
