"""Resampled intervals against their closed form, and what readings may be said to suggest."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from jorge_tune.probe.probe_result import Interval, LineReading, StepReading, read_line, suggestion

FIVE = (-2.0, -1.0, 0.0, 1.0, 2.0)


def samples(count, optimum, spread, seed=0, curvature=1.0):
    """Sample i has L_i(x) = h/2 (x - x*)^2 + a_i x: with h = 1 the fit of a draw lies at x* minus its mean a."""
    a = spread * torch.randn(count, 1, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    x = torch.tensor(FIVE, dtype=torch.float64)
    return curvature * (x - optimum) ** 2 / 2 + (a - a.mean()) * x + 2.3, float(a.std())


def test_the_interval_is_that_of_the_mean():
    losses, deviation = samples(400, optimum=1.5, spread=2.0)
    line = read_line(FIVE, losses, batches=1)
    assert line.optimum == pytest.approx(1.5, abs=1e-6)
    half = 1.96 * deviation / math.sqrt(400)
    # 1,000 draws know a tail to about a tenth of the half width
    assert line.interval == pytest.approx((1.5 - half, 1.5 + half), abs=0.15 * half)
    assert line.agreeing == 1.0
    assert line.losses == pytest.approx(losses.mean(0).tolist())


def test_there_is_no_interval_where_the_draws_disagree():
    line = read_line(FIVE, samples(100, optimum=0.2, spread=3.0)[0], batches=1)
    assert line.optimum == pytest.approx(0.2, abs=1e-6)
    assert line.interval is None
    # P(mean a < 0.2) with a standard error of 0.3
    assert line.agreeing == pytest.approx(0.75, abs=0.06)


def test_points_that_are_not_finite_are_left_out():
    losses, _ = samples(50, optimum=0.5, spread=0.1)
    losses[3, 4] = math.inf
    line = read_line(FIVE, losses, batches=1)
    assert line.optimum == pytest.approx(0.5, abs=1e-6)
    losses[:, :3] = math.nan
    empty = read_line(FIVE, losses, batches=2)
    assert (empty.fit, empty.interval, empty.samples, empty.batches) == (None, None, 50, 2)


def line_at(low, high):
    line = read_line(FIVE, samples(50, optimum=(low + high) / 2, spread=0.01)[0], batches=1)
    return replace(line, interval=Interval(low, high))


def reading(own=(1.5, 2.5), fresh=(0.1, 0.3), warming=False):
    return StepReading(100, 0.1, warming, own and line_at(*own), line_at(*fresh))


@pytest.mark.parametrize(
    ("readings", "direction"),
    [
        ([reading()], "keep"),
        ([reading(fresh=(1.1, 3.0))], "raise"),
        ([reading(fresh=(1.1, 3.0)), reading()], "keep"),  # not at every step
        ([reading(fresh=(0.9, 3.0))], "keep"),  # not beyond doubt
        ([reading(own=(0.1, 0.4))], "lower"),
        ([reading(), reading(own=(0.1, 0.4))], "lower"),
        ([reading(own=(0.3, 0.6))], "keep"),
        ([reading(own=(0.1, 0.4), warming=True), reading()], "keep"),
        ([reading(warming=True)], None),
        ([reading(own=None)], None),
        ([], None),
    ],
)
def test_suggestions(readings, direction):
    readings = [replace(r, step=i) for i, r in enumerate(readings)]
    found = suggestion(readings)
    assert found.direction == direction
    assert len(found.rests_on) + len(found.left_out) == len(readings)


def without(**changes):
    return replace(line_at(0.1, 0.2), **changes)


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (reading(warming=True), "the warm-up is not over"),
        (StepReading(100, 0.0, False, missing="lr is 0, so there is no step"), "lr is 0, so there is no step"),
        (reading(own=None), "no losses were read on its own batch"),
        (replace(reading(), fresh=without(fit=None)), "on fresh batches, fewer than three points have a finite loss"),
        (
            replace(reading(), fresh=read_line(FIVE, samples(50, optimum=-1.0, spread=0.01)[0], batches=1)),
            "on fresh batches: the loss rises along the step",
        ),
        (replace(reading(), own=without(interval=None, agreeing=0.71)), "on its own batch, only 71 %"),
    ],
)
def test_why_a_reading_supports_none(bad, reason):
    assert isinstance(bad, StepReading)
    found = suggestion([bad])
    assert found.direction is None
    assert f"step 100: {reason}" in found.left_out[0]


def test_a_line_reading_knows_its_optimum():
    assert isinstance(line_at(1, 2), LineReading)
    assert without(fit=None).optimum is None
