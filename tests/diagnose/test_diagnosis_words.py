"""Tables, verdict and page of a diagnosis say what its numbers say, and no more."""

from __future__ import annotations

import math
import re
import subprocess
import sys
from dataclasses import replace

import pytest

from jorge_tune.compare.statistics import spread
from jorge_tune.diagnose.diagnosis import (
    NEWTON_CAPS,
    BlockDiagnosis,
    BlockReading,
    Diagnosis,
    QuadraticPoint,
    QuadraticStudy,
    Refresh,
    SideReading,
    Trace,
)
from jorge_tune.diagnose.diagnosis_words import (
    NAMES,
    block_table,
    diagnosis_verdict,
    direction_table,
    heading,
    quadratic_table,
    side_table,
    tables,
)
from jorge_tune.reports.of_diagnosis import quadratic_figures, run_figures
from jorge_tune.reports.page import figure_for_picture, report_page
from jorge_tune.reports.report import diagnosis_report
from tests.report.report_checks import assert_figures_equal_the_twin, assert_page_stands_alone


def side(**changes):
    values = {
        "refreshes": 10,
        "b2": 0.9,
        "newest_share": 0.2,
        "condition": 3.0,
        "asymmetry": 0.1,
        "root_error": 0.05,
        "newton_errors": dict.fromkeys(NEWTON_CAPS, 0.1),
        "intrinsic_dimension": 4.0,
        "mass": {1: 0.5, 4: 0.8},
        "shampoo_intrinsic_dimension": 2.0,
        "shampoo_mass": {1: 0.6, 4: 0.9},
    }
    return SideReading(**values | changes)


def reading(step, ours, sgd, weight=1.0, newton=(0.5, 0.7, 0.92, 1.0)):
    capped = dict(zip((f"newton-{k}" for k in NEWTON_CAPS), newton, strict=True))
    rival = {f"shampoo-newton-{k}": 0.6 for k in NEWTON_CAPS}
    cosines = {
        "jorge": {"exact": ours, "shampoo": 0.7, "sgd": 0.4, **capped, **rival},
        "exact": {**capped, "sgd": sgd},
        "shampoo": {**rival, "sgd": 0.3},
    }
    return BlockReading(
        step, cosines, {"left": side(), "right": side(condition=5.0, mass={1: 0.5, 4: 0.8, 16: 0.9})}, weight
    )


def block(name, *readings, b2=(0.5, 0.8, 0.9)):
    refreshes = tuple(Refresh(step, weight, 0.1 * step) for step, weight in enumerate(b2, start=1))
    return BlockDiagnosis(name, 8, 32, readings, {"left": refreshes, "right": refreshes})


def study():
    points = tuple(
        QuadraticPoint(
            count,
            {name: spread([error * count, 2 * error * count]) for name, error in errors.items()},
            {"series": spread([0.9]), "congruence": spread([0.99])},
            {name: spread([1 / count]) for name in ("sgd", "series", "congruence", "shampoo")},
        )
        for count in (1, 2, 5)
        for errors in [{"series": 0.01, "congruence": 0.001, **{f"newton-{k}": 1e-6 * k for k in NEWTON_CAPS}}]
    )
    return QuadraticStudy("1/k", "a quadratic", points)


@pytest.fixture
def diagnosis():
    blocks = (
        block("a", reading(1, 1.0, 0.9), reading(10, 0.95, 0.7, weight=4.0)),
        block("b", BlockReading(1, {}, {}, missing="the gradient is zero"), reading(10, 0.6, 0.8)),
    )
    trace = Trace(tuple(range(1, 11)), (1.0,) * 9 + (math.inf,), (0.1,) * 10, (0.5,) * 9 + (0.25,))
    return Diagnosis("r", "series", 3, "cpu", 10, "finished", "", blocks, trace, (study(),), ("a note",))


def row_of(table, name):
    return dict(zip(table.headings, next(row for row in table.rows if row[0] == name), strict=True))


