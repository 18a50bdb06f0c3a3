"""CMA-ES drawn from the trials alone: its state is made anew for every draw, by telling it their generations again.

Optuna's sampler keeps its optimizer in the storage as a pickle, which whoever may write there could exchange for
code that the next worker runs. Here a trial keeps one number, the generation that it was drawn in, and the draws are
Optuna's own to the bit where one worker ends its trials in the order of their numbers (tested). Where several work,
a generation is made of those of its trials that ended first; who ends later changes nothing of what was drawn.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import numpy as np
from optuna._transform import _SearchSpaceTransform
from optuna.study import StudyDirection
from optuna.trial import TrialState

if TYPE_CHECKING:
    from cmaes import CMA
    from optuna.distributions import BaseDistribution
    from optuna.trial import FrozenTrial

    from jorge_tune.tuning.sampling.seen_trials import SeenStudy

GENERATION = "cma:generation"
"""System attribute of a trial, under Optuna's own name, so that studies begun with its sampler go on."""
_RESAMPLINGS = 10  # times the number of parameters, as Optuna has it
_LEAST_SIGMA = 1e-10
_LATE = datetime.max.replace(tzinfo=UTC)


def draw_by_cma(
    study: SeenStudy, trial: FrozenTrial, space: Mapping[str, BaseDistribution], seed: int
) -> dict[str, Any] | None:
    """A point for a trial; None while no trial has ended.

    Args:
        study: with trials that are whole within `space`.
        trial: the one to draw for; the generation it is drawn in is kept in it.
        space: numbers only.
        seed: the study's, the same for every trial: the trial's number is added to a draw from it.
    """
    ended = study._get_trials(states=(TrialState.COMPLETE,))
    if not ended or not space:
        return None
    transform = _SearchSpaceTransform(dict(space), transform_step=True, transform_0_1=True)
    numbers = np.random.RandomState(seed)
    optimizer = _fresh(transform.bounds, numbers)
    sign = 1.0 if study.direction == StudyDirection.MINIMIZE else -1.0
    _tell_generations(optimizer, ended, transform, sign)
    if any(
        _generation_of(one) for one in ended
    ):  # Optuna's then finds its optimizer, and draws no seed for a first one
        numbers = np.random.RandomState(seed)
    optimizer.reseed_rng(numbers.randint(1, 2**16) + trial.number)
    place = optimizer.ask()
    study._storage.set_trial_system_attr(trial._trial_id, GENERATION, optimizer.generation)
    return dict(transform.untransform(place))


def _fresh(bounds: np.ndarray[Any, Any], numbers: np.random.RandomState) -> CMA:
    """The first generation, in the middle of the space and a sixth of it wide."""
    from cmaes import CMA

    low, high = bounds[:, 0], bounds[:, 1]
    return CMA(
        mean=low + (high - low) / 2,
        sigma=max(float(np.min((high - low) / 6)), _LEAST_SIGMA),
        bounds=bounds,
        seed=numbers.randint(1, 2**31 - 2),
        n_max_resampling=_RESAMPLINGS * len(bounds),
    )


def _tell_generations(
    optimizer: CMA, ended: Sequence[FrozenTrial], transform: _SearchSpaceTransform, sign: float
) -> None:
    """Tell it every generation that is complete, one after another."""
    generations: dict[int, list[FrozenTrial]] = defaultdict(list)
    for one in sorted(ended, key=_when_ended):
        if (generation := _generation_of(one)) is not None:
            generations[generation].append(one)
    while len(members := generations.get(optimizer.generation, ())) >= optimizer.population_size:
        solutions = [(transform.transform(one.params), sign * one.values[0]) for one in members]
        optimizer.tell(solutions[: optimizer.population_size])


def _generation_of(trial: FrozenTrial) -> int | None:
    generation = trial.system_attrs.get(GENERATION)
    return generation if isinstance(generation, int) and not isinstance(generation, bool) else None


def _when_ended(trial: FrozenTrial) -> tuple[datetime, int]:
    """In the order of ends; storages keep times with a zone, or in UTC without."""
    ended = trial.datetime_complete
    if not isinstance(ended, datetime):
        return _LATE, trial.number
    return (ended if ended.tzinfo is not None else ended.replace(tzinfo=UTC)), trial.number
