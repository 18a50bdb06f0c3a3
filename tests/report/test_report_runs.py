"""The report of run directories: its page shows the numbers of its twin, and its verdict those of the records."""

import json
import math
import re

import pytest

from jorge_tune.compare.comparison import compare
from jorge_tune.compare.run_directories import read_contenders
from jorge_tune.records import from_portable
from jorge_tune.reports.page import report_page
from jorge_tune.reports.parts import figures_of
from jorge_tune.reports.report import runs_report
from tests.compare.race_folders import CONTROL, COSINE, JORGE, SGD, STEP, write_race, write_run
from tests.report.report_checks import assert_figures_equal_the_twin, assert_page_stands_alone, drawn_figures

FAST, SLOW, MISS = [0.5, 0.8, 0.85, 0.9], [0.5, 0.6, 0.7, 0.8], [0.2, 0.3, 0.4, 0.5]


def folders(root, jorge=FAST, **common):
    contenders = {
        "sgd": ({0: SLOW, 1: SLOW, 2: [0.4, 0.6, 0.7, 0.8]}, SGD, COSINE, 1.0),
        "control": ({0: SLOW, 1: SLOW, 2: SLOW}, CONTROL, STEP, 1.0),
        "jorge": (dict.fromkeys(range(3), jorge), JORGE, STEP, 1.5),
    }
    return write_race(root, contenders, **common)


def twin_of(paths, **options):
    return runs_report(compare(read_contenders(paths), **options)).to_json()


@pytest.fixture
def twin(tmp_path):
    return twin_of(folders(tmp_path), target=0.8)


def test_the_page_draws_the_numbers_of_the_twin_and_nothing_else(twin):
    page = report_page(twin)
    assert_figures_equal_the_twin(page, twin)
    assert_page_stands_alone(page)
    assert json.loads(json.dumps(twin, allow_nan=False)) == twin


def test_the_curves_are_those_of_the_records(twin):
    figure = next(figure for figure in figures_of(twin) if figure["key"] == "metric-by-epoch")
    sgd = next(series for series in figure["series"] if series["name"] == "sgd")
    assert sgd["x"] == [1.0, 2.0, 3.0, 4.0]
    assert sgd["y"] == SLOW
    assert sgd["low"] == [0.4, 0.6, 0.7, 0.8]
    assert sgd["high"] == SLOW
    seconds = next(figure for figure in figures_of(twin) if figure["key"] == "metric-by-seconds")
    assert next(series["x"] for series in seconds["series"] if series["name"] == "jorge") == [1.5, 3.0, 4.5, 6.0]
    assert figure["marks"] == [[0.8, "target 0.8"]]


def test_iteration_times_and_rates_are_those_of_the_records(twin):
    by_key = {figure["key"]: figure for figure in figures_of(twin)}
    pace = {series["name"]: series["y"] for series in by_key["iteration-time"]["series"]}
    assert pace["sgd"] == pytest.approx([1000 / 17] * 4)
    assert pace["jorge"] == pytest.approx([1500 / 17] * 4)
    recorded = {series["name"]: series for series in by_key["learning-rate"]["series"]}
    assert recorded["sgd, recorded"]["y"] == [0.1] * 4
    assert recorded["jorge"]["y"][0] == 0.1
    assert recorded["jorge"]["y"][-1] == pytest.approx(0.01)


def test_the_verdict_follows_the_records_when_they_are_edited(tmp_path):
    paths = folders(tmp_path)
    before = twin_of(paths, target=0.8)
    word = {s["text"].partition(":")[0]: s["outcome"] for s in before["verdict"]}
    assert word["jorge against sgd"] == "won"
    for records in (tmp_path / "jorge").glob("seed-*/records.jsonl"):
        text = records.read_text()
        records.write_text(re.sub(r'"top1":0\.\d+', '"top1":0.31', text))
    after = twin_of(paths, target=0.8)
    word = {s["text"].partition(":")[0]: s["outcome"] for s in after["verdict"]}
    assert word["jorge against sgd"] == "lost"
    assert any("the loss against it points to the optimizer itself" in s["text"] for s in after["verdict"])
    page = report_page(after)
    assert '<b class="badge lost">' in page
    assert page.index("lost in epochs") < page.index('id="contenders"')
    assert_figures_equal_the_twin(page, after)


