"""`jorge-tune study run`: baseline, search, confirmation, verdict."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from jorge_tune.cli.calibration_options import EXIT_NO_ANSWER, parse_overhead
from jorge_tune.cli.cmd_compare import parse_seeds, parse_target
from jorge_tune.cli.cmd_dashboard import attach_verdict
from jorge_tune.cli.options import complete_recipe, device_options, share_the_cores
from jorge_tune.cli.output import clock_time, format_option, print_json, print_table, say, tell
from jorge_tune.cli.study_display import run, show_end
from jorge_tune.cli.study_options import (
    FoundStudy,
    code_option,
    code_places,
    find_search,
    folders,
    goes_on,
    make_study,
    name_option,
    runs_option,
    storage_option,
)
from jorge_tune.errors import InputError
from jorge_tune.recipe.render import scalar

if TYPE_CHECKING:
    from jorge_tune.compare.pace import Pace
    from jorge_tune.study.estimate import StudyEstimate
    from jorge_tune.study.plan import StudyPlan
    from jorge_tune.study.storage.address import Address

_SAMPLERS = ("tpe", "gp", "cmaes", "random", "grid", "qmc")
_PRUNERS = ("median", "hyperband", "asha", "wilcoxon", "none")
_OBJECTIVES = ("best", "final", "time-to-target", "epochs-to-target")
_STARTING = ("objective", "target", "seeds", "sampler", "pruner", "constraint", "no_constraint")


@click.command()
@click.argument("source", metavar="[STUDY|RECIPE]", required=False, shell_complete=complete_recipe)
@click.option("--name", help="The study's name [default: the file's, or the recipe's].")
@click.option("--trials", type=click.IntRange(min=1), help="Trials in all, those that are done included [default: 40].")
@click.option("--workers", type=click.IntRange(min=1), default=1, show_default=True, help="Runs side by side.")
@storage_option
@runs_option
@click.option("--objective", type=click.Choice(_OBJECTIVES), help="What is searched for [default: best].")
@click.option("--target", metavar="[METRIC=]VALUE", help="The target of an objective that has one, e.g. top1=0.97.")
@click.option("--seeds", metavar="SEEDS", help="Seeds of every trial, as 0-2 or 0,4 [default: 0].")
@click.option("--confirm-seeds", type=click.IntRange(min=0), help="Seeds to confirm on; 0: none [default: 6].")
@click.option("--sampler", type=click.Choice(_SAMPLERS), help="The sampler [default: tpe].")
@click.option(
    "--pruner", type=click.Choice(_PRUNERS), help="The pruner, which ends hopeless trials early [default: median]."
)
@click.option("--hours", type=click.FloatRange(min=0, min_open=True), help="Begin no trial after so many hours.")
@click.option("--constraint", metavar="OVERHEAD", help="Maximum step-time overhead over the baseline [default: 10%].")
@click.option("--no-constraint", is_flag=True, help="Do not limit the time of a step; nothing is calibrated.")
@click.option("--branch", is_flag=True, help="Go on as NAME-2 where NAME is another study by now.")
@device_options(default=None)
@click.option("--threads", type=click.IntRange(min=1), help="CPU threads of a run [default: the cores, shared out].")
@click.option("--download", is_flag=True, help="Fetch a torchvision data set that is not there.")
@code_option
@click.option("--dry-run", is_flag=True, help="Print the plan and what it may take; run nothing.")
@format_option
def study_run_command(
    source: str | None, name: str | None, workers: int, runs: Path | None, output_format: str, **options: Any
) -> int:
    """Search around a bootstrapped recipe, confirm what was found, and say whether single-shot tuning held.

    The argument is a study file, or a recipe (an SGD or AdamW recipe is bootstrapped first), around which rate, decay,
    refresh interval and schedule are searched. Options win over the file. Trial 0 is the bootstrap; its SGD recipe
    runs beside it as NAME.sgd. Then baseline, bootstrap and best run on seeds of their own, as NAME.confirm.

    Ctrl-C leaves a checkpoint of every run; the same command, or `study run --name NAME`, goes on. So does it after
    anything else that ends it. Exit 4: no trial has a value to be the best by.

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
    found = _found(plan, name, runs, options)
    code = code_places(options["code"], plan)
    end = run(found, workers=workers, hours=options["hours"], download=options["download"], code=code)
    exit_code = show_end(found, end, output_format)
    if end.verdict is not None:
        attach_verdict(found)
    return exit_code


def _found(plan: StudyPlan | None, name: str | None, runs: Path | None, options: dict[str, Any]) -> FoundStudy:
    """The study, made or taken up."""
    if plan is None:
        return _taken_up(options, name, runs)
    return make_study(plan, options["storage"], runs, branch=options["branch"])


