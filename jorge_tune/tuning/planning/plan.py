"""A study, planned: everything that its workers need to know, and what makes it that study and no other."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import jorge_tune
from jorge_tune.recipe.derivation import Derivation
from jorge_tune.recipe.leaves import leaves
from jorge_tune.recipe.render import recipe_to_dict, scalar
from jorge_tune.recipe.schema import Recipe
from jorge_tune.tuning.planning.objective import Objective
from jorge_tune.tuning.planning.space import Point, Space
from jorge_tune.tuning.planning.study_schema import PrunerName, SamplerName


@dataclass(frozen=True, kw_only=True)
class StudyPlan:
    """One study. `recipe` is bootstrapped and is the point at factor 1.

    `overhead`: the constraint iteration_time <= (1 + overhead) x baseline's; None: no constraint.
    `confirm_seeds` share none with `seeds`. `sampler_seed` is the search's own, no run's. `notes` are worth saying.
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
    notes: tuple[str, ...] = ()

    def at(self, point: Point) -> StudyPlan:
        """The plan as one trial has it: under its own seeds, where the point names them."""
        seeds = self.space.seeds_of(point)
        return self if seeds is None else replace(self, seeds=seeds)

    def identity(self) -> dict[str, Any]:
        """What trials of one study must have in common, as plain data; another budget or sampler is no other study."""
        return {
            "version": jorge_tune.__version__,
            "recipe": recipe_to_dict(self.recipe),
            "baseline": None if self.baseline is None else recipe_to_dict(self.baseline),
            "space": self.space.identity(),
            "objective": asdict(self.objective),
            "seeds": list(self.seeds),
            "overhead": self.overhead,
        }

    def digest(self) -> str:
        """Sixteen hexadecimal digits of the identity."""
        text = json.dumps(self.identity(), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def changes_between(stored: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """In what two identities differ, in words: `recipe.optimizer.lr: 0.1 in the study, 0.2 now`."""
    before, after = _flat(stored), _flat(now)
    paths = [path for path in {**before, **after} if before.get(path, _ABSENT) != after.get(path, _ABSENT)]
    return [f"{path}: {_shown(before, path)} in the study, {_shown(after, path)} now" for path in paths]


_ABSENT = object()


def _flat(identity: Mapping[str, Any]) -> dict[str, Any]:
    return {path: list(value) if isinstance(value, tuple) else value for path, value in leaves(identity).items()}


def _shown(values: Mapping[str, Any], path: str) -> str:
    return scalar(values[path]) if path in values else "unset"
