"""A parabola through losses along a step: where it is lowest, and whether it can be believed. Pure, in float64.

Legend: D the displacement of a step, w the weights before it; L(x) the loss at w - x D, so x = 1 is the step as made;
slope dL/dx at 0 = -G'D; curvature d2L/dx2 = D'H D; x* = -slope / curvature (GeN, Eq. 3.1 in units of D).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from jorge_tune.optim.argument_checks import require

Verdict = Literal["convex descent", "concave", "ascent", "noise"]

MIN_POINTS = 3
LARGEST_NOISE_CHANCE = 0.05
"""Fits that pure noise would match more often are called noise. Of those that pass, one in four has both signs right,
so pure noise is accepted in 1.25 % of all fits."""


@dataclass(frozen=True)
class Parabola:
    """A fit, in units of the displacement.

    Attributes:
        level: The parabola at x = 0.
        slope: dL/dx at 0, below 0 where the step descends.
        curvature: d2L/dx2.
        optimum: x* where there is one.
        residual: Root mean square of what the parabola leaves unexplained; 0 for three points, whatever they are.
        noise_chance: How often pure noise would be fitted as well; None for three points, which cannot judge.
        verdict: Whether `optimum` means anything: only for "convex descent".
        at_least: Whether rounding hides the curvature, so that `optimum` is the least that x* can be.
    """

    level: float
    slope: float
    curvature: float
    optimum: float | None
    residual: float
    noise_chance: float | None
    verdict: Verdict
    at_least: bool = False

    def at(self, x: float) -> float:
        """The parabola at a multiple x of the displacement."""
        return self.level + x * (self.slope + x * self.curvature / 2)

    @property
    def sentence(self) -> str:
        """The verdict in words, with what it rests on."""
        beyond = " or beyond (rounding hides the curvature)" if self.at_least else ""
        words = {
            "convex descent": f"convex descent, lowest at {self.optimum or 0:.3g} times the step{beyond}",
            "concave": "concave along the step: no lowest point",
            "ascent": "the loss rises along the step",
            "noise": "cannot be separated from noise",
        }[self.verdict]
        if self.noise_chance is None:
            return f"{words} (three points cannot judge noise)"
        return f"{words} (pure noise fits as well in {100 * self.noise_chance:.2g} % of cases)"


class _Weights(NamedTuple):
    """Level, slope and curvature as weighted sums of the losses."""

    level: list[float]
    slope: list[float]
    curvature: list[float]


def fit_parabola(multipliers: Sequence[float], losses: Sequence[float], *, resolution: float = 0.0) -> Parabola:
    """Fit L(x) = level + slope x + curvature x^2 / 2 by least squares, in closed form, and judge it.

    Three points are met exactly and give Eq. 3.3, x* = (L(-1) - L(1)) / (2 (L(1) - 2 L(0) + L(-1))) for x = -1, 0, 1.
    With n > 3 points the fit is called noise unless its F-test passes: noise that is normal and independent leaves
    the share 1 - R^2 of its variance unexplained, or less, with probability (1 - R^2)^((n - 3)/2).

    Args:
        multipliers: x, at least three of them distinct.
        losses: L(x), finite.
        resolution: How far rounding may have moved one loss, >= 0; what is smaller is not taken for slope or
            curvature.

    Raises:
        ValueError: fewer than three distinct points, lists of unequal length, or a value that is not finite.

    Example:
        >>> fit_parabola([-1, 0, 1], [3.0, 1.0, 0.0]).optimum
        1.5

    Reference:
        GeN, Eq. 2.3 and 3.3, Appendix A.3 and C.2.
    """
    _check(multipliers, losses, resolution)
    xs = [float(x) for x in multipliers]
    base = float(losses[min(range(len(xs)), key=lambda i: abs(xs[i]))])
    rises = [float(loss) - base for loss in losses]  # from the middle, so that a large loss costs no digits
    unit = max(abs(rise) for rise in rises)
    weights = _weights(xs)
    if unit == 0:
        chance = None if len(xs) == MIN_POINTS else 1.0
        return Parabola(base, 0.0, 0.0, None, 0.0, chance, "noise")
    scaled = [rise / unit for rise in rises]
    level, slope, curvature = (_dot(w, scaled) for w in weights)
    left = [y - level - x * (slope + x * curvature / 2) for x, y in zip(xs, scaled, strict=True)]
    chance = _noise_chance(scaled, left)
    slope_error, curvature_error = (
        resolution / unit * math.fsum(map(abs, w)) for w in (weights.slope, weights.curvature)
    )
    verdict, optimum = _judge(slope, curvature, slope_error, curvature_error, chance)
    hidden = optimum is not None and curvature <= curvature_error
    residual = unit * math.sqrt(math.fsum(r * r for r in left) / len(left)) if chance is not None else 0.0
    return Parabola(base + unit * level, unit * slope, unit * curvature, optimum, residual, chance, verdict, hidden)


def _judge(
    slope: float, curvature: float, slope_error: float, curvature_error: float, noise_chance: float | None
) -> tuple[Verdict, float | None]:
    """The verdict and x*; a curvature within its error is replaced by the largest that it can be."""
    if noise_chance is not None and noise_chance > LARGEST_NOISE_CHANCE:
        return "noise", None
    if abs(slope) < slope_error:
        return "noise", None
    if slope >= 0:
        return "ascent", None
    if curvature > curvature_error:
        return "convex descent", -slope / curvature
    if curvature < -curvature_error or curvature_error == 0:
        return "concave", None
    least = -slope / curvature_error
    return ("convex descent", least) if least > 1 else ("noise", None)


def _weights(xs: list[float]) -> _Weights:
    """Least squares by the orthogonal polynomials 1, p = x - mean and q = p^2 - a p - b of the points."""
    n = len(xs)
    mean = math.fsum(xs) / n
    p = [x - mean for x in xs]
    pp = _dot(p, p)
    a, b = math.fsum(v**3 for v in p) / pp, pp / n
    q = [v * v - a * v - b for v in p]
    qq = _dot(q, q)
    p_0, q_0, slope_of_q = -mean, mean * mean + a * mean - b, -2 * mean - a  # at x = 0
    level = [1 / n + p_0 * v / pp + q_0 * w / qq for v, w in zip(p, q, strict=True)]
    slope = [v / pp + slope_of_q * w / qq for v, w in zip(p, q, strict=True)]
    return _Weights(level, slope, [2 * w / qq for w in q])


def _dot(a: Sequence[float], b: Sequence[float]) -> float:
    return math.fsum(x * y for x, y in zip(a, b, strict=True))


def _noise_chance(losses: list[float], left: list[float]) -> float | None:
    """The F-test's p-value of "nothing but noise"; None where no degree of freedom is left."""
    n = len(losses)
    if n == MIN_POINTS:
        return None
    mean = math.fsum(losses) / n
    whole = math.fsum((loss - mean) ** 2 for loss in losses)
    share = math.fsum(r * r for r in left) / whole
    return float(min(1.0, share) ** ((n - MIN_POINTS) / 2))


def _check(multipliers: Sequence[float], losses: Sequence[float], resolution: float) -> None:
    require(len(multipliers) == len(losses), "losses", "be as many as multipliers", len(losses))
    require(
        len(set(multipliers)) >= MIN_POINTS, "multipliers", f"hold {MIN_POINTS} or more distinct points", multipliers
    )
    for name, values in (("multipliers", multipliers), ("losses", losses)):
        require(all(math.isfinite(value) for value in values), name, "be finite", values)
    require(resolution >= 0, "resolution", "be >= 0", resolution)
