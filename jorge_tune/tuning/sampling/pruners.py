"""Pruners of a study, set by how often its runs are evaluated.

The median rule begins after a third of a run, when a schedule has shown what it does; halving asks at a ninth and at a
third. Median, Hyperband and ASHA are told the first seed's evaluations, numbered from 1; Wilcoxon one value per seed.
"""

from __future__ import annotations

import math
import warnings
from typing import TYPE_CHECKING

from optuna.exceptions import ExperimentalWarning
from optuna.pruners import BasePruner, HyperbandPruner, MedianPruner, NopPruner, SuccessiveHalvingPruner, WilcoxonPruner

from jorge_tune.tuning.planning.estimate import evaluations_of
from jorge_tune.tuning.planning.plan import StudyPlan
from jorge_tune.tuning.sampling.samplers import require_packages

if TYPE_CHECKING:
    from optuna.study import Study
    from optuna.trial import FrozenTrial

_REDUCTION = 3
_RUNGS = 2  # of halving below the whole run: at a ninth and at a third


def build_pruner(plan: StudyPlan, steps_per_epoch: int | None = None) -> BasePruner:
    """The plan's pruner.

    Args:
        plan: the study.
        steps_per_epoch: optimizer steps in an epoch; says how often a recipe in steps is evaluated. Without it
            halving learns that from the first completed trial.

    Raises:
        InputError: a package that it needs is not installed.
    """
    require_packages(plan.pruner)
    evaluations = evaluations_of(plan.recipe, steps_per_epoch)
    first = max(1, round((evaluations or 1) / _REDUCTION**_RUNGS))
    match plan.pruner:
        case "median":
            return MedianPruner(n_startup_trials=5, n_warmup_steps=(evaluations or 0) // _REDUCTION)
        case "hyperband":
            return HyperbandPruner(min_resource=first, max_resource=evaluations or "auto", reduction_factor=_REDUCTION)
        case "asha":
            return SuccessiveHalvingPruner(min_resource=first, reduction_factor=_REDUCTION)
        case "wilcoxon":
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ExperimentalWarning)  # since 3.6; Optuna 5 has it unchanged
                return FiniteWilcoxonPruner()
        case _:
            return NopPruner()


class FiniteWilcoxonPruner(WilcoxonPruner):
    """Optuna's, quiet about what it cannot compare: a trial with an infinite value is not pruned."""

    def prune(self, study: Study, trial: FrozenTrial) -> bool:
        """Whether the trial is worse than the best one, seed by seed."""
        try:
            best = study.best_trial.intermediate_values
        except ValueError:  # none has completed, or none is feasible
            return False
        values = [*trial.intermediate_values.values(), *best.values()]
        comparable = set(trial.intermediate_values) <= set(best)
        return comparable and all(map(math.isfinite, values)) and super().prune(study, trial)
