"""`jorge-tune probe`: how long the recipe's own steps should be for the loss, and what that means."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from jorge_tune.cli.calibration_options import EXIT_NO_ANSWER
from jorge_tune.cli.cmd_train import read_with_overrides, use_threads
from jorge_tune.cli.options import check_plot, complete_recipe, device_options, share_the_cores
from jorge_tune.cli.output import format_option, print_json, print_table, print_text, say, training_progress, write_plot
from jorge_tune.config.ranges import LARGEST_SEED

if TYPE_CHECKING:
    from jorge_tune.probe.probe_result import ProbeResult
    from jorge_tune.recipe.schema import Recipe

_EXIT_CODES = {"diverged": 3, "interrupted": 130}


def parse_steps(context: click.Context, option: click.Parameter, text: str | None) -> tuple[int, ...] | None:
    """`0,100,1000` as numbers."""
    if text is None:
        return None
    try:
        steps = tuple(int(part) for part in text.split(","))
    except ValueError:
        steps = (-1,)
    if min(steps) < 0:
        raise click.BadParameter(f"must be numbers of steps, 0 or more, with commas between, got {text!r}")
    return steps


@click.command()
@click.argument("recipe", shell_complete=complete_recipe)
@click.option(
    "--checkpoint",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="RUN",
    help="Start from the checkpoint of this run of RECIPE; its directory is only read.",
)
@click.option(
    "--at",
    callback=parse_steps,
    metavar="STEPS",
    help="Steps done before the one that is read [default: 0,100,1000 from where it starts].",
)
@click.option("--points", type=click.Choice(["3", "5"]), default="5", show_default=True, help="Points on the line.")
@click.option("--batches", type=click.IntRange(min=1), default=8, show_default=True, help="Fresh batches.")
@click.option("--set", "assignments", multiple=True, metavar="KEY=VALUE", help="Replace a value; may be repeated.")
@click.option(
    "--seed", type=click.IntRange(0, LARGEST_SEED), help="Seed of the run [default: the recipe's, or the checkpoint's]."
)
@device_options()
@click.option("--threads", type=click.IntRange(min=1), help="CPU threads [default: torch's choice].")
@click.option("--download", is_flag=True, help="Fetch a torchvision data set that is not there.")
@click.option(
    "--plot",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write all figures and tables to FILE.html, or the same numbers to FILE.json.",
)
@click.option("--force", is_flag=True, help="Overwrite an existing plot.")
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
    """Measure the best length of RECIPE's own steps, along its own training, and leave no trace.

    RECIPE is a file or a shipped name. At each asked step the loss is read along the optimizer's own step, on the
    step's own batch and on fresh ones, and a parabola fitted (GeN, Eq. 3.3). Printed are lr*/lr with resampled
    intervals, slope, curvature, how good the fit is, what follows, and what does not: the greedy optimum on fresh
    batches lies far below rates that train well. Where the readings support no suggestion the exit code is 4.

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

    if threads is not None:
        use_threads(threads)
    settings = ProbeSettings(at=at, points=int(points), batches=batches, device=device, download=download)
    with training_progress(wanted.name) as progress:
        probed = probe(wanted, settings, checkpoint=checkpoint, progress=progress)
    show(probed, output_format)
    if plot is not None:
        from jorge_tune.report.report import probe_report

        write_plot(probe_report(probed), plot)
    return exit_code(probed)


def exit_code(probed: ProbeResult) -> int:
    """0 with a suggestion, 4 without; 3 or 130 where the training diverged or was stopped."""
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
    """The recipe with the seed of a run's; as it is where there is no such run, which is refused later."""
    from jorge_tune.recipe.recipe_files import recipe_of_run
    from jorge_tune.records import RunDirectory

    held = RunDirectory(run)
    return replace(recipe, seed=recipe_of_run(held).seed) if os.path.lexists(held.recipe) else recipe
