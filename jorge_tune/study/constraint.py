"""The constraint on iteration time, from one exclusive calibration per device, block size, precision and batch size.

A trial's step costs `time(k) = plain + refresh / k` iterations of the baseline, for its refresh interval k (see
`calibration.choose_interval`). The study keeps what was measured, for every worker on such a device. A worker for whose
device it is missing measures it before its first trial, alone on the machine.
"""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from jorge_tune.calibration.cache import facts_of, fingerprint_of, resolve_device
from jorge_tune.config.ranges import NotNegative, Positive
from jorge_tune.errors import InputError, JorgeTuneError, shortened
from jorge_tune.recipe.recipe_files import parse_recipe, render_recipe
from jorge_tune.recipe.schema import KroneckerFields, Recipe
from jorge_tune.recipe.user_code import NO_PLACES, CodePlaces, restricted_to
from jorge_tune.study.jobs.client import environment_for_torch
from jorge_tune.study.plan import StudyPlan
from jorge_tune.study.space import ChoiceParameter, FactorParameter, trained_interval, trained_warm_refreshes
from jorge_tune.study.stored_plan import read_stored
from jorge_tune.study.study import OpenStudy
from jorge_tune.untrusted import must_be, shown

COST, KEPT = "jorge:cost:", "jorge:constraint"

# Fields of the optimizer, and of the recipe, on which the cost of a step depends.
_OPTIMIZER_WORK = (
    *("block_size", "form", "series_terms", "product_precision", "root", "root_iterations", "rank"),
    *("statistics_interval", "graft", "nesterov"),
)
_RECIPE_WORK = ("precision", "batch_size")
_MOST_KINDS = 24


@dataclass(frozen=True)
class Cost:
    """One calibration, in iterations of the baseline, which take `base_seconds`; with the outcome and its reason."""

    plain: float
    refresh: float
    base_seconds: float
    device: str
    outcome: Literal["interval", "infeasible", "unstable"]
    reason: str

    def at(self, interval: int) -> float:
        """time(k), for k = interval."""
        return self.plain + self.refresh / interval

    def seconds(self, steps: int, interval: int, warm: int) -> float:
        """The seconds of the first so many steps, of which the first `warm` refresh everything."""
        refreshes = min(steps, warm) + max(steps - warm, 0) / interval
        return self.base_seconds * (steps * self.plain + refreshes * self.refresh)


@dataclass(frozen=True, kw_only=True)
class _StoredCost:
    """A cost as a study stores it."""

    plain: Positive
    refresh: NotNegative
    base_seconds: Positive
    device: str
    outcome: Literal["interval", "infeasible", "unstable"]
    reason: str


@dataclass(frozen=True)
class WantedCost:
    """A recipe to calibrate, the key of its cost, and in words how it differs from the others."""

    key: str
    recipe: Recipe
    what: str


Calibrate = Callable[[Recipe, str, int | None, float], Cost | None]


