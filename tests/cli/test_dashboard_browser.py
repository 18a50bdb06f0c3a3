"""The dashboard in a real browser that reaches this machine alone: a study, a trial, its note and its files."""

import re
import shutil
import subprocess

import pytest

from tests.cli.test_dashboard import detail, place, run, served
from tests.tuning.test_confirm import searched

BROWSER = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)


def seen(page, profile):
    """The words of a page once its script has run; whatever it asks of other hosts finds nobody."""
    answer = subprocess.run(
        [
            str(BROWSER),
            *("--headless", "--no-sandbox", "--disable-gpu", "--proxy-server=127.0.0.1:9"),
            *(f"--user-data-dir={profile}", "--virtual-time-budget=10000", "--window-size=1400,2000"),
            *("--dump-dom", page),
        ],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert answer.stdout, answer.stderr
    return re.sub(r"<[^>]*>", " ", re.sub(r"<(style|script).*?</\1>", "", answer.stdout, flags=re.DOTALL))


@pytest.mark.skipif(BROWSER is None, reason="no Chromium or Chrome here")
def test_a_study_and_a_trial_are_rendered_with_notes_and_files(tmp_path):
    made = searched(tmp_path / "study", confirm_seeds=())
    assert run("small", *place(made), "--no-serve") == 0
    with served(made) as server:
        address = server.study_url(detail(server)[0])
        study, note, trial = (seen(address + rest, tmp_path / "profile") for rest in ("", "/note", "/trials?numbers=1"))
    for words in ("small", "Search history", "Learning rate against epoch", "report.html", "baseline.yaml"):
        assert words in study
    assert "The bootstrap (trial 0) is number 3 of 4 trials that ended" in note
    for words in ("Trial 1 of study small", "optimizer.lr", "records-seed-0.jsonl", "curves.svg", "recipe.yaml"):
        assert words in trial
