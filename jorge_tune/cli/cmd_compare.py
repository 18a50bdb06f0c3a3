"""`jorge-tune compare`: race recipes on common seeds, or set finished runs against each other."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import click

from jorge_tune.cli.calibration_options import EXIT_NO_ANSWER, held_by, settled
from jorge_tune.cli.options import check_plot, complete_recipe, device_options, share_the_cores
from jorge_tune.cli.output import (
    format_option,
    is_talk_on_terminal,
    print_json,
    print_table,
    print_text,
    say,
    tell,
    tell_over,
    write_plot,
)
from jorge_tune.cli.study_display import last_word, watching, why_left
from jorge_tune.cli.study_options import (
    EXIT_INTERRUPTED,
    FoundStudy,
    folders,
    open_address,
    runs_option,
    storage_option,
)
from jorge_tune.errors import InputError, JorgeTuneError
from jorge_tune.recipe.metrics import metric_fault, target_fault, usual_metric

if TYPE_CHECKING:
    from optuna.storages import BaseStorage

    from jorge_tune.compare.comparison import Comparison
    from jorge_tune.compare.race import RaceProgress, RaceSettings
    from jorge_tune.compare.run_directories import Contender
    from jorge_tune.recipe.schema import Recipe
    from jorge_tune.study.report_data import CollectedRuns

_GOES_ON = "the same command takes the race up again"
_LONGEST_NAME = 60  # characters, of a name made from all contenders' names


class Engine(NamedTuple):
    """What the engine's options say; None: its default."""

    workers: int | None
    storage: str | None
    name: str | None
    runs: Path | None

    @property
    def is_wanted(self) -> bool:
        """Whether any of them is given."""
        return any(value is not None for value in self)


class RaceOutcome(NamedTuple):
    """The contenders with their runs, and what there is to say about runs that are missing."""

    contenders: list[Contender]
    notes: list[str]
    is_side_by_side: bool = False


def race_as_study(
    entrants: Sequence[Contender],
    seeds: Sequence[int],
    engine: Engine,
    where: RaceSettings,
    assignments: Sequence[str],
    metric: str | None,
) -> RaceOutcome | int:
    """Train every contender that has no runs on every seed; an exit code, where that did not come to an end.

    Args:
        entrants: recipes and run directories.
        seeds: to run.
        engine: who works, and where it is kept.
        where: to train.
        assignments: what `--set` gave.
        metric: what is compared; None: as the first recipe has it.

    Raises:
        InputError: another study has the name, a recipe cannot be trained, or the storage cannot be used.
        JorgeTuneError: no run came to its end, or the storage stayed away.
    """
    from jorge_tune.cli.attach_study import attach_conclusion
    from jorge_tune.study.plan import comparison_plan
    from jorge_tune.study.report_data import collect, open_comparison
    from jorge_tune.study.run_study import Crew, compare_whole

    name = engine.name or default_name([contender.name for contender in entrants if not contender.runs])
    plan_of = partial(comparison_plan, name, seeds=seeds, metric=metric, device=where.device, threads=where.threads)
    plan_of(_recipes(entrants))  # what is wrong is found before anything is written
    address, storage = open_address(engine.storage, create=True)
    known = _known_recipes(storage, name)
    ready = settle(entrants, assignments, where, lambda contender: known.get(contender.name))
    if ready is None:
        return EXIT_NO_ANSWER
    recipes, places = _recipes(ready), folders(name, engine.runs)
    opened = open_comparison(storage, plan_of(recipes), list(recipes), seeds, places)
    found = FoundStudy(address, storage, opened, places)
    _tell_what_is_there(found, len(recipes), seeds)
    crew = Crew(
        workers=engine.workers or 1,
        device=where.device,
        threads=where.threads,
        download=where.download,
        last_word=last_word(_GOES_ON),
    )
    with watching(found) as watch:
        left = compare_whole(opened, address, places, crew, watch)
    if broken_off := why_left(left, "the race", _GOES_ON):
        return broken_off
    collected = collect(opened, found.folder, seeds)
    if left.kind == "done":
        attach_conclusion(found, lambda study: _report_of(collected, opened.plan.objective.metric))
    return _with_runs(ready, collected)


