"""A comparison as a study: every trial is one contender on one seed, and nothing is searched, pruned or confirmed.

Contenders are labels, sorted, so that their order makes no other study; which of them the others are compared with is
the table's business, and more seeds are more trials.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from jorge_tune.errors import InputError
from jorge_tune.recipe.checks import check_trainable
from jorge_tune.recipe.io import render_recipe
from jorge_tune.recipe.metrics import usual_metric
from jorge_tune.recipe.schema import Recipe
from jorge_tune.tuning.planning.objective import Objective
from jorge_tune.tuning.planning.parameters import ChoiceParameter, Value
from jorge_tune.tuning.planning.parts import CONTENDER, SEED, ComparisonSpace, SeedParameter
from jorge_tune.tuning.planning.plan import StudyPlan
from jorge_tune.tuning.planning.study_schema import STUDY_NAME


def is_comparison(plan: StudyPlan) -> bool:
    """Whether a study is a comparison, and searches nothing."""
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
    """The plan of a comparison; its trials are counted and queued by `compared.open_comparison`.

    Args:
        name: the study's.
        contenders: recipes by the names that tables show; the first one on the first seed is trial 0.
        seeds: to run.
        metric: whose final value is a trial's; None: the first recipe's target's, else what suits its task.
        device: where to train.
        threads: CPU threads of a run.

    Raises:
        InputError: the name is none for a study, a recipe has no task, or a seed is out of range.
    """
    if not STUDY_NAME.holds(name):
        raise InputError(f"--name: must be {STUDY_NAME.words}, got {name!r}")
    first, known = next(iter(contenders.items()))
    for contender, recipe in contenders.items():
        if recipe.task is None:
            raise InputError(f"recipe {contender} has no task, so it cannot be trained; give it one, or leave it out")
        check_trainable(recipe)
    seed = SeedParameter(bootstrap=seeds[0])
    if not all(seed.contains(one) for one in seeds):
        raise InputError(f"--seeds: must be between {seed.low} and {seed.high}, got {max(seeds)}")
    labels = tuple(sorted(contenders))
    texts = tuple(render_recipe(replace(contenders[label], seed=0)) for label in labels)
    contender_of = ChoiceParameter(name=CONTENDER, path=CONTENDER, labels=labels, values=texts, bootstrap=first)
    recipe = replace(contenders[labels[0]], seed=0)
    return StudyPlan(
        name=name,
        recipe=recipe,
        baseline=None,
        space=ComparisonSpace(recipe, (contender_of, seed)),  # type: ignore[arg-type]
        objective=Objective(kind="final", metric=metric or usual_metric(known)),
        sampler="random",
        seeds=(),
        overhead=None,
        device=device,
        threads=threads,
    )


def comparison_points(contenders: Sequence[str], seeds: Sequence[int]) -> list[dict[str, Value]]:
    """Every contender on every seed, seed by seed, so that what is there at any time is paired."""
    return [{CONTENDER: contender, SEED: seed} for seed in seeds for contender in contenders]


def comparison_changes(present: StudyPlan, plan: StudyPlan, changes: Sequence[str]) -> list[str]:
    """In what two comparisons differ, in words: their contenders, or else a contender's recipe.

    Args:
        present: the one that is there.
        plan: the other one.
        changes: what `changes_between` says of them.
    """
    there = present.space.identity()
    if there.keys() != plan.space.identity().keys():
        return [f"it races {', '.join(there)}"]
    return [change.removeprefix("space.") for change in changes if not change.startswith("recipe.")]