def _taken_up(options: dict[str, Any], name: str | None, runs: Path | None) -> FoundStudy:
    """A study that is there, under the settings that may change."""
    from dataclasses import replace

    from jorge_tune.study.study import open_study
    from jorge_tune.study.study_file import confirmation_seeds

    given = [key for key in _STARTING if options[key]]
    if given:
        raise InputError(f"--{given[0].replace('_', '-')}: give the study file or recipe too, it is read anew then")
    found = find_search(options["storage"], name, runs)
    found.opened.check_version()
    plan = found.opened.plan
    settings = {key: options[key] for key in ("trials", "hours", "device", "threads") if options[key] is not None}
    if options["confirm_seeds"] is not None:
        settings["confirm_seeds"] = confirmation_seeds(plan.seeds, options["confirm_seeds"])
    opened = open_study(found.storage, replace(plan, **settings), found.runs)
    return replace(found, opened=opened)


def _stored_plan(options: dict[str, Any], name: str | None) -> StudyPlan:
    return find_search(options["storage"], name).opened.plan


def _plan(source: str, name: str | None, options: dict[str, Any]) -> StudyPlan:
    """The plan of a study file or around a recipe, the options made."""
    from jorge_tune.recipe.recipe_files import resolve_recipe
    from jorge_tune.study.study_file import default_study, is_study, read_study

    changes = _changes(name, options)
    path = resolve_recipe(source)
    plan = read_study(path, changes) if is_study(path) else default_study(source, are_options=True, **changes)
    for note in plan.notes:
        tell(f"note: {note}")
    return plan


def _changes(name: str | None, options: dict[str, Any]) -> dict[str, Any]:
    """Fields of a study file that options give."""
    keys = ("trials", "hours", "sampler", "pruner", "confirm_seeds", "device", "threads")
    changes: dict[str, Any] = {"name": name, **{key: options[key] for key in keys}}
    if options["seeds"] is not None:
        changes["seeds"] = list(parse_seeds(None, None, options["seeds"]))
    if options["no_constraint"]:
        changes["constraint"] = "none"
    elif options["constraint"] is not None:
        changes["constraint"] = {"overhead": f"{100 * parse_overhead(None, None, options['constraint']):.12g}%"}
    if options["target"] is not None and "target" not in (options["objective"] or ""):
        raise InputError("--target goes with --objective time-to-target or epochs-to-target")
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
    """Print a plan; a few steps of its recipe are trained to time them, nothing is kept of them.

    Raises:
        InputError: the recipe cannot be trained here.
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
        ("all", str(found.runs), total + (" (the search ends by its hours)" if found.is_capped else "")),
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
@click.option("--confirm-seeds", type=click.IntRange(min=1), help="How many seeds [default: as planned, else 6].")
@click.option("--workers", type=click.IntRange(min=1), default=1, show_default=True, help="Runs side by side.")
@device_options(default=None)
@click.option("--threads", type=click.IntRange(min=1), help="CPU threads of a run [default: the cores, shared out].")
@click.option("--download", is_flag=True, help="Fetch a torchvision data set that is not there.")
@code_option
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
    output_format: str,
) -> int:
    """Run baseline, bootstrap and the best trial so far on seeds that the search did not see, and judge anew.

    `study run` does this in the end. Runs that are there are kept: more seeds, or another best trial since, add what
    is missing. The runs are a study of their own, NAME.confirm, which others may join with `study worker`. Exit 4
    where no trial is the best.

    \b
    Example:
      jorge-tune study confirm --name digits --confirm-seeds 10 --workers 2
    """
    from jorge_tune.cli.study_display import last_word, show_end, watching
    from jorge_tune.study.run_study import Crew, confirm_whole
    from jorge_tune.study.study import open_study
    from jorge_tune.study.study_file import confirmation_seeds

    found = find_search(storage, name, runs)
    found.opened.check_version()
    plan = found.opened.plan
    count = confirm_seeds or len(plan.confirm_seeds) or 6
    plan = replace(plan, confirm_seeds=confirmation_seeds(plan.seeds, count))
    found = replace(found, opened=open_study(found.storage, plan, found.runs))
    crew = Crew(
        workers=workers,
        device=device or plan.device,
        threads=threads or plan.threads,
        download=download,
        code=code_places(code),
        last_word=last_word(goes_on(found)),
    )
    with watching(found) as watch:
        end = confirm_whole(found.opened, found.address, found.runs, crew, watch)
    if end is None:
        tell(f"study {found.name} has nothing to confirm: no trial has a value to be the best by")
        return EXIT_NO_ANSWER
    exit_code = show_end(found, end, output_format)
    if end.verdict is not None:
        attach_verdict(found)
    return exit_code
