"""A study, planned: everything that its workers need to know, and what makes it that study and no other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from jorge_tune.recipe.derivation import Derivation
from jorge_tune.recipe.schema import Recipe
from jorge_tune.tuning.objective import Objective
from jorge_tune.tuning.space import Space

SamplerName = Literal["tpe", "gp", "cmaes", "random", "grid", "qmc"]
PrunerName = Literal["median", "hyperband", "asha", "wilcoxon", "none"]


@dataclass(frozen=True, kw_only=True)
class StudyPlan:
    """One study. `recipe` is bootstrapped and is the point at factor 1.

    `overhead`: the constraint iteration_time <= (1 + overhead) x baseline's; None: no constraint.
    `confirm_seeds` share none with `seeds`. `sampler_seed` is the search's own, no run's.
    """

    name: str
    recipe: Recipe
    baseline: Recipe | None
    space: Space
    objective: Objective
    sampler: SamplerName = "tpe"
    pruner: PrunerName = "none"
    trials: int = 40
    hours: float | None = None
    seeds: tuple[int, ...] = (0,)
    confirm_seeds: tuple[int, ...] = ()
    overhead: float | None = 0.1
    device: str = "auto"
    threads: int | None = None
    sampler_seed: int = 0
    derivations: tuple[Derivation, ...] = ()
