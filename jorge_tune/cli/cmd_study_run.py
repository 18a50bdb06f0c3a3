"""`jorge-tune study run` and `study confirm`: baseline, search, confirmation, verdict."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from jorge_tune.cli.calibration_options import parse_overhead
from jorge_tune.cli.cmd_dashboard import attach_verdict
from jorge_tune.cli.options import (
    complete_recipe,
    device_options,
    download_option,
    format_option,
    logger_option,
    parse_seeds,
    parse_target,
    parsed_by,
    share_the_cores,
    threads_option,
    workers_option,
)
from jorge_tune.cli.output import clock_time, print_json, print_table, say, tell
from jorge_tune.cli.study_display import run, show_end
from jorge_tune.cli.study_options import (
    StudyContext,
    code_option,
    code_places,
    find_search,
    folders,
    how_to_resume,
    make_study,
    name_option,
    runs_option,
    storage_option,
)
from jorge_tune.errors import EXIT_NO_ANSWER, InputError
from jorge_tune.recipe.render import scalar

if TYPE_CHECKING:
    from jorge_tune.compare.pace import Pace
    from jorge_tune.study.estimate import StudyEstimate
    from jorge_tune.study.plan import StudyPlan
    from jorge_tune.study.storage.address import Address

_SAMPLERS = ("tpe", "gp", "cmaes", "random", "grid", "qmc")
_PRUNERS = ("median", "hyperband", "asha", "wilcoxon", "none")
_OBJECTIVES = ("best", "final", "time-to-target", "epochs-to-target")
_ONLY_AT_THE_START = ("objective", "target", "seeds", "sampler", "pruner", "constraint", "no_constraint")


@click.command()
@click.argument("source", metavar="[STUDY|RECIPE]", required=False, shell_complete=complete_recipe)
@click.option("--name", help="Name of the study [default: the study file's, or the recipe's].")
@click.option("--trials", type=click.IntRange(min=1), help="Number of trials, earlier ones included [default: 40].")
@workers_option
@storage_option
@runs_option
@click.option("--objective", type=click.Choice(_OBJECTIVES), help="Value that the search improves [default: best].")
@click.option(
    "--target", metavar="[METRIC=]VALUE", help="Target of time-to-target or epochs-to-target, for example top1=0.97."
)
@click.option(
    "--seeds",
    metavar="SEEDS",
    callback=parsed_by(parse_seeds),
    help="Seeds of every trial, as 0-2 or 0,4 [default: 0].",
)
@click.option(
    "--confirm-seeds",
    type=click.IntRange(min=0),
    help="Number of confirmation seeds; 0 skips the confirmation [default: 6].",
)
@click.option("--sampler", type=click.Choice(_SAMPLERS), help="Sampler, which chooses the points [default: tpe].")
@click.option(
    "--pruner", type=click.Choice(_PRUNERS), help="Pruner, which ends hopeless trials early [default: median]."
)
@click.option("--hours", type=click.FloatRange(min=0, min_open=True), help="Start no trial after this many hours.")
@click.option(
    "--constraint",
    metavar="PERCENT",
    callback=parsed_by(parse_overhead),
    help="Maximum step-time overhead over the baseline [default: 10%].",
)
@click.option("--no-constraint", is_flag=True, help="Do not limit the step time, and do not calibrate.")
@click.option("--branch", is_flag=True, help="If another study has this name, use NAME-2.")
@device_options(default=None)
@threads_option("all cores, divided among the runs", "CPU threads of each run")
@download_option
@code_option
@logger_option
@click.option("--dry-run", is_flag=True, help="Print the plan and an estimate of its time, and run nothing.")
@format_option
def study_run_command(
    source: str | None, name: str | None, workers: int, runs: Path | None, output_format: str, **options: Any
) -> int:
    """Search around a bootstrapped recipe, confirm the best trial, and judge the bootstrap.

    The argument is a study file or a recipe; an SGD or AdamW recipe is bootstrapped first. The search varies the rate,
    the decay, the refresh interval and the schedule. Options override the study file. Trial 0 is the bootstrap. The
    baseline, the original SGD recipe, runs as the companion study NAME.sgd. At the end, baseline, bootstrap and best
    trial run on new seeds as the companion study NAME.confirm. The verdict says whether single-shot tuning, which is
    the bootstrap alone, was enough.

    Ctrl-C writes a checkpoint of every run. The same command resumes the study, and so does `study run --name NAME`.

    Exit codes: 4 if the study has no best trial, 130 if you interrupted the study.

    \b
    Example:
      jorge-tune study run digits/cnn-sgd --name digits --trials 40 --workers 2
      jorge-tune study run study.yaml --hours 8 --confirm-seeds 0
    """
    if options["constraint"] and options["no_constraint"]:
        raise InputError("--constraint and --no-constraint contradict each other; give one of them")
    plan = None if source is None else _plan(source, name, options)
    if options["dry_run"]:
        return _dry_run(plan or _stored_plan(options, name), workers, runs, options["storage"], output_format)
    context = _context(plan, name, runs, options)
    code = code_places(options["code"], plan)
    given = {"hours": options["hours"], "download": options["download"], "loggers": options["loggers"]}
    end = run(context, workers=workers, code=code, **given)
    exit_code = show_end(context, end, output_format)
    if end.verdict is not None:
        attach_verdict(context)
    return exit_code


def _context(plan: StudyPlan | None, name: str | None, runs: Path | None, options: dict[str, Any]) -> StudyContext:
    """Create the study of the plan, or resume a stored study."""
    if plan is None:
        return _resume(options, name, runs)
    return make_study(plan, options["storage"], runs, branch=options["branch"])


def _resume(options: dict[str, Any], name: str | None, runs: Path | None) -> StudyContext:
    """Find a stored study, and apply the settings that may change later."""
    from dataclasses import replace

    from jorge_tune.study.study import open_study
    from jorge_tune.study.study_file import confirmation_seeds

    given = [key for key in _ONLY_AT_THE_START if options[key]]
    if given:
        raise InputError(f"--{given[0].replace('_', '-')} needs the study file or the recipe; give it as the argument")
    context = find_search(options["storage"], name, runs)
    context.opened.check_version()
    plan = context.opened.plan
    settings = {key: options[key] for key in ("trials", "hours", "device", "threads") if options[key] is not None}
    if options["confirm_seeds"] is not None:
        settings["confirm_seeds"] = confirmation_seeds(plan.seeds, options["confirm_seeds"])
    opened = open_study(context.storage, replace(plan, **settings), context.runs)
    return replace(context, opened=opened)


def _stored_plan(options: dict[str, Any], name: str | None) -> StudyPlan:
    return find_search(options["storage"], name).opened.plan


def _plan(source: str, name: str | None, options: dict[str, Any]) -> StudyPlan:
    """The plan of a study file or of a recipe, with the options."""
    from jorge_tune.recipe.recipe_files import resolve_recipe
    from jorge_tune.study.study_file import default_study, is_study, read_study

    changes = _changes(name, options)
    path = resolve_recipe(source)
    plan = read_study(path, changes) if is_study(path) else default_study(source, are_options=True, **changes)
    for note in plan.notes:
        tell(f"note: {note}")
    return plan


def _changes(name: str | None, options: dict[str, Any]) -> dict[str, Any]:
    """The fields of a study file that the options set."""
    keys = ("trials", "hours", "sampler", "pruner", "confirm_seeds", "device", "threads")
    changes: dict[str, Any] = {"name": name, **{key: options[key] for key in keys}}
    if options["seeds"] is not None:
        changes["seeds"] = list(options["seeds"])
    if options["no_constraint"]:
        changes["constraint"] = "none"
    elif options["constraint"] is not None:
        changes["constraint"] = {"overhead": f"{100 * options['constraint']:.12g}%"}
    if options["target"] is not None and "target" not in (options["objective"] or ""):
        raise InputError("--target needs --objective time-to-target or epochs-to-target")
    if options["objective"] is not None:
        metric, target = parse_target(options["target"], None)
        section = {"kind": options["objective"], "metric": metric, "target": target}
        changes["objective"] = {key: value for key, value in section.items() if value is not None}
    return {key: value for key, value in changes.items() if value is not None}


def _dry_run(plan: StudyPlan, workers: int, runs: Path | None, storage: str | None, output_format: str) -> int:
    from jorge_tune.study.storage.address import find_address

    show_plan(plan, workers, folders(plan.name, runs)(plan.name), find_address(storage), output_format)
    return 0


def show_plan(plan: StudyPlan, workers: int, runs: Path, address: Address, output_format: str) -> None:
    """Print a plan and an estimate; a few training steps are timed for it, and nothing of them is kept.

    Raises:
        InputError: The recipe cannot be trained on this machine.
    """
    from jorge_tune.study.estimate import estimate

    pace = _pace(plan, workers)
    known: dict[str, Any] = {}
    if pace is not None:
        known = {
            "steps_per_epoch": pace.steps_per_epoch,
            "iteration_seconds": pace.step_seconds,
            "evaluation_seconds": pace.evaluation_seconds,
        }
    found = estimate(plan, workers=workers, **known)
    if output_format == "json":
        print_json(_as_data(plan, workers, runs, address, found))
        return
    print_table(["study", plan.name], _rows(plan, workers, runs, address))
    say()
    space = [(p.path, scalar(p.plain(p.bootstrap)), p.domain()) for p in plan.space]
    print_table(["searched", "bootstrapped", "space"], space)
    say()
    print_table(["runs", "number", "at most"], _costs(found))


def _pace(plan: StudyPlan, workers: int) -> Pace | None:
    """The pace of a few steps; None where these would run code of the user's own."""
    from jorge_tune.recipe.user_code import check_findable, named_modules

    check_findable(plan.recipe)
    if named := named_modules(plan.recipe):
        imported = ", ".join(map(str, named))
        tell(f"no step is timed: the study imports {imported}, and a dry run imports nothing")
        return None
    tell("a few steps are timed")
    share_the_cores()
    from jorge_tune.compare.pace import pace
    from jorge_tune.study.supervisor import shares

    device, threads = shares(workers, plan.device, plan.threads)[0]
    return pace(plan.recipe, device=device, threads=threads)


