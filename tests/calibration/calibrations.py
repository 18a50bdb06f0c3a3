"""Calibrations of every outcome, from scripted timings."""

from __future__ import annotations

from typing import Any

from jorge_tune.calibration.cache import facts_of, fingerprint_of
from jorge_tune.calibration.calibrate_recipe import RecipeCalibration
from jorge_tune.calibration.measure import calibrate
from jorge_tune.calibration.timings import Profile
from jorge_tune.recipe.schema import JorgeSection, Recipe
from tests.calibration.scripted_bench import ScriptedBench, loaded_from, noisy
from tests.training.small_recipes import digits_recipe


def calibrated(
    *,
    overhead: float = 0.1,
    recipe: Recipe | None = None,
    steps: int | None = 2000,
    from_cache: bool = False,
    **script: Any,
) -> RecipeCalibration:
    """A calibration on a scripted bench."""
    recipe = recipe or digits_recipe(optimizer=JorgeSection(lr=0.1))
    bench = ScriptedBench(**{"disturbance": noisy(0.005), **script})
    found = calibrate(bench, overhead)
    facts = facts_of(recipe, "cpu")
    return RecipeCalibration(
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


def feasible(**more: Any) -> RecipeCalibration:
    return calibrated(**more)


def infeasible(**more: Any) -> RecipeCalibration:
    return calibrated(extra=0.03, **more)


def unstable(**more: Any) -> RecipeCalibration:
    return calibrated(disturbance=loaded_from(15, 1.5), **more)
