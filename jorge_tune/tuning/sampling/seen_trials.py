"""A study as Optuna's samplers see it: trials read once, and translated where a sampler cannot take them as they are.

TPE sorts by value, so infinities are just the worst; it knows pruned trials and constraints. A Gaussian process needs
finite numbers and ignores pruned trials, so that it would propose a pruned point again. CMA-ES compares ranks alone,
knows neither pruned trials nor constraints, and cannot read choices.
"""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable, Container, Sequence
from statistics import median
from typing import Any

from optuna.distributions import BaseDistribution, IntDistribution
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState

from jorge_tune.tuning.planning.parameters import ChoiceParameter, Value
from jorge_tune.tuning.planning.space import Space

Translation = Callable[[Sequence[FrozenTrial], bool], list[FrozenTrial]]  # trials, whether less is better

_PIECES = "tpe:relative_params:"
_FARTHEST = 10.0  # times the distance from best to median: a worse value is an outlier that would flatten all others


class SeenStudy:
    """What a sampler asks of a study; trials are read once, when it is made, not from an earlier trial's cache."""

    def __init__(self, study: Study, translate: Translation | None = None) -> None:
        self._storage, self._study_id = study._storage, study._study_id
        self.direction, self.directions = study.direction, study.directions
        trials: list[FrozenTrial] = study.get_trials(deepcopy=False)
        self._trials = translate(trials, study.direction == StudyDirection.MINIMIZE) if translate else trials

    def _get_trials(
        self, deepcopy: bool = True, states: Container[TrialState] | None = None, use_cache: bool = False
    ) -> list[FrozenTrial]:
        return [trial for trial in self._trials if states is None or trial.state in states]

    def _is_multi_objective(self) -> bool:
        return False


def for_tpe(space: Space) -> Translation:
    """Every finished trial that is whole, and running ones whose points, as far as they are known, lie in the space."""

    def translate(trials: Sequence[FrozenTrial], lower: bool) -> list[FrozenTrial]:
        return [
            trial for trial in trials if (_is_whole(trial, space) if _is_finished(trial) else _is_within(trial, space))
        ]

    return translate


def for_gaussian_process(space: Space) -> Translation:
    """Every finished trial with a finite value, pruned ones among them; running trials as they are.

    What is infinite, pruned or an outlier counts as the worst value of the others. Where some trials have a
    constraint, those without one are left out: the sampler refuses a mixture.
    """

    def translate(trials: Sequence[FrozenTrial], lower: bool) -> list[FrozenTrial]:
        finished = [trial for trial in trials if _is_finished(trial) and _is_whole(trial, space)]
        if any(trial.constraints for trial in finished):
            finished = [trial for trial in finished if trial.constraints]
        sign = 1.0 if lower else -1.0
        told = [sign * trial.values[0] if trial.state == TrialState.COMPLETE else math.inf for trial in finished]
        finite = [value for value in told if math.isfinite(value)]
        worst = _worst_worth_telling(finite)
        values = [sign * (value if value < worst else worst) for value in told]
        running = [trial for trial in trials if trial.state == TrialState.RUNNING]
        return [*(_completed(trial, value) for trial, value in zip(finished, values, strict=True)), *running]

    return translate


def for_cmaes(space: Space) -> Translation:
    """Every finished trial with its rank for a value, and choices as places on a line.

    Feasible completed trials come first, by their values; then pruned ones; then those that break the constraint,
    by how much; then infinite ones.
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


def on_a_line(space: Space) -> dict[str, BaseDistribution]:
    """The space for CMA-ES: factors as they are, choices as whole numbers in the order of their list."""
    return {
        p.name: IntDistribution(0, len(p.labels) - 1) if isinstance(p, ChoiceParameter) else p.distribution()
        for p in space
    }


def off_the_line(space: Space, params: dict[str, Any]) -> dict[str, Value]:
    """A point of the space from one of `on_a_line`."""
    return {p.name: p.labels[int(params[p.name])] if isinstance(p, ChoiceParameter) else params[p.name] for p in space}


def _place(parameter: Any, params: dict[str, Any]) -> float | int:
    value = params[parameter.name]
    return parameter.index(value) if isinstance(parameter, ChoiceParameter) else float(value)


def _is_finished(trial: FrozenTrial) -> bool:
    return trial.state in (TrialState.COMPLETE, TrialState.PRUNED)


def _is_whole(trial: FrozenTrial, space: Space) -> bool:
    """Whether a trial carries every parameter of the space, inside it."""
    return all(p.name in trial.params and p.contains(trial.params[p.name]) for p in space)


def _is_within(trial: FrozenTrial, space: Space) -> bool:
    """Whether nothing that a trial carries lies outside the space; a running one has its point in pieces of text."""
    pieces = [value for key, value in trial.system_attrs.items() if key.startswith(_PIECES)]
    known = {parameter.name: parameter for parameter in space}
    try:
        drawn = json.loads("".join(pieces)) if pieces else {}
        point = {**drawn, **trial.params}
        return all(name not in known or known[name].contains(value) for name, value in point.items())
    except ValueError:  # a piece that is being written, which TPE passes over
        return True
    except (OverflowError, RecursionError, TypeError):
        return False


def _completed(trial: FrozenTrial, value: float) -> FrozenTrial:
    seen = copy.copy(trial)
    seen.state, seen.values = TrialState.COMPLETE, [value]
    return seen


def _worst_worth_telling(finite: Sequence[float]) -> float:
    """Of values that are minimised: the largest that is no outlier, 0 where there is none."""
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
