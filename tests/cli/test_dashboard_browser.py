"""The dashboard in a real browser that reaches this machine alone: a study, a trial, its note and its files."""

import re

from tests.cli.test_dashboard import detail, place, run, served
from tests.report.browser import needs_browser, rendered
from tests.study.searched import search_anew


def seen(page, profile):
    """The words of a page once its script has run."""
    document = rendered(page, profile, "--virtual-time-budget=10000", "--window-size=1400,2000")
    return re.sub(r"<[^>]*>", " ", re.sub(r"<(style|script).*?</\1>", "", document, flags=re.DOTALL))


@needs_browser
def test_a_study_and_a_trial_are_rendered_with_notes_and_files(tmp_path):
    made = search_anew(tmp_path / "study", confirm_seeds=())
    assert run("small", *place(made), "--no-serve") == 0
    with served(made) as server:
        address = server.study_url(detail(server)[0])
        study, note, trial = (seen(address + rest, tmp_path / "profile") for rest in ("", "/note", "/trials?numbers=1"))
    for words in ("small", "Search history", "Learning rate against epoch", "report.html", "baseline.yaml"):
        assert words in study
    assert "The bootstrap (trial 0) is number 3 of 4 trials that ended" in note
    for words in ("Trial 1 of study small", "optimizer.lr", "records-seed-0.jsonl", "curves.svg", "recipe.yaml"):
        assert words in trial
