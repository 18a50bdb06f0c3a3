"""A study's note for the dashboard: what its report says, caveats included."""

from __future__ import annotations

from dataclasses import replace

from jorge_tune.compare.comparison import compare
from jorge_tune.compare.run_directories import read_contenders
from jorge_tune.reports.report import runs_report
from jorge_tune.study.dashboard.notes import study_note
from tests.compare.race_folders import COSINE, JORGE, SGD, STEP, write_race


def test_the_note_of_a_race_has_its_verdict_and_its_caveats(tmp_path):
    contenders = {
        "sgd": ({0: [0.5, 0.7]}, SGD, COSINE, 1.0),
        "jorge": ({0: [0.5, 0.8]}, JORGE, STEP, 1.0),
    }
    found = compare(read_contenders(write_race(tmp_path, contenders)))
    found = replace(found, notes=("jorge: seed 1: failed: no memory",), is_side_by_side=True)
    text = study_note(runs_report(found).to_json(), "race")
    assert "jorge against sgd: " in text
    assert "- Note: jorge: seed 1: failed: no memory" in text
    assert "Seconds are not compared" in text