def default_name(contenders: Sequence[str]) -> str:
    """`sgd-vs-jorge`, or `sgd-vs-5-others` where the names together are long; fit for a directory."""
    text = "-vs-".join(contenders)
    if len(text) > _LONGEST_NAME:
        text = f"{contenders[0][:_LONGEST_NAME]}-vs-{len(contenders) - 1}-others"
    return re.sub(r"[^A-Za-z0-9_]+", "-", text).strip("-_") or "comparison"


def _recipes(contenders: Sequence[Contender]) -> dict[str, Recipe]:
    """Those to train, by name."""
    return {contender.name: contender.recipe for contender in contenders if not contender.runs}


def _known_recipes(storage: BaseStorage, name: str) -> dict[str, Recipe]:
    """The recipes of the comparison of that name, if it is there: what was measured once holds."""
    from jorge_tune.study.plan import ComparisonSpace
    from jorge_tune.study.study import present_study

    present = present_study(storage, name)
    space = None if present is None else present.plan.space
    return space.recipes() if isinstance(space, ComparisonSpace) else {}


def _tell_what_is_there(found: FoundStudy, contenders: int, seeds: Sequence[int]) -> None:
    """Say on stderr what an earlier call has done, and what it has left to do."""
    from jorge_tune.study.plan import SEED
    from jorge_tune.study.trial_rows import ENDED, rows_of

    rows = [row for row in rows_of(found.opened) if SEED in row.point]
    there = sum(row.state == "complete" and row.point[SEED] in seeds for row in rows)
    if there:
        tell(f"study {found.name}: {there} of {contenders * len(seeds)} runs are there already")
    others = sorted({row.point[SEED] for row in rows if row.state not in ENDED} - {*seeds})
    if others:
        listed = ", ".join(map(str, others))
        tell(f"study {found.name} has runs of other seeds to make, and makes them too: {listed}")


def _report_of(collected: CollectedRuns, metric: str) -> dict[str, Any]:
    """The report of a comparison's runs, as data."""
    from jorge_tune.compare.comparison import compare
    from jorge_tune.report.report import runs_report

    if not any(contender.runs for contender in collected.contenders):
        raise InputError("none of its runs can be shown")
    comparison = compare(collected.contenders, metric=metric)
    notes = (*comparison.notes, *collected.notes)
    return runs_report(replace(comparison, notes=notes, is_side_by_side=collected.is_side_by_side)).to_json()


def _with_runs(contenders: Sequence[Contender], collected: CollectedRuns) -> RaceOutcome:
    runs = {contender.name: contender.runs for contender in collected.contenders}
    raced = [one if one.runs else replace(one, runs=runs.get(one.name, ())) for one in contenders]
    if not any(one.runs for one in raced):
        raise JorgeTuneError("no run has come to its end: " + "; ".join(collected.notes))
    return RaceOutcome(raced, collected.notes, collected.is_side_by_side)


F = TypeVar("F", bound=Callable[..., Any])


def side_by_side_option(command: F) -> F:
    """Add `--side-by-side`; the command receives it as `side_by_side`."""
    text = "Run directories: they trained side by side on one machine, so do not compare their seconds."
    return click.option("--side-by-side", is_flag=True, help=text)(command)


def reference_option(command: F) -> F:
    """Add `--reference NAME`; the command receives it as `reference`, None where it is to be chosen."""
    text = "The contender that the others are compared with [default: see above]."
    return click.option("--reference", metavar="NAME", help=text)(command)


def parse_against(ctx: click.Context | None, param: click.Parameter | None, value: str | None) -> tuple[str, ...]:
    """`control,jorge` as kinds of contenders."""
    from jorge_tune.recipe.contenders import contender_kinds

    try:
        return () if value is None else contender_kinds(value)
    except InputError as error:
        raise click.BadParameter(str(error), ctx, param) from error


def read_arguments(
    arguments: Sequence[str],
    assignments: tuple[str, ...],
    against: Sequence[str] = (),
    leave_out: Callable[[str], None] | None = None,
) -> list[Contender]:
    """Directories as runs that are there, everything else as recipes to train, in the order given; then those derived.

    `leave_out` is told of damaged runs, as by `read_contenders`.

    Raises:
        InputError: a directory or recipe cannot be read, or nothing can be derived.
    """
    from jorge_tune.compare.run_directories import read_contenders, with_distinct_names

    folders = [Path(argument) for argument in arguments if Path(argument).is_dir()]
    if assignments and len(folders) == len(arguments):
        raise InputError("--set: changes recipes, and there are only run directories, which are read as they are")
    read = read_contenders(folders, leave_out)  # together: run directories side by side are one contender
    contenders: list[Contender] = []
    for argument in arguments:
        if Path(argument).is_dir():
            contenders, read = contenders + read, []
        else:
            contenders.append(_read_recipe(argument, assignments))
    return with_distinct_names([*contenders, *_derived(contenders, against)])


