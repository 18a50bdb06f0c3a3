"""`jorge-tune study status`, `best`, `add`, `stop`, `reap` and `export`: look at a study, and change its queue."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from jorge_tune.cli.options import force_option, format_option, out_option, set_option
from jorge_tune.cli.output import (
    STDOUT,
    clock_time,
    is_stdout,
    print_json,
    print_table,
    print_text,
    refuse_json_with_stdout,
    say,
    tell,
    tell_written,
    write_out,
)
from jorge_tune.cli.study_options import (
    find_search,
    find_study,
    how_to_resume,
    name_option,
    runs_option,
    storage_option,
    warn_of_unread,
)
from jorge_tune.errors import EXIT_NO_ANSWER, InputError
from jorge_tune.recipe.render import scalar

if TYPE_CHECKING:
    from jorge_tune.study.status import RunningTrial, StudyStatus
    from jorge_tune.study.study import OpenStudy


@click.command()
@name_option
@storage_option
@runs_option
@format_option
def study_status_command(name: str | None, storage: str | None, runs: Path | None, output_format: str) -> None:
    """Show the progress and the verdict of a study.

    The table shows the trials by state, the best trial, the running and the lost trials, and the time left. Workers on
    other machines appear if they share the disk of --runs. Any worker puts a lost trial back into the queue when it
    next looks; `study reap` does it at once. For the verdict of a comparison, use `jorge-tune report NAME`.

    \b
    Example:
      jorge-tune study status --name digits
      jorge-tune study status --name digits --format json
    """
    from jorge_tune.study.confirm import companion_studies, fresh_verdict, unread
    from jorge_tune.study.status import read_status

    context = find_study(storage, name, runs, to_read=True)
    status = read_status(context.opened, context.folder, context.address, companion_studies(context.opened))
    status = replace(status, verdict=fresh_verdict(context.opened))  # trials may have ended since it was stored
    status = replace(status, unread=tuple(unread(context.opened, status.rows)))
    if output_format == "json":
        print_json(status.to_json())
        return
    print_table(["study", status.study], _rows(status))
    if status.running:
        say()
        print_table(["trial", "worker", "state", "seed", "epoch"], [_row(one, status) for one in status.running])
    if status.verdict is not None:
        say("\nVerdict")
        for sentence in status.verdict["sentences"]:
            print_text(sentence)
    else:
        for sentence in status.unread:
            print_text(sentence)


def _rows(status: StudyStatus) -> list[tuple[str, str]]:
    counts = ", ".join(f"{number} {state}" for state, number in status.counts.items() if number)
    return [
        ("state", status.state + ("" if status.stop is None else f", stopping ({status.stop})")),
        ("trials", f"{status.ended} of {status.total} ended ({counts or 'none yet'})"),
        ("remaining", str(status.remaining)),
        ("time left", "-" if status.eta_seconds is None else clock_time(status.eta_seconds)),
        ("objective", status.objective),
        ("best", "-" if status.best is None else f"{status.best.value:.4g}, trial {status.best.number}"),
        ("baseline", "-" if status.baseline is None else f"{status.baseline:.4g}"),
        *((one.name, f"{one.ended} of {one.total} ended") for one in status.companions),
        ("restarted", str(status.restarted)),
        ("lost", ", ".join(f"trial {number}" for number in status.lost) or "none"),
        ("idle workers", str(len(status.idle))),
        ("storage", status.storage),
        ("runs", status.runs),
    ]


def _row(one: RunningTrial, status: StudyStatus) -> list[str]:
    from jorge_tune.study.confirm import run_in_words

    state = "lost" if one.is_lost else {"alive": "running", "unknown": "elsewhere"}.get(one.life, one.life)
    epoch = "-" if one.epoch is None else f"{one.epoch:g}"
    whose = run_in_words(status.rows, one.number, named=status.is_comparison)
    trial = f"{one.number} ({whose})" if whose else str(one.number)
    return [trial, one.worker or "-", state, "-" if one.seed is None else str(one.seed), epoch]


@click.command()
@name_option
@storage_option
@out_option("File for the recipe; - is stdout.")
@force_option()
@format_option
def study_best_command(name: str | None, storage: str | None, out: Path | None, force: bool, output_format: str) -> int:
    """Print the recipe of the best trial, with the reason for each value.

    The best trial has the best value among the trials that keep the constraint; the earliest one wins a tie. For the
    recipe of another trial, use `study export --trial N`.

    Exit codes: 4 if the study has no best trial.

    \b
    Example:
      jorge-tune study best --name digits -o best.yaml
    """
    from jorge_tune.recipe.recipe_files import render_recipe
    from jorge_tune.recipe.render import recipe_to_dict
    from jorge_tune.records import portable
    from jorge_tune.study.confirm import gather
    from jorge_tune.study.export import recipe_of
    from jorge_tune.study.storage.open import keep_off
    from jorge_tune.study.study_verdict import judge
    from jorge_tune.study.trial_rows import best_of

    refuse_json_with_stdout(out, output_format)
    context = find_search(storage, name, to_read=True)
    if out is not None and not is_stdout(out):
        keep_off(context.address, out)
    warn_of_unread(context)
    evidence = gather(context.opened)
    best = best_of(evidence.rows, lower_is_better=evidence.lower_is_better)
    if best is None:
        tell(f"study {context.name} has no best trial: {judge(evidence).why_no_best}")
        return EXIT_NO_ANSWER
    recipe, derivations = recipe_of(best, context.opened.plan)
    if out is not None:
        write_out(out, render_recipe(recipe, derivations), force=force)
        tell_written(out)
    if output_format == "json":
        data = {"number": best.number, "value": best.value, "point": best.point, "recipe": recipe_to_dict(recipe)}
        print_json(portable(data))
    elif out is None:
        say(f"# study {context.name}: trial {best.number}, {evidence.objective} {best.value:.6g}")
        write_out(STDOUT, render_recipe(recipe, derivations))
    return 0


@click.command()
@name_option
@storage_option
@set_option("Value of a searched field.", "FIELD=VALUE", required=True)
@format_option
def study_add_command(name: str | None, storage: str | None, assignments: tuple[str, ...], output_format: str) -> None:
    """Queue a trial with your own values.

    Fields that you do not set keep the bootstrap's values. The trial counts as one of the study's trials and runs
    before the sampler draws another point; if all trials have ended, resume the study with a larger --trials. Values
    outside the search space are refused. If an earlier trial has the same values, stderr says so, and the trial is
    queued again.

    \b
    Example:
      jorge-tune study add --name digits --set lr=0.2 --set refresh_interval=5
    """
    from jorge_tune.study.export import values_of
    from jorge_tune.study.study import add_point
    from jorge_tune.study.trial_rows import rows_of

    context = find_search(storage, name)
    space = context.opened.plan.space
    point = space.point_from_assignments(assignments)
    values = {parameter.path: parameter.plain(point[parameter.name]) for parameter in space}
    twins = [row for row in rows_of(context.opened) if values_of(row, space) == values]
    number = add_point(context.opened, point)
    if twins:
        tell(f"trial {twins[0].number} ({twins[0].state}) has the same values")
    if output_format == "json":
        print_json({"study": context.name, "number": number, "point": point, "values": values})
    else:
        shown = ", ".join(f"{path} {scalar(value)}" for path, value in values.items())
        say(f"queued as trial {number}: {shown}")


@click.command()
@name_option
@storage_option
@click.option("--now", is_flag=True, help="Checkpoint the present trials instead of finishing them.")
def study_stop_command(name: str | None, storage: str | None, now: bool) -> None:
    """Ask all workers of a study, on all machines, to stop after their present trial.

    With --now, each worker writes a checkpoint and stops without finishing its trial. Workers see the stop request
    within a few seconds. `study run` resumes a search, and `compare` resumes a comparison.

    \b
    Example:
      jorge-tune study stop --name digits
      jorge-tune study stop --name digits --now
    """
    from jorge_tune.study.confirm import companion_studies

    context = find_study(storage, name)
    for study in (context.opened, *companion_studies(context.opened)):
        study.request_stop("checkpoint" if now else "finish", "stop request from `study stop`")
    what = "checkpoint their trials" if now else "finish their trials"
    say(f"study {context.name}: its workers {what} and stop; {how_to_resume(context)}")


_LOOK_SECONDS = 2.0


@click.command()
@name_option
@storage_option
@runs_option
@format_option
def study_reap_command(name: str | None, storage: str | None, runs: Path | None, output_format: str) -> None:
    """Put the trials of lost workers back into the queue; the next worker resumes them.

    The command sees at once that a worker on this machine is dead. A worker on another machine is lost when its lease
    expires, so the command may watch for 90 s, the length of a lease. Workers do the same for each other.

    \b
    Example:
      jorge-tune study reap --name digits
    """
    from jorge_tune.study.confirm import companion_studies

    context = find_study(storage, name, runs)
    put_back = {
        study.plan.name: _reap(study, context.runs(study.plan.name))
        for study in (context.opened, *companion_studies(context.opened))
    }
    if output_format == "json":
        print_json(put_back)
        return
    for study, numbers in put_back.items():
        listed = ("trial " if len(numbers) == 1 else "trials ") + ", ".join(map(str, numbers))
        say(f"study {study}: " + (f"{listed} put back into the queue" if numbers else "no trial is lost"))


def _reap(opened: OpenStudy, runs: Path) -> list[int]:
    """Watch until each running trial has renewed its lease or is back in the queue."""
    from jorge_tune.study.leases import LeaseTimes, Reaper

    folder = opened.enter(runs) if runs.is_dir() else None
    times = LeaseTimes()
    reaper = Reaper(opened.claims, folder, times)
    first = {held.trial_id: held.lease for held in opened.claims.running()}
    put_back: list[int] = []
    end = time.monotonic() + times.lasts + 2 * _LOOK_SECONDS
    while True:
        put_back += reaper.sweep().returned
        still = [held for held in opened.claims.running() if first.get(held.trial_id, "") == held.lease]
        if not still or time.monotonic() > end:
            return sorted(put_back)
        time.sleep(_LOOK_SECONDS)


_ENDINGS = {".csv": "csv", ".json": "json", ".yaml": "recipe", ".yml": "recipe", ".db": "sqlite", ".sqlite": "sqlite"}


@click.command()
@name_option
@storage_option
@out_option("File to write; - is stdout.", required=True)
@click.option(
    "--as",
    "kind",
    type=click.Choice(["csv", "json", "recipe", "sqlite"]),
    help="What to write [default: by the file's ending].",
)
@click.option("--trial", type=click.IntRange(min=0), help="Trial for the recipe [default: the best trial].")
@force_option()
def study_export_command(
    name: str | None, storage: str | None, out: Path, kind: str | None, trial: int | None, force: bool
) -> int:
    """Write the trials, a recipe or a copy of the study.

    The file's ending decides what is written: .csv (all trials), .json (all trials, the plan and the verdict), .yaml
    (one trial's recipe, with the reason for each value), or .db (an SQLite copy of the study and its companion
    studies, for any Optuna tool). -o - writes to stdout and needs --as.

    \b
    Example:
      jorge-tune study export --name digits -o trials.csv
      jorge-tune study export --name digits --trial 7 -o trial-7.yaml
      jorge-tune study export --name digits --as csv -o - | head
      jorge-tune study export --name digits -o digits.db
    """
    from jorge_tune.study import export
    from jorge_tune.study.storage.open import keep_off

    kind = kind or _ENDINGS.get(out.suffix.lower())
    if is_stdout(out) and kind in (None, "sqlite"):
        raise InputError("-o - writes text to stdout; add --as csv, --as json or --as recipe")
    if kind is None:
        raise InputError(
            f"-o must end in {', '.join(_ENDINGS)}, got {str(out)!r}; use one of these endings, or add --as"
        )
    if trial is not None and kind != "recipe":
        raise InputError(
            f"--trial needs a recipe to write, and {out} will be {kind}; end the name in .yaml, or add --as recipe"
        )
    context = find_study(storage, name, to_read=True)
    if not is_stdout(out):
        keep_off(context.address, out)
    warn_of_unread(context)
    if kind == "sqlite":
        export.write_sqlite(context.opened, out, force=force)
    else:
        texts = {
            "csv": lambda: export.csv_of(context.opened),
            "json": lambda: export.json_of(context.opened),
            "recipe": lambda: export.trial_text(context.opened, trial),
        }
        write_out(out, texts[kind](), force=force)
    tell_written(out)
    return 0
