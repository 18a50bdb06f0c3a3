"""`jorge-tune study status`: how a study stands, and its verdict."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from jorge_tune.cli.calibration_options import EXIT_NO_ANSWER
from jorge_tune.cli.output import (
    STDOUT,
    clock_time,
    format_option,
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
    goes_on,
    name_option,
    runs_option,
    say_unread,
    storage_option,
)
from jorge_tune.errors import InputError
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
    """Show trials by state, the best so far, who runs what, what is lost, the time left, and the verdict.

    A comparison has no best trial and no verdict here: `jorge-tune report NAME` shows it.

    Workers of other machines are seen where --runs is on a disk that they share. A lost trial goes back by itself
    as soon as any worker looks, or with `study reap`.

    \b
    Example:
      jorge-tune study status --name digits
      jorge-tune study status --name digits --format json
    """
    from jorge_tune.study.confirm import companion_studies, fresh_verdict, unread
    from jorge_tune.study.status import read_status

    found = find_study(storage, name, runs, to_read=True)
    status = read_status(found.opened, found.folder, found.address, companion_studies(found.opened))
    status = replace(status, verdict=fresh_verdict(found.opened))  # trials may have ended since it was stored
    status = replace(status, unread=tuple(unread(found.opened, status.rows)))
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
        ("started again", str(status.restarted)),
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
@click.option(
    "-o", "--out", type=click.Path(path_type=Path, dir_okay=False), help="File to write the recipe to; - for stdout."
)
@click.option("--force", is_flag=True, help="Overwrite an existing file.")
@format_option
def study_best_command(name: str | None, storage: str | None, out: Path | None, force: bool, output_format: str) -> int:
    """Print the best trial's recipe with the reason for each value; exit 4 where no trial is the best.

    The best has the best value among the trials that keep the constraint; of equals it is the first. Another trial's
    recipe: `study export --trial N`.

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
    found = find_search(storage, name, to_read=True)
    if out is not None and not is_stdout(out):
        keep_off(found.address, out)
    say_unread(found)
    evidence = gather(found.opened)
    best = best_of(evidence.rows, lower_is_better=evidence.lower_is_better)
    if best is None:
        tell(f"study {found.name} has no best trial: {judge(evidence).why_no_best}")
        return EXIT_NO_ANSWER
    recipe, derivations = recipe_of(best, found.opened.plan)
    if out is not None:
        write_out(out, render_recipe(recipe, derivations), force=force)
        tell_written(out)
    if output_format == "json":
        data = {"number": best.number, "value": best.value, "point": best.point, "recipe": recipe_to_dict(recipe)}
        print_json(portable(data))
    elif out is None:
        say(f"# study {found.name}: trial {best.number}, {evidence.objective} {best.value:.6g}")
        write_out(STDOUT, render_recipe(recipe, derivations))
    return 0


@click.command()
@name_option
@storage_option
@click.option(
    "--set",
    "assignments",
    multiple=True,
    required=True,
    metavar="FIELD=VALUE",
    help="A searched field; may be repeated.",
)
@format_option
def study_add_command(name: str | None, storage: str | None, assignments: tuple[str, ...], output_format: str) -> None:
    """Queue a point: the fields given, as the recipe has them, and the bootstrap's for the rest.

    It is one of the study's trials, run before further ones are drawn; a study whose trials are all done needs a
    larger --trials for it. A point outside the space is refused; one that a trial has already is queued once more, and
    that is said.

    \b
    Example:
      jorge-tune study add --name digits --set lr=0.2 --set refresh_interval=5
    """
    from jorge_tune.study.export import values_of
    from jorge_tune.study.study import add_point
    from jorge_tune.study.trial_rows import rows_of

    found = find_search(storage, name)
    space = found.opened.plan.space
    point = space.point_from_assignments(assignments)
    values = {parameter.path: parameter.plain(point[parameter.name]) for parameter in space}
    twins = [row for row in rows_of(found.opened) if values_of(row, space) == values]
    number = add_point(found.opened, point)
    if twins:
        tell(f"the same point as trial {twins[0].number} ({twins[0].state})")
    if output_format == "json":
        print_json({"study": found.name, "number": number, "point": point, "values": values})
    else:
        shown = ", ".join(f"{path} {scalar(value)}" for path, value in values.items())
        say(f"queued as trial {number}: {shown}")


