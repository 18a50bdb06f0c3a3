"""A calibration as tables, sentences, curves and data."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace

import pytest

from jorge_tune.calibration.calibration_words import (
    PAPER,
    advice,
    as_data,
    base_seconds,
    cost_of,
    notes,
    outcome_sentence,
    part_table,
    show_bytes,
    show_seconds,
    time_table,
    verification_of,
    warm_refreshes_of,
)
from jorge_tune.calibration.choose_interval import step_cost
from jorge_tune.optim.jorge import PRESETS
from jorge_tune.recipe.schema import JorgeSection, ShampooSection, SketchyShampooSection
from jorge_tune.reports.of_measurements import measured_cost_figure
from jorge_tune.reports.page import figure_for_picture, report_page
from jorge_tune.reports.report import calibration_report
from jorge_tune.reports.text_plot import interval_curve
from tests.calibration.calibrations import calibrated, feasible, infeasible, unstable
from tests.report.report_checks import assert_figures_equal_the_twin, assert_page_stands_alone
from tests.training.small_recipes import digits_recipe


def rows(table) -> dict[str, list[str]]:
    return {row[0]: row[1:] for row in table.rows}


def percent_of(cell: str) -> float:
    return float(re.match(r"[+-]?\d+\.?\d*", cell)[0])


def test_the_table_says_what_a_step_takes():
    found = feasible()
    interval = found.choice.interval
    shown = rows(time_table(found))
    assert shown["torch SGD (foreach)"][1] == "1"
    assert percent_of(shown["torch SGD (foreach)"][0]) == pytest.approx(100, abs=1)
    assert percent_of(shown["jorge, nothing refreshed"][1]) == pytest.approx(4, abs=0.5)
    assert percent_of(shown["one refresh of every block"][1]) == pytest.approx(30, abs=1)
    assert percent_of(shown[f"interval {interval}, predicted"][1]) == pytest.approx(4 + 30 / interval, abs=0.5)
    assert percent_of(shown[f"interval {interval}, as it ran"][1]) == pytest.approx(4 + 30 / interval, abs=0.5)
    assert percent_of(shown["its longest step"][1]) >= percent_of(shown[f"interval {interval}, as it ran"][1])
    ran = verification_of(found)
    assert ran.ratio / cost_of(found).at(ran.interval).value == pytest.approx(1, abs=0.01)


def test_a_single_refresh_step_shows_as_the_longest_where_nothing_is_staggered():
    assert percent_of(rows(time_table(feasible(staggered=False)))["its longest step"][1]) == pytest.approx(34, abs=1)


def test_the_warm_refreshes_part_of_the_training_is_added_up():
    """By hand: 100 steps refresh everything, the other 1900 one k-th of it."""
    found = feasible()
    k, cost = found.choice.interval, cost_of(found)
    by_hand = 2000 * cost.plain + 100 * cost.refresh + 1900 * cost.refresh / k
    whole = warm_refreshes_of(found)
    assert whole.refreshes == 100
    assert whole.ratio == pytest.approx(by_hand / 2000)
    assert whole.share == pytest.approx((100 * cost.refresh - 100 * cost.refresh / k) / by_hand)
    assert whole.extra_seconds == pytest.approx(base_seconds(found) * 100 * cost.refresh * (1 - 1 / k))
    short = warm_refreshes_of(feasible(steps=60))
    assert short.refreshes == 60
    assert short.ratio == pytest.approx(cost.plain + cost.refresh)
    unknown = warm_refreshes_of(feasible(steps=None))
    assert (unknown.share, unknown.ratio) == (None, None)
    assert unknown.extra_seconds == whole.extra_seconds
    assert rows(time_table(feasible(steps=None)))["100 warm refreshes, extra"][1] == "-"
    assert warm_refreshes_of(infeasible()) is None


def test_the_papers_preset_has_no_warm_refreshes_and_no_blocks():
    paper = digits_recipe(optimizer=JorgeSection(lr=0.1, preset="paper"))
    assert warm_refreshes_of(feasible(recipe=paper)).refreshes == 1
    assert "block_size (now no limit" in " ".join(advice(infeasible(recipe=paper)))
    assert {name: PRESETS["paper"][name] for name in PAPER} == PAPER


def test_a_sketch_with_statistics_of_its_own_is_told():
    sketchy = digits_recipe(optimizer=SketchyShampooSection(lr=0.1, statistics_interval=3))
    assert any("has no effect" in note for note in notes(feasible(recipe=sketchy)))
    assert not any("has no effect" in note for note in notes(feasible()))


def test_the_parts_have_their_columns():
    table = part_table(feasible())
    assert table.headings == ["part", "torch SGD", "jorge", "jorge, refreshing all"]
    shown = rows(table)
    assert "data" not in shown
    assert percent_of(shown["optimizer"][1]) == pytest.approx(5, rel=0.03)
    assert shown["state"] == ["0.001 MB", "0.003 MB", "0.003 MB"]
    assert "peak of process" in shown
    adamw = calibrated(recipe=digits_recipe(optimizer=JorgeSection(lr=0.1, graft="adamw")))
    assert part_table(adamw).headings[1] == "torch AdamW"


def test_an_answer_is_corrected_by_what_ran_over_the_budget():
    found = feasible(spread_factor=3.0)
    assert len(found.measurements.verifications) > 1
    assert cost_of(found).refresh > 2 * step_cost(found.measurements.rounds).refresh
    assert cost_of(found).at(found.choice.interval).value == pytest.approx(verification_of(found).ratio, abs=0.01)


def test_outcomes_are_sentences():
    assert re.fullmatch(
        r"refresh_interval \d: the smallest .* at most 10 % longer than the baseline's", outcome_sentence(feasible())
    )
    assert outcome_sentence(infeasible()).startswith("infeasible: even without a refresh")
    assert outcome_sentence(unstable()).startswith("unstable: the baseline's own step became")
    assert "There is no answer" in outcome_sentence(unstable())


def test_what_would_help_is_said_with_numbers():
    """The optimizer adds 30 %: a batch three times as large dilutes it to a tenth."""
    lines = advice(infeasible(recipe=digits_recipe(optimizer=JorgeSection(lr=0.1), batch_size=100)))
    batch = int(re.search(r"a batch of (\d+) or more: .* optimizer still takes (?:29|30)", lines[0])[1])
    assert batch == pytest.approx(300, rel=0.03)
    assert "block_size (now 1024; `jorge-tune plan`" in lines[1]
    assert re.fullmatch(r"a larger budget \(--overhead 3\d\.\d%\)", lines[-1])
    assert advice(feasible()) == []
    assert advice(unstable()) == []


def test_advice_for_a_gpu_names_precisions():
    found = infeasible(recipe=digits_recipe(optimizer=JorgeSection(lr=0.1, block_size=None)))
    on_gpu = replace(found, facts={**found.facts, "device": {"kind": "cuda", "name": "x"}})
    text = " ".join(advice(on_gpu))
    assert "product_precision tf32 or bf16" in text
    assert "precision tf32 or bf16, if" in text
    assert "block_size (now no limit" in text
    assert "tf32" not in " ".join(advice(found))
    shampoo = replace(on_gpu, recipe=digits_recipe(optimizer=ShampooSection(lr=0.1)))
    assert "product_precision" not in " ".join(advice(shampoo))


def test_one_device_is_said_to_be_an_estimate_for_several():
    assert any("for several it is an estimate" in note for note in notes(feasible()))
    assert not any("from the cache" in note for note in notes(feasible()))
    assert "measured on 2026-01-31" in notes(feasible(from_cache=True))[-1]
    assert as_data(feasible())["devices"] == 1


def curve_rows(found) -> list[str]:
    return [line.partition("|")[2].ljust(61) for line in interval_curve(found).splitlines() if "|" in line]


def test_the_curve_falls_to_the_budget_at_the_chosen_interval():
    found = feasible()
    lines = interval_curve(found).splitlines()
    drawn = curve_rows(found)
    assert len(drawn) == 12
    budget = next(row for row, cells in enumerate(drawn) if cells.count(".") > 15)
    (chosen,) = [row for row, cells in enumerate(drawn) if "X" in cells]
    assert chosen >= budget
    tops = ["".join(column).find("o") for column in zip(*drawn, strict=True)]
    assert [top for top in tops if top >= 0] == sorted(top for top in tops if top >= 0)
    assert f"X interval {found.choice.interval}" in lines[0]
    assert lines[budget + 1].split()[:2] == ["110", "ms"]
    assert max(map(len, lines)) <= 84
    assert lines[-1].split()[0] == "1"
    assert str(found.choice.interval) in lines[-1].split()


def test_a_curve_without_an_interval_has_no_mark():
    drawn = curve_rows(infeasible())
    assert not any("X" in cells for cells in drawn)
    assert sum("o" in cells for cells in drawn) >= 5


def test_the_figure_holds_the_curve_its_bounds_and_the_runs():
    found = feasible(spread_factor=3.0)
    predicted, ran = measured_cost_figure(found).series
    assert ran.x == [v.interval for v in found.measurements.verifications]
    assert predicted.y[0] == pytest.approx(cost_of(found).at(1).value)
    assert f"{show_seconds(base_seconds(found) * cost_of(found).at(1).value)} at interval 1" in predicted.text
    assert max(predicted.high) > max(predicted.y)
    figure = figure_for_picture(measured_cost_figure(found).to_json())
    assert figure.layout.xaxis.type == "log"
    assert {1, 10, found.choice.interval} <= set(figure.layout.xaxis.tickvals)
    assert [shape.name for shape in figure.layout.shapes] == [
        "budget +10 %",
        "torch SGD",
        f"interval {found.choice.interval}",
    ]
    twin = calibration_report(found).to_json()
    page = report_page(twin)
    assert_figures_equal_the_twin(page, twin)
    assert_page_stands_alone(page)
    assert "refresh interval" in page


@pytest.mark.parametrize("make", [feasible, infeasible, unstable])
def test_the_data_are_portable_and_whole(make):
    found = make()
    data = json.loads(json.dumps(as_data(found), allow_nan=False))
    assert data["outcome"] == found.choice.outcome
    assert len(data["rounds"]) == len(found.measurements.rounds)
    assert data["fingerprint"] == found.fingerprint
    assert (data["verified"] is None) == (found.choice.interval is None)
    if found.choice.interval is not None:
        assert data["verified"]["interval"] == data["interval"]
        assert data["predicted"]["low"] <= data["predicted"]["value"] <= data["predicted"]["high"]
    intervals = [k for k, _ in data["curve"]]
    assert intervals == sorted(set(intervals))
    assert all(math.isfinite(seconds) for _, seconds in data["curve"])


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(0.0981, "98.1 ms"), (1.234, "1.23 s"), (123.4, "123 s"), (2.5e-5, "25 us"), (3e-8, "0.03 us")],
)
def test_seconds_are_shown_to_three_digits(seconds, shown):
    assert show_seconds(seconds) == shown


def test_bytes():
    assert [show_bytes(n) for n in (None, 12_300_000, 4_560_000_000)] == ["-", "12.3 MB", "4.56 GB"]