def settle(
    contenders: Sequence[Contender],
    assignments: Sequence[str],
    where: RaceSettings,
    held: Callable[[Contender], Recipe | None],
) -> list[Contender] | None:
    """The contenders, `refresh_interval: auto` measured where they are to be trained; None where that has no answer.

    Args:
        contenders: those with runs are left as they are.
        assignments: what `--set` gave.
        where: they are trained.
        held: a contender's recipe as it was trained before.
    """
    ready = []
    for contender in contenders:
        if not contender.runs:
            before = held(contender)
            recipe = settled(contender.recipe, before, assignments, device=where.device, threads=where.threads)
            if recipe is None:
                return None
            contender = replace(contender, recipe=recipe)
        ready.append(contender)
    return ready


def _read_recipe(argument: str, assignments: tuple[str, ...]) -> Contender:
    from jorge_tune.compare.run_directories import Contender
    from jorge_tune.recipe.recipe_files import load, override, resolve_recipe

    path = resolve_recipe(argument)
    loaded = load(path)
    for warning in loaded.warnings:
        tell(f"{warning.located(str(path))} (warning)")
    recipe = override(loaded.recipe, assignments) if assignments else loaded.recipe
    return Contender(recipe.name, recipe)


def _derived(contenders: Sequence[Contender], against: Sequence[str]) -> list[Contender]:
    from jorge_tune.compare.run_directories import Contender
    from jorge_tune.recipe.contenders import derive_contenders

    if not against:
        return []
    recipes = [contender.recipe for contender in contenders if not contender.runs]
    if not recipes:
        raise InputError("--against: follows from a recipe, and there are only run directories; give the recipe too")
    try:
        return [Contender(recipe.name, recipe) for recipe in derive_contenders(recipes, against)]
    except InputError as error:
        raise InputError(f"--against: {error}") from error


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
@click.argument("contenders", metavar="A B...", nargs=-1, required=True, shell_complete=complete_recipe)
@click.option("--seeds", callback=parse_seeds, default="0-4", show_default=True, help="Seeds, as 0-4 or 0,2,7.")
@click.option(
    "--against",
    callback=parse_against,
    metavar="KINDS",
    help="Race the first recipe against what follows from it: control, jorge, shampoo, sketchy, muon, gen-sgd, "
    "gen-jorge, gen-adamw, adamw.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    help="Runs go to OUT/<name>/seed-<n>; those that are there are reused [default: runs].",
)
@click.option("--target", metavar="[METRIC=]VALUE", help="What to reach, e.g. top1=0.95 [default: see above].")
@click.option("--metric", help="What to measure [default: the target's, else top1, else the loss].")
@click.option("--set", "assignments", metavar="KEY=VALUE", multiple=True, help="Change the recipes, e.g. epochs=5.")
@device_options()
@click.option("--download", is_flag=True, help="Fetch data sets that are not there.")
@click.option("--threads", type=click.IntRange(min=1), help="CPU threads of a run [default: all, shared out].")
@click.option("--workers", type=click.IntRange(min=1), help="Runs side by side, each its own process [default: 1].")
@storage_option
@click.option("--name", help="The study that keeps the race [default: from the contenders' names].")
@runs_option
@side_by_side_option
@reference_option
@click.option(
    "--plot",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Draw the race to FILE.html or FILE.png, or write its numbers to FILE.json.",
)
@click.option("--force", is_flag=True, help="Overwrite an existing plot.")
@format_option
def compare_command(
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
    reference: str | None,
    workers: int | None,
    storage: str | None,
    name: str | None,
    runs: Path | None,
    plot: Path | None,
    force: bool,
    output_format: str,
) -> int:
    """Race A against B and others: who reaches the target first, in epochs and in seconds.

    A, B are recipes (files or shipped names), which are trained on every seed, or run directories and directories
    of them, which are only read. The reference, with which the others are compared, is the first of them; where there
    are run directories alone it is SGD, if that is one of them. --reference names another. Runs of one seed share
    initial weights and the order of the data. The target, if none is given, is that of the reference's recipe, else
    the reference's median final value. Losing the race is not an error: the exit code is 0.

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
    from jorge_tune.compare.comparison import compare, reference_first
    from jorge_tune.compare.race import RaceSettings

    metric, value = parse_target(target, metric)
    check_plot(plot, force, (".html", ".png", ".json"))  # before hours are spent on the race
    engine = Engine(workers, storage, name, runs)
    damaged: list[str] = []
    entrants, notes = read_arguments(contenders, assignments, against, damaged.append), list[str]()
    is_side_by_side = False
    reference_first(entrants, reference)  # a wrong name is refused before hours are spent
    _check_engine(engine, entrants, out)
    _check_target(metric, value, entrants)
    if any(not contender.runs for contender in entrants):
        where = RaceSettings(device, download, threads)
        if engine.is_wanted:
            raced = race_as_study(entrants, seeds, engine, where, assignments, metric)
        else:
            raced = _race_here(entrants, seeds, out or _DEFAULT_OUT, where, assignments)
        if isinstance(raced, int):
            return raced
        entrants, notes, is_side_by_side = raced
    entrants, chosen = reference_first(entrants, reference)
    comparison = compare(entrants, metric=metric, target=value)
    shared = side_by_side or is_side_by_side
    said = (*chosen, *damaged, *comparison.notes, *notes)
    comparison = replace(comparison, notes=said, is_side_by_side=shared)
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
    from jorge_tune.compare.verdict import comparison_table, target_sentence, verdict

    if output_format == "json":
        print_json({**comparison.to_json(), "verdict": verdict(comparison).splitlines()})
        return
    table = comparison_table(comparison)
    print_text(target_sentence(comparison))
    print_table(table.headings, table.rows, right=table.right, turn=True)
    say("\nVerdict")
    print_text(verdict(comparison))
    for note in comparison.notes:
        print_text(f"Note: {note}")


def report_progress(progress: RaceProgress) -> None:
    """One line per run on stderr; on a terminal also a line that follows the run."""
    where = f"[{progress.number}/{progress.total}] {progress.name}, seed {progress.seed}"
    live = is_talk_on_terminal()
    if progress.stage == "training" and live:
        tell_over(f"{where}: {_standing(progress)}")
    elif progress.stage == "ended":
        (tell_over if live else tell)(f"{where}: {progress.outcome}", nl=True)
    elif progress.stage == "reused":
        tell(f"{where}: {progress.outcome} before, reused")


def _standing(progress: RaceProgress) -> str:
    run = progress.run
    if run is None:
        return "starting"
    metrics = "".join(f", {name} {value:.4g}" for name, value in (run.metrics or {}).items())
    return f"epoch {run.epoch:.1f}, step {run.step} of {run.total_steps}{metrics}"


def _race_here(
    entrants: list[Contender], seeds: tuple[int, ...], out: Path, where: RaceSettings, assignments: tuple[str, ...]
) -> RaceOutcome | int:
    """Train in this process, one run after another; an exit code, where that did not come to an end."""
    from jorge_tune.compare.race import run_race

    ready = settle(entrants, assignments, where, lambda one: held_by(out / one.name / f"seed-{seeds[0]}"))
    if ready is None:
        return EXIT_NO_ANSWER
    race = run_race(ready, seeds, out, settings=where, report=report_progress)
    if race.interrupted:
        tell("interrupted; the same command takes the race up again")
        return EXIT_INTERRUPTED
    return RaceOutcome(list(race.contenders), [])


def _check_engine(engine: Engine, entrants: list[Contender], out: Path | None) -> None:
    """Refuse options that have nothing to say."""
    if not engine.is_wanted:
        return
    if out is not None:
        raise InputError("--out: is for a race in this process; with --workers, --storage or --name give --runs")
    if all(contender.runs for contender in entrants):
        raise InputError("--workers, --storage, --name and --runs: train recipes, and there are only run directories")


def _draw(comparison: Comparison, plot: Path) -> None:
    from jorge_tune.report.of_runs import curve_figures
    from jorge_tune.report.png import poster, write_pngs
    from jorge_tune.report.report import runs_report

    if plot.suffix == ".png":
        missing = write_pngs({plot: poster([figure.to_json() for figure in curve_figures(comparison)])})
        tell(missing or f"wrote {plot}")
    else:
        write_plot(runs_report(comparison), plot)
