"""A probe in words and pictures: every number in them is one that was measured."""

from __future__ import annotations

import math

import pytest
import torch

from jorge_tune.probe.probe_result import LineReading, ProbeResult, StepReading, read_line
from jorge_tune.probe.probe_words import heading, table, words
from jorge_tune.reports.page import report_page
from jorge_tune.reports.parts import figures_of
from jorge_tune.reports.report import probe_report
from tests.report.report_checks import assert_figures_equal_the_twin, assert_page_stands_alone

FIVE = (-2.0, -1.0, 0.0, 1.0, 2.0)


def line(optimum: float, spread: float = 0.1, scale: float = 1.0) -> LineReading:
    x = torch.tensor(FIVE, dtype=torch.float64)
    tilt = spread * torch.randn(100, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return read_line(FIVE, scale * ((x - optimum) ** 2 / 2 + (tilt - tilt.mean()) * x) + 2, batches=4)


READINGS = (
    StepReading(0, 0.0, True, missing="lr is 0, so there is no step"),
    StepReading(100, 0.1, False, line(1.5), line(0.25)),
    StepReading(200, 0.05, False, line(-1.0), line(0.02, spread=3.0)),
)


def probed(*readings: StepReading, **changes: object) -> ProbeResult:
    fields = {
        "recipe": "r",
        "optimizer": "sgd",
        "seed": 3,
        "device": "cpu",
        "points": 5,
        "outcome": "finished",
        "reason": "",
        "schedule": ((0, 0.1), (300, 0.01)),
        "walked": ((0, 0.1), (1, 0.05)),
        "notes": (),
    }
    return ProbeResult(**{**fields, **changes, "readings": readings})  # type: ignore[arg-type]


def test_the_table_has_every_line() -> None:
    found = table(probed(*READINGS))
    cells = [dict(zip(found.headings, row, strict=True)) for row in found.rows]
    assert [(c["step, batch"], c["samples"], c["fit"]) for c in cells] == [
        ("0", "-", "lr is 0, so there is no step"),
        ("100, own", "100", "convex descent"),
        ("100, fresh", "100", "convex descent"),
        ("200, own", "100", "ascent"),
        ("200, fresh", "100", "convex descent"),
    ]
    assert (cells[1]["lr*/lr"], cells[1]["lr*"], cells[1]["interval"][:4]) == ("1.5", "0.15", "[1.4")
    assert (cells[3]["lr*/lr"], cells[3]["lr*"]) == ("-", "-")
    assert cells[4]["interval"] == "-"
    assert set(found.right) < set(found.headings)


def test_words_say_what_follows_and_what_does_not() -> None:
    told = words(probed(*READINGS))
    assert told[0] == "Step 0 (lr 0.0, warming up): lr is 0, so there is no step."
    assert told[1].startswith("Step 100 (lr 0.1): on its own batch: lr* is 1.5 times lr [1.4")
    assert "on 4 fresh batches: lr* is 0.25 times lr [0.2" in told[1]
    assert "on its own batch: the loss rises along the step (0 % of the resamples have a lowest point ahead)" in told[2]
    assert "of the resamples have none" in told[2]
    assert told[3].startswith("What follows: no reading shows beyond doubt")
    assert told[3].endswith("This rests on step 100.")
    assert told[4].startswith("Left out of it: step 0: lr is 0")
    assert "no reason to lower the rate" in told[6]


def test_where_rounding_hides_the_curvature_the_optimum_is_said_to_be_a_bound() -> None:
    x = torch.tensor(FIVE, dtype=torch.float64)
    straight = read_line(FIVE, (2 - 1e-4 * x).expand(50, 5), batches=4)
    seen = probed(StepReading(5, 0.1, False, straight, straight))
    row = dict(zip(table(seen).headings, table(seen).rows[0], strict=True))
    assert row["lr*/lr"].startswith(">= ")
    assert row["lr*"].startswith(">= ")
    assert row["interval"] == "-"
    assert "lr* is at least" in words(seen)[0]
    assert "(rounding hides the curvature)" in words(seen)[0]
    assert any("even the greedy optimum on fresh batches is longer" in line for line in words(seen))


def test_without_a_suggestion_nothing_is_said_to_follow() -> None:
    told = words(probed(READINGS[0], READINGS[2]))
    assert told[-1].startswith(
        "No suggestion: no reading supports a suggestion (step 0: lr is 0, so there is no step; step 200: on"
    )
    assert not any("follow" in line for line in told)
    assert words(probed())[-1] == "No suggestion: no step was read."
    stopped = words(probed(outcome="diverged", reason="the loss was first not finite at step 3"))
    assert stopped[0].startswith("The training diverged: the loss was first not finite at step 3.")


def test_pictures_hold_the_measured_points() -> None:
    figures = {figure["key"]: figure for figure in figures_of(probe_report(probed(*READINGS)).to_json())}
    points = [series for series in figures["probe-1-step-100"]["series"] if series["kind"] == "points"]
    assert [list(series["x"]) for series in points] == [list(FIVE)] * 2
    for series, reading in zip(points, (READINGS[1].own, READINGS[1].fresh), strict=True):
        assert reading is not None
        assert reading.fit is not None
        assert list(series["y"]) == pytest.approx([loss - reading.fit.level for loss in reading.losses])

    rates = {series["name"]: series for series in figures["probe-rates-1"]["series"]}
    assert list(rates["the recipe's schedule"]["y"]) == [0.1, 0.01]
    assert list(rates["lr* on its own batch"]["y"]) == pytest.approx([0.15])
    fresh = rates["lr* on fresh batches"]
    assert list(fresh["y"]) == pytest.approx([0.025, 0.001])
    assert fresh["high"][0] > fresh["y"][0]
    assert fresh["high"][1] == fresh["y"][1]  # no interval


def test_a_page_of_nothing_is_a_page_too() -> None:
    broken = StepReading(5, 0.1, False, line(1, scale=math.inf), line(1))
    for readings in ((), (READINGS[0],), READINGS, (broken,)):
        twin = probe_report(probed(*readings, recipe="T & t", notes=("a <note>",))).to_json()
        page = report_page(twin)
        assert_figures_equal_the_twin(page, twin)
        assert_page_stands_alone(page)
        assert "Probe: T &amp; t" in page
        assert "a &lt;note&gt;" in page
    assert "not finite" in heading(probed(broken)) + str(table(probed(broken)).rows)