def test_the_table_of_directions(diagnosis):
    table = direction_table(diagnosis)
    assert [row[0] for row in table.rows] == list(NAMES.values())
    exact = row_of(table, NAMES["exact"])
    assert exact["Jorge's cosine to it"] == "0.950"
    assert (exact["lowest"], exact["at the end"]) == ("0.600", "0.775 [0.600, 0.950]")
    assert exact["its own to the exact root"] == "-"
    assert row_of(table, "SGD")["its own to the exact root"] == "0.800"
    assert row_of(table, NAMES["newton-4"])["its own to the exact root"] == "0.920"
    assert row_of(table, NAMES["shampoo-newton-4"])["lowest own"] == "0.600"


def test_the_table_of_blocks_counts_what_was_read(diagnosis):
    table = block_table(diagnosis)
    assert row_of(table, "a") == {
        "block": "a",
        "size": "8 x 32",
        "read": "2 of 2",
        "to exact: end": "0.950",
        "median": "0.975",
        "lowest": "0.950",
        "SGD to exact: median": "0.800",
        "nearer than SGD": "2 of 2",
    }
    assert (row_of(table, "b")["read"], row_of(table, "b")["nearer than SGD"]) == ("1 of 2", "0 of 1")


def test_the_table_of_sides(diagnosis):
    table = side_table(diagnosis)
    assert [row[0] for row in table.rows] == ["a left", "a right", "b left", "b right"]
    right = row_of(table, "a right")
    assert (right["size"], right["condition"], right["top 16"]) == ("32", "5", "0.900")
    assert (right["b2: first"], right["median"], right["end"]) == ("0.500", "0.800", "0.900")
    assert (row_of(table, "a left")["size"], row_of(table, "a left")["top 16"]) == ("8", "-")


def test_a_weight_next_to_one_does_not_look_like_one(diagnosis):
    near = replace(diagnosis, blocks=(block("a", reading(10, 0.9, 0.5), b2=(0.5, 0.99995)),))
    assert row_of(side_table(near), "a left")["end"] == "1 - 5e-05"
    assert any("range 0.500 to 1 - 5e-05" in line for line in diagnosis_verdict(near))


def test_the_table_of_the_quadratic():
    table = quadratic_table(study())
    assert table.rows[-1][:3] == ["5", "0.075", "0.0075"]
    assert row_of(table, "2")["f / f(start): SGD"] == "0.5"


def test_the_verdict(diagnosis):
    lines = diagnosis_verdict(diagnosis)
    assert lines[0] == (
        "Jorge's direction (series) has a median cosine of 0.950 (lowest 0.600) to the direction of the exact root of "
        "the same averages; plain SGD has 0.800 (lowest 0.700). At step 10, with blocks weighted by their gradients, "
        "Jorge's whole step has 0.880 and SGD's has 0.720."
    )
    assert lines[1] == (
        "At the end, Jorge was farther from the exact direction than plain SGD on 1 of 2 blocks (b); "
        "form congruence does not drift: try --set optimizer.form=congruence."
    )
    assert lines[2] == (
        "Newton's iteration on the same averages has a median cosine of 0.500 after 1, 0.700 after 2, 0.920 after 4, "
        "1.000 after 8 steps (it takes 8 to come as near as Jorge's 0.950), and a lowest cosine of 0.500 after 1, "
        "0.700 after 2, 0.920 after 4, 1.000 after 8 steps (it takes 2 to come as near as Jorge's 0.600)."
    )
    assert lines[4] == (
        # 4.38 = 3 / -log(0.9 0.8 0.7)
        "b2 began at 0.500; its median is 0.800, its range 0.500 to 0.900. b2 depends on eps, but the newest "
        "gradient's share of the averages does not: its median is 0.2, and at most it is 0.3. The share of an old "
        "gradient fell to 1/e in 4.38 refreshes (median over sides; on the fastest side in 4.38)."
    )
    assert "The graft ratio went from 0.5 to 0.25." in lines[5]
    assert "the root error of the series goes from 0.03 after 2 refreshes to 0.075 after 5" in lines[-1]


