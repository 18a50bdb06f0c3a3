"""`jorge-tune diagnose`: compare Jorge's direction with exact Shampoo's, on a recipe's own gradients."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from jorge_tune.cli.options import (
    check_plot,
    device_options,
    download_option,
    format_option,
    plot_option,
    recipe_argument,
    seed_option,
    set_option,
    share_the_cores,
    threads_option,
    use_threads,
)
from jorge_tune.cli.output import print_json, print_table, print_text, say, tell, training_progress, write_plot
from jorge_tune.cli.read_recipe import read_with_overrides, with_overrides
from jorge_tune.errors import EXIT_DIVERGED, EXIT_INTERRUPTED, InputError

if TYPE_CHECKING:
    from jorge_tune.diagnose.diagnosis import Diagnosis

_EXIT_CODES = {"finished": 0, "diverged": EXIT_DIVERGED, "interrupted": EXIT_INTERRUPTED}


@click.command()
@recipe_argument
@click.option("--steps", type=click.IntRange(min=1), default=200, show_default=True, help="Training steps of the run.")
@click.option("--every", type=click.IntRange(min=1), default=10, show_default=True, help="Steps between two readings.")
@click.option(
    "--max-side", type=click.IntRange(min=1), default=1024, show_default=True, help="Skip blocks with a longer side."
)
@click.option("--parameters", metavar="REGEX", help="Read only the parameters with a matching name.")
@click.option(
    "--refreshes",
    type=click.IntRange(min=0),
    default=300,
    show_default=True,
    help="Refreshes on the convex test problems; 0 skips them.",
)
@set_option("Replace a value of the Jorge recipe.")
@seed_option()
@device_options()
@threads_option()
@download_option
@plot_option()
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
    """Compare Jorge's direction with exact Shampoo's during a short run of RECIPE.

    RECIPE is a file or a shipped name. An SGD or AdamW recipe is bootstrapped first; --set then changes the Jorge
    recipe. Each reading compares Jorge's direction L G R, before momentum, with four others: with exact roots of the
    same averages, with roots from 1, 2, 4 and 8 Newton steps, with Shampoo's own averages, and with the gradient. The
    tables also show b2, condition, asymmetry, graft ratio and spectra, and the error of the root after each refresh
    on convex test problems.

    The readings do not change the run, and only --plot writes a file. The cost of a reading grows with the cube of a
    block's side.

    Exit codes: 3 if the run diverged, 130 if you interrupted it.

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

    use_threads(threads)
    choice = BlockChoice(max_side, _pattern(parameters))
    settings = DiagnosisSettings(
        steps=steps, every=every, refreshes=refreshes, choice=choice, device=device, download=download
    )
    wanted, notes = as_jorge(given)
    wanted = with_overrides(wanted, assignments, wanted.name)
    with training_progress(wanted.name) as progress:
        diagnosis = diagnose(wanted, settings, progress=progress)
    diagnosis = replace(diagnosis, notes=(*notes, *diagnosis.notes))
    if diagnosis.outcome != "finished":
        _say_how_it_ended(diagnosis)
    _show(diagnosis, output_format)
    if plot is not None:
        from jorge_tune.reports.report import diagnosis_report

        write_plot(diagnosis_report(diagnosis), plot)
    return _EXIT_CODES[diagnosis.outcome]


def _pattern(text: str | None) -> re.Pattern[str] | None:
    try:
        return None if text is None else re.compile(text)
    except re.error as error:
        raise InputError(f"--parameters must be a regular expression, got {text!r} ({error})") from error


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
