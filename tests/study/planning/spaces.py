"""A small space around the bootstrapped digits recipe."""

from __future__ import annotations

from jorge_tune.recipe.bootstrap import bootstrap
from jorge_tune.study.space import ChoiceParameter, FactorParameter, SearchSpace
from tests.training.small_recipes import digits_recipe


def small_space() -> SearchSpace:
    """lr from a half to the double, the interval one of four."""
    recipe = bootstrap(digits_recipe()).recipe
    return SearchSpace(
        recipe,
        (
            FactorParameter(
                name="lr_factor", path="optimizer.lr", centre=recipe.optimizer.lr, low=0.5, high=2.0, steps=3
            ),
            ChoiceParameter(
                name="refresh_interval",
                path="optimizer.refresh_interval",
                labels=(None, 5, 20, 50),
                values=(None, 5, 20, 50),
                bootstrap=None,
            ),
        ),
    )
