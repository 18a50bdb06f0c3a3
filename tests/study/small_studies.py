"""Studies whose runs train in a fraction of a second."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jorge_tune.recipe.bootstrap import bootstrap
from jorge_tune.study.plan import StudyPlan
from jorge_tune.study.space import ChoiceParameter, FactorParameter, SearchSpace
from jorge_tune.study.storage.address import Address, parse_address
from jorge_tune.study.study_schema import Objective
from tests.training.small_recipes import digits_recipe


def small_plan(*, epochs: int = 2, **changes: Any) -> StudyPlan:
    """Rate and interval of Jorge on the digits, no constraint."""
    baseline = digits_recipe(epochs=epochs)
    recipe = bootstrap(baseline).recipe
    space = SearchSpace(
        recipe,
        (
            FactorParameter(name="lr_factor", path="optimizer.lr", centre=recipe.optimizer.lr, low=0.25, high=4.0),
            ChoiceParameter(
                name="refresh_interval",
                path="optimizer.refresh_interval",
                labels=(5, 10, 20),
                values=(5, 10, 20),
                bootstrap=10,
            ),
        ),
    )
    settings: dict[str, Any] = {
        "name": "small",
        "recipe": recipe,
        "baseline": baseline,
        "space": space,
        "objective": Objective(kind="best", metric="top1"),
        "sampler": "random",
        "trials": 4,
        "overhead": None,
        "device": "cpu",
        "threads": 1,
    }
    return StudyPlan(**(settings | changes))


def sqlite_at(folder: Path) -> Address:
    """A fresh SQLite file."""
    return parse_address(f"sqlite:///{folder / 'study.db'}")
