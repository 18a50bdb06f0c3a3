"""What `studies/` holds is whole: its reports are rebuilt from what is stored beside them, number by number."""

from __future__ import annotations

import html
import json
from pathlib import Path
from typing import Any

import pytest

from jorge_tune.cli import main

STUDIES = Path(__file__).parents[2] / "studies"
RACE = ("sgd-cosine", "control-cosine", "sgd-linear", "sgd-constant", "jorge-cosine", "gen-sgd", "gen-sgd-linear")
RACE += ("gen-sgd-linear-earlier", "gen-jorge", "gen-jorge-linear", "gen-jorge-linear-earlier")
STORED = {
    "digits-study": ["digits", "--storage", "sqlite:///study.sqlite", "--runs", "runs"],
    "cifar10-race": [*(f"runs/cifar-{name}" for name in RACE), "--side-by-side"],
}

pytestmark = pytest.mark.skipif(not STUDIES.is_dir(), reason="a source distribution has no studies/")


@pytest.mark.parametrize("name", STORED)
def test_a_stored_report_is_rebuilt_from_what_is_stored(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(STUDIES / name)
    with pytest.raises(SystemExit) as ended:
        main(["report", *STORED[name], "--format", "json"])
    assert ended.value.code == 0
    stored, rebuilt = json.loads(Path("report.json").read_text()), json.loads(capsys.readouterr().out)
    assert rebuilt.keys() == stored.keys()
    for part in rebuilt.keys() - {"made_by"}:
        assert_same(rebuilt[part], stored[part], part)


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


@pytest.mark.parametrize("name", STORED)
def test_a_stored_page_says_what_its_twin_says(name: str) -> None:
    page = (STUDIES / name / "report.html").read_text()
    for sentence in json.loads((STUDIES / name / "report.json").read_text())["verdict"]:
        assert html.escape(sentence["text"], quote=False) in page or html.escape(sentence["text"]) in page