def test_the_verdict_turns_with_the_numbers(diagnosis):
    good = replace(diagnosis, form="congruence", blocks=(block("a", reading(10, 0.999, 0.7)),))
    lines = diagnosis_verdict(good)
    assert lines[1] == "At the end, Jorge was no farther from the exact direction than SGD on any of 1 blocks."
    capped = replace(good, blocks=(block("a", reading(10, 0.999, 0.7, newton=(0.1, 0.2, 0.3, 0.4))),))
    assert diagnosis_verdict(capped)[2].count("0.400 after 8 steps (none of these comes as near as Jorge's 0.999)") == 2
    bad = replace(good, blocks=(block("a", reading(10, 0.5, 0.7)),))
    assert "congruence" not in diagnosis_verdict(bad)[1]


def test_a_run_that_ended_early_says_so_first(diagnosis):
    diverged = replace(diagnosis, outcome="diverged", reason="the loss was first not finite at step 3")
    first = diagnosis_verdict(diverged)[0]
    assert first == "The run diverged: the loss was first not finite at step 3. The readings below were made before."
    stopped = replace(diagnosis, outcome="interrupted", reason="stopped by SIGINT")
    assert diagnosis_verdict(stopped)[0].startswith("The diagnosis was interrupted: stopped by SIGINT. The readings")
    empty = replace(diverged, blocks=(block("a", BlockReading(1, {}, {}, missing="x"), b2=()),), quadratics=())
    assert diagnosis_verdict(empty)[1].startswith("Nothing could be measured on the run")
    assert list(tables(empty)) == []
    assert "Nothing could be measured" in report_page(diagnosis_report(empty).to_json())
    assert "0 of them read" in heading(empty)


def test_figures_have_lines_for_what_they_name(diagnosis):
    exactness, agreement, forgetting, *_, masses = run_figures(diagnosis)
    named = {series.name: series for series in exactness.series}
    assert list(named) == ["Jorge", "SGD", *(f"Newton x {k}" for k in NEWTON_CAPS)]
    assert named["Jorge"].x == [1, 10]
    assert named["Jorge"].y == pytest.approx([1.0, 0.775])
    drawn = [trace for trace in figure_for_picture(exactness.to_json()).data if trace.marker.symbol]
    assert len({(trace.line.color, trace.line.dash, trace.marker.symbol) for trace in drawn}) == len(named)
    assert len(agreement.series) == 7
    thick = next(series for series in forgetting.series if series.name == "left")
    assert thick.y == pytest.approx([0.1, 0.1])
    assert [series.y[2] for series in masses.series] == pytest.approx([1.0, 0.95])  # 8 directions hold all
    ratio, loss = (next(f for f in run_figures(diagnosis) if name in f.title) for name in ("Graft", "loss"))
    assert list(ratio.series[0].y) == [0.5] * 9 + [0.25]
    assert len(loss.series[0].y) == 9  # the loss that was not finite is left out
    errors, losses = quadratic_figures(study())
    assert [series.name for series in losses.series] == ["SGD", "series", "congruence", "Shampoo"]
    floored = next(series for series in errors.series if series.name == "Newton x 1")
    assert set(floored.y) == {1e-4}


def test_the_page_carries_all_it_needs(diagnosis):
    twin = diagnosis_report(replace(diagnosis, recipe="<of> r")).to_json()
    page = report_page(twin)
    assert_figures_equal_the_twin(page, twin)
    assert_page_stands_alone(page)
    assert "<title>Diagnosis: &lt;of&gt; r</title>" in page
    assert page.count('class="plot"') == 12
    assert len(set(re.findall(r'id="(figure-[\w-]+)"', page))) == 12
    assert "a note" in page
    assert diagnosis_verdict(diagnosis)[1].split(";")[0] in page


def test_reading_a_diagnosis_needs_no_heavy_package():
    code = (
        "import sys, jorge_tune.diagnose.diagnosis, jorge_tune.diagnose.diagnosis_words, "
        "jorge_tune.reports.of_diagnosis; "
        "print(sorted({'torch', 'numpy', 'plotly', 'sklearn', 'optuna'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
