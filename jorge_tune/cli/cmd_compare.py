"""`jorge-tune compare`: race recipes on the same seeds, or compare finished runs."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import click

from jorge_tune.cli.calibration_options import held_by, settled
from jorge_tune.cli.log_options import log_options, read_logs, refuse_log_options
from jorge_tune.cli.options import (
    check_plot,
    complete_recipe,
    device_options,
    download_option,
    format_option,
    logger_option,
    parse_target,
    parsed_by,
    plot_option,
    seeds_option,
    set_option,
    share_the_cores,
    target_options,
    threads_option,
)
from jorge_tune.cli.output import (
    is_talk_on_terminal,
    print_json,
    print_table,
    print_text,
    say,
    tell,
    tell_over,
    write_plot,
)
from jorge_tune.cli.read_recipe import read_with_overrides
from jorge_tune.cli.study_display import last_word, watching, why_left
from jorge_tune.cli.study_options import StudyContext, folders, open_address, runs_option, storage_option
from jorge_tune.errors import EXIT_INTERRUPTED, EXIT_NO_ANSWER, InputError, JorgeTuneError
from jorge_tune.recipe.contenders import contender_kinds
from jorge_tune.recipe.metrics import metric_fault, target_fault, usual_metric

if TYPE_CHECKING:
    from optuna.storages import BaseStorage

    from jorge_tune.compare.comparison import Comparison
    from jorge_tune.compare.race import RaceProgress, RaceSettings
    from jorge_tune.compare.run_directories import Contender
    from jorge_tune.recipe.schema import Recipe
    from jorge_tune.study.report_data import CollectedRuns

_RESUMES = "run the same command again to resume the race"
_LONGEST_NAME = 60  # characters, of a name that joins all contenders' names
_PLOT_ENDINGS = (".html", ".png", ".json")


class StudyOptions(NamedTuple):
    """The options that keep a race as a study; None: not given."""

    workers: int | None
    storage: str | None
    name: str | None
    runs: Path | None

    @property
    def are_given(self) -> bool:
        """Whether the user gave one of them."""
        return any(value is not None for value in self)


class RaceOutcome(NamedTuple):
    """The contenders with their runs, and notes about missing runs."""

    contenders: list[Contender]
    notes: list[str]
    is_side_by_side: bool = False


def race_as_study(
    entrants: Sequence[Contender],
    seeds: Sequence[int],
    options: StudyOptions,
    where: RaceSettings,
    assignments: Sequence[str],
    metric: str | None,
) -> RaceOutcome | int:
    """Train each contender without runs on every seed, as a study; an exit code if the race did not finish.

    Args:
        entrants: Recipes and run directories.
        seeds: The seeds of each contender.
        options: The workers, the storage, the study's name and the directory of its runs.
        where: The device, threads and download choice.
        assignments: The values of `--set`.
        metric: The metric to compare; None: the first recipe's.

    Raises:
        InputError: Another study has the name, a recipe cannot be trained, or the storage cannot be used.
        JorgeTuneError: No run finished, or the storage did not come back.
    """
    from jorge_tune.cli.attach_study import attach_conclusion
    from jorge_tune.recipe.user_code import check_findable, places_of
    from jorge_tune.study.plan import comparison_plan
    from jorge_tune.study.report_data import collect, open_comparison
    from jorge_tune.study.run_study import Crew, compare_whole

    name = options.name or default_name([contender.name for contender in entrants if not contender.runs])
    plan_of = partial(comparison_plan, name, seeds=seeds, metric=metric, device=where.device, threads=where.threads)
    plan_of(_recipes(entrants))  # reports bad input before anything is written
    for recipe in _recipes(entrants).values():
        check_findable(recipe)
    address, storage = open_address(options.storage, create=True)
    known = _known_recipes(storage, name)
    ready = settle(entrants, assignments, where, lambda contender: known.get(contender.name))
    if ready is None:
        return EXIT_NO_ANSWER
    recipes, places = _recipes(ready), folders(name, options.runs)
    opened = open_comparison(storage, plan_of(recipes), list(recipes), seeds, places)
    context = StudyContext(address, storage, opened, places)
    _tell_progress(context, len(recipes), seeds)
    crew = Crew(
        workers=options.workers or 1,
        device=where.device,
        threads=where.threads,
        download=where.download,
        code=places_of(recipes.values()),
        loggers=where.loggers,
        last_word=last_word(_RESUMES),
    )
    with watching(context) as watch:
        left = compare_whole(opened, address, places, crew, watch)
    if code := why_left(left, "the race", _RESUMES):
        return code
    collected = collect(opened, context.folder, seeds)
    if left.kind == "done":
        attach_conclusion(context, lambda study: _report_of(collected, opened.plan.objective.metric))
    return _with_runs(ready, collected)


def default_name(contenders: Sequence[str]) -> str:
    """`sgd-vs-jorge`, or `sgd-vs-5-others` if the joined names are long; valid as a directory name."""
    text = "-vs-".join(contenders)
    if len(text) > _LONGEST_NAME:
        text = f"{contenders[0][:_LONGEST_NAME]}-vs-{len(contenders) - 1}-others"
    return re.sub(r"[^A-Za-z0-9_]+", "-", text).strip("-_") or "comparison"


def _recipes(contenders: Sequence[Contender]) -> dict[str, Recipe]:
    """The recipes to train, by name."""
    return {contender.name: contender.recipe for contender in contenders if not contender.runs}


def _known_recipes(storage: BaseStorage, name: str) -> dict[str, Recipe]:
    """The recipes that a stored comparison of this name has, with the intervals that it measured."""
    from jorge_tune.study.plan import ComparisonSpace
    from jorge_tune.study.study import present_study

    present = present_study(storage, name)
    space = None if present is None else present.plan.space
    return space.recipes() if isinstance(space, ComparisonSpace) else {}


def _tell_progress(context: StudyContext, contenders: int, seeds: Sequence[int]) -> None:
    """Tell the user which runs the study has already, and which other seeds it will also run."""
    from jorge_tune.study.plan import SEED
    from jorge_tune.study.trial_rows import ENDED, rows_of

    rows = [row for row in rows_of(context.opened) if SEED in row.point]
    done = sum(row.state == "complete" and row.point[SEED] in seeds for row in rows)
    if done:
        tell(f"study {context.name}: {done} of {contenders * len(seeds)} runs are complete already")
    others = sorted({row.point[SEED] for row in rows if row.state not in ENDED} - {*seeds})
    if others:
        listed = ", ".join(map(str, others))
        tell(f"study {context.name} also runs these seeds, which an earlier command queued: {listed}")


def _report_of(collected: CollectedRuns, metric: str) -> dict[str, Any]:
    """The report of a comparison's runs, as plain data."""
    from jorge_tune.compare.comparison import compare
    from jorge_tune.reports.report import runs_report

    if not any(contender.runs for contender in collected.contenders):
        raise InputError("none of its runs can be read")
    comparison = compare(collected.contenders, metric=metric)
    notes = (*comparison.notes, *collected.notes)
    return runs_report(replace(comparison, notes=notes, is_side_by_side=collected.is_side_by_side)).to_json()