def _rows(plan: StudyPlan, workers: int, runs: Path, address: Address) -> list[tuple[str, str]]:
    overhead = "none" if plan.overhead is None else f"a step takes at most {1 + plan.overhead:g} times the baseline's"
    return [
        ("recipe", plan.recipe.name),
        ("baseline", "none" if plan.baseline is None else plan.baseline.name),
        ("objective", str(plan.objective)),
        ("constraint", overhead),
        ("sampler, pruner", f"{plan.sampler}, {plan.pruner}"),
        ("trials", str(plan.trials)),
        ("hours", "no limit" if plan.hours is None else f"{plan.hours:g}"),
        ("seeds", ", ".join(map(str, plan.seeds))),
        ("confirmation seeds", ", ".join(map(str, plan.confirm_seeds)) or "none"),
        ("workers", str(workers)),
        ("device", plan.device),
        ("storage", str(address)),
        ("runs", str(runs)),
    ]


def _costs(found: StudyEstimate) -> list[tuple[str, str, str]]:
    total = "not known" if found.seconds is None else clock_time(found.seconds)
    steps = "not known" if found.steps_per_run is None else f"{found.steps_per_run} steps each"
    return [
        ("search", str(found.search_runs), steps),
        ("baseline", str(found.baseline_runs), steps),
        ("confirmation", str(found.confirmation_runs), steps),
        ("all", str(found.runs), total + (" (--hours ends the search)" if found.is_capped else "")),
    ]


