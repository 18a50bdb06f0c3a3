"""The studies beside a search: its baseline (`NAME.sgd`) and its confirmation (`NAME.confirm`), as plans of their own.

A confirmation's trial is one contender on one seed. Its point says everything: the contender, the seed, and for a
contender of the search where in the space it lies. So a later best trial, or more seeds, are more trials of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from jorge_tune.recipe.io import parse_recipe, recipe_to_dict, render_recipe
from jorge_tune.recipe.schema import Recipe
from jorge_tune.tuning.planning.parameters import ChoiceParameter, Value
from jorge_tune.tuning.planning.plan import StudyPlan
from jorge_tune.tuning.planning.space import Point, Space

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.trial import Trial

BASELINE_SUFFIX, CONFIRM_SUFFIX = ".sgd", ".confirm"
CONTENDER, SEED = "contender", "seed"
BASELINE, SEARCH = "baseline", "search"  # what a trial's contender may be

_LARGEST_SEED = 2**32 - 1


@dataclass(frozen=True, kw_only=True)
class SeedParameter:
    """The seed of a confirmation run; any whole number, so that more seeds fit into the same study."""

    name: str = SEED
    path: str = SEED
    bootstrap: int = 0  # that of trial 0
    low: int = 0
    high: int = _LARGEST_SEED
    labels: tuple[int, ...] = ()  # no list of its own
    values: tuple[int, ...] = ()

    def distribution(self) -> BaseDistribution:
        """All seeds."""
        from optuna.distributions import IntDistribution

        return IntDistribution(self.low, self.high)

    def suggest(self, trial: Trial) -> int:
        """That of a trial; every one is queued with its own."""
        return trial.suggest_int(self.name, self.low, self.high)

    def at(self, position: float) -> int:
        """Samplers may ask, although no seed is drawn."""
        return self.bootstrap

    def readable(self, seed: int) -> int:
        """As it is."""
        return seed

    def contains(self, seed: object) -> bool:
        """Whether it is one."""
        return isinstance(seed, int) and not isinstance(seed, bool) and self.low <= seed <= self.high

    def plain(self, seed: Any) -> int:
        """The recipe's value."""
        return int(seed)

    def edge(self, seed: Any) -> None:
        """A seed is on no edge."""


@dataclass(frozen=True)
class ConfirmationSpace(Space):
    """The search's space with a contender and a seed: see `confirmation_plan`."""

    def recipe_of(self, point: Point) -> Recipe:
        """The baseline, or the search's recipe at the point; under the point's seed."""
        self.check_point(point)
        contender = next(p for p in self.parameters if p.name == CONTENDER)
        text = contender.plain(point[CONTENDER])
        if text:
            recipe = parse_recipe(str(text), f"the recipe of {point[CONTENDER]}").recipe
        else:
            recipe = searched(self).recipe_of({k: v for k, v in point.items() if k not in (CONTENDER, SEED)})
        return replace(recipe, seed=int(point[SEED]))  # type: ignore[arg-type]

    def seeds_of(self, point: Point) -> tuple[int, ...]:
        """The one seed that a trial at this point runs."""
        return (int(point[SEED]),)  # type: ignore[arg-type]


@dataclass(frozen=True)
class ComparisonSpace(ConfirmationSpace):
    """Contenders, each with a recipe of its own, and a seed; nothing is searched: see `comparison_plan.py`."""

    def recipes(self) -> dict[str, Recipe]:
        """Every contender's recipe, under seed 0, by its name."""
        contender = next(p for p in self.parameters if isinstance(p, ChoiceParameter))
        pairs = zip(contender.labels, contender.values, strict=True)
        return {str(name): parse_recipe(str(text), f"the recipe of {name}").recipe for name, text in pairs}

    def identity(self) -> dict[str, Any]:
        """The recipes, field by field, so that a difference can be named."""
        return {name: recipe_to_dict(recipe) for name, recipe in self.recipes().items()}


def searched(space: Space) -> Space:
    """The part of a confirmation's space that the search has."""
    return Space(space.recipe, tuple(p for p in space if p.name not in (CONTENDER, SEED)))


def space_of(recipe: Recipe, parameters: Sequence[Any]) -> Space:
    """A space from its parameters, whichever kind they make it: contenders of a comparison all have a recipe's text."""
    if not any(isinstance(p, SeedParameter) for p in parameters):
        return Space(recipe, tuple(parameters))
    contender = next(p for p in parameters if p.name == CONTENDER)
    kind = ComparisonSpace if all(contender.values) else ConfirmationSpace
    return kind(recipe, tuple(parameters))


def baseline_plan(plan: StudyPlan) -> StudyPlan | None:
    """One trial: the baseline on the seeds of the search. None without a baseline."""
    if plan.baseline is None:
        return None
    return _beside(plan, BASELINE_SUFFIX, recipe=plan.baseline, space=Space(plan.baseline, ()), trials=1)


def confirmation_plan(plan: StudyPlan, trials: int) -> StudyPlan:
    """So many runs, queued by `confirm.prepare`."""
    text = "" if plan.baseline is None else render_recipe(replace(plan.baseline, seed=0))
    contender = ChoiceParameter(
        name=CONTENDER, path=CONTENDER, labels=(BASELINE, SEARCH), values=(text, ""), bootstrap=SEARCH
    )
    seed = SeedParameter(bootstrap=min(plan.confirm_seeds, default=0))
    space = space_of(plan.recipe, (contender, seed, *plan.space))
    times = plan.overhead if plan.objective.kind == "time-to-target" else None  # calibrated seconds, as in the search
    return _beside(plan, CONFIRM_SUFFIX, space=space, trials=trials, overhead=times)


def confirmation_points(
    plan: StudyPlan, contenders: Sequence[Mapping[str, Value]], seeds: Sequence[int]
) -> list[dict[str, Value]]:
    """Every contender of the search, given by its point, and the baseline on every seed; seed by seed.

    All contenders run one seed before the next, so that what is there at any time is paired.
    """
    points: list[dict[str, Value]] = []
    for seed in seeds:
        if plan.baseline is not None:
            points.append({CONTENDER: BASELINE, SEED: seed, **plan.space.bootstrap_point()})
        points += [{CONTENDER: SEARCH, SEED: seed, **contender} for contender in contenders]
    return points


def _beside(plan: StudyPlan, suffix: str, **changes: Any) -> StudyPlan:
    """A plan that searches nothing and prunes nothing."""
    settings: dict[str, Any] = {
        "name": plan.name + suffix,
        "baseline": None,
        "sampler": "random",
        "pruner": "none",
        "hours": None,
        "overhead": None,
        "confirm_seeds": (),
        "derivations": (),
        "notes": (),
    }
    return replace(plan, **(settings | changes))