@click.command()
@name_option
@storage_option
@click.option("--now", is_flag=True, help="Do not finish the present trials: checkpoint them, to be resumed.")
def study_stop_command(name: str | None, storage: str | None, now: bool) -> None:
    """Let every worker, on all machines, end its present trial and leave; with --now it checkpoints and leaves.

    Workers look every few seconds. `study run` takes the study up again, `compare` a comparison.

    \b
    Example:
      jorge-tune study stop --name digits
      jorge-tune study stop --name digits --now
    """
    from jorge_tune.study.confirm import companion_studies

    found = find_study(storage, name)
    for study in (found.opened, *companion_studies(found.opened)):
        study.request_stop("checkpoint" if now else "finish", "asked for by `study stop`")
    what = "checkpoint their runs" if now else "finish their trials"
    say(f"study {found.name}: workers {what} and leave; {goes_on(found)}")


_LOOK_SECONDS = 2.0


@click.command()
@name_option
@storage_option
@runs_option
@format_option
def study_reap_command(name: str | None, storage: str | None, runs: Path | None, output_format: str) -> None:
    """Put back the trials whose workers are gone, to be resumed by whoever works next.

    A worker that died on this machine is known at once. One elsewhere is known by a lease that stands still, so this
    watches for as long as a lease lasts (90 s), unless no trial is in doubt. Workers do the same among themselves.

    \b
    Example:
      jorge-tune study reap --name digits
    """
    from jorge_tune.study.confirm import companion_studies

    found = find_study(storage, name, runs)
    put_back = {
        study.plan.name: _reap(study, found.runs(study.plan.name))
        for study in (found.opened, *companion_studies(found.opened))
    }
    if output_format == "json":
        print_json(put_back)
        return
    for study, numbers in put_back.items():
        listed = ", ".join(str(number) for number in numbers)
        say(f"study {study}: " + (f"trial {listed} put back" if numbers else "nothing is lost"))


def _reap(opened: OpenStudy, runs: Path) -> list[int]:
    """Watch until every running trial has shown a sign of life, or is put back."""
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
@click.option(
    "-o", "--out", type=click.Path(path_type=Path, dir_okay=False), required=True, help="File to write; - for stdout."
)
@click.option("--as", "kind", type=click.Choice(["csv", "json", "recipe", "sqlite"]), help="What [default: by ending].")
@click.option("--trial", type=click.IntRange(min=0), help="Whose recipe is written [default: the best trial's].")
@click.option("--force", is_flag=True, help="Overwrite an existing file.")
def study_export_command(
    name: str | None, storage: str | None, out: Path, kind: str | None, trial: int | None, force: bool
) -> int:
    """Write all trials as CSV or JSON, one trial's recipe with its reasons, or an SQLite copy of the study.

    What is written follows from the file's ending: .csv, .json (with plan and verdict), .yaml (a recipe), .db (a
    copy of the study and those beside it, for any Optuna tool). -o - writes to stdout, and needs --as.

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
        raise InputError("-o - needs --as csv, json or recipe, which are text")
    if kind is None:
        raise InputError(f"{out}: its ending does not say what to write; end it in {', '.join(_ENDINGS)}, or give --as")
    if trial is not None and kind != "recipe":
        raise InputError(f"--trial picks a recipe, and {out} is to be {kind}; end it in .yaml, or give --as recipe")
    found = find_study(storage, name, to_read=True)
    if not is_stdout(out):
        keep_off(found.address, out)
    say_unread(found)
    if kind == "sqlite":
        export.write_sqlite(found.opened, out, force=force)
    else:
        texts = {
            "csv": lambda: export.csv_of(found.opened),
            "json": lambda: export.json_of(found.opened),
            "recipe": lambda: export.trial_text(found.opened, trial),
        }
        write_out(out, texts[kind](), force=force)
    tell_written(out)
    return 0
