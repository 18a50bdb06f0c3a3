"""The fit along a step against exact rational least squares, and what it calls noise."""

from __future__ import annotations

import random
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jorge_tune.optim import fit_parabola

FIVE = (-2, -1, 0, 1, 2)


def exact_fit(xs, losses):
    """Level, slope and curvature from the normal equations, in exact fractions."""
    xs, ys = [Fraction(x) for x in xs], [Fraction(y) for y in losses]
    rows = [[sum(x ** (i + j) for x in xs) for j in range(3)] for i in range(3)]
    right = [sum(y * x**i for x, y in zip(xs, ys, strict=True)) for i in range(3)]
    for k in range(3):  # Gauss without pivoting: the matrix is positive definite
        for i in range(k + 1, 3):
            factor = rows[i][k] / rows[k][k]
            rows[i] = [a - factor * b for a, b in zip(rows[i], rows[k], strict=True)]
            right[i] -= factor * right[k]
    solved = [Fraction(0)] * 3
    for k in (2, 1, 0):
        solved[k] = (right[k] - sum(rows[k][j] * solved[j] for j in range(k + 1, 3))) / rows[k][k]
    level, slope, half = solved
    return level, slope, 2 * half


losses_in = st.floats(-100, 100, allow_subnormal=False)


@given(st.lists(losses_in, min_size=3, max_size=7), st.integers(0, 5))
def test_it_is_the_least_squares_parabola(losses, shift):
    xs = [x * 0.75 - shift for x in range(len(losses))]
    fit = fit_parabola(xs, losses)
    level, slope, curvature = exact_fit(xs, losses)
    scale = max(abs(loss - losses[-1]) for loss in losses) + 1e-12 * max(map(abs, losses)) + 1e-300
    for found, exact in ((fit.level, level), (fit.slope, slope), (fit.curvature, curvature)):
        # 1.1e-14 measured over 5,000 draws; a loss difference itself is rounded at 1e-16
        assert abs(found - float(exact)) < 1e-12 * scale
    if fit.optimum is not None:
        assert abs(fit.optimum * float(curvature) + float(slope)) < 1e-12 * scale * (1 + fit.optimum)


def test_three_points_give_the_papers_equation():
    minus, zero, plus = 2.7, 2.3, 2.2
    fit = fit_parabola((-1, 0, 1), (minus, zero, plus))
    assert fit.optimum == pytest.approx((minus - plus) / (2 * (plus - 2 * zero + minus)), rel=1e-12)
    assert (fit.verdict, fit.residual, fit.noise_chance) == ("convex descent", 0.0, None)
    assert "three points cannot judge noise" in fit.sentence
    assert fit.at(1) == pytest.approx(plus)


@pytest.mark.parametrize("scale", [1e-200, 1e-30, 1.0, 1e30, 1e200])
def test_the_scale_of_the_loss_does_not_matter(scale):
    losses = [scale * (1 + (x - 0.5) ** 2) for x in FIVE]
    fit = fit_parabola(FIVE, losses)
    assert fit.optimum == pytest.approx(0.5, rel=1e-12)
    assert fit.curvature == pytest.approx(2 * scale)
    assert fit.verdict == "convex descent"


@pytest.mark.parametrize(
    ("losses", "verdict"),
    [
        ((3, 1, 0), "convex descent"),
        ((0, 1, 3), "ascent"),
        ((1, 1, 0), "concave"),
        ((2, 1, 0), "concave"),  # a straight line has no lowest point
        ((0, 1, 0.5), "ascent"),
        ((1, 0, 1), "ascent"),  # already at the bottom
        ((1, 1, 1), "noise"),
    ],
)
def test_verdicts(losses, verdict):
    fit = fit_parabola((-1, 0, 1), losses)
    assert fit.verdict == verdict
    assert (fit.optimum is None) == (verdict != "convex descent")


def accepted_share(points, draws, seed):
    generator = random.Random(seed)
    xs = FIVE if points == 5 else (-1, 0, 1)
    fits = [fit_parabola(xs, [2.3 + generator.gauss(0, 0.1) for _ in xs]) for _ in range(draws)]
    return sum(fit.verdict == "convex descent" for fit in fits) / draws


def test_five_points_accept_pure_noise_in_no_more_than_two_percent():
    share = accepted_share(5, 1000, seed=0)
    assert 0 < share <= 0.02  # 1.25 % expected; 0.011 measured here, 0.0127 over 30,000


def test_three_points_accept_a_quarter_of_pure_noise():
    assert accepted_share(3, 1000, seed=0) == pytest.approx(0.25, abs=0.05)


def test_the_noise_chance_is_the_chance():
    """Of pure noise, one fit in ten has a chance below 0.1, for five points and for seven."""
    generator = random.Random(1)
    for xs in (FIVE, (-3, -2, -1, 0, 1, 2, 3), (0, 1, 2, 4)):
        chances = [fit_parabola(xs, [generator.gauss(0, 1) for _ in xs]).noise_chance for _ in range(2000)]
        for level in (0.1, 0.5):
            # three standard errors of a share of 2,000
            assert sum(c < level for c in chances) / 2000 == pytest.approx(level, abs=0.034)


def test_what_rounding_moves_is_not_taken_for_slope_or_curvature():
    eps = 2e-7
    flat = fit_parabola((-1, 0, 1), (2.3, 2.3 - eps, 2.3), resolution=2 * eps)
    assert flat.verdict == "noise"
    # the curvature is lost in rounding, the slope is not: the optimum lies far off, and the least it can be is given
    for bend in (-2 * eps, 0.0, 2 * eps):
        straight = fit_parabola((-1, 0, 1), (2.3 + 100 * eps + bend, 2.3, 2.3 - 100 * eps + bend), resolution=2 * eps)
        assert straight.verdict == "convex descent"
        assert straight.optimum == pytest.approx(100 / 8, rel=0.01)
        assert straight.at_least
        assert "lowest at 12.5 times the step or beyond (rounding hides the curvature)" in straight.sentence
    bent = fit_parabola((-1, 0, 1), (2.3 + 100 * eps, 2.3, 2.3), resolution=2 * eps)
    assert not bent.at_least
    assert "beyond" not in bent.sentence
    # neither is told apart well enough to say on which side of 1 the optimum is
    doubtful = fit_parabola((-1, 0, 1), (2.3 + 5 * eps, 2.3, 2.3 - 5 * eps), resolution=2 * eps)
    assert doubtful.verdict == "noise"


@pytest.mark.parametrize(
    ("xs", "losses", "resolution", "message"),
    [
        ((0, 1), (1, 2), 0, "multipliers must hold 3 or more distinct points"),
        ((0, 0, 1), (1, 2, 3), 0, "multipliers must hold 3 or more distinct points"),
        ((-1, 0, 1), (1, 2), 0, "losses must be as many as multipliers"),
        ((-1, 0, 1), (1, float("nan"), 2), 0, "losses must be finite"),
        ((-1, 0, float("inf")), (1, 2, 3), 0, "multipliers must be finite"),
        ((-1, 0, 1), (1, 2, 3), -1, "resolution must be >= 0"),
    ],
)
def test_refusals(xs, losses, resolution, message):
    with pytest.raises(ValueError, match=message):
        fit_parabola(xs, losses, resolution=resolution)
