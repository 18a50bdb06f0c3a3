"""`jorge-tune study launch`: command lines for workers on other machines."""

from __future__ import annotations

import shlex
from pathlib import Path

import click

from jorge_tune.cli.output import say
from jorge_tune.cli.studies import find_study, name_option, runs_option, storage_option
from jorge_tune.cli.tables import format_option, print_json
from jorge_tune.errors import InputError


@click.command()
@name_option
@storage_option
@runs_option
@click.argument("hosts", nargs=-1, metavar="[HOST]...")
@click.option("--workers", type=click.IntRange(min=1), default=1, show_default=True, help="Workers per machine.")
@click.option("--slurm", is_flag=True, help="A batch script for Slurm instead, with a job array of --workers.")
@format_option
def command(
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
