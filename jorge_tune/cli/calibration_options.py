"""What the commands that need a refresh interval share: options, progress, and measuring `auto` before a run."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from jorge_tune.cli.options import parsed_by
from jorge_tune.cli.output import is_talk_on_terminal, tell, tell_over, warn
from jorge_tune.errors import InputError
from jorge_tune.recipe.schema import KroneckerFields, Recipe

if TYPE_CHECKING:
    from jorge_tune.calibration.calibrate_recipe import RecipeCalibration
    from jorge_tune.calibration.measure import CalibrationProgress

F = TypeVar("F", bound=Callable[..., Any])


def cache_option(command: F) -> F:
    """Add `--cache DIR`; the command receives it as `cache`, None where the environment decides."""
    option = click.option(
        "--cache",
        type=click.Path(path_type=Path, file_okay=False),
        metavar="DIR",
        help="Directory of stored measurements [default: JORGE_TUNE_CACHE, XDG_CACHE_HOME/jorge-tune, "
        "~/.cache/jorge-tune].",
    )
    return option(command)


def overhead_option(command: F) -> F:
    """Add `--overhead 10%`; the command receives a fraction."""
    option = click.option(
        "--overhead",
        metavar="PERCENT",
        callback=parsed_by(parse_overhead),
        default="10%",
        show_default=True,
        help="Maximum step-time overhead over the baseline, written as 10% or 0.1.",
    )
    return option(command)


def parse_overhead(text: str) -> float:
    """Read `10%` or `0.1` as a fraction.

    Raises:
        InputError: The text is not a number, out of range, or 1 or more without a percent sign.
    """
    number = text.strip()
    try:
        fraction = float(number.removesuffix("%")) / (100 if number.endswith("%") else 1)
    except ValueError:
        fraction = float("nan")

    if not 0 < fraction <= 10:
        raise InputError(f"must be greater than 0 and at most 1000%, got {text!r}; write 10% or 0.1")
    if fraction >= 1 and not number.endswith("%"):
        raise InputError(f"{text!r} means {100 * fraction:g} %; write {number}% or {100 * fraction:g}%")
    return fraction


@contextmanager
def calibration_progress() -> Iterator[Callable[[CalibrationProgress], None]]:
    """Show a calibration on stderr: a live line on a terminal, else a line per part; gives its callback."""
    live, last = is_talk_on_terminal(), ""

    def show(progress: CalibrationProgress) -> None:
        nonlocal last
        where = f"{progress.part} {progress.done}/{progress.total}" if progress.total else progress.part
        if live:
            tell_over(where)
        elif progress.part != last:
            tell(progress.part)
        last = progress.part

    try:
        yield show
    finally:
        if live and last:
            tell_over("")


def calibrate(recipe: Recipe, **request: Any) -> RecipeCalibration:
    """Calibrate a recipe, with progress and warnings on stderr; `request` holds CalibrationRequest's fields."""
    from jorge_tune.calibration.cache import cache_folder
    from jorge_tune.calibration.calibrate_recipe import CalibrationRequest, calibrate_recipe

    request["cache"] = cache_folder(request.get("cache"))
    with calibration_progress() as report:
        found = calibrate_recipe(recipe, CalibrationRequest(**request), report=report)
    for warning in found.warnings:
        warn(warning)
    return found


def settled(
    recipe: Recipe, held: Recipe | None, assignments: Sequence[str] = (), *, device: str, threads: int | None
) -> Recipe | None:
    """The recipe that will be trained: `refresh_interval: auto` is replaced by a measured interval.

    Warns on stderr about an interval that was measured on another machine; an interval from `--set` has no origin.

    Args:
        recipe: The recipe to train, with the values of `--set`.
        held: The same recipe as an earlier run trained it, which already has an interval; None: no earlier run.
        assignments: The values of `--set`.
        device: The device to train on.
        threads: CPU threads to train with.

    Returns:
        None if the calibration found no interval; stderr says why.
    """
    from jorge_tune.calibration.calibrate_recipe import measured_elsewhere, with_interval
    from jorge_tune.calibration.calibration_words import outcome_sentence
    from jorge_tune.recipe.checks import check_resolved

    section = recipe.optimizer
    if not isinstance(section, KroneckerFields):
        return recipe
    if section.refresh_interval != "auto":
        if any(assignment.startswith("optimizer.refresh_interval=") for assignment in assignments):
            return replace(recipe, calibration=None)
        complaint = measured_elsewhere(recipe, device, threads)
        if complaint:
            warn(complaint)
        return recipe

    if held is not None and isinstance(held.optimizer, KroneckerFields):
        known = replace(section, refresh_interval=held.optimizer.refresh_interval)
        return replace(recipe, optimizer=known, calibration=held.calibration)

    check_resolved(recipe)
    tell("refresh_interval is auto; measuring it first")
    found = calibrate(recipe, device=device, threads=threads)
    tell(outcome_sentence(found))
    if found.choice.interval is None:
        tell(
            "training needs a refresh interval; set one with --set optimizer.refresh_interval=10, or use another recipe"
        )
        return None
    return with_interval(recipe, found)


def held_by(folder: Path) -> Recipe | None:
    """The recipe of a run directory; None if the directory holds no recipe that can be read."""
    from jorge_tune.recipe.recipe_files import recipe_of_run
    from jorge_tune.records import RunDirectory

    try:
        return recipe_of_run(RunDirectory(folder))
    except InputError:
        return None
