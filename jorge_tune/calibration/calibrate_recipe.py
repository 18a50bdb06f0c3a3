"""The refresh interval of a recipe: from the cache if it was measured under the same facts, else measured now.

torch is imported only when something has to be measured.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from jorge_tune.calibration.cache import (
    CacheEntry,
    Calibratable,
    cache_folder,
    calibrated_section,
    facts_of,
    fingerprint_of,
    keep,
    look_up,
    resolve_device,
    today,
)
from jorge_tune.calibration.choose_interval import IntervalChoice, choose_interval
from jorge_tune.calibration.input_shapes import input_in_words, training_steps
from jorge_tune.calibration.measure import (
    DEFAULT_EFFORT,
    Calibration,
    Effort,
    IntervalCheck,
    Report,
    calibrate,
    check,
)
from jorge_tune.calibration.timings import Iteration, Measurements, Profile
from jorge_tune.errors import InputError
from jorge_tune.recipe.bootstrap import bootstrap
from jorge_tune.recipe.checks import has_model, untrainable_because
from jorge_tune.recipe.schema import AdamWSection, CalibrationSection, Recipe, SGDSection

if TYPE_CHECKING:
    from jorge_tune.calibration.bench import TrainingBench

Result = TypeVar("Result")


@dataclass(frozen=True)
class CalibrationRequest:
    """What to measure, where, and how long.

    Attributes:
        overhead: The budget as a fraction of the baseline's iteration, > 0.
        device: auto, cpu, cuda or cuda:<n>.
        threads: The number of CPU threads; None is the environment's or torch's choice.
        real_data: Take batches from the loader, and count its time.
        remeasure: Measure even if the cache has an answer.
        cache: The directory of the cache.
        effort: How long to measure.
    """

    overhead: float = 0.1
    device: str = "auto"
    threads: int | None = None
    real_data: bool = False
    remeasure: bool = False
    cache: Path = field(default_factory=cache_folder)
    effort: Effort = DEFAULT_EFFORT


@dataclass(frozen=True)
class RecipeCalibration:
    """The interval of a recipe, or why there is none, with everything that it rests on."""

    recipe: Recipe
    overhead: float
    choice: IntervalChoice
    measurements: Measurements
    profile: Profile
    fingerprint: str
    facts: Mapping[str, Any]
    measured_on: str
    from_cache: bool
    training_steps: int | None
    warnings: tuple[str, ...] = ()

    @property
    def section(self) -> Calibratable:
        """The optimizer section of the recipe."""
        return calibrated_section(self.recipe)


@dataclass(frozen=True)
class RecipeCheck:
    """Whether the present interval of a recipe keeps within the budget."""

    recipe: Recipe
    interval: int
    overhead: float
    checked: IntervalCheck
    device: str


def calibratable(recipe: Recipe) -> Recipe:
    """The recipe itself, or the Jorge recipe bootstrapped from an SGD or AdamW recipe."""
    return bootstrap(recipe).recipe if isinstance(recipe.optimizer, (SGDSection, AdamWSection)) else recipe


def calibrate_recipe(
    recipe: Recipe, request: CalibrationRequest, *, report: Report = lambda progress: None
) -> RecipeCalibration:
    """Answer from the cache, or measure and store the measurements unless they were unstable.

    Args:
        recipe: A jorge, shampoo or sketchy recipe with a task.
        request: What to measure, where and how.
        report: Called with the progress of a measurement.

    Raises:
        InputError: the recipe cannot be calibrated, there is no such device, or the batch does not fit.
    """
    check_overhead(request.overhead)
    device = resolve_device(request.device)
    facts = facts_of(recipe, device, threads=request.threads, real_data=request.real_data)
    fingerprint = fingerprint_of(facts)

    warnings: list[str] = []
    if not request.remeasure:
        entry, warning = look_up(request.cache, fingerprint)
        warnings += [warning] if warning else []
        choice = entry and _answer(entry.measurements, request.overhead)
        if entry and choice:
            return _recipe_calibration(recipe, request, entry, choice, from_cache=True, warnings=warnings)

    def work(bench: TrainingBench) -> tuple[Calibration, Profile]:
        measured = calibrate(bench, request.overhead, effort=request.effort, report=report)
        return measured, _profile(recipe, bench, measured.parts)

    (measured, profile), used = _on_bench(recipe, request, device, work)
    if used != device:  # there is a driver, but torch cannot use it
        facts = facts_of(recipe, used, threads=request.threads, real_data=request.real_data)
    entry = CacheEntry(fingerprint_of(facts), facts, today(), measured.measurements, profile)

    if measured.choice.outcome != "unstable":
        unwritten = keep(request.cache, entry)
        warnings += [unwritten] if unwritten else []
    return _recipe_calibration(recipe, request, entry, measured.choice, from_cache=False, warnings=warnings)


def check_recipe(recipe: Recipe, request: CalibrationRequest, *, report: Report = lambda progress: None) -> RecipeCheck:
    """Run the recipe's present interval and judge it, without the cache.

    Raises:
        InputError: as `calibrate_recipe`, or the recipe has no interval yet (`auto`).
    """
    check_overhead(request.overhead)
    section = calibrated_section(recipe)
    if section.refresh_interval == "auto":
        raise InputError(
            "optimizer.refresh_interval must be a number, got 'auto'; run calibrate-freq with --write first"
        )
    input_in_words(recipe)  # refuses a recipe without an iteration, before torch is loaded

    def work(bench: TrainingBench) -> RecipeCheck:
        interval = bench.interval
        checked = check(bench, interval, request.overhead, effort=request.effort, report=report)
        return RecipeCheck(recipe, interval, request.overhead, checked, bench.device)

    checked, _ = _on_bench(recipe, request, resolve_device(request.device), work)
    return checked


def with_interval(recipe: Recipe, calibrated: RecipeCalibration) -> Recipe:
    """The recipe with its calibrated interval, and a note where it was measured."""
    assert calibrated.choice.interval is not None
    section = replace(calibrated_section(recipe), refresh_interval=calibrated.choice.interval)
    origin = CalibrationSection(
        fingerprint=calibrated.fingerprint, device=calibrated.profile.device, overhead=calibrated.overhead
    )
    return replace(recipe, optimizer=section, calibration=origin)


def measured_elsewhere(recipe: Recipe, device: str = "auto", threads: int | None = None) -> str | None:
    """A warning if the recipe's interval was measured under other facts than those here; else None.

    No warning if the device cannot be used: the caller reports that.
    """
    if recipe.calibration is None or not isinstance(recipe.optimizer, Calibratable):
        return None

    interval = recipe.optimizer.refresh_interval
    if not isinstance(interval, int) or not has_model(recipe) or untrainable_because(recipe) is not None:
        return None
    try:
        here = resolve_device(device)
    except InputError:
        return None

    known = {fingerprint_of(facts_of(recipe, here, threads=threads, real_data=real)) for real in (False, True)}
    if recipe.calibration.fingerprint in known:
        return None
    return (
        f"refresh_interval {interval} was measured under other conditions: on {recipe.calibration.device}, or with "
        "another model, batch size, precision, version or number of threads. Measure it here with `jorge-tune "
        "calibrate-freq RECIPE --write`"
    )


def check_overhead(overhead: float) -> None:
    """Refuse a budget of nothing.

    Raises:
        InputError: it is not greater than 0.
    """
    if not overhead > 0:
        raise InputError(f"overhead must be greater than 0, got {overhead!r}")


def _answer(measurements: Measurements, overhead: float) -> IntervalChoice | None:
    """The choice from stored measurements; None if another run is needed."""
    choice = choose_interval(measurements, overhead)
    if choice.outcome == "unstable" or (choice.interval and measurements.verified(choice.interval) is None):
        return None
    return choice


def _recipe_calibration(
    recipe: Recipe,
    request: CalibrationRequest,
    entry: CacheEntry,
    choice: IntervalChoice,
    *,
    from_cache: bool,
    warnings: list[str],
) -> RecipeCalibration:
    return RecipeCalibration(
        recipe=recipe,
        overhead=request.overhead,
        choice=choice,
        measurements=entry.measurements,
        profile=entry.profile,
        fingerprint=entry.fingerprint,
        facts=entry.facts,
        measured_on=entry.measured_on,
        from_cache=from_cache,
        training_steps=training_steps(recipe),
        warnings=tuple(warnings),
    )


def _on_bench(
    recipe: Recipe, request: CalibrationRequest, device: str, work: Callable[[TrainingBench], Result]
) -> tuple[Result, str]:
    """The result of `work` on a bench, and the device: the processor if `auto` named a GPU that torch cannot use."""
    import torch

    from jorge_tune.calibration.bench import on_bench
    from jorge_tune.training.device import choose_device

    if request.device == "auto" and device != "cpu" and not torch.cuda.is_available():
        device = "cpu"
    if request.threads is not None:
        torch.set_num_threads(request.threads)
    return on_bench(recipe, choose_device(device), work, real_data=request.real_data), device


def _profile(recipe: Recipe, bench: TrainingBench, parts: Mapping[str, Iteration]) -> Profile:
    return Profile(parts, bench.memory, bench.device, input_in_words(recipe))
