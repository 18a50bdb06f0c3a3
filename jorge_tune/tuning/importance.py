"""Which parameters a search's good trials owe their values to, or why too little is known to say."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from jorge_tune.tuning.history import finite, read_rows, sort_key

if TYPE_CHECKING:
    from optuna.study import Study

FEWEST_TRIALS = 15
"""Completed trials with a finite value; below, five good ones are more than a third of all."""
_GOOD_TRIALS = 5  # Optuna's advice: at least so many trials in the upper quantile
_MOST_GOOD = 0.5  # of all trials; where equal values push more into the upper quantile, it says nothing


@dataclass(frozen=True)
class Importances:
    """Shares that add up to 1, the largest first; empty where nothing can be said, and then `reason` says why.

    `trials` is how many were looked at, `good` how many of them count as the good ones.
    """

    shares: Mapping[str, float]
    trials: int
    good: int = 0
    reason: str = ""


def importances(study: Study, *, lower_is_better: bool) -> Importances:
    """By PED-ANOVA: how unlike all trials the good ones lie, parameter by parameter.

    Only completed trials with a finite value count: one that diverged, missed the target or was pruned has none. The
    good ones are the best tenth, at least five.
    """
    rows = finite(read_rows(study))
    count = len(rows)
    names = {name for row in rows for name in row.point}
    if count < FEWEST_TRIALS:
        return Importances({}, count, reason=f"{count} of at least {FEWEST_TRIALS} completed trials with a value")
    if not names:
        return Importances({}, count, reason="the trials have no parameters")
    key = sort_key(lower_is_better)
    values = sorted(key(row) for row in rows)
    quantile = max(0.1, _GOOD_TRIALS / count)
    cut = values[math.ceil(quantile * count) - 1]  # as Optuna cuts
    good = sum(value <= cut for value in values)
    if good > _MOST_GOOD * count:
        return Importances({}, count, good, f"{good} of {count} trials share the best values")
    shares = _ped_anova(study, quantile)
    if not any(shares.values()):
        return Importances({}, count, good, "no parameter sets the good trials apart")
    return Importances(shares, count, good)


def _ped_anova(study: Study, quantile: float) -> dict[str, float]:
    from optuna.importance import PedAnovaImportanceEvaluator

    raw = PedAnovaImportanceEvaluator(target_quantile=quantile).evaluate(study)
    whole = sum(raw.values())
    return {name: float(value / whole) if whole else 0.0 for name, value in raw.items()}
