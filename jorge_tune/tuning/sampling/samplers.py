"""Samplers of a study: each draws whole points of the space, with random numbers of its own for every trial.

Optuna's samplers take the search space from earlier trials, and one trial without all parameters leaves them to draw
each parameter alone; here the space is the plan's. They also draw from one stream per sampler, so that workers with
one seed draw the same points; here a sampler is made anew for each trial, seeded by the study and the trial's number.
Nothing is lost by that: TPE keeps no state, CMA-ES makes its own anew from the trials (`cma.py`), and a Gaussian
process fitted from scratch took no longer than one fitted from the last (0.3 s at 60 trials either way).

What the samplers make of a constraint: TPE and GP read it themselves; CMA-ES sees trials that break it ranked behind
all others; random, grid and QMC look at no results.
"""

from __future__ import annotations

import importlib.util
import random
from collections.abc import Callable
from hashlib import sha256
from typing import TYPE_CHECKING, Any

from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, GPSampler, TPESampler

from jorge_tune.errors import InputError
from jorge_tune.tuning.planning.plan import StudyPlan
from jorge_tune.tuning.planning.space import Point, Space
from jorge_tune.tuning.sampling.seen_trials import (
    SeenStudy,
    for_cmaes,
    for_gaussian_process,
    for_tpe,
    off_the_line,
    on_a_line,
)

if TYPE_CHECKING:
    from optuna.study import Study
    from optuna.trial import FrozenTrial

Draw = Callable[["Study", "FrozenTrial", int], Point | None]  # None: too few trials to learn from

_NEEDS = {"gp": ("scipy", "torch"), "cmaes": ("cmaes",), "qmc": ("scipy",), "wilcoxon": ("scipy",)}
_MOST_STARTUP_TRIALS = 10  # Optuna's own number
_FIXED = "fixed_params"  # Optuna's mark of an enqueued trial


def build_sampler(plan: StudyPlan) -> SpaceSampler:
    """The plan's sampler, fit for any number of workers.

    Raises:
        InputError: a package that it needs is not installed.
    """
    require_packages(plan.sampler)
    makers: dict[str, Callable[[StudyPlan], Draw]] = {
        "tpe": _tpe, "gp": _gp, "cmaes": _cmaes, "random": _random, "grid": _grid, "qmc": _qmc,
    }  # fmt: skip
    return SpaceSampler(plan.space, plan.sampler_seed, makers[plan.sampler](plan))


def require_packages(method: str) -> None:
    """Refuse a sampler or pruner whose packages are missing.

    Raises:
        InputError: with the pip line.
    """
    missing = [name for name in _NEEDS.get(method, ()) if importlib.util.find_spec(name) is None]
    if missing:
        raise InputError(f"{method} needs {' and '.join(missing)}: pip install 'jorge-tune[samplers]'")


def seed_of(study_seed: int, trial_number: int) -> int:
    """A trial's own seed, between 0 and 2^32 - 1; no two of 2^32 trials of a study share one.

    The number alone tells trials apart, whoever draws them: two workers never draw from one stream, and a trial that is
    drawn again draws the same. Every step of the mixing can be undone, so different numbers stay different.
    """
    offset = int.from_bytes(sha256(str(study_seed).encode()).digest()[:4], "big")
    mixed = (trial_number + offset) % 2**32
    for factor in (0x7FEB352D, 0x846CA68B):  # odd, hence invertible modulo 2^32
        mixed = ((mixed ^ (mixed >> 16)) * factor) % 2**32
    return mixed ^ (mixed >> 16)


class SpaceSampler(BaseSampler):
    """Draws all parameters of the plan's space together, for every trial; never one alone."""

    def __init__(self, space: Space, seed: int, draw: Draw) -> None:
        self._space, self._seed, self._draw = space, seed, draw

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """The plan's space, whatever earlier trials hold."""
        return self._space.distributions()

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """A point; a random one where there are too few trials to learn from. Factors in few digits."""
        seed = seed_of(self._seed, trial.number)
        point = self._draw(study, trial, seed) or _random_point(self._space, seed)
        return {parameter.name: parameter.readable(point[parameter.name]) for parameter in self._space}

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """Never asked for: every parameter is of the space, and every point has all of them."""
        raise AssertionError(f"{param_name} is not a parameter of this study's space, {param_distribution}")


