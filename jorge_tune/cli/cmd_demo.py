"""`jorge-tune demo`: the whole way on real data, from a tuned SGD recipe to a verdict, in about a minute."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import click

from jorge_tune.cli.cmd_compare import parse_seeds, print_comparison, report_progress
from jorge_tune.cli.options import device_options, share_the_cores
from jorge_tune.cli.output import as_json, print_table, say, tell
from jorge_tune.errors import InputError

if TYPE_CHECKING:
    from jorge_tune.compare.comparison import Comparison
    from jorge_tune.recipe.bootstrap import BootstrapResult
    from jorge_tune.recipe.derivation import Derivation
    from jorge_tune.recipe.schema import Recipe

_SOURCE = "digits/cnn-sgd"
_TITLE = "SGD, its control and Jorge on scikit-learn's digits"
_PAGE, _TWIN = "comparison.html", "comparison.json"


class Trio(NamedTuple):
    """The three contenders: the tuned recipe, the control, and what bootstrap makes of the recipe."""

    sgd: Recipe
    control: Recipe
    bootstrapped: BootstrapResult


@click.command()
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    default="jorge-tune-demo",
    show_default=True,
    help="Directory for recipes, runs and the page; runs that are there are reused.",
)
@click.option("--seeds", callback=parse_seeds, default="0-2", show_default=True, help="Seeds, as 0-4 or 0,2,7.")
@click.option("--epochs", type=click.IntRange(min=1), help="Length of each run [default: the recipe's].")
@device_options()
def demo_command(out: Path, seeds: tuple[int, ...], epochs: int | None, device: str) -> int:
    """Race SGD, its control and Jorge on scikit-learn's digits, and say what came out.

    The shipped recipe digits/cnn-sgd is bootstrapped; its control is SGD with Jorge's schedule and decoupled
    decay. The table, the verdict and the curves are computed from the runs: Jorge may lose. Nothing is
    downloaded.

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
    settings = RaceSettings(device, threads=1)  # more of them slow such small models down
    race = run_race(contenders, seeds, out / "runs", settings=settings, report=report_progress)
    if race.interrupted:
        tell("interrupted; the same command goes on from here")
        return 130
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
    """sgd.yaml, control.yaml and jorge.yaml with its reasons; files that hold something else are left alone."""
    jorge = trio.bootstrapped
    _write_recipe(out / "sgd.yaml", trio.sgd)
    _write_recipe(out / "control.yaml", trio.control)
    _write_recipe(out / "jorge.yaml", jorge.recipe, jorge.derivations)


def _write_recipe(path: Path, recipe: Recipe, derivations: Sequence[Derivation] = ()) -> None:
    from jorge_tune.recipe.recipe_files import read_recipe, write_recipe

    if path.exists():
        if read_recipe(path) != recipe:
            raise InputError(
                f"{path}: differs from what this demo writes (edited, or other --epochs); give another --out"
            )
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{path.parent}: cannot be made ({error.strerror}); give another --out") from error
    write_recipe(path, recipe, derivations)


def _row(derivation: Derivation) -> list[str]:
    from jorge_tune.recipe.render import scalar

    values = ["-" if value is None else scalar(value) for value in (derivation.before, derivation.after)]
    why = derivation.rule + (f": {derivation.formula}" if derivation.formula else "")
    return [derivation.field, *values, why + (f" ({derivation.source})" if derivation.source else "")]


def _draw(comparison: Comparison, out: Path) -> None:
    """Both curves in the terminal, the report as a page and as JSON, and where everything lies."""
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
    say(f"\nreport: {out / _PAGE}, and its numbers: {out / _TWIN}")
    say(f"recipes: {out / 'sgd.yaml'}, {out / 'control.yaml'}, {out / 'jorge.yaml'}")