def test_level_runs_are_tied(tmp_path):
    twin = twin_of(folders(tmp_path, jorge=SLOW)[1:], target=0.8)
    assert twin["verdict"][0]["outcome"] == "tied"


def test_the_reasons_of_a_bootstrapped_recipe_are_told(tmp_path):
    from jorge_tune.recipe.bootstrap import bootstrap
    from jorge_tune.recipe.recipe_files import read_recipe, render_recipe

    sgd = write_run(tmp_path / "sgd" / "seed-0", SLOW)
    jorge = write_run(tmp_path / "jorge" / "seed-0", FAST, optimizer=JORGE)
    made = bootstrap(read_recipe(sgd / "recipe.yaml")).recipe
    (jorge / "recipe.yaml").write_text(render_recipe(made))
    twin = twin_of([sgd, jorge])
    section = next(section for section in twin["sections"] if section["name"] == "recipes")
    rows = {row[0]: row for row in section["tables"][0]["rows"]}
    assert rows["optimizer.weight_decay"][1:3] == ["5.0e-4", "5.0e-3"]
    assert "Eq. 9" in rows["optimizer.weight_decay"][3]
    listing = next(one["text"] for one in section["listings"] if one["title"] == made.name)
    assert "# 5.0e-4 x (1 - 0) / (1 - 0.9) (Jorge, Eq. 9)" in listing


def test_nan_metrics_leave_gaps_and_no_number(tmp_path):
    paths = [write_run(tmp_path / "a", SLOW), write_run(tmp_path / "b", [0.5, math.nan, math.nan], name="b")]
    twin = twin_of(paths)
    page = report_page(twin)
    assert "NaN" not in "".join(json.dumps(figure) for figure in drawn_figures(page).values())
    figure = next(figure for figure in figures_of(twin) if figure["key"] == "metric-by-epoch")
    assert next(series["y"] for series in figure["series"] if series["name"] == "b") == [0.5]
    assert twin["verdict"][0]["outcome"] == "lost"


def test_a_metric_that_is_never_a_number_makes_an_empty_figure_that_says_so(tmp_path):
    twin = twin_of([write_run(tmp_path / "a", [math.nan, math.nan])], target=0.5)
    page = report_page(twin)
    assert "Nothing to draw: no run has a finite top1." in page
    assert "metric-by-epoch" not in drawn_figures(page)


def test_a_torn_last_line_is_left_out_and_said(tmp_path):
    path = write_run(tmp_path / "a", SLOW)
    whole = twin_of([path])
    with (path / "records.jsonl").open("a") as records:
        records.write('{"kind":"evaluation","step":99')
    torn = twin_of([path])
    assert torn["data"] == whole["data"]
    notes = next(section for section in torn["sections"] if section["name"] == "notes")
    assert any("records is torn" in line for line in notes["lines"])


def test_words_in_an_environment_stay_words(tmp_path):
    device = "</script><script>alert(1)</script>&"
    twin = twin_of([write_run(tmp_path / "a", SLOW, device=device), write_run(tmp_path / "b", FAST, name="b")])
    page = report_page(twin)
    assert device not in page
    assert "&lt;/script&gt;&lt;script&gt;alert(1)&lt;/script&gt;&amp;" in page


def test_the_comparison_is_in_the_twin_whole(twin, tmp_path):
    data = from_portable(twin["data"]["comparison"])
    assert [contender["name"] for contender in data["contenders"]] == ["sgd", "control", "jorge"]
    assert data["contenders"][2]["epochs_to_target"]["median"] == 2.0
