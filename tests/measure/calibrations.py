"""Calibrations of every outcome, from scripted timings."""

from __future__ import annotations

from typing import Any

from jorge_tune.measure.calibrate import calibrate
from jorge_tune.measure.fingerprint import facts_of, fingerprint_of
from jorge_tune.measure.instrument import Calibrated
from jorge_tune.measure.timings import Profile
from jorge_tune.recipe.schema import Jorge, Recipe
from tests.measure.scripted_bench import ScriptedBench, loaded_from, noisy
from tests.training.small_recipes import digits_recipe


def calibrated(
    *,
    overhead: float = 0.1,
    recipe: Recipe | None = None,
    steps: int | None = 2000,
    from_cache: bool = False,
    **script: Any,
) -> Calibrated:
    """A calibration on a scripted bench."""
    recipe = recipe or digits_recipe(optimizer=Jorge(lr=0.1))
    bench = ScriptedBench(**{"disturbance": noisy(0.005), **script})
    found = calibrate(bench, overhead)
    facts = facts_of(recipe, "cpu")
    return Calibrated(
        recipe=recipe,
        overhead=overhead,
        choice=found.choice,
        measurements=found.measurements,
        profile=Profile(found.parts, bench.memory, bench.device, "1x8x8"),
        fingerprint=fingerprint_of(facts),
        facts=facts,
        measured_on="2026-01-31",
        from_cache=from_cache,
        training_steps=steps,
    )


def feasible(**more: Any) -> Calibrated:
    return calibrated(**more)


def infeasible(**more: Any) -> Calibrated:
    return calibrated(extra=0.03, **more)


def unstable(**more: Any) -> Calibrated:
    return calibrated(disturbance=loaded_from(15, 1.5), **more)
