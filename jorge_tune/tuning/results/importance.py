"""Which parameters a search's good trials owe their values to, or why too little is known to say."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from jorge_tune.errors import shortened

if TYPE_CHECKING:
    from optuna.study import Study
    from optuna.trial import FrozenTrial

FEWEST_TRIALS = 15
"""Trials with a finite number to rank them by; below, five good ones are more than a third of all."""
_GOOD_TRIALS = 5  # Optuna's advice: at least so many trials in the upper quantile
_MOST_GOOD = 0.5  # of all trials; where equal values push more into the upper quantile, it says nothing
_MOST_LEFT_OUT = 0.2  # of the trials with readings, so that the last reading that nearly all have is the one


@dataclass(frozen=True)
class Importances:
    """Shares that add up to 1, the largest first; empty where nothing can be said, and then `reason` says why.

    `trials` is how many were looked at, `good` how many of them count as the good ones. They are ranked by their final
    values, or by their `reading`-th evaluation where pruning left too few of those.
    """

    shares: Mapping[str, float]
    trials: int
    good: int = 0
    reading: int | None = None
    reason: str = ""


class _Ranked(NamedTuple):
    """A trial and the number it is ranked by."""

    trial: FrozenTrial
    value: float


def importances(study: Study, *, lower_is_better: bool) -> Importances:
    """By PED-ANOVA: how unlike all trials the good ones lie, parameter by parameter.

    The good ones are the best tenth, at least five. Trials without a finite number (diverged, target missed) do not
    count. Where pruning left fewer than `FEWEST_TRIALS` final values, trials are ranked by the last evaluation that
    nearly all of them reached.
    """
    trials = study.get_trials(deepcopy=False)
    ranked = [_Ranked(t, t.value) for t in trials if t.state.name == "COMPLETE" and t.value is not None]
    ranked = [one for one in ranked if math.isfinite(one.value)]
    reading = None
    if len(ranked) < FEWEST_TRIALS and (common := _last_common_reading(trials)) is not None:
        early = _by_reading(trials, common)
        if len(early) >= FEWEST_TRIALS:
            ranked, reading = early, common
    count = len(ranked)
    if count < FEWEST_TRIALS:
        return Importances({}, count, reason=f"{count} of at least {FEWEST_TRIALS} completed trials with a value")
    if not any(one.trial.params for one in ranked):
        return Importances({}, count, reason="the trials have no parameters")
    quantile = max(0.1, _GOOD_TRIALS / count)
    ordered = sorted((one.value for one in ranked), reverse=not lower_is_better)
    cut = ordered[math.ceil(quantile * count) - 1]  # as Optuna cuts
    good = sum(one.value <= cut if lower_is_better else one.value >= cut for one in ranked)
    if good > _MOST_GOOD * count:
        return Importances({}, count, good, reading, f"{good} of {count} trials share the best values")
    try:
        shares = _ped_anova(ranked, quantile, lower_is_better)
    except (ArithmeticError, AssertionError, LookupError, TypeError, ValueError) as error:
        what = " ".join(str(error).split())  # parameters of other ranges than the study's, say
        return Importances({}, count, good, reading, f"the trials' parameters do not fit together: {shortened([what])}")
    if not any(shares.values()):
        return Importances({}, count, good, reading, "no parameter sets the good trials apart")
    return Importances(shares, count, good, reading)


def _last_common_reading(trials: Sequence[FrozenTrial]) -> int | None:
    """The last evaluation that all but a fifth of the trials with readings reached."""
    reached = sorted(max(trial.intermediate_values) for trial in trials if trial.intermediate_values)
    return reached[int(_MOST_LEFT_OUT * len(reached))] if reached else None


def _by_reading(trials: Sequence[FrozenTrial], reading: int) -> list[_Ranked]:
    values = [_Ranked(trial, trial.intermediate_values.get(reading, math.nan)) for trial in trials]
    return [one for one in values if math.isfinite(one.value) and one.trial.params]


def _ped_anova(ranked: Sequence[_Ranked], quantile: float, lower_is_better: bool) -> dict[str, float]:
    from optuna.importance import PedAnovaImportanceEvaluator
    from optuna.samplers import RandomSampler
    from optuna.storages import InMemoryStorage
    from optuna.study import Study, StudyDirection
    from optuna.trial import create_trial

    storage = InMemoryStorage()
    direction = StudyDirection.MINIMIZE if lower_is_better else StudyDirection.MAXIMIZE
    storage.create_new_study([direction], "ranked")
    study = Study("ranked", storage, RandomSampler())
    for trial, value in ranked:
        study.add_trial(create_trial(params=trial.params, distributions=trial.distributions, value=value))
    raw = PedAnovaImportanceEvaluator(target_quantile=quantile).evaluate(study)
    whole = sum(raw.values())
    return {name: float(value / whole) if whole else 0.0 for name, value in raw.items()}
