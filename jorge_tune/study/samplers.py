"""Samplers and pruners of a study. A sampler draws whole points of the space, with its own random numbers per trial.

Optuna's samplers take the search space from earlier trials, and if one of these lacks a parameter, they draw each
parameter alone. Ours take the space from the plan. Optuna's also draw from one stream per sampler, so that workers with
equal seeds draw equal points. Ours are made anew for each trial, seeded by the study and the trial's number. Nothing is
lost by that: TPE keeps no state, CMA-ES is rebuilt from the trials (`draw_by_cma`), and to fit a Gaussian process from
scratch took no longer than to fit it from the last one (0.3 s at 60 trials either way).

TPE and GP read a constraint themselves. CMA-ES gets trials that break it ranked behind all others. Random, grid and QMC
look at no results.
"""

from __future__ import annotations

import copy
import importlib.util
import json
import math
import random
import warnings
from collections import defaultdict
from collections.abc import Callable, Container, Mapping, Sequence
from datetime import UTC, datetime
from hashlib import sha256
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np
from optuna.distributions import BaseDistribution, IntDistribution
from optuna.exceptions import ExperimentalWarning
from optuna.pruners import BasePruner, HyperbandPruner, MedianPruner, NopPruner, SuccessiveHalvingPruner, WilcoxonPruner
from optuna.samplers import BaseSampler, GPSampler, TPESampler
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState

from jorge_tune.errors import InputError
from jorge_tune.study.estimate import evaluations_of
from jorge_tune.study.plan import StudyPlan
from jorge_tune.study.space import ChoiceParameter, Point, SearchSpace, Value
from jorge_tune.study.storage.optuna_private import SearchSpaceTransform, storage_of, study_id_of, trial_id_of

if TYPE_CHECKING:
    from cmaes import CMA
    from optuna.storages import BaseStorage

Draw = Callable[["Study", "FrozenTrial", int], Point | None]  # None if there are too few trials to learn from

_NEEDS = {"gp": ("scipy", "torch"), "cmaes": ("cmaes",), "qmc": ("scipy",), "wilcoxon": ("scipy",)}
_MOST_STARTUP_TRIALS = 10  # Optuna's own number
_FIXED = "fixed_params"  # Optuna's mark of an enqueued trial


def build_sampler(plan: StudyPlan) -> SpaceSampler:
    """The plan's sampler, for any number of workers.

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
        InputError: a package is missing; the message has the pip command.
    """
    missing = [name for name in _NEEDS.get(method, ()) if importlib.util.find_spec(name) is None]
    if missing:
        raise InputError(f"{method} needs {' and '.join(missing)}: pip install 'jorge-tune[samplers]'")


def seed_of(study_seed: int, trial_number: int) -> int:
    """A trial's own seed, between 0 and 2^32 - 1; all of 2^32 trials of a study have different seeds.

    The seed follows from the trial's number, and not from the worker. So two workers never draw from one stream, and a
    trial that is drawn again draws the same point. Every step of the mixing can be undone, so that different numbers
    give different seeds.
    """
    offset = int.from_bytes(sha256(str(study_seed).encode()).digest()[:4], "big")
    mixed = (trial_number + offset) % 2**32
    for factor in (0x7FEB352D, 0x846CA68B):  # odd, hence invertible modulo 2^32
        mixed = ((mixed ^ (mixed >> 16)) * factor) % 2**32
    return mixed ^ (mixed >> 16)


class SpaceSampler(BaseSampler):
    """Draws all parameters of the plan's space together for every trial, never one parameter alone."""

    def __init__(self, space: SearchSpace, seed: int, draw: Draw) -> None:
        self._space, self._seed, self._draw = space, seed, draw

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """The plan's space, whatever parameters earlier trials have."""
        return self._space.distributions()

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """A point, with few digits per factor; a random one if there are too few trials to learn from."""
        seed = seed_of(self._seed, trial.number)
        point = self._draw(study, trial, seed) or _random_point(self._space, seed)
        return {parameter.name: parameter.readable(point[parameter.name]) for parameter in self._space}

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """Never called, since every point has all parameters of the space."""
        raise AssertionError(f"{param_name} is not a parameter of this study's space, {param_distribution}")