def startup_trials(plan: StudyPlan) -> int:
    """How many trials are drawn at random before a sampler learns: a quarter of the study, at most 10."""
    return min(_MOST_STARTUP_TRIALS, max(len(plan.space) + 1, plan.trials // 4))


def _random_point(space: Space, seed: int) -> Point:
    numbers = random.Random(seed)
    return space.at([numbers.random() for _ in space])


def _random(plan: StudyPlan) -> Draw:
    return lambda study, trial, seed: None


def _tpe(plan: StudyPlan) -> Draw:
    """All parameters in one density; running trials count as bad ones, so that workers keep apart."""
    space, startup = plan.space.distributions(), startup_trials(plan)
    translate = for_tpe(plan.space)

    def draw(study: Study, trial: FrozenTrial, seed: int) -> Point | None:
        sampler = TPESampler(seed=seed, n_startup_trials=startup, multivariate=True, constant_liar=True)
        return _relative(sampler, SeenStudy(study, translate), trial, space)

    return draw


def _gp(plan: StudyPlan) -> Draw:
    space, startup = plan.space.distributions(), startup_trials(plan)
    translate = for_gaussian_process(plan.space)

    def draw(study: Study, trial: FrozenTrial, seed: int) -> Point | None:
        sampler = GPSampler(seed=seed, n_startup_trials=startup)
        return _relative(sampler, SeenStudy(study, translate), trial, space)

    return draw


def _cmaes(plan: StudyPlan) -> Draw:
    """It adds the trial's number to a draw from its seed, which is the study's for all: with a seed for each trial, two
    of them could come to one sum.
    """
    space, translate = on_a_line(plan.space), for_cmaes(plan.space)

    def draw(study: Study, trial: FrozenTrial, seed: int) -> Point | None:
        from jorge_tune.tuning.sampling.cma import draw_by_cma

        place = draw_by_cma(SeenStudy(study, translate), trial, space, seed_of(plan.sampler_seed, 0))
        return off_the_line(plan.space, place) if place else None

    return draw


def _grid(plan: StudyPlan) -> Draw:
    """The grid in a random order. Trial 0 is its first point, the bootstrap."""
    _, *points = plan.space.grid()
    random.Random(plan.sampler_seed).shuffle(points)
    return lambda study, trial, seed: points[_turn(study, trial) % len(points)] if points else None


def _qmc(plan: StudyPlan) -> Draw:
    """Sobol's sequence, scrambled by the study's seed."""

    def draw(study: Study, trial: FrozenTrial, seed: int) -> Point:
        from scipy.stats.qmc import Sobol

        sequence = Sobol(len(plan.space), scramble=True, seed=plan.sampler_seed)
        if (turn := _turn(study, trial)) > 0:
            sequence.fast_forward(turn)
        return plan.space.at([float(position) for position in sequence.random(1)[0]])

    return draw


def _turn(study: Study, trial: FrozenTrial) -> int:
    """How many trials before this one took the next point of a sequence; enqueued ones brought their own.

    Earlier trials are in the storage when a later one is made, so that workers need not agree on anything.
    """
    earlier = study._storage.get_all_trials(study._study_id, deepcopy=False)
    return sum(other.number < trial.number and _FIXED not in other.system_attrs for other in earlier)


def _relative(
    sampler: BaseSampler, study: SeenStudy, trial: FrozenTrial, space: dict[str, BaseDistribution]
) -> Point | None:
    """What one of Optuna's samplers draws for the whole space at once."""
    return sampler.sample_relative(study, trial, space) or None  # type: ignore[arg-type]
