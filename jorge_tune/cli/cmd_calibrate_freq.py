"""`jorge-tune calibrate-freq`: the refresh interval that keeps a step inside its time budget, measured here."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from jorge_tune.cli.calibration_options import (
    EXIT_NO_ANSWER,
    cache_option,
    calibrate,
    calibration_progress,
    overhead_option,
)
from jorge_tune.cli.options import check_plot, complete_recipe, device_options, share_the_cores
from jorge_tune.cli.output import format_option, print_json, print_table, print_text, say, tell, write_plot
from jorge_tune.errors import InputError

if TYPE_CHECKING:
    from jorge_tune.calibrate.calibrate_recipe import RecipeCalibration, RecipeCheck
    from jorge_tune.recipe.schema import Recipe

_BUILT_IN = {"cpu": "cifar10/resnet-small-sgd", "cuda": "cifar10/resnet18-sgd"}  # for those who name no recipe
_BUILT_IN_SIZE = "task.data.args.size=32"  # the small ResNet's images come from a directory that need not be there
_CHECK_EXITS = {"inside": 0, "over": 1, "unstable": EXIT_NO_ANSWER}


@click.command("calibrate-freq")
@click.argument("recipe", required=False, shell_complete=complete_recipe)
@device_options("Where to measure")
@overhead_option
@click.option("--write", is_flag=True, help="Put the interval into RECIPE, with where it was measured.")
@click.option("--check", is_flag=True, help="Measure RECIPE's present interval instead; exit 1 if it is over budget.")
@click.option("--real-data", is_flag=True, help="Take batches from the loader and count its time.")
@click.option("--remeasure", is_flag=True, help="Measure even if the cache has the answer.")
@click.option("--seconds", type=click.FloatRange(min=1), help="How long to measure, about [default: 26].")
@click.option("--threads", type=click.IntRange(min=1), help="CPU threads [default: torch's choice].")
@click.option(
    "--plot",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Draw the curve to FILE.html or FILE.png, or write its numbers to FILE.json.",
)
@click.option("--force", is_flag=True, help="Overwrite an existing plot.")
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
    """Find the smallest refresh interval that keeps RECIPE's step within the budget on this machine.

    SGD's step, the optimizer's without a refresh and with one are measured in turn, on synthetic batches; the
    interval that follows is then run and compared with the prediction. An SGD or AdamW recipe is bootstrapped
    first. The second call answers from a cache. Exit code 4 where there is no answer: infeasible (over budget
    even without a refresh) or unstable (something else runs here).

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
    """What can be refused before anything is read or measured."""
    if write and check:
        raise InputError("--write and --check contradict each other; give one of them")
    if recipe is None and (write or check):
        raise InputError(f"{'--write' if write else '--check'} needs a RECIPE")
    check_plot(plot, force, (".html", ".png", ".json"))


def _read(argument: str | None, device: str, write: bool) -> tuple[Path | None, Recipe]:
    """The recipe as it is calibrated, and its file."""
    from jorge_tune.calibrate.cache import resolve_device
    from jorge_tune.calibrate.calibrate_recipe import calibratable
    from jorge_tune.recipe.recipe_files import load, override, resolve_recipe, shipped_recipes

    kind = resolve_device(device).partition(":")[0]
    path = resolve_recipe(argument or _BUILT_IN[kind])
    loaded = load(path)
    for warning in loaded.warnings:
        tell(f"{warning.located(str(path))} (warning)")
    recipe = calibratable(loaded.recipe)
    bootstrapped = recipe is not loaded.recipe
    if write and bootstrapped:
        name = loaded.recipe.optimizer.name
        raise InputError(
            f"{path}: trains with {name}, which has no refresh interval to write; "
            f"`jorge-tune bootstrap {argument} --calibrate` writes a recipe that has"
        )
    if write and path in shipped_recipes().values():
        raise InputError(f"{path}: is a shipped recipe; copy it first with `jorge-tune recipes cp {argument} FILE`")
    if argument is None:
        tell(f"no RECIPE given: {_BUILT_IN[kind]} is measured")
        recipe = override(recipe, [_BUILT_IN_SIZE]) if kind == "cpu" else recipe
    elif bootstrapped:
        tell(f"{path}: trains with {loaded.recipe.optimizer.name}; its Jorge recipe is measured")
    return path, recipe


def _effort(seconds: float) -> Any:
    from jorge_tune.calibrate.measure import DEFAULT_EFFORT, Effort

    measure, verify = DEFAULT_EFFORT.measure_seconds, DEFAULT_EFFORT.verify_seconds
    return Effort(*(part * seconds / (measure + verify) for part in (measure, verify)))


def _check(recipe: Recipe, request: dict[str, Any], output_format: str) -> int:
    from jorge_tune.calibrate.cache import cache_folder
    from jorge_tune.calibrate.calibrate_recipe import CalibrationRequest, check_recipe

    request["cache"] = cache_folder(request["cache"])
    with calibration_progress() as report:
        checked = check_recipe(recipe, CalibrationRequest(**request), report=report)
    if output_format == "json":
        print_json(_checked_data(checked))
    else:
        say(f"{checked.checked.judgement.outcome}: {checked.checked.judgement.reason}, on {checked.device}")
    return _CHECK_EXITS[checked.checked.judgement.outcome]


def _checked_data(checked: RecipeCheck) -> dict[str, Any]:
    from jorge_tune.calibrate.choose_interval import whole_estimate

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
    from jorge_tune.calibrate.calibration_words import advice, as_data, notes, outcome_sentence, part_table, time_table
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
    if found.choice.outcome != "unstable":  # its figures are not to be read
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
        tell("no plot written: unstable timings make no curve")
    elif plot.suffix == ".png":
        missing = write_pngs({plot: figure_for_picture(measured_cost_figure(found).to_json())})
        tell(missing or f"wrote {plot}")
    else:
        write_plot(calibration_report(found), plot)


def _write(path: Path, recipe: Recipe, found: RecipeCalibration) -> None:
    from jorge_tune.calibrate.calibrate_recipe import with_interval
    from jorge_tune.recipe.recipe_files import write_interval

    kept = write_interval(path, with_interval(recipe, found))
    tell(f"wrote {path}" + ("" if kept else " anew, without its comments"))
