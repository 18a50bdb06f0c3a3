"""`jorge-tune diagnose`: Jorge's direction against exact Shampoo's, on a recipe's own gradients."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from jorge_tune.cli.cmd_train import read_with_overrides, use_threads
from jorge_tune.cli.options import check_plot, complete_recipe, device_options, share_the_cores
from jorge_tune.cli.output import (
    format_option,
    print_json,
    print_table,
    print_text,
    say,
    tell,
    training_progress,
    write_plot,
)
from jorge_tune.errors import InputError

if TYPE_CHECKING:
    from jorge_tune.diagnose.diagnosis import Diagnosis
    from jorge_tune.recipe.schema import Recipe

_EXIT_CODES = {"finished": 0, "diverged": 3, "interrupted": 130}


@click.command()
@click.argument("recipe", shell_complete=complete_recipe)
@click.option("--steps", type=click.IntRange(min=1), default=200, show_default=True, help="Length of the run.")
@click.option("--every", type=click.IntRange(min=1), default=10, show_default=True, help="Steps between two readings.")
@click.option(
    "--max-side", type=click.IntRange(min=1), default=1024, show_default=True, help="Leave larger blocks out."
)
@click.option("--parameters", metavar="REGEX", help="Read only the parameters whose name matches.")
@click.option(
    "--refreshes",
    type=click.IntRange(min=0),
    default=300,
    show_default=True,
    help="Length of the convex quadratics; 0 leaves them out.",
)
@click.option("--set", "assignments", multiple=True, metavar="KEY=VALUE", help="Replace a value of the Jorge recipe.")
@click.option("--seed", type=click.IntRange(min=0), help="Seed of the run [default: the recipe's].")
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
def diagnose_command(
    recipe: str,
    steps: int,
    every: int,
    max_side: int,
    parameters: str | None,
    refreshes: int,
    assignments: tuple[str, ...],
    seed: int | None,
    device: str,
    threads: int | None,
    download: bool,
    plot: Path | None,
    force: bool,
    output_format: str,
) -> int:
    """Set Jorge's direction against exact Shampoo's, on RECIPE's own gradients along a short run.

    RECIPE is a file or a shipped name; one of SGD or AdamW is bootstrapped first, before --set. L G R, before
    momentum, is compared with what exact roots of the same averages give, with Newton's iteration capped at 1, 2, 4
    and 8 steps, with Shampoo's own averages, and with the gradient; then b2, condition and asymmetry of L, graft
    ratio, spectra of the statistics, and the root's error against the number of refreshes on convex quadratics.
    The run itself is not disturbed, and nothing but the plot is written. Readings take time with the cube of a
    block's side.

    \b
    Example:
      jorge-tune diagnose digits/cnn-sgd --plot diagnosis.html
      jorge-tune diagnose digits/cnn-sgd --set optimizer.form=congruence
    """
    check_plot(plot, force)
    given = read_with_overrides(recipe, (), seed)
    share_the_cores()
    from jorge_tune.diagnose.diagnose import DiagnosisSettings, as_jorge, diagnose
    from jorge_tune.diagnose.observe import BlockChoice

    if threads is not None:
        use_threads(threads)
    choice = BlockChoice(max_side, _pattern(parameters))
    settings = DiagnosisSettings(
        steps=steps, every=every, refreshes=refreshes, choice=choice, device=device, download=download
    )
    wanted, notes = as_jorge(given)
    wanted = _changed(wanted, assignments)
    with training_progress(wanted.name) as progress:
        diagnosis = diagnose(wanted, settings, progress=progress)
    diagnosis = replace(diagnosis, notes=(*notes, *diagnosis.notes))
    if diagnosis.outcome != "finished":
        _say_how_it_ended(diagnosis)
    _show(diagnosis, output_format)
    if plot is not None:
        from jorge_tune.report.report import diagnosis_report

        write_plot(diagnosis_report(diagnosis), plot)
    return _EXIT_CODES[diagnosis.outcome]


def _changed(recipe: Recipe, assignments: tuple[str, ...]) -> Recipe:
    """The Jorge recipe with its overrides; what is to be warned of goes to stderr."""
    from jorge_tune.recipe.checks import warnings_of
    from jorge_tune.recipe.recipe_files import override

    if not assignments:
        return recipe
    changed = override(recipe, assignments)
    for field, what in warnings_of(changed):
        tell(f"{changed.name} with --set: {field}: {what} (warning)")
    return changed


def _pattern(text: str | None) -> re.Pattern[str] | None:
    try:
        return None if text is None else re.compile(text)
    except re.error as error:
        raise InputError(f"--parameters: must be a regular expression, got {text!r} ({error})") from error


def _say_how_it_ended(diagnosis: Diagnosis) -> None:
    from jorge_tune.diagnose.diagnosis_words import outcome_sentence

    tell(f"{diagnosis.recipe}: {outcome_sentence(diagnosis)}")


def _show(diagnosis: Diagnosis, output_format: str) -> None:
    from jorge_tune.diagnose.diagnosis_words import diagnosis_verdict, heading, tables

    lines = diagnosis_verdict(diagnosis)
    if output_format == "json":
        print_json({**diagnosis.to_json(), "verdict": lines})
        return
    print_text(heading(diagnosis))
    for title, table in tables(diagnosis):
        say()
        print_table(table.headings, table.rows, title=title, right=table.right)
    say("\nVerdict")
    print_text("\n".join(lines))
    for note in diagnosis.notes:
        print_text(f"Note: {note}")