def _with_runs(contenders: Sequence[Contender], collected: CollectedRuns) -> RaceOutcome:
    runs = {contender.name: contender.runs for contender in collected.contenders}
    raced = [one if one.runs else replace(one, runs=runs.get(one.name, ())) for one in contenders]
    if not any(one.runs for one in raced):
        raise JorgeTuneError("no run finished: " + "; ".join(collected.notes))
    return RaceOutcome(raced, collected.notes, collected.is_side_by_side)


F = TypeVar("F", bound=Callable[..., Any])


def side_by_side_option(command: F) -> F:
    """Add `--side-by-side`; the command receives it as `side_by_side`."""
    text = "The runs shared one machine at the same time, so their seconds are not compared."
    return click.option("--side-by-side", is_flag=True, help=text)(command)


def reference_option(command: F) -> F:
    """Add `--reference NAME`; the command receives it as `reference`, None where it was not given."""
    text = "Contender to compare the others with [default: see above]."
    return click.option("--reference", metavar="NAME", help=text)(command)


def read_arguments(
    arguments: Sequence[str],
    assignments: tuple[str, ...],
    against: Sequence[str] = (),
    leave_out: Callable[[str], None] | None = None,
) -> list[Contender]:
    """Read each directory as finished runs and anything else as a recipe to train, then derive further contenders.

    Args:
        arguments: The user's arguments; the contenders keep their order.
        assignments: The values of `--set`.
        against: The kinds of contenders to derive from the first recipe.
        leave_out: Receives a note for each damaged run, as in `read_contenders`.

    Raises:
        InputError: A directory or a recipe cannot be read, or no contender can be derived.
    """
    from jorge_tune.compare.run_directories import read_contenders, with_distinct_names

    folders = [Path(argument) for argument in arguments if Path(argument).is_dir()]
    if assignments and len(folders) == len(arguments):
        raise InputError("--set changes recipes, and the arguments are run directories only; leave --set out")
    read = read_contenders(folders, leave_out)  # in one call, which joins the run directories of one contender
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
    """Replace `refresh_interval: auto` by a measured interval in each recipe; None if a measurement finds no interval.

    Args:
        contenders: Contenders with runs stay as they are.
        assignments: The values of `--set`.
        where: The device and threads of the race.
        held: Gives a contender's recipe as an earlier run trained it, or None.
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

    recipe = read_with_overrides(argument, assignments)
    return Contender(recipe.name, recipe)


def _derived(contenders: Sequence[Contender], against: Sequence[str]) -> list[Contender]:
    from jorge_tune.compare.run_directories import Contender
    from jorge_tune.recipe.contenders import derive_contenders

    if not against:
        return []
    recipes = [contender.recipe for contender in contenders if not contender.runs]
    if not recipes:
        raise InputError("--against needs a recipe, and the arguments are run directories only; give the recipe too")
    try:
        return [Contender(recipe.name, recipe) for recipe in derive_contenders(recipes, against)]
    except InputError as error:
        raise InputError(f"--against: {error}") from error


_DEFAULT_OUT = Path("runs")


@click.command()
@click.argument("contenders", metavar="A B...", nargs=-1, required=True, shell_complete=complete_recipe)
@seeds_option("0-4")
@click.option(
    "--against",
    callback=parsed_by(contender_kinds),
    metavar="KINDS",
    help="Contenders to derive from the first recipe, separated by commas: control, jorge, shampoo, sketchy, muon, "
    "gen-sgd, gen-jorge, gen-adamw, adamw.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="Directory of the runs, DIR/<name>/seed-<n>; finished runs in it are reused [default: runs].",
)
@target_options()
@set_option("Replace a value of every recipe.")
@device_options()
@download_option
@threads_option("all cores, divided among the runs", "CPU threads of each run")
@click.option(
    "--workers",
    type=click.IntRange(min=1),
    help="Number of runs at the same time, each in its own process [default: 1].",
)
@storage_option
@click.option("--name", help="Name of the study that keeps the race [default: from the contenders' names].")
@runs_option
@side_by_side_option
@reference_option
@logger_option
@log_options
@plot_option(_PLOT_ENDINGS)
@format_option
def compare_command(
    contenders: tuple[str, ...],
    seeds: tuple[int, ...],
    against: tuple[str, ...] | None,
    out: Path | None,
    target: str | None,
    metric: str | None,
    assignments: tuple[str, ...],
    device: str,
    download: bool,
    threads: int | None,
    side_by_side: bool,
    reference: str | None,
    loggers: tuple[str, ...],
    from_logs: bool,
    log_format: str | None,
    log_settings: tuple[str, ...],
    workers: int | None,
    storage: str | None,
    name: str | None,
    runs: Path | None,
    plot: Path | None,
    force: bool,
    output_format: str,
) -> int:
    """Race A against B and others to a target, in epochs and in seconds.

    A recipe (a file or a shipped name) is trained on every seed. A run directory, or a directory of several, is only
    read. Runs with the same seed share the initial weights and the order of the data.

    The others are compared with the reference. It is the first argument; if the arguments are run directories only,
    it is SGD, if SGD is among them. The default target is the target of the reference's recipe, else the median of
    the reference's final values. --against derives further contenders from the first recipe.

    With --workers, --storage, --name or --runs, the race is kept as a study: the same command resumes it, further
    seeds add only the missing runs, and other machines join with `study worker --name NAME`.

    Exit codes: 0 also if Jorge loses the race, 4 if no refresh interval can be measured, 130 if you interrupted it.

    With --from-logs nothing is trained: logs that other programs wrote are copied into run directories below OUT
    and compared. The logs of a contender are its seeds, by their names (seed-3) or in the order given.

    \b
    Example:
      jorge-tune compare sgd.yaml control.yaml jorge.yaml --seeds 0-4 --plot race.html
      jorge-tune compare digits/cnn-sgd --against control,jorge,shampoo --workers 2
      jorge-tune compare runs/cnn-sgd runs/cnn-jorge --target top1=0.95
      jorge-tune compare --from-logs sgd=old/results.csv jorge=new/results.csv --metric "mAP50(B)"
    """
    share_the_cores()
    from jorge_tune.compare.comparison import compare, reference_first
    from jorge_tune.compare.race import RaceSettings

    metric, value = parse_target(target, metric)
    check_plot(plot, force, _PLOT_ENDINGS)
    options = StudyOptions(workers, storage, name, runs)
    damaged: list[str] = []
    notes = list[str]()
    if from_logs:
        _check_logs(options, assignments, against or ())
        entrants = read_logs(contenders, out or _DEFAULT_OUT, log_format, log_settings, metric)
    else:
        refuse_log_options(log_format, log_settings)
        entrants = read_arguments(contenders, assignments, against or (), damaged.append)
    is_side_by_side = False
    reference_first(entrants, reference)  # refuses a wrong name before the race
    _check_study_options(options, entrants, out)
    _check_target(metric, value, entrants)
    if any(not contender.runs for contender in entrants):
        where = RaceSettings(device, download, threads, loggers)
        if options.are_given:
            raced = race_as_study(entrants, seeds, options, where, assignments, metric)
        else:
            raced = _race_here(entrants, seeds, out or _DEFAULT_OUT, where, assignments)
        if isinstance(raced, int):
            return raced
        entrants, notes, is_side_by_side = raced
    entrants, chosen = reference_first(entrants, reference)
    comparison = compare(entrants, metric=metric, target=value)
    shared = side_by_side or is_side_by_side
    notes = [*chosen, *damaged, *comparison.notes, *notes]
    comparison = replace(comparison, notes=tuple(notes), is_side_by_side=shared)
    print_comparison(comparison, output_format)
    if plot is not None:
        _draw(comparison, plot)
    return 0


def _check_logs(options: StudyOptions, assignments: Sequence[str], against: Sequence[str]) -> None:
    """Refuse what only runs that are trained can have."""
    if options.are_given or assignments or against:
        raise InputError("--from-logs: trains nothing, so it goes without --set, --against and the options of studies")


def _check_target(metric: str | None, value: float | None, entrants: Sequence[Contender]) -> None:
    """Refuse a metric that no recipe measures and a target that no run can reach, before the race."""
    new = [contender.recipe for contender in entrants if not contender.runs]
    wrong_metric = [what for recipe in new if metric and (what := metric_fault(recipe, metric)) is not None]
    if wrong_metric:
        raise InputError(f"--metric {wrong_metric[0]}")
    first = entrants[0].recipe
    if new and value is not None and (what := target_fault(metric or usual_metric(first), value, first)):
        raise InputError(f"--target {what}")


def print_comparison(comparison: Comparison, output_format: str) -> None:
    """Print the target, the table, the verdict and the notes, or all of them as JSON."""
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
    """Print one line per run on stderr; on a terminal, also a line that follows the present run."""
    where = f"[{progress.number}/{progress.total}] {progress.name}, seed {progress.seed}"
    live = is_talk_on_terminal()
    if progress.stage == "training" and live:
        tell_over(f"{where}: {_standing(progress)}")
    elif progress.stage == "ended":
        (tell_over if live else tell)(f"{where}: {progress.outcome}", nl=True)
    elif progress.stage == "reused":
        tell(f"{where}: {progress.outcome} in an earlier race, reused")


def _standing(progress: RaceProgress) -> str:
    run = progress.run
    if run is None:
        return "starting"
    metrics = "".join(f", {name} {value:.4g}" for name, value in (run.metrics or {}).items())
    return f"epoch {run.epoch:.1f}, step {run.step} of {run.total_steps}{metrics}"


def _race_here(
    entrants: list[Contender], seeds: tuple[int, ...], out: Path, where: RaceSettings, assignments: tuple[str, ...]
) -> RaceOutcome | int:
    """Train in this process, one run after another; an exit code if the race did not finish."""
    from jorge_tune.compare.race import run_race

    ready = settle(entrants, assignments, where, lambda one: held_by(out / one.name / f"seed-{seeds[0]}"))
    if ready is None:
        return EXIT_NO_ANSWER
    race = run_race(ready, seeds, out, settings=where, report=report_progress)
    if race.interrupted:
        tell(f"interrupted; {_RESUMES}")
        return EXIT_INTERRUPTED
    return RaceOutcome(list(race.contenders), [])


def _check_study_options(options: StudyOptions, entrants: list[Contender], out: Path | None) -> None:
    """Refuse options that would have no effect."""
    if not options.are_given:
        return
    if out is not None:
        raise InputError("--out has no effect on a race that is kept as a study; give --runs instead")
    if all(contender.runs for contender in entrants):
        raise InputError(
            "--workers, --storage, --name and --runs are for training, and the arguments are run directories only; "
            "leave them out"
        )


def _draw(comparison: Comparison, plot: Path) -> None:
    from jorge_tune.reports.of_runs import curve_figures
    from jorge_tune.reports.png import poster, write_pngs
    from jorge_tune.reports.report import runs_report

    if plot.suffix == ".png":
        missing = write_pngs({plot: poster([figure.to_json() for figure in curve_figures(comparison)])})
        tell(missing or f"wrote {plot}")
    else:
        write_plot(runs_report(comparison), plot)
