"""`jorge-tune calibrate-freq`: measure the refresh interval that keeps a step within its time budget."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from jorge_tune.cli.calibration_options import cache_option, calibrate, calibration_progress, overhead_option
from jorge_tune.cli.options import (
    check_plot,
    complete_recipe,
    device_options,
    format_option,
    plot_option,
    share_the_cores,
    threads_option,
)
from jorge_tune.cli.output import print_json, print_table, print_text, say, tell, warn_of_recipe, write_plot
from jorge_tune.errors import EXIT_NO_ANSWER, InputError

if TYPE_CHECKING:
    from jorge_tune.calibration.calibrate_recipe import RecipeCalibration, RecipeCheck
    from jorge_tune.recipe.schema import Recipe

_BUILT_IN = {"cpu": "cifar10/resnet-small-sgd", "cuda": "cifar10/resnet18-sgd"}  # used if the user names no recipe
_BUILT_IN_SIZE = "task.data.args.size=32"  # the image directory of the small ResNet may be missing
_CHECK_EXITS = {"inside": 0, "over": 1, "unstable": EXIT_NO_ANSWER}
_PLOT_ENDINGS = (".html", ".png", ".json")


@click.command("calibrate-freq")
@click.argument("recipe", required=False, shell_complete=complete_recipe)
@device_options("Device to measure on")
@overhead_option
@click.option("--write", is_flag=True, help="Write the interval, and the machine that measured it, into RECIPE.")
@click.option("--check", is_flag=True, help="Measure the interval that RECIPE has; exit 1 if it is over the budget.")
@click.option("--real-data", is_flag=True, help="Use batches of the recipe's data, and count the loading time.")
@click.option("--remeasure", is_flag=True, help="Measure again even if the cache has the answer.")
@click.option("--seconds", type=click.FloatRange(min=1), help="Approximate measuring time [default: 26].")
@threads_option()
@plot_option(_PLOT_ENDINGS)
@cache_option
@format_option
def calibrate_freq_command(
    recipe: str | None,
    device: str,
    overhead: float,
    write: bool,
    check: bool,
    real_data: bool,
    remeasure: bool,
    seconds: float | None,
    threads: int | None,
    plot: Path | None,
    force: bool,
    cache: Path | None,
    output_format: str,
) -> int:
    """Measure the smallest refresh interval that keeps RECIPE's step within the time budget.

    The command times three kinds of steps on synthetic batches: SGD's step, and the optimizer's step with and without
    a refresh. It computes the interval, runs it, and compares the time with the prediction. An SGD or AdamW recipe is
    bootstrapped first. The next call on this machine answers from the cache.

    Exit codes: 4 if there is no answer. The answer is infeasible if the step is over the budget even without a
    refresh, and unstable if other work on the machine disturbs the timings.

    \b
    Example:
      jorge-tune calibrate-freq cifar10/resnet-small-sgd --device cpu
      jorge-tune calibrate-freq jorge.yaml --gpu --write
    """
    _check_arguments(recipe, write, check, plot, force)
    path, wanted = _read(recipe, device, write)
    share_the_cores()
    request = {"device": device, "overhead": overhead, "threads": threads, "real_data": real_data, "cache": cache}
    if seconds is not None:
        request["effort"] = _effort(seconds)
    if check:
        return _check(wanted, request, output_format)
    found = calibrate(wanted, **request, remeasure=remeasure)
    _show(found, output_format)
    if plot is not None:
        _draw(found, plot)
    if write and path is not None and found.choice.interval is not None:
        _write(path, wanted, found)
    return 0 if found.choice.outcome == "interval" else EXIT_NO_ANSWER


def _check_arguments(recipe: str | None, write: bool, check: bool, plot: Path | None, force: bool) -> None:
    """Refuse wrong options before anything is read or measured."""
    if write and check:
        raise InputError("--write and --check contradict each other; give one of them")
    if recipe is None and (write or check):
        raise InputError(f"{'--write' if write else '--check'} needs a RECIPE")
    check_plot(plot, force, _PLOT_ENDINGS)


def _read(argument: str | None, device: str, write: bool) -> tuple[Path | None, Recipe]:
    """The path of the recipe, and the recipe that will be calibrated."""
    from jorge_tune.calibration.cache import resolve_device
    from jorge_tune.calibration.calibrate_recipe import calibratable
    from jorge_tune.recipe.recipe_files import load, override, resolve_recipe, shipped_recipes

    kind = resolve_device(device).partition(":")[0]
    path = resolve_recipe(argument or _BUILT_IN[kind])
    loaded = load(path)
    warn_of_recipe(loaded.warnings, path)
    recipe = calibratable(loaded.recipe)
    bootstrapped = recipe is not loaded.recipe
    if write and bootstrapped:
        name = loaded.recipe.optimizer.name
        raise InputError(
            f"{path}: trains with {name}, which has no refresh interval; "
            f"`jorge-tune bootstrap {argument} --calibrate` writes a recipe with one"
        )
    if write and path in shipped_recipes().values():
        copy = f"`jorge-tune recipes cp {argument} FILE`"
        raise InputError(f"{path}: is a shipped recipe, which --write does not change; copy it first with {copy}")
    if argument is None:
        tell(f"no RECIPE given; measuring {_BUILT_IN[kind]}")
        recipe = override(recipe, [_BUILT_IN_SIZE]) if kind == "cpu" else recipe
    elif bootstrapped:
        tell(f"{path}: trains with {loaded.recipe.optimizer.name}; measuring the Jorge recipe that follows from it")
    return path, recipe


def _effort(seconds: float) -> Any:
    from jorge_tune.calibration.measure import DEFAULT_EFFORT, Effort

    measure, verify = DEFAULT_EFFORT.measure_seconds, DEFAULT_EFFORT.verify_seconds
    return Effort(*(part * seconds / (measure + verify) for part in (measure, verify)))


def _check(recipe: Recipe, request: dict[str, Any], output_format: str) -> int:
    from jorge_tune.calibration.cache import cache_folder
    from jorge_tune.calibration.calibrate_recipe import CalibrationRequest, check_recipe

    request["cache"] = cache_folder(request["cache"])
    with calibration_progress() as report:
        checked = check_recipe(recipe, CalibrationRequest(**request), report=report)
    if output_format == "json":
        print_json(_checked_data(checked))
    else:
        say(f"{checked.checked.judgement.outcome}: {checked.checked.judgement.reason}, on {checked.device}")
    return _CHECK_EXITS[checked.checked.judgement.outcome]


def _checked_data(checked: RecipeCheck) -> dict[str, Any]:
    from jorge_tune.calibration.choose_interval import whole_estimate

    judgement, ran = checked.checked.judgement, checked.checked.verification
    return {
        "outcome": judgement.outcome,
        "reason": judgement.reason,
        "recipe": checked.recipe.name,
        "interval": checked.interval,
        "overhead": checked.overhead,
        "device": checked.device,
        "ratio": vars(judgement.ratio),
        "whole_ratio": vars(whole_estimate(ran)),
        "baseline_seconds": ran.reference,
        "step_seconds": ran.mean_step,
        "longest_step_seconds": ran.longest_step,
    }


def _show(found: RecipeCalibration, output_format: str) -> None:
    from jorge_tune.calibration.calibration_words import (
        advice,
        as_data,
        notes,
        outcome_sentence,
        part_table,
        time_table,
    )
    from jorge_tune.reports.text_plot import interval_curve

    if output_format == "json":
        print_json(as_data(found))
        return
    print_text(outcome_sentence(found))
    helpful = advice(found)
    if helpful:
        say("What would help:")
        for line in helpful:
            print_text(f"- {line}")
    if found.choice.outcome != "unstable":  # then its numbers mean nothing
        for table in (time_table(found), part_table(found)):
            say()
            print_table(table.headings, table.rows, right=table.right)
        say()
        say(interval_curve(found))
    say()
    for note in notes(found):
        print_text(f"Note: {note}")


def _draw(found: RecipeCalibration, plot: Path) -> None:
    from jorge_tune.reports.of_measurements import measured_cost_figure
    from jorge_tune.reports.page import figure_for_picture
    from jorge_tune.reports.png import write_pngs
    from jorge_tune.reports.report import calibration_report

    if found.choice.outcome == "unstable":
        tell("no plot written, because unstable timings make no curve")
    elif plot.suffix == ".png":
        missing = write_pngs({plot: figure_for_picture(measured_cost_figure(found).to_json())})
        tell(missing or f"wrote {plot}")
    else:
        write_plot(calibration_report(found), plot)


def _write(path: Path, recipe: Recipe, found: RecipeCalibration) -> None:
    from jorge_tune.calibration.calibrate_recipe import with_interval
    from jorge_tune.recipe.recipe_files import write_interval

    kept = write_interval(path, with_interval(recipe, found))
    tell(f"wrote {path}" + ("" if kept else "; its comments are lost"))
