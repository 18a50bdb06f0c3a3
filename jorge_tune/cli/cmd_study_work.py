"""`jorge-tune study worker` and `study launch`: join a study, and print the commands that join it elsewhere."""

from __future__ import annotations

import shlex
import time
from pathlib import Path

import click

from jorge_tune.cli.options import device_options, download_option, format_option, logger_option, threads_option
from jorge_tune.cli.output import print_json, say, tell
from jorge_tune.cli.study_options import (
    StudyContext,
    code_option,
    code_places,
    find_study,
    how_to_resume,
    name_option,
    runs_option,
    storage_option,
)
from jorge_tune.errors import EXIT_INTERRUPTED, InputError


@click.command()
@name_option
@storage_option
@runs_option
@device_options(default=None)
@threads_option("the study's", "CPU threads of each run")
@download_option
@code_option
@logger_option
def study_worker_command(
    name: str | None,
    storage: str | None,
    runs: Path | None,
    device: str | None,
    threads: int | None,
    download: bool,
    code: tuple[str, ...],
    loggers: tuple[str, ...],
) -> int:
    """Join a study as a worker, and work until no trial is left.

    Any number of workers on any machines can join. The storage holds the plan, so a worker needs only the storage and
    the study's name. If the plan's recipes name code of your own, start the worker in the folder of that code; the
    worker says what it imports. If all workers share the disk of --runs, one worker resumes a trial that another lost;
    otherwise the trial starts again. The study's hours count from this worker's start. NAME.sgd and NAME.confirm can be
    joined in the same way.

    Exit codes: 130 if you interrupted the worker.

    \b
    Example:
      JORGE_TUNE_STORAGE=postgresql://me:secret@db/studies jorge-tune study worker --name resnet
    """
    from jorge_tune.cli.study_display import last_word, study_display
    from jorge_tune.study.status import read_status
    from jorge_tune.study.stop import WorkerStops
    from jorge_tune.study.worker import WorkerSettings, work_on

    places = code_places(code)
    context = find_study(storage, name, runs)
    plan = context.opened.plan
    settings = WorkerSettings(
        device=device or plan.device,
        threads=threads or plan.threads,
        download=download,
        code=places,
        loggers=loggers,
        deadline=None if plan.hours is None else time.time() + 3600 * plan.hours,
    )
    seen = context.opened.for_display()
    with (
        WorkerStops(last_word(how_to_resume(context))).listening() as stops,
        study_display(plan.name, lambda: read_status(seen, context.folder, context.address)) as report,
    ):
        ended = work_on(context.opened, context.folder, settings, stops, lambda message: report(message, None))
    if ended.kind != "done":
        tell(ended.reason + (f"; {how_to_resume(context)}" if ended.kind in ("stopped", "interrupted") else ""))
    return EXIT_INTERRUPTED if ended.kind == "interrupted" else ended.exit_code


@click.command()
@name_option
@storage_option
@runs_option
@click.argument("hosts", nargs=-1, metavar="[HOST]...")
@click.option(
    "--workers", type=click.IntRange(min=1), default=1, show_default=True, help="Number of workers per machine."
)
@click.option("--slurm", is_flag=True, help="Print a Slurm batch script with a job array of --workers jobs.")
@format_option
def study_launch_command(
    name: str | None,
    storage: str | None,
    runs: Path | None,
    hosts: tuple[str, ...],
    workers: int,
    slurm: bool,
    output_format: str,
) -> None:
    """Print the commands that start workers of a study on other machines.

    The command runs nothing. Each worker reads the address of the storage from the variable JORGE_TUNE_STORAGE, which
    you set on its machine; the printed address hides the password. An SQLite file serves one machine only.

    \b
    Example:
      jorge-tune study launch --name resnet node1 node2 --workers 4
      jorge-tune study launch --name resnet --slurm --workers 16 > workers.sbatch
    """
    context = find_study(storage, name, runs)
    if context.address.kind == "sqlite" and (slurm or hosts):
        raise InputError(
            f"{context.address} is a file for one machine; keep the study in PostgreSQL or MySQL, or in a journal file "
            "on a disk that all machines share (--storage journal:///PATH)"
        )
    line = (
        f"jorge-tune study worker --name {shlex.quote(context.name)} "
        f"--runs {shlex.quote(str(context.folder.absolute()))}"
    )
    lines = _slurm(line, context.name, workers) if slurm else _lines(line, hosts, workers)
    for module in sorted(_own_modules(context)):
        tell(f"the runs import {module}; start the workers in its folder, or add --code DIR to the lines")
    password = " with its password" if context.address.secrets() else ""
    comment = f"# set JORGE_TUNE_STORAGE on each machine to {context.address}{password}"
    if output_format == "json":
        print_json(
            {"study": context.name, "variable": "JORGE_TUNE_STORAGE", "address": str(context.address), "lines": lines}
        )
        return
    first = 1 if slurm else 0  # a batch script begins with its interpreter
    say("\n".join([*lines[:first], comment, *lines[first:]]))


def _own_modules(context: StudyContext) -> set[str]:
    """The modules of the user's own that the study's recipes name."""
    from jorge_tune.recipe.user_code import references
    from jorge_tune.study.plan import recipes_of

    named = [references(recipe) for recipe in recipes_of(context.opened.plan)]
    return {text.partition(":")[0] for texts in named for path, text in texts.items() if path.startswith("task.")}


def _lines(line: str, hosts: tuple[str, ...], workers: int) -> list[str]:
    """One line per worker; with hosts, through ssh, which passes the variable on if the server accepts it."""
    if not hosts:
        return [line] * workers
    return [
        f"ssh -o SendEnv=JORGE_TUNE_STORAGE {shlex.quote(host)} {shlex.quote(line)} &"
        for host in hosts
        for _ in range(workers)
    ]


def _slurm(line: str, name: str, workers: int) -> list[str]:
    return [
        "#!/bin/sh",
        f"#SBATCH --job-name={name}",
        f"#SBATCH --array=1-{workers}",
        "#SBATCH --export=ALL",
        "#SBATCH --signal=TERM@120",
        "#SBATCH --requeue",
        f"exec {line}",
    ]
