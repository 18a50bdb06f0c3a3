"""What the commands that need a refresh interval share: options, progress, and settling `auto` before a run."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from jorge_tune.cli.output import is_talk_on_terminal, tell, tell_over
from jorge_tune.errors import InputError
from jorge_tune.recipe.schema import KroneckerFields, Recipe

if TYPE_CHECKING:
    from jorge_tune.calibrate.calibrate_recipe import RecipeCalibration
    from jorge_tune.calibrate.measure import CalibrationProgress

EXIT_NO_ANSWER = 4

F = TypeVar("F", bound=Callable[..., Any])


def cache_option(command: F) -> F:
    """Add `--cache DIR`; the command receives it as `cache`, None where the environment decides."""
    option = click.option(
        "--cache",
        type=click.Path(path_type=Path, file_okay=False),
        help="Where measurements are kept [default: JORGE_TUNE_CACHE, XDG_CACHE_HOME/jorge-tune, ~/.cache/jorge-tune].",
    )
    return option(command)


def overhead_option(command: F) -> F:
    """Add `--overhead 10%`; the command receives a fraction."""
    option = click.option(
        "--overhead",
        callback=parse_overhead,
        default="10%",
        show_default=True,
        help="Maximum step-time overhead over the baseline, as 10% or 0.1.",
    )
    return option(command)


def parse_overhead(ctx: click.Context | None, param: click.Parameter | None, value: str) -> float:
    """`10%` or `0.1` as a fraction."""
    text = value.strip()
    try:
        fraction = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        fraction = float("nan")
    if not 0 < fraction <= 10:
        rule = "must be greater than 0 and at most 1000%, written as 10% or 0.1"
        raise click.BadParameter(f"{value!r} {rule}", ctx, param)
    if fraction >= 1 and not text.endswith("%"):
        raise click.BadParameter(f"{value!r} is {100 * fraction:g} %; write {text}% if that is not meant", ctx, param)
    return fraction


@contextmanager
def calibration_progress() -> Iterator[Callable[[CalibrationProgress], None]]:
    """A callback for a calibration: a live line on a terminal, a line per part off it."""
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
    """Calibrate a recipe with progress and warnings on stderr; `request` as for `instrument.Request`."""
    from jorge_tune.calibrate.cache import cache_folder
    from jorge_tune.calibrate.calibrate_recipe import CalibrationRequest, calibrate_recipe

    request["cache"] = cache_folder(request.get("cache"))
    with calibration_progress() as report:
        found = calibrate_recipe(recipe, CalibrationRequest(**request), report=report)
    for warning in found.warnings:
        tell(f"{warning} (warning)")
    return found


def settled(
    recipe: Recipe, held: Recipe | None, assignments: Sequence[str] = (), *, device: str, threads: int | None
) -> Recipe | None:
    """The recipe as it can be trained: `refresh_interval: auto` measured, unless it is known already.

    Warns on stderr of an interval that was measured elsewhere; one that was just given by hand has no origin.

    Args:
        recipe: what to train, the assignments made.
        held: the same recipe as it was trained before, whose interval is kept; None: it never was.
        assignments: what `--set` gave.
        device: where to train.
        threads: CPU threads asked for.

    Returns:
        None where `auto` has no answer; it was said on stderr.
    """
    from jorge_tune.calibrate.calibrate_recipe import measured_elsewhere, with_interval
    from jorge_tune.calibrate.calibration_words import outcome_sentence
    from jorge_tune.recipe.checks import check_resolved

    section = recipe.optimizer
    if not isinstance(section, KroneckerFields):
        return recipe
    if section.refresh_interval != "auto":
        if any(assignment.startswith("optimizer.refresh_interval=") for assignment in assignments):
            return replace(recipe, calibration=None)
        complaint = measured_elsewhere(recipe, device, threads)
        if complaint:
            tell(f"{complaint} (warning)")
        return recipe
    if held is not None and isinstance(held.optimizer, KroneckerFields):
        known = replace(section, refresh_interval=held.optimizer.refresh_interval)
        return replace(recipe, optimizer=known, calibration=held.calibration)
    check_resolved(recipe)
    tell("refresh_interval: auto is measured first")
    found = calibrate(recipe, device=device, threads=threads)
    tell(outcome_sentence(found))
    if found.choice.interval is None:
        tell("give a number (--set optimizer.refresh_interval=10), or a recipe that is feasible")
        return None
    return with_interval(recipe, found)


def held_by(folder: Path) -> Recipe | None:
    """The recipe of the run that a directory holds; None where it holds none that can be read."""
    from jorge_tune.recipe.recipe_files import recipe_of_run
    from jorge_tune.records import RunDirectory

    try:
        return recipe_of_run(RunDirectory(folder))
    except InputError:
        return None