def _as_data(plan: StudyPlan, workers: int, runs: Path, address: Address, found: StudyEstimate) -> dict[str, Any]:
    from dataclasses import asdict

    from jorge_tune.study.stored_plan import plan_to_json

    estimated = {**asdict(found), "runs": found.runs}
    return {
        "plan": plan_to_json(plan),
        "workers": workers,
        "runs": str(runs),
        "storage": str(address),
        "estimate": estimated,
    }


@click.command()
@name_option
@storage_option
@runs_option
@click.option("--confirm-seeds", type=click.IntRange(min=1), help="Number of seeds [default: the plan's, else 6].")
@workers_option
@device_options(default=None)
@threads_option("all cores, divided among the runs", "CPU threads of each run")
@download_option
@code_option
@logger_option
@format_option
def study_confirm_command(
    name: str | None,
    storage: str | None,
    runs: Path | None,
    confirm_seeds: int | None,
    workers: int,
    device: str | None,
    threads: int | None,
    download: bool,
    code: tuple[str, ...],
    loggers: tuple[str, ...],
    output_format: str,
) -> int:
    """Run baseline, bootstrap and best trial on new seeds, and judge the bootstrap again.

    `study run` does this at its end. Finished runs are kept: if you ask for further seeds, or if another trial is now
    the best, only the missing runs are trained. The runs are the companion study NAME.confirm, which other machines
    can join with `study worker`.

    Exit codes: 4 if the study has no best trial, 130 if you interrupted the runs.

    \b
    Example:
      jorge-tune study confirm --name digits --confirm-seeds 10 --workers 2
    """
    from jorge_tune.cli.study_display import last_word, show_end, watching
    from jorge_tune.study.run_study import Crew, confirm_whole
    from jorge_tune.study.study import open_study
    from jorge_tune.study.study_file import confirmation_seeds

    context = find_search(storage, name, runs)
    context.opened.check_version()
    plan = context.opened.plan
    count = confirm_seeds or len(plan.confirm_seeds) or 6
    plan = replace(plan, confirm_seeds=confirmation_seeds(plan.seeds, count))
    context = replace(context, opened=open_study(context.storage, plan, context.runs))
    crew = Crew(
        workers=workers,
        device=device or plan.device,
        threads=threads or plan.threads,
        download=download,
        code=code_places(code),
        loggers=loggers,
        last_word=last_word(how_to_resume(context)),
    )
    with watching(context) as watch:
        end = confirm_whole(context.opened, context.address, context.runs, crew, watch)
    if end is None:
        tell(f"study {context.name} has nothing to confirm: it has no best trial, because no trial has a value")
        return EXIT_NO_ANSWER
    exit_code = show_end(context, end, output_format)
    if end.verdict is not None:
        attach_verdict(context)
    return exit_code