def startup_trials(plan: StudyPlan) -> int:
    """The number of random trials before a sampler learns: a quarter of the study, and at most 10."""
    return min(_MOST_STARTUP_TRIALS, max(len(plan.space) + 1, plan.trials // 4))


def _random_point(space: SearchSpace, seed: int) -> Point:
    numbers = random.Random(seed)
    return space.at([numbers.random() for _ in space])


def _random(plan: StudyPlan) -> Draw:
    return lambda study, trial, seed: None


def _tpe(plan: StudyPlan) -> Draw:
    """All parameters in one density; running trials count as bad ones, so that workers draw different points."""
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
    """The seed is the study's for all trials, since CMA-ES adds the trial's number to a draw from it.

    With a seed for each trial, two trials could have the same sum.
    """
    space, translate = on_a_line(plan.space), for_cmaes(plan.space)

    def draw(study: Study, trial: FrozenTrial, seed: int) -> Point | None:
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
    """How many earlier trials took a point of the sequence; enqueued trials did not, since they have their own.

    Earlier trials are in the storage before a later one is made, so that workers need not agree on anything.
    """
    earlier = storage_of(study).get_all_trials(study_id_of(study), deepcopy=False)
    return sum(other.number < trial.number and _FIXED not in other.system_attrs for other in earlier)


def _relative(
    sampler: BaseSampler, study: SeenStudy, trial: FrozenTrial, space: dict[str, BaseDistribution]
) -> Point | None:
    """A point that one of Optuna's samplers draws for the whole space at once."""
    return sampler.sample_relative(study, trial, space) or None  # type: ignore[arg-type]


GENERATION = "cma:generation"
"""System attribute of a trial, named as by Optuna, so that a study that began with its sampler continues."""
_RESAMPLINGS = 10  # times the number of parameters, as in Optuna
_LEAST_SIGMA = 1e-10
_LATE = datetime.max.replace(tzinfo=UTC)


def draw_by_cma(
    study: SeenStudy, trial: FrozenTrial, space: Mapping[str, BaseDistribution], seed: int
) -> dict[str, Any] | None:
    """Draw a point by CMA-ES; None while no trial has ended.

    Args:
        study: its trials have all parameters of `space`, inside it.
        trial: the trial to draw for; it keeps the number of its generation.
        space: of numbers only.
        seed: the study's, the same for every trial; the trial's number is added to a draw from it.
    """
    ended = study.trials_in((TrialState.COMPLETE,))
    if not ended or not space:
        return None

    transform = SearchSpaceTransform(dict(space), transform_step=True, transform_0_1=True)
    numbers = np.random.RandomState(seed)
    optimizer = _fresh(transform.bounds, numbers)
    sign = 1.0 if study.direction == StudyDirection.MINIMIZE else -1.0
    _add_generations(optimizer, ended, transform, sign)

    # Optuna's sampler then finds its optimizer stored, and draws no seed for a first one; so the stream begins again.
    if any(_generation_of(one) for one in ended):
        numbers = np.random.RandomState(seed)
    optimizer.reseed_rng(numbers.randint(1, 2**16) + trial.number)
    place = optimizer.ask()
    study.storage.set_trial_system_attr(trial_id_of(trial), GENERATION, optimizer.generation)
    return dict(transform.untransform(place))


def _fresh(bounds: np.ndarray[Any, Any], numbers: np.random.RandomState) -> CMA:
    """CMA-ES before its first generation: in the middle of the space, and a sixth of it wide."""
    from cmaes import CMA

    low, high = bounds[:, 0], bounds[:, 1]
    return CMA(
        mean=low + (high - low) / 2,
        sigma=max(float(np.min((high - low) / 6)), _LEAST_SIGMA),
        bounds=bounds,
        seed=numbers.randint(1, 2**31 - 2),
        n_max_resampling=_RESAMPLINGS * len(bounds),
    )


def _add_generations(
    optimizer: CMA, ended: Sequence[FrozenTrial], transform: SearchSpaceTransform, sign: float
) -> None:
    """Give CMA-ES every complete generation, one after another."""
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
    """Sorts trials by their end; storages keep times with a zone, or without one in UTC."""
    ended = trial.datetime_complete
    if not isinstance(ended, datetime):
        return _LATE, trial.number
    return (ended if ended.tzinfo is not None else ended.replace(tzinfo=UTC)), trial.number


Translation = Callable[[Sequence[FrozenTrial], bool], list[FrozenTrial]]  # of trials, and whether lower is better

_PIECES = "tpe:relative_params:"
_FARTHEST = (
    10.0  # times the distance from best to median: a value beyond it is an outlier, which would flatten all others
)


class SeenStudy:
    """A study as a sampler sees it, with trials translated for it; they are read once, and not from an old cache."""

    def __init__(self, study: Study, translate: Translation | None = None) -> None:
        self._storage, self._study_id = storage_of(study), study_id_of(study)
        self.direction, self.directions = study.direction, study.directions
        trials: list[FrozenTrial] = study.get_trials(deepcopy=False)
        self._trials = translate(trials, study.direction == StudyDirection.MINIMIZE) if translate else trials

    @property
    def storage(self) -> BaseStorage:
        """Where it is."""
        return self._storage

    def trials_in(self, states: Container[TrialState]) -> list[FrozenTrial]:
        """Its trials in those states."""
        return self._get_trials(states=states)

    def _get_trials(
        self, deepcopy: bool = True, states: Container[TrialState] | None = None, use_cache: bool = False
    ) -> list[FrozenTrial]:
        return [trial for trial in self._trials if states is None or trial.state in states]

    def _is_multi_objective(self) -> bool:
        return False


def for_tpe(space: SearchSpace) -> Translation:
    """Finished trials with all parameters, and running trials whose known parameters are inside the space."""

    def translate(trials: Sequence[FrozenTrial], lower: bool) -> list[FrozenTrial]:
        return [
            trial for trial in trials if (_is_whole(trial, space) if _is_finished(trial) else _is_within(trial, space))
        ]

    return translate


def for_gaussian_process(space: SearchSpace) -> Translation:
    """Finished trials with finite values, and running trials as they are.

    Infinite values, outliers and pruned trials get the worst value of the others. If some trials have a constraint,
    those without one are left out, since the sampler refuses a mixture.
    """

    def translate(trials: Sequence[FrozenTrial], lower: bool) -> list[FrozenTrial]:
        finished = [trial for trial in trials if _is_finished(trial) and _is_whole(trial, space)]
        if any(trial.constraints for trial in finished):
            finished = [trial for trial in finished if trial.constraints]

        sign = 1.0 if lower else -1.0
        losses = [sign * trial.values[0] if trial.state == TrialState.COMPLETE else math.inf for trial in finished]
        worst = _worst_without_outliers([loss for loss in losses if math.isfinite(loss)])
        values = [sign * (loss if loss < worst else worst) for loss in losses]

        running = [trial for trial in trials if trial.state == TrialState.RUNNING]
        return [*(_completed(trial, value) for trial, value in zip(finished, values, strict=True)), *running]

    return translate


def for_cmaes(space: SearchSpace) -> Translation:
    """Finished trials with their ranks as values, and choices as positions on a line.

    Feasible completed trials rank first, by their values. Then come pruned trials, then those that break the
    constraint, by how much they do, and last those with infinite values.
    """

    def translate(trials: Sequence[FrozenTrial], lower: bool) -> list[FrozenTrial]:
        finished = [trial for trial in trials if _is_finished(trial) and _is_whole(trial, space)]
        ordered = sorted(finished, key=lambda trial: _rank(trial, lower))
        ranks = {trial.number: float(rank) for rank, trial in enumerate(ordered)}

        seen = []
        for trial in finished:
            placed = _completed(trial, ranks[trial.number] if lower else -ranks[trial.number])
            placed.params = {parameter.name: _place(parameter, trial.params) for parameter in space}
            seen.append(placed)
        return seen

    return translate


def on_a_line(space: SearchSpace) -> dict[str, BaseDistribution]:
    """The space for CMA-ES: factors as they are, choices as whole numbers in the order of their list."""
    return {
        p.name: IntDistribution(0, len(p.labels) - 1) if isinstance(p, ChoiceParameter) else p.distribution()
        for p in space
    }


def off_the_line(space: SearchSpace, params: dict[str, Any]) -> dict[str, Value]:
    """A point of the space from one of `on_a_line`."""
    return {p.name: p.labels[int(params[p.name])] if isinstance(p, ChoiceParameter) else params[p.name] for p in space}


def _place(parameter: Any, params: dict[str, Any]) -> float | int:
    value = params[parameter.name]
    return parameter.index(value) if isinstance(parameter, ChoiceParameter) else float(value)


def _is_finished(trial: FrozenTrial) -> bool:
    return trial.state in (TrialState.COMPLETE, TrialState.PRUNED)


def _is_whole(trial: FrozenTrial, space: SearchSpace) -> bool:
    """Whether a trial has every parameter of the space, inside its range."""
    return all(p.name in trial.params and p.contains(trial.params[p.name]) for p in space)


def _is_within(trial: FrozenTrial, space: SearchSpace) -> bool:
    """Whether no parameter of a trial is outside the space; a running trial has its point as pieces of text."""
    pieces = [value for key, value in trial.system_attrs.items() if key.startswith(_PIECES)]
    known = {parameter.name: parameter for parameter in space}
    try:
        drawn = json.loads("".join(pieces)) if pieces else {}
        point = {**drawn, **trial.params}
        return all(name not in known or known[name].contains(value) for name, value in point.items())
    except ValueError:  # a piece is being written, and TPE skips the trial
        return True
    except (OverflowError, RecursionError, TypeError):
        return False


def _completed(trial: FrozenTrial, value: float) -> FrozenTrial:
    seen = copy.copy(trial)
    seen.state, seen.values = TrialState.COMPLETE, [value]
    return seen


def _worst_without_outliers(finite: Sequence[float]) -> float:
    """The largest value that is not an outlier, of values that are minimised; 0 if there are none."""
    if not finite:
        return 0.0

    best, middle = min(finite), median(finite)
    limit = middle + _FARTHEST * (middle - best) if middle > best else math.inf
    return min(limit, max(finite))


def _rank(trial: FrozenTrial, lower: bool) -> tuple[int, float, int]:
    excess = sum(value for value in trial.constraints.values() if value > 0)
    value = trial.values[0] if trial.state == TrialState.COMPLETE else 0.0
    if not math.isfinite(value):
        return (3, 0.0, trial.number)
    if excess > 0:
        return (2, excess, trial.number)
    if trial.state == TrialState.PRUNED:
        return (1, 0.0, trial.number)
    return (0, value if lower else -value, trial.number)


_REDUCTION = 3
_RUNGS = 2  # of successive halving before the end of a run: at a ninth and at a third


def build_pruner(plan: StudyPlan, steps_per_epoch: int | None = None) -> BasePruner:
    """The plan's pruner.

    Args:
        plan: the study.
        steps_per_epoch: optimizer steps in an epoch, from which follows how often a recipe in steps is evaluated.
            Without it, halving learns that from the first completed trial.

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
                warnings.simplefilter("ignore", ExperimentalWarning)  # experimental since 3.6, unchanged in Optuna 5
                return FiniteWilcoxonPruner()
        case _:
            return NopPruner()


class FiniteWilcoxonPruner(WilcoxonPruner):
    """Optuna's Wilcoxon pruner, without its warnings: a trial with an infinite value is not pruned."""

    def prune(self, study: Study, trial: FrozenTrial) -> bool:
        """Whether the trial is worse than the best one, seed by seed."""
        try:
            best = study.best_trial.intermediate_values
        except ValueError:  # no trial has completed, or none is feasible
            return False
        values = [*trial.intermediate_values.values(), *best.values()]
        comparable = set(trial.intermediate_values) <= set(best)
        return comparable and all(map(math.isfinite, values)) and super().prune(study, trial)
