"""`jorge-tune probe`: measure the step length that lowers the loss most, during a recipe's own training."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from jorge_tune.cli.options import (
    check_plot,
    device_options,
    download_option,
    format_option,
    parsed_by,
    plot_option,
    recipe_argument,
    seed_option,
    set_option,
    share_the_cores,
    threads_option,
    use_threads,
)
from jorge_tune.cli.output import print_json, print_table, print_text, say, training_progress, write_plot
from jorge_tune.cli.read_recipe import read_with_overrides
from jorge_tune.errors import EXIT_DIVERGED, EXIT_INTERRUPTED, EXIT_NO_ANSWER, InputError

if TYPE_CHECKING:
    from jorge_tune.probe.probe_result import ProbeResult
    from jorge_tune.recipe.schema import Recipe

_EXIT_CODES = {"diverged": EXIT_DIVERGED, "interrupted": EXIT_INTERRUPTED}


def parse_steps(text: str) -> tuple[int, ...]:
    """Read `0,100,1000` as step numbers.

    Raises:
        InputError: The text is not a list of step numbers.
    """
    try:
        steps = tuple(int(part) for part in text.split(","))
    except ValueError:
        steps = (-1,)
    if min(steps) < 0:
        raise InputError(f"must be step numbers of 0 or more, separated by commas, got {text!r}; write 0,100,1000")
    return steps


@click.command()
@recipe_argument
@click.option(
    "--checkpoint",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="RUN",
    help="Start from the checkpoint of this run directory, which stays unchanged.",
)
@click.option(
    "--at",
    callback=parsed_by(parse_steps),
    metavar="STEPS",
    help="Steps to read, counted from step 0 [default: 0,100,1000 after the start].",
)
@click.option(
    "--points", type=click.Choice(["3", "5"]), default="5", show_default=True, help="Points that the parabola fits."
)
@click.option(
    "--batches", type=click.IntRange(min=1), default=8, show_default=True, help="Fresh batches for each reading."
)
@set_option()
@seed_option("the recipe's, or the checkpoint's")
@device_options()
@threads_option()
@download_option
@plot_option()
@format_option
def probe_command(
    recipe: str,
    checkpoint: Path | None,
    at: tuple[int, ...] | None,
    points: str,
    batches: int,
    assignments: tuple[str, ...],
    seed: int | None,
    device: str,
    threads: int | None,
    download: bool,
    plot: Path | None,
    force: bool,
    output_format: str,
) -> int:
    """Measure the best step length of RECIPE, a file or a shipped name, during its training.

    At each step of --at, the probe reads the loss along the optimizer's own step: on the batch of this step and on
    fresh batches. It fits a parabola to the losses (GeN, Eq. 3.3). The result shows the ratio of the best rate to the
    recipe's rate (lr*/lr) with its interval, the slope, the curvature, the quality of the fit, and a suggestion. The
    best rate for one step on fresh batches is far below rates that train well, so it is not a rate for the recipe.

    The probe writes nothing except the plot, and the readings do not change the training.

    Exit codes: 3 if the training diverged, 4 if the readings support no suggestion, 130 if you interrupted it.

    \b
    Example:
      jorge-tune probe digits/cnn-sgd --at 0,50,150 --plot probe.html
      jorge-tune probe digits/cnn-sgd --checkpoint runs/cnn-sgd/seed-0 --batches 16
    """
    check_plot(plot, force)
    wanted = read_with_overrides(recipe, assignments, seed)
    if checkpoint is not None and seed is None:
        wanted = _with_seed_of(checkpoint, wanted)
    share_the_cores()
    from jorge_tune.probe.probe import ProbeSettings, probe

    use_threads(threads)
    settings = ProbeSettings(at=at, points=int(points), batches=batches, device=device, download=download)
    with training_progress(wanted.name) as progress:
        probed = probe(wanted, settings, checkpoint=checkpoint, progress=progress)
    show(probed, output_format)
    if plot is not None:
        from jorge_tune.reports.report import probe_report

        write_plot(probe_report(probed), plot)
    return exit_code(probed)


def exit_code(probed: ProbeResult) -> int:
    """0 with a suggestion, 4 without one; 3 or 130 if the training diverged or was interrupted."""
    from jorge_tune.probe.probe_result import suggestion

    answered = suggestion(probed.readings).direction is not None
    return _EXIT_CODES.get(probed.outcome, 0 if answered else EXIT_NO_ANSWER)


def show(probed: ProbeResult, output_format: str = "table") -> None:
    """Print a probe."""
    from jorge_tune.probe.probe_words import heading, table, words

    if output_format == "json":
        print_json({**probed.to_json(), "words": words(probed)})
        return
    print_text(heading(probed))
    say()
    cells = table(probed)
    print_table(cells.headings, cells.rows, right=cells.right)
    say()
    print_text("\n".join(words(probed)))
    for note in probed.notes:
        print_text(f"Note: {note}")


def _with_seed_of(run: Path, recipe: Recipe) -> Recipe:
    """The recipe with the seed of a run; unchanged if there is no such run, which the probe reports later."""
    from jorge_tune.recipe.recipe_files import recipe_of_run
    from jorge_tune.records import RunDirectory

    held = RunDirectory(run)
    return replace(recipe, seed=recipe_of_run(held).seed) if os.path.lexists(held.recipe) else recipe
