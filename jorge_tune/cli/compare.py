"""`jorge-tune compare`: race recipes on common seeds, or set finished runs against each other."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from jorge_tune.cli.calibration import EXIT_NO_ANSWER, held_by
from jorge_tune.cli.compare_study import Engine, Raced, race_as_study
from jorge_tune.cli.contenders import parse_against, read_arguments, settle, side_by_side_option
from jorge_tune.cli.studies import EXIT_INTERRUPTED, runs_option, storage_option
from jorge_tune.cli.tables import format_option, print_json, print_table, print_text
from jorge_tune.cli.threads import share_the_cores
from jorge_tune.errors import InputError
from jorge_tune.recipe.metrics import metric_fault, target_fault, usual_metric

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jorge_tune.measure.compare import Comparison, Contender
    from jorge_tune.measure.race import RaceProgress, Settings

_DEFAULT_OUT = Path("runs")
_MOST_SEEDS = 1000


def parse_seeds(ctx: click.Context | None, param: click.Parameter | None, value: str) -> tuple[int, ...]:
    """`0-4` or `0,2,7-9` as seeds in the order given, each of them once."""
    seeds: list[int] = []
    for piece in value.split(","):
        first, dash, last = piece.strip().partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()):
            raise click.BadParameter(f"{value!r} is no list of seeds; write 0-4 or 0,2,7", ctx, param)
        low, high = int(first), int(last or first)
        if high < low or high - low >= _MOST_SEEDS or high >= 2**63:
            rule = f"must go upwards, over at most {_MOST_SEEDS} seeds below 2**63"
            raise click.BadParameter(f"{piece.strip()!r} {rule}", ctx, param)
        seeds += range(low, high + 1)
    if len(set(seeds)) < len(seeds):
        raise click.BadParameter(f"{value!r} names a seed twice", ctx, param)
    return tuple(seeds)


@click.command()
@click.argument("contenders", metavar="A B...", nargs=-1, required=True)
@click.option("--seeds", callback=parse_seeds, default="0-4", show_default=True, help="Seeds, as 0-4 or 0,2,7.")
@click.option(
    "--against",
    callback=parse_against,
    metavar="KINDS",
    help="Race the first recipe against what follows from it: control, jorge, shampoo, sketchy, gen-sgd, gen-jorge, "
    "gen-adamw, adamw.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    help="Runs go to OUT/<name>/seed-<n>; those that are there are reused [default: runs].",
)
@click.option("--target", metavar="[METRIC=]VALUE", help="What to reach, e.g. top1=0.95 [default: see above].")
@click.option("--metric", help="What to measure [default: the target's, else top1, else the loss].")
@click.option("--set", "assignments", metavar="KEY=VALUE", multiple=True, help="Change the recipes, e.g. epochs=5.")
@click.option("--device", default="auto", show_default=True, help="Where to train: auto, cpu, cuda, cuda:1.")
@click.option("--download", is_flag=True, help="Fetch data sets that are not there.")
@click.option("--threads", type=click.IntRange(min=1), help="CPU threads of a run [default: all, shared out].")
@click.option("--workers", type=click.IntRange(min=1), help="Runs side by side, each its own process [default: 1].")
@storage_option
@click.option("--name", help="The study that keeps the race [default: from the contenders' names].")
@runs_option
@side_by_side_option
@click.option("--plot", type=click.Path(path_type=Path, dir_okay=False), help="Draw the race: FILE.html, or FILE.png.")
@click.option("--force", is_flag=True, help="Overwrite an existing plot.")
@format_option
def command(
    contenders: tuple[str, ...],
    seeds: tuple[int, ...],
    against: tuple[str, ...],
    out: Path | None,
    target: str | None,
    metric: str | None,
    assignments: tuple[str, ...],
    device: str,
    download: bool,
    threads: int | None,
    side_by_side: bool,
    workers: int | None,
    storage: str | None,
    name: str | None,
    runs: Path | None,
    plot: Path | None,
    force: bool,
    output_format: str,
) -> int:
    """Race A against B and others: who reaches the target first, in epochs and in seconds.

    A, B are recipes (files or shipped names), which are trained on every seed, or run folders and folders of
    them, which are only read. The first one is what the others are compared with. Runs of one seed share
    initial weights and the order of the data. The target, if none is given, is that of the first recipe, else
    the first contender's median final value. To lose a race is no error: the exit code is 0.

    --against derives contenders from the first recipe. With --workers, --storage, --name or --runs the race is a study
    that is kept: the same command goes on with it, more seeds add what is missing, and other machines join with
    `study worker --name NAME`.

    \b
    Example:
      jorge-tune compare sgd.yaml control.yaml jorge.yaml --seeds 0-4 --plot race.html
      jorge-tune compare digits/cnn-sgd --against control,jorge,shampoo --workers 2
      jorge-tune compare runs/cnn-sgd runs/cnn-jorge --target top1=0.95
    """
    share_the_cores()
    from jorge_tune.measure.compare import compare
    from jorge_tune.measure.race import Settings

    metric, value = parse_target(target, metric)
    _check_plot(plot, force)
    engine = Engine(workers, storage, name, runs)
    entrants, notes, is_side_by_side = read_arguments(contenders, assignments, against), list[str](), False
    _check_engine(engine, entrants, out)
    _check_target(metric, value, entrants)
    if any(not contender.runs for contender in entrants):
        where = Settings(device, download, threads)
        if engine.is_wanted:
            raced = race_as_study(entrants, seeds, engine, where, assignments, metric)
        else:
            raced = _race_here(entrants, seeds, out or _DEFAULT_OUT, where, assignments)
        if isinstance(raced, int):
            return raced
        entrants, notes, is_side_by_side = raced
    comparison = compare(entrants, metric=metric, target=value)
    shared = side_by_side or is_side_by_side
    comparison = replace(comparison, notes=(*comparison.notes, *notes), is_side_by_side=shared)
    print_comparison(comparison, output_format)
    if plot is not None:
        _draw(comparison, plot)
    return 0


def parse_target(target: str | None, metric: str | None) -> tuple[str | None, float | None]:
    """`top1=0.95` or `0.95` as a metric and a value.

    Raises:
        InputError: not a number, or another metric than --metric names.
    """
    if target is None:
        return metric, None
    name, equals, number = target.rpartition("=")
    try:
        value = float(number)
    except ValueError:
        value = float("nan")
    if not abs(value) < float("inf") or (equals and not name.strip()):
        raise InputError(f"--target: must be a number or METRIC=NUMBER such as top1=0.95, got {target!r}")
    if name and metric and name.strip() != metric:
        raise InputError(f"--target names {name.strip()!r} and --metric {metric!r}; give one of them")
    return name.strip() or metric, value


def _check_target(metric: str | None, value: float | None, entrants: Sequence[Contender]) -> None:
    """Refuse a metric that is not measured, and a target that no run can reach, before anything is trained."""
    new = [contender.recipe for contender in entrants if not contender.runs]
    wrong_metric = [what for recipe in new if metric and (what := metric_fault(recipe, metric)) is not None]
    if wrong_metric:
        raise InputError(f"--metric: {wrong_metric[0]}")
    if new and value is not None and (what := target_fault(metric or usual_metric(entrants[0].recipe), value)):
        raise InputError(f"--target: {what}")


def print_comparison(comparison: Comparison, output_format: str) -> None:
    """The target, the table, the verdict and the notes; or all of it as JSON."""
    from jorge_tune.reporting.summary import comparison_table, target_sentence
    from jorge_tune.reporting.verdict import verdict

    if output_format == "json":
        print_json({**comparison.to_json(), "verdict": verdict(comparison).splitlines()})
        return
    table = comparison_table(comparison)
    print_text(target_sentence(comparison))
    print_table(table.headings, table.rows, right=table.right, turn=True)
    click.echo("\nVerdict")
    print_text(verdict(comparison))
    for note in comparison.notes:
        print_text(f"Note: {note}")


def report_progress(progress: RaceProgress) -> None:
    """One line per run on stderr; on a terminal also a line that follows the run."""
    where = f"[{progress.number}/{progress.total}] {progress.name}, seed {progress.seed}"
    live = sys.stderr.isatty()
    if progress.stage == "training" and live:
        click.echo(f"\r\x1b[K{where}: {_standing(progress)}", err=True, nl=False)
    elif progress.stage == "ended":
        click.echo(("\r\x1b[K" if live else "") + f"{where}: {progress.outcome}", err=True)
    elif progress.stage == "reused":
        click.echo(f"{where}: {progress.outcome} before, reused", err=True)


def _standing(progress: RaceProgress) -> str:
    run = progress.run
    if run is None:
        return "starting"
    metrics = "".join(f", {name} {value:.4g}" for name, value in (run.metrics or {}).items())
    return f"epoch {run.epoch:.1f}, step {run.step} of {run.total_steps}{metrics}"


def _race_here(
    entrants: list[Contender], seeds: tuple[int, ...], out: Path, where: Settings, assignments: tuple[str, ...]
) -> Raced | int:
    """Train in this process, one run after another; an exit code, where that did not come to an end."""
    from jorge_tune.measure.race import run_race

    ready = settle(entrants, assignments, where, lambda one: held_by(out / one.name / f"seed-{seeds[0]}"))
    if ready is None:
        return EXIT_NO_ANSWER
    race = run_race(ready, seeds, out, settings=where, report=report_progress)
    if race.interrupted:
        click.echo("interrupted; the same command takes the race up again", err=True)
        return EXIT_INTERRUPTED
    return Raced(list(race.contenders), [])


def _check_engine(engine: Engine, entrants: list[Contender], out: Path | None) -> None:
    """Refuse options that have nothing to say."""
    if not engine.is_wanted:
        return
    if out is not None:
        raise InputError("--out: is for a race in this process; with --workers, --storage or --name give --runs")
    if all(contender.runs for contender in entrants):
        raise InputError("--workers, --storage, --name and --runs: train recipes, and there are only run folders")


def _check_plot(plot: Path | None, force: bool) -> None:
    """Refuse a plot that could not be written before hours are spent on the race."""
    if plot is None:
        return
    if plot.suffix not in (".html", ".png"):
        raise InputError(f"--plot: must end in .html or .png, got {str(plot)!r}")
    if plot.exists() and not force:
        raise InputError(f"{plot}: exists already; give another name, or --force to overwrite it")


def _draw(comparison: Comparison, plot: Path) -> None:
    from jorge_tune.files import write_whole
    from jorge_tune.reporting.figures import comparison_poster, write_pngs
    from jorge_tune.reporting.html import comparison_page

    missing = None
    if plot.suffix == ".png":
        missing = write_pngs({plot: comparison_poster(comparison)})
    else:
        names = ", ".join(standing.name for standing in comparison.standings)
        write_whole(plot, comparison_page(comparison, f"Comparison: {names}").encode(), force=True, make_folders=True)
    click.echo(missing or f"wrote {plot}", err=True)
