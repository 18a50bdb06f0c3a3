"""`jorge-tune demo`: go from a tuned SGD recipe to a verdict on real data, in about a minute."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import click

from jorge_tune.cli.cmd_compare import print_comparison, report_progress
from jorge_tune.cli.options import device_options, seeds_option, share_the_cores
from jorge_tune.cli.output import as_json, print_table, say, tell
from jorge_tune.errors import EXIT_INTERRUPTED, InputError

if TYPE_CHECKING:
    from jorge_tune.compare.comparison import Comparison
    from jorge_tune.recipe.bootstrap import BootstrapResult
    from jorge_tune.recipe.derivation import Derivation
    from jorge_tune.recipe.schema import Recipe

_SOURCE = "digits/cnn-sgd"
_TITLE = "SGD, its control and Jorge on scikit-learn's digits"
_PAGE, _TWIN = "comparison.html", "comparison.json"


class Trio(NamedTuple):
    """The three contenders: the tuned recipe, its control, and the bootstrapped recipe."""

    sgd: Recipe
    control: Recipe
    bootstrapped: BootstrapResult


@click.command()
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    default="jorge-tune-demo",
    show_default=True,
    metavar="DIR",
    help="Directory for recipes, runs and report; finished runs in it are reused.",
)
@seeds_option("0-2")
@click.option("--epochs", type=click.IntRange(min=1), help="Epochs of each run [default: the recipe's].")
@device_options()
def demo_command(out: Path, seeds: tuple[int, ...], epochs: int | None, device: str) -> int:
    """Race SGD, a control and Jorge on scikit-learn's digits, and print the verdict.

    The demo bootstraps the shipped recipe digits/cnn-sgd. The control is SGD with Jorge's schedule and decoupled
    decay. The table, the verdict and the curves are computed from the runs, so Jorge may lose. The demo downloads
    nothing.

    \b
    Example:
      jorge-tune demo
    """
    share_the_cores()
    from jorge_tune.compare.comparison import compare
    from jorge_tune.compare.race import RaceSettings, run_race
    from jorge_tune.compare.run_directories import Contender

    trio = _make_recipes(epochs)
    _write_recipes(out, trio)
    say(f"From {_SOURCE} to Jorge: what changes, and why\n")
    rows = [_row(derivation) for derivation in trio.bootstrapped.derivations if derivation.changed]
    print_table(["field", "sgd", "jorge", "why"], rows)
    tell(f"\nRacing three recipes on {len(seeds)} seeds ...")
    contenders = [
        Contender("sgd", trio.sgd),
        Contender("control", trio.control),
        Contender("jorge", trio.bootstrapped.recipe),
    ]
    settings = RaceSettings(device, threads=1)  # more threads make such a small model slower
    race = run_race(contenders, seeds, out / "runs", settings=settings, report=report_progress)
    if race.interrupted:
        tell("interrupted; run the same command again to resume the race")
        return EXIT_INTERRUPTED
    comparison = compare(race.contenders)
    say("")
    print_comparison(comparison, "table")
    _draw(comparison, out)
    return 0


def _make_recipes(epochs: int | None) -> Trio:
    from jorge_tune.recipe.bootstrap import bootstrap, control
    from jorge_tune.recipe.recipe_files import read_recipe, resolve_recipe

    sgd = read_recipe(resolve_recipe(_SOURCE))
    if epochs is not None:
        sgd = replace(sgd, epochs=epochs, steps=None)
    made = bootstrap(sgd)
    return Trio(sgd, control(made.recipe), made)


def _write_recipes(out: Path, trio: Trio) -> None:
    """Write sgd.yaml, control.yaml and jorge.yaml with its reasons; refuse to overwrite a file that differs."""
    jorge = trio.bootstrapped
    _write_recipe(out / "sgd.yaml", trio.sgd)
    _write_recipe(out / "control.yaml", trio.control)
    _write_recipe(out / "jorge.yaml", jorge.recipe, jorge.derivations)


def _write_recipe(path: Path, recipe: Recipe, derivations: Sequence[Derivation] = ()) -> None:
    from jorge_tune.recipe.recipe_files import read_recipe, write_recipe

    if path.exists():
        if read_recipe(path) != recipe:
            raise InputError(
                f"{path}: is not the recipe that this demo writes (edited, or other --epochs); give another --out"
            )
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{path.parent}: cannot be created ({error.strerror}); give another --out") from error
    write_recipe(path, recipe, derivations)


def _row(derivation: Derivation) -> list[str]:
    from jorge_tune.recipe.render import scalar

    values = ["-" if value is None else scalar(value) for value in (derivation.before, derivation.after)]
    why = derivation.rule + (f": {derivation.formula}" if derivation.formula else "")
    return [derivation.field, *values, why + (f" ({derivation.source})" if derivation.source else "")]


def _draw(comparison: Comparison, out: Path) -> None:
    """Print the curves, write the report as a page and as JSON, and print where the files are."""
    from jorge_tune.compare.curves import AXIS_TITLES
    from jorge_tune.files import write_whole
    from jorge_tune.reports.page import report_page
    from jorge_tune.reports.report import runs_report
    from jorge_tune.reports.text_plot import race_curves

    for axis in AXIS_TITLES:
        say("\n" + race_curves(comparison, axis))

    twin = replace(runs_report(comparison), title=_TITLE).to_json()
    write_whole(out / _PAGE, report_page(twin), force=True, make_folders=True)
    write_whole(out / _TWIN, as_json(twin, indent=1) + "\n", force=True)
    say(f"\nreport: {out / _PAGE}, numbers: {out / _TWIN}")
    say(f"recipes: {out / 'sgd.yaml'}, {out / 'control.yaml'}, {out / 'jorge.yaml'}")
