"""A trial's picture: every run a line inside the frame, and text that cannot break it."""

from __future__ import annotations

import math
import re
from pathlib import Path
from xml.etree import ElementTree

import pytest

from jorge_tune.compare.run_directories import Evaluation, Run
from jorge_tune.reports.of_runs import curve_picture
from tests.training.small_recipes import digits_recipe


def made(seed, values, part="validation"):
    readings = tuple(Evaluation(10 * i, float(i), float(i), {"top1": value}) for i, value in enumerate(values, start=1))
    return Run(Path("run"), digits_recipe(), seed, "finished", "", 1.0, {part: readings}, None)


@pytest.mark.parametrize(
    "values",
    [
        [0.5],
        [0.5, 0.5],
        [0.1, 0.9, math.nan, 0.3],
        [-1e6, 1e6],
        [1e-9, 2e-9],
        [0.0, 0.0],
        [1e-300],
        [12345.678, 12345.679],
    ],
)
def test_every_finite_reading_is_a_point_inside_the_frame(values):
    drawn = curve_picture("a <b> & c", [made(0, values), made(1, values)], "top1")
    root = ElementTree.fromstring(drawn)
    points = [(float(p.get("cx")), float(p.get("cy"))) for p in root.iter() if p.tag.endswith("circle")]
    assert len(points) == 2 * sum(math.isfinite(value) for value in values)
    assert all(64 <= x <= 624 and 57.9 <= y <= 314.1 for x, y in points)
    assert "a <b> & c" in [element.text for element in root.iter()]


def test_target_part_and_seeds_are_named():
    drawn = curve_picture("t", [made(3, [0.5, 0.6], "test")], "top1", 0.7)
    words = re.findall(r">([^<]+)</text>", drawn)
    assert {"seed 3", "target 0.7", "top1 (test)", "epoch"} <= set(words)


def test_many_seeds_are_counted_and_nothing_finite_is_no_picture():
    assert "and 4 more" in curve_picture("t", [made(seed, [0.5]) for seed in range(10)], "top1")
    assert curve_picture("t", [made(0, [math.nan, math.inf]), made(1, [])], "top1") == ""
