"""The cost of a study before it starts: runs, steps and, if the time of a step is known, hours. Pure arithmetic."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from jorge_tune.recipe.schedule import evaluate_every, total_steps
from jorge_tune.recipe.schema import Recipe

if TYPE_CHECKING:
    from jorge_tune.study.plan import StudyPlan


@dataclass(frozen=True)
class StudyEstimate:
    """Upper bounds of the cost; pruned and diverged trials make it less.

    The search has trials x seeds runs. The baseline runs on the same seeds; baseline (if there is one), bootstrap and
    best trial run on the confirmation seeds. `seconds` counts the training of the runs alone, spread evenly over the
    workers; it is None if the time of a step or the steps of an epoch are not known. `is_capped`: the search is ended
    by its hours.
    """

    search_runs: int
    baseline_runs: int
    confirmation_runs: int
    steps_per_run: int | None
    seconds: float | None
    is_capped: bool = False

    @property
    def runs(self) -> int:
        """The number of all runs."""
        return self.search_runs + self.baseline_runs + self.confirmation_runs


def estimate(
    plan: StudyPlan,
    *,
    steps_per_epoch: int | None = None,
    iteration_seconds: float | None = None,
    evaluation_seconds: float = 0.0,
    workers: int = 1,
) -> StudyEstimate:
    """Estimate the cost of a plan.

    Args:
        plan: the study.
        steps_per_epoch: optimizer steps in an epoch; not needed for a recipe in steps.
        iteration_seconds: of one training step while `workers` runs train at once.
        evaluation_seconds: of one evaluation.
        workers: runs that train at once.
    """
    contenders = 2 if plan.baseline is None else 3
    search = plan.trials * len(plan.seeds)
    baseline = 0 if plan.baseline is None else len(plan.seeds)
    confirmation = contenders * len(plan.confirm_seeds)

    steps = _steps(plan.recipe, steps_per_epoch)
    if steps is None or iteration_seconds is None:
        return StudyEstimate(search, baseline, confirmation, steps, None)

    per_run = steps * iteration_seconds + (evaluations_of(plan.recipe, steps_per_epoch) or 0) * evaluation_seconds
    searching = math.ceil((search + baseline) / workers) * per_run
    limit = math.inf if plan.hours is None else 3600 * plan.hours
    confirming = math.ceil(confirmation / workers) * per_run
    return StudyEstimate(search, baseline, confirmation, steps, min(searching, limit) + confirming, searching > limit)


def evaluations_of(recipe: Recipe, steps_per_epoch: int | None = None) -> int | None:
    """The number of evaluations of a run: every `evaluate_every` epochs and after the last step; None: not known."""
    every = evaluate_every(recipe)
    epochs: float
    if recipe.epochs is not None:
        epochs = recipe.epochs
    elif steps_per_epoch is not None and recipe.steps is not None:
        epochs = recipe.steps / steps_per_epoch
    else:
        return None
    return math.ceil(epochs / every)


def _steps(recipe: Recipe, steps_per_epoch: int | None) -> int | None:
    if recipe.steps is None and steps_per_epoch is None:
        return None
    return total_steps(recipe, steps_per_epoch or 1)
