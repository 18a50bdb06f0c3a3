"""The plan of a study: everything that its workers need to know, and the study's identity."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import jorge_tune
from jorge_tune.config.ranges import LARGEST_SEED
from jorge_tune.errors import InputError
from jorge_tune.one_run import is_command
from jorge_tune.recipe.checks import check_resolved, check_trainable
from jorge_tune.recipe.derivation import Derivation
from jorge_tune.recipe.metrics import usual_metric
from jorge_tune.recipe.recipe_files import parse_recipe, render_recipe
from jorge_tune.recipe.render import leaves, recipe_to_dict, scalar
from jorge_tune.recipe.schema import Recipe
from jorge_tune.study.space import ChoiceParameter, Point, SearchSpace, Value
from jorge_tune.study.study_schema import STUDY_NAME, Objective, PrunerName, SamplerName

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.trial import Trial


@dataclass(frozen=True, kw_only=True)
class StudyPlan:
    """The plan of one study. `recipe` is bootstrapped and is the point at factor 1.

    `overhead` is the constraint iteration_time <= (1 + overhead) x the baseline's; None: no constraint.
    `confirm_seeds` have no seed in common with `seeds`. `sampler_seed` is for the sampler alone; no run uses it.
    `notes` are sentences for the user.
    """

    name: str
    recipe: Recipe
    baseline: Recipe | None
    space: SearchSpace
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
        """The plan for the trial at a point, with the trial's own seeds if the point names them."""
        seeds = self.space.seeds_of(point)
        return self if seeds is None else replace(self, seeds=seeds)

    def identity(self) -> dict[str, Any]:
        """What all trials of a study must have in common, as plain data; budget and sampler are not part of it."""
        objective = asdict(self.objective)
        if self.objective.higher_is_better is None:
            del objective["higher_is_better"]  # older studies do not have it

        return {
            "version": jorge_tune.__version__,
            "recipe": recipe_to_dict(self.recipe),
            "baseline": None if self.baseline is None else recipe_to_dict(self.baseline),
            "space": self.space.identity(),
            "objective": objective,
            "seeds": list(self.seeds),
            "overhead": self.overhead,
        }

    def digest(self) -> str:
        """Sixteen hexadecimal digits of the identity."""
        text = json.dumps(self.identity(), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def changes_between(stored: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """The differences of two identities in words: `recipe.optimizer.lr: 0.1 in the study, 0.2 now`."""
    before, after = _flat(stored), _flat(now)
    paths = [path for path in {**before, **after} if before.get(path, _ABSENT) != after.get(path, _ABSENT)]
    return [f"{path}: {_shown(before, path)} in the study, {_shown(after, path)} now" for path in paths]


_ABSENT = object()


def _flat(identity: Mapping[str, Any]) -> dict[str, Any]:
    return {path: list(value) if isinstance(value, tuple) else value for path, value in leaves(identity).items()}


def _shown(values: Mapping[str, Any], path: str) -> str:
    return scalar(values[path]) if path in values else "unset"


BASELINE_SUFFIX, CONFIRM_SUFFIX = ".sgd", ".confirm"
CONTENDER, SEED = "contender", "seed"
BASELINE, SEARCH = "baseline", "search"  # the values of a trial's contender


@dataclass(frozen=True, kw_only=True)
class SeedParameter:
    """The seed of a confirmation run: any whole number, so that seeds can be added to the same study."""

    name: str = SEED
    path: str = SEED
    bootstrap: int = 0  # the seed of trial 0
    low: int = 0
    high: int = LARGEST_SEED
    labels: tuple[int, ...] = ()  # empty: a seed is not chosen from a list
    values: tuple[int, ...] = ()

    def distribution(self) -> BaseDistribution:
        """All seeds."""
        from optuna.distributions import IntDistribution

        return IntDistribution(self.low, self.high)

    def suggest(self, trial: Trial) -> int:
        """The seed of a trial, with which it was queued."""
        return trial.suggest_int(self.name, self.low, self.high)

    def at(self, position: float) -> int:
        """The seed of trial 0 at any position: samplers may ask for one, although no seed is drawn."""
        return self.bootstrap

    def readable(self, seed: int) -> int:
        """The seed as it is."""
        return seed

    def contains(self, seed: object) -> bool:
        """Whether a trial may have this seed."""
        return isinstance(seed, int) and not isinstance(seed, bool) and self.low <= seed <= self.high

    def plain(self, seed: Any) -> int:
        """The recipe's value."""
        return int(seed)

    def edge(self, seed: Any) -> None:
        """A seed is on no edge."""


@dataclass(frozen=True)
class ConfirmationSpace(SearchSpace):
    """The search's space with a contender and a seed: see `confirmation_plan`."""

    def recipe_of(self, point: Point) -> Recipe:
        """The baseline, or the search's recipe at the point, with the point's seed."""
        self.check_point(point)

        contender = next(p for p in self.parameters if p.name == CONTENDER)
        text = contender.plain(point[CONTENDER])
        if text:
            recipe = parse_recipe(str(text), f"the recipe of {point[CONTENDER]}").recipe
        else:
            recipe = searched(self).recipe_of({k: v for k, v in point.items() if k not in (CONTENDER, SEED)})
        return replace(recipe, seed=int(point[SEED]))  # type: ignore[arg-type]

    def seeds_of(self, point: Point) -> tuple[int, ...]:
        """The one seed of a trial at this point."""
        return (int(point[SEED]),)  # type: ignore[arg-type]


@dataclass(frozen=True)
class ComparisonSpace(ConfirmationSpace):
    """Contenders, each with a recipe of its own, and a seed; nothing is searched: see `comparison_plan`."""

    def recipes(self) -> dict[str, Recipe]:
        """Every contender's recipe by name, with seed 0."""
        contender = next(p for p in self.parameters if isinstance(p, ChoiceParameter))
        pairs = zip(contender.labels, contender.values, strict=True)
        return {str(name): parse_recipe(str(text), f"the recipe of {name}").recipe for name, text in pairs}

    def identity(self) -> dict[str, Any]:
        """The recipes, field by field, so that a difference can be named."""
        return {name: recipe_to_dict(recipe) for name, recipe in self.recipes().items()}


def needs_torch(plan: StudyPlan) -> bool:
    """Whether some run of the study trains in a process of ours, and not by a command."""
    recipes = list(plan.space.recipes().values()) if isinstance(plan.space, ComparisonSpace) else [plan.recipe]
    return not all(is_command(recipe) for recipe in recipes)


def searched(space: SearchSpace) -> SearchSpace:
    """The search's part of a confirmation's space."""
    return SearchSpace(space.recipe, tuple(p for p in space if p.name not in (CONTENDER, SEED)))


def space_of(recipe: Recipe, parameters: Sequence[Any]) -> SearchSpace:
    """The space that parameters make: of a search, a confirmation or a comparison.

    In a comparison, and only there, every contender has the text of a recipe.
    """
    if not any(isinstance(p, SeedParameter) for p in parameters):
        return SearchSpace(recipe, tuple(parameters))

    contender = next(p for p in parameters if p.name == CONTENDER)
    kind = ComparisonSpace if all(contender.values) else ConfirmationSpace
    return kind(recipe, tuple(parameters))


def baseline_plan(plan: StudyPlan) -> StudyPlan | None:
    """The plan of the baseline's companion study: one trial on the seeds of the search. None without a baseline."""
    if plan.baseline is None:
        return None
    return _companion_plan(plan, BASELINE_SUFFIX, recipe=plan.baseline, space=SearchSpace(plan.baseline, ()), trials=1)


def confirmation_plan(plan: StudyPlan, trials: int) -> StudyPlan:
    """The plan of a confirmation with so many runs, which `confirm.open_confirmation` queues."""
    text = "" if plan.baseline is None else render_recipe(replace(plan.baseline, seed=0))
    contender = ChoiceParameter(
        name=CONTENDER, path=CONTENDER, labels=(BASELINE, SEARCH), values=(text, ""), bootstrap=SEARCH
    )
    seed = SeedParameter(bootstrap=min(plan.confirm_seeds, default=0))
    space = space_of(plan.recipe, (contender, seed, *plan.space))
    overhead = plan.overhead if plan.objective.kind == "time-to-target" else None  # its seconds are calibrated too
    return _companion_plan(plan, CONFIRM_SUFFIX, space=space, trials=trials, overhead=overhead)


def confirmation_points(
    plan: StudyPlan, contenders: Sequence[Mapping[str, Value]], seeds: Sequence[int]
) -> list[dict[str, Value]]:
    """The points of a confirmation: the baseline and every contender, given by its point, on every seed.

    All contenders run one seed before the next seed, so that the runs are paired at any time.
    """
    points: list[dict[str, Value]] = []
    for seed in seeds:
        if plan.baseline is not None:
            points.append({CONTENDER: BASELINE, SEED: seed, **plan.space.bootstrap_point()})
        points += [{CONTENDER: SEARCH, SEED: seed, **contender} for contender in contenders]
    return points


def _companion_plan(plan: StudyPlan, suffix: str, **changes: Any) -> StudyPlan:
    """A plan that neither searches nor prunes, for a companion study."""
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


def is_comparison(plan: StudyPlan) -> bool:
    """Whether a study is a comparison, which searches nothing."""
    return isinstance(plan.space, ComparisonSpace)


def comparison_plan(
    name: str,
    contenders: Mapping[str, Recipe],
    seeds: Sequence[int],
    *,
    metric: str | None = None,
    device: str = "auto",
    threads: int | None = None,
) -> StudyPlan:
    """The plan of a comparison; `report_data.open_comparison` counts and queues its trials.

    Args:
        name: of the study.
        contenders: recipes by the names that tables show; the first one on the first seed is trial 0.
        seeds: the seeds to run.
        metric: its final value is a trial's value; None: that of the first recipe's target, else the usual one of its
            task.
        device: the device to train on.
        threads: CPU threads of a run.

    Raises:
        InputError: a study cannot have that name, a recipe has no task, or a seed is out of range.
    """
    if not STUDY_NAME.holds(name):
        raise InputError(f"--name: must be {STUDY_NAME.words}, got {name!r}")

    first, known = next(iter(contenders.items()))
    for contender, recipe in contenders.items():
        if recipe.task is None:
            raise InputError(f"recipe {contender} has no task, so it cannot be trained; give it one, or leave it out")
        check_trainable(recipe)
        check_resolved(recipe)
    reference = contenders[first]
    if metric is None and is_command(reference) and reference.target is None:
        raise InputError(f"--metric: must name what the command of recipe {first} reports, since it has no target")

    seed = SeedParameter(bootstrap=seeds[0])
    if not all(seed.contains(one) for one in seeds):
        raise InputError(f"--seeds: must be between {seed.low} and {seed.high}, got {max(seeds)}")

    judged_by = metric or usual_metric(known)
    stated = None if known.task is None else known.task.higher_is_better.get(judged_by)
    labels = tuple(sorted(contenders))
    texts = tuple(render_recipe(replace(contenders[label], seed=0)) for label in labels)
    contender_of = ChoiceParameter(name=CONTENDER, path=CONTENDER, labels=labels, values=texts, bootstrap=first)
    recipe = replace(contenders[labels[0]], seed=0)

    return StudyPlan(
        name=name,
        recipe=recipe,
        baseline=None,
        space=ComparisonSpace(recipe, (contender_of, seed)),  # type: ignore[arg-type]
        objective=Objective(kind="final", metric=judged_by, higher_is_better=stated),
        sampler="random",
        seeds=(),
        overhead=None,
        device=device,
        threads=threads,
    )


def recipes_of(plan: StudyPlan) -> list[Recipe]:
    """The recipes whose code the runs of a study need; points of its space change no code."""
    if isinstance(plan.space, ComparisonSpace):
        return list(plan.space.recipes().values())
    return [plan.recipe] + ([] if plan.baseline is None else [plan.baseline])


def comparison_points(contenders: Sequence[str], seeds: Sequence[int]) -> list[dict[str, Value]]:
    """Every contender on every seed, seed by seed, so that the runs are paired at any time."""
    return [{CONTENDER: contender, SEED: seed} for seed in seeds for contender in contenders]


def comparison_changes(present: StudyPlan, plan: StudyPlan, changes: Sequence[str]) -> list[str]:
    """The differences of two comparisons in words: of their contenders, or else of a contender's recipe.

    Args:
        present: the comparison in the storage.
        plan: the new one.
        changes: their differences by `changes_between`.
    """
    stored = present.space.identity()
    if stored.keys() != plan.space.identity().keys():
        return [f"it races {', '.join(stored)}"]
    return [change.removeprefix("space.") for change in changes if not change.startswith("recipe.")]