def stored_costs(attributes: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """The readable costs among a study's system attributes, by their keys; `unread_costs` names the others."""
    stored = {name.removeprefix(COST): value for name, value in attributes.items() if name.startswith(COST)}
    return {key: value for key, value in stored.items() if _why_no_cost(value) is None}


def unread_costs(attributes: Mapping[str, Any]) -> list[str]:
    """A sentence for each attribute of a study's calibration that cannot be read."""
    costs = {name: _why_no_cost(value) for name, value in attributes.items() if name.startswith(COST)}
    faults = [f"its attribute {shown(name)} cannot be read ({why})" for name, why in costs.items() if why is not None]

    kept = attributes.get(KEPT)
    if kept is not None and not (isinstance(kept, dict) and isinstance(kept.get("dropped"), str)):
        faults.append(must_be(f"its attribute {KEPT}", "a section with the reason", kept))
    return faults


def why_dropped(attributes: Mapping[str, Any]) -> str | None:
    """Why a study with these system attributes has dropped its constraint; None if it has not."""
    kept = attributes.get(KEPT)
    reason = kept.get("dropped") if isinstance(kept, dict) else None
    return reason if isinstance(reason, str) else None


def _why_no_cost(value: object) -> str | None:
    try:
        read_stored(_StoredCost, value)
    except InputError as error:
        return str(error)
    return None


def are_mixed(plan: StudyPlan, attributes: Mapping[str, Any]) -> bool:
    """Whether a study holds costs of more than one device or number of threads."""
    return len(stored_costs(attributes)) > sum(1 for _ in _kinds(plan))


class IterationTimes:
    """The costs of a study's trials on one worker's device.

    Args:
        opened: the study.
        device: the worker's.
        threads: the CPU threads of its runs.
        code: where it takes the code from that recipes name.
    """

    def __init__(self, opened: OpenStudy, *, device: str, threads: int | None, code: CodePlaces = NO_PLACES) -> None:
        self._opened, self._plan, self._threads, self._code = opened, opened.plan, threads, code
        self._device = resolve_device(device) if self._plan.overhead is not None else device
        self._costs: dict[str, Cost] = {}
        self._keys: dict[Any, str] = {}
        self.dropped: str | None = None  # why the study has dropped its constraint
        self.look_up()

    def look_up(self) -> None:
        """Read the costs that the study has.

        Raises:
            InputError: one of them cannot be read.
        """
        if self._plan.overhead is None:
            return

        attributes = self._opened.storage.get_study_system_attrs(self._opened.study_id)
        if faults := unread_costs(attributes):
            raise InputError(
                f"study {self._plan.name}: {shortened(faults)}; another program wrote there; start a new study"
            )
        self.dropped = why_dropped(attributes)
        self._costs = {key: Cost(**value) for key, value in stored_costs(attributes).items()}

    def missing(self) -> list[WantedCost]:
        """The costs to calibrate before this worker's first trial."""
        if self._plan.overhead is None or self.dropped is not None:
            return []
        if (what := _not_countable(self._plan)) is not None:
            self._drop(what)
            return []

        wanted = {self._key(recipe): WantedCost(self._key(recipe), recipe, what) for recipe, what in _kinds(self._plan)}
        if len(wanted) > _MOST_KINDS:
            self._drop(f"{len(wanted)} kinds of steps would have to be calibrated; at most {_MOST_KINDS} can be")
            return []
        return [one for key, one in wanted.items() if key not in self._costs]

    def measure(self, calibrate: Calibrate, report: Callable[[str], None] = lambda text: None) -> None:
        """Calibrate what is missing, store it in the study, and decide whether the constraint can be kept.

        Args:
            calibrate: measures one recipe, while nothing else may run; None if it was interrupted.
            report: receives sentences on the progress.
        """
        wanted = self.missing()
        for number, one in enumerate(wanted, start=1):
            report(f"calibrating {one.what} on {self._device} ({number} of {len(wanted)})")
            assert self._plan.overhead is not None
            cost = calibrate(one.recipe, self._device, self._threads, self._plan.overhead)
            if cost is None:
                return
            report(f"{one.what}: {cost.reason}")
            self._opened._set(COST + one.key, asdict(cost))
            self._costs[one.key] = cost
        if wanted:
            self._decide(report)

    def ratio(self, recipe: Recipe) -> float | None:
        """A trial's iteration time in iterations of the baseline; None if it is not known."""
        cost, interval = self._cost(recipe), _interval(recipe)
        return None if cost is None or interval is None else cost.at(interval)

    def excess(self, recipe: Recipe) -> float | None:
        """How far the ratio is above the budget (at most 0 if it is kept); None if there is no constraint."""
        ratio = self.ratio(recipe)
        if ratio is None or self._plan.overhead is None or self.dropped is not None:
            return None
        return ratio - (1 + self._plan.overhead)

    def training_seconds(self, recipe: Recipe) -> Callable[[int], float] | None:
        """Gives the calibrated seconds of a run's first so many steps; None if measured seconds count."""
        cost, interval, optimizer = self._cost(recipe), _interval(recipe), recipe.optimizer
        if cost is None or self.dropped is not None:
            return None
        if not isinstance(optimizer, KroneckerFields):
            return lambda steps: steps * cost.base_seconds
        if interval is None:
            return None
        return lambda steps: cost.seconds(steps, interval, trained_warm_refreshes(optimizer))

    def _cost(self, recipe: Recipe) -> Cost | None:
        if self._plan.overhead is None:
            return None
        cost = self._costs.get(self._key(recipe))
        return None if cost is None or cost.outcome == "unstable" else cost

    def _key(self, recipe: Recipe) -> str:
        """The fingerprint of what the step's cost depends on; all other values are those of the bootstrap."""
        costed = _costed(self._plan.recipe, recipe)
        work = tuple(getattr(costed.optimizer, name, None) for name in _OPTIMIZER_WORK)
        known = (work, costed.precision, costed.batch_size)
        if known not in self._keys:
            here = restricted_to(costed, self._code)
            self._keys[known] = fingerprint_of(facts_of(here, self._device, threads=self._threads))
        return self._keys[known]

    def _decide(self, report: Callable[[str], None]) -> None:
        """Drop the constraint unless every cost is known and some point of the space keeps the budget."""
        here = {self._key(recipe): what for recipe, what in _kinds(self._plan)}
        unstable = [what for key, what in here.items() if self._costs[key].outcome == "unstable"]
        if unstable:
            self._drop(f"the calibration of {', '.join(unstable)} was unstable", report)
        elif not any((self.excess(recipe) or 0) <= 0 for recipe in _with_intervals(self._plan)):
            self._drop("no refresh interval of the space keeps the budget", report)

    def _drop(self, why: str, report: Callable[[str], None] = lambda text: None) -> None:
        self.dropped = why
        report(f"the study continues without its constraint on the iteration time: {why}")
        self._opened._set(KEPT, {"dropped": why})


def _interval(recipe: Recipe) -> int | None:
    if not isinstance(recipe.optimizer, KroneckerFields):
        return None
    interval = trained_interval(recipe.optimizer)
    return interval if isinstance(interval, int) else None


def _costed(centre: Recipe, recipe: Recipe) -> Recipe:
    """The bootstrapped recipe with those values of another one on which the cost of a step depends."""
    work = {name: getattr(recipe.optimizer, name) for name in _OPTIMIZER_WORK if hasattr(recipe.optimizer, name)}
    optimizer: Any = replace(centre.optimizer, **work)
    return replace(centre, optimizer=optimizer, precision=recipe.precision, batch_size=recipe.batch_size)


def _is_work(path: str) -> bool:
    return path in _RECIPE_WORK or path.rpartition(".")[2] in _OPTIMIZER_WORK


def _not_countable(plan: StudyPlan) -> str | None:
    """Why the kinds of steps in a space cannot be listed; None if they can."""
    endless = [p.path for p in plan.space if isinstance(p, FactorParameter) and _is_work(p.path)]
    if not endless:
        return None
    return f"{endless[0]} is searched as a factor, so its steps cannot all be calibrated; give choices"


def _kinds(plan: StudyPlan) -> Iterator[tuple[Recipe, str]]:
    """The recipes to calibrate, each with words for how it differs from the others."""
    axes = [p for p in plan.space if isinstance(p, ChoiceParameter) and _is_work(p.path)]
    for labels in itertools.product(*(axis.labels for axis in axes)):
        chosen = {axis.name: label for axis, label in zip(axes, labels, strict=True)}
        recipe = _recipe_at(plan, chosen)
        if recipe is not None:
            what = ", ".join(f"{axis.path} {json.dumps(chosen[axis.name])}" for axis in axes)
            yield _costed(plan.recipe, recipe), what or "the bootstrapped recipe"


def _with_intervals(plan: StudyPlan) -> Iterator[Recipe]:
    """Every kind of step at every interval that may be drawn (of a factor, at both ends)."""
    axes = [p for p in plan.space if _is_work(p.path) or p.path.endswith(".refresh_interval")]
    for values in itertools.product(*(axis.ends() for axis in axes)):
        recipe = _recipe_at(plan, {axis.name: value for axis, value in zip(axes, values, strict=True)})
        if recipe is not None:
            yield recipe


def _recipe_at(plan: StudyPlan, changes: Mapping[str, Any]) -> Recipe | None:
    try:
        return plan.space.recipe_of({**plan.space.bootstrap_point(), **changes})
    except InputError:  # the rules of recipes refuse the combination; such a trial fails with that message
        return None


_LOOK_SECONDS = 0.25


def calibrate_apart(
    recipe: Recipe,
    device: str,
    threads: int | None,
    overhead: float,
    *,
    wait: Callable[[float], bool],
    code: CodePlaces = NO_PLACES,
) -> Cost | None:
    """Measure a recipe's step in a fresh process, or find it in the cache of measurements.

    Args:
        recipe: a jorge, shampoo or sketchy recipe with a task.
        device: from `resolve_device`.
        threads: CPU threads; None: torch's choice.
        overhead: the budget as a fraction.
        wait: waits for so many seconds; if it returns True, the measurement ends without a cost.
        code: where to take the code from that the recipe names.

    Raises:
        InputError: the recipe cannot be calibrated here.
        JorgeTuneError: the process died.
    """
    request = {
        "recipe": render_recipe(recipe),
        "device": device,
        "threads": threads,
        "overhead": overhead,
        "code": code,
    }
    with (
        tempfile.TemporaryFile("w+") as request_file,
        tempfile.TemporaryFile("w+") as answer_file,
        tempfile.TemporaryFile("w+") as log,
    ):
        request_file.write(json.dumps(request))
        request_file.seek(0)
        process = subprocess.Popen(
            [sys.executable, "-m", "jorge_tune.study.constraint"],
            stdin=request_file,
            stdout=answer_file,
            stderr=log,
            env=environment_for_torch(),  # as for runs: how idle threads wait changes the cost of a refresh
            start_new_session=True,  # Ctrl-C goes to the waiting process alone
        )

        while process.poll() is None:
            if wait(_LOOK_SECONDS):
                process.kill()
                process.wait()
                return None

        answer_file.seek(0)
        log.seek(0)
        return _cost(answer_file.read(), log.read() or f"exit code {process.returncode}")


def _cost(answer_text: str, log: str) -> Cost:
    try:
        answer = json.loads(answer_text)
    except ValueError:
        raise JorgeTuneError(f"the calibration failed: {log.strip().splitlines()[-1]}") from None
    if "input_error" in answer:
        raise InputError(answer["input_error"])
    return Cost(**answer)


def main() -> None:
    """Measure the request on stdin, and write the cost to stdout."""
    request = json.loads(sys.stdin.read())
    try:
        answer = asdict(_measured(request))
    except InputError as error:
        answer = {"input_error": str(error)}
    sys.stdout.write(json.dumps(answer) + "\n")


def _measured(request: dict[str, Any]) -> Cost:
    from jorge_tune.calibration.calibrate_recipe import CalibrationRequest, calibrate_recipe
    from jorge_tune.calibration.choose_interval import step_cost

    recipe = parse_recipe(request["recipe"], "the study's recipe").recipe
    recipe = restricted_to(recipe, CodePlaces(*map(tuple, request["code"])))
    wanted = CalibrationRequest(overhead=request["overhead"], device=request["device"], threads=request["threads"])
    calibrated = calibrate_recipe(recipe, wanted)
    cost = step_cost(calibrated.measurements.rounds, calibrated.measurements.pools)
    choice = calibrated.choice
    return Cost(cost.plain, cost.refresh, cost.base_seconds, calibrated.profile.device, choice.outcome, choice.reason)


if __name__ == "__main__":
    main()
