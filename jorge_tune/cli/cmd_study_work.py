"""`jorge-tune study worker`: one more worker of a study, from anywhere."""

from __future__ import annotations

import shlex
import time
from pathlib import Path

import click

from jorge_tune.cli.options import device_options
from jorge_tune.cli.output import format_option, print_json, say, tell
from jorge_tune.cli.study_options import (
    EXIT_INTERRUPTED,
    FoundStudy,
    code_option,
    code_places,
    find_study,
    goes_on,
    name_option,
    runs_option,
    storage_option,
)
from jorge_tune.errors import InputError


@click.command()
@name_option
@storage_option
@runs_option
@device_options(default=None)
@click.option("--threads", type=click.IntRange(min=1), help="CPU threads of a run [default: the study's].")
@click.option("--download", is_flag=True, help="Fetch a torchvision data set that is not there.")
@code_option
def study_worker_command(
    name: str | None,
    storage: str | None,
    runs: Path | None,
    device: str | None,
    threads: int | None,
    download: bool,
    code: tuple[str, ...],
) -> int:
    """Join a study by its name and work until no trial is left, as one of any number of workers on any machines.

    The plan is in the storage; nothing else is needed here, unless its recipes name code of your own: then start the
    worker in the folder of that code, and read what it says that it imports. Where --runs is on a disk that all workers
    see, a trial lost by one is resumed by another, else it starts anew. The study's hours count from here. NAME.sgd and
    NAME.confirm can be joined the same way.

    \b
    Example:
      JORGE_TUNE_STORAGE=postgresql://me:secret@db/studies jorge-tune study worker --name resnet
    """
    from jorge_tune.cli.study_display import last_word, study_display
    from jorge_tune.study.status import read_status
    from jorge_tune.study.stop import WorkerStops
    from jorge_tune.study.worker import WorkerSettings, work_on

    found = find_study(storage, name, runs)
    plan = found.opened.plan
    settings = WorkerSettings(
        device=device or plan.device,
        threads=threads or plan.threads,
        download=download,
        code=code_places(code),
        deadline=None if plan.hours is None else time.time() + 3600 * plan.hours,
    )
    seen = found.opened.for_display()
    with (
        WorkerStops(last_word(goes_on(found))).listening() as stops,
        study_display(plan.name, lambda: read_status(seen, found.folder, found.address)) as report,
    ):
        left = work_on(found.opened, found.folder, settings, stops, lambda told: report(told, None))
    if left.kind != "done":
        tell(left.reason + (f"; {goes_on(found)}" if left.kind in ("stopped", "interrupted") else ""))
    return EXIT_INTERRUPTED if left.kind == "interrupted" else left.exit_code


@click.command()
@name_option
@storage_option
@runs_option
@click.argument("hosts", nargs=-1, metavar="[HOST]...")
@click.option("--workers", type=click.IntRange(min=1), default=1, show_default=True, help="Workers per machine.")
@click.option("--slurm", is_flag=True, help="A batch script for Slurm instead, with a job array of --workers.")
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
    """Print the lines that start workers of a study on other machines; nothing is run, and no password is printed.

    Each worker finds the storage in JORGE_TUNE_STORAGE, which has to be set there; the lines say so, and the address
    in them has its password masked. An SQLite file serves one machine only.

    \b
    Example:
      jorge-tune study launch --name resnet node1 node2 --workers 4
      jorge-tune study launch --name resnet --slurm --workers 16 > workers.sbatch
    """
    found = find_study(storage, name, runs)
    if found.address.kind == "sqlite" and (slurm or hosts):
        raise InputError(
            f"{found.address} is a file for one machine; keep the study in PostgreSQL or MySQL, or on a disk that all "
            "machines see in a journal file (--storage journal:///PATH)"
        )
    line = (
        f"jorge-tune study worker --name {shlex.quote(found.name)} --runs {shlex.quote(str(found.folder.absolute()))}"
    )
    lines = _slurm(line, found.name, workers) if slurm else _lines(line, hosts, workers)
    for module in sorted(_own_modules(found)):
        tell(f"the runs import {module}: start the workers in its folder, or add --code DIR to the lines")
    where = f"JORGE_TUNE_STORAGE, set there to {found.address}" + (
        " with its password" if found.address.secrets() else ""
    )
    if output_format == "json":
        print_json(
            {"study": found.name, "variable": "JORGE_TUNE_STORAGE", "address": str(found.address), "lines": lines}
        )
        return
    say(
        "\n".join(
            [*lines[:1], f"# workers find the storage in {where}", *lines[1:]]
            if slurm
            else [f"# workers find the storage in {where}", *lines]
        )
    )


def _own_modules(found: FoundStudy) -> set[str]:
    """The modules of the user's own that the study's recipes name."""
    from jorge_tune.recipe.user_code import references
    from jorge_tune.study.plan import recipes_of

    named = [references(recipe) for recipe in recipes_of(found.opened.plan)]
    return {text.partition(":")[0] for texts in named for path, text in texts.items() if path.startswith("task.")}


def _lines(line: str, hosts: tuple[str, ...], workers: int) -> list[str]:
    """One line per worker; with hosts by ssh, which hands the variable on where its server accepts it."""
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
