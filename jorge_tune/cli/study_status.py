"""`jorge-tune study status`: how a study stands, and its verdict."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from jorge_tune.cli.output import say
from jorge_tune.cli.progress import clock_time
from jorge_tune.cli.studies import find_study, name_option, runs_option, storage_option
from jorge_tune.cli.tables import format_option, print_json, print_table, print_text

if TYPE_CHECKING:
    from jorge_tune.tuning.results.status import Running, Status


@click.command()
@name_option
@storage_option
@runs_option
@format_option
def command(name: str | None, storage: str | None, runs: Path | None, output_format: str) -> None:
    """Show trials by state, the best so far, who runs what, what is lost, the time left, and the verdict.

    A comparison has no best trial and no verdict here: `jorge-tune report NAME` shows it.

    Workers of other machines are seen where --runs is on a disk that they share. A lost trial goes back by itself
    as soon as any worker looks, or with `study reap`.

    \b
    Example:
      jorge-tune study status --name digits
      jorge-tune study status --name digits --format json
    """
    from jorge_tune.tuning.results.confirm import beside, fresh_verdict, unread
    from jorge_tune.tuning.results.status import read_status

    found = find_study(storage, name, runs, to_read=True)
    status = read_status(found.opened, found.folder, found.address, beside(found.opened))
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


def _rows(status: Status) -> list[tuple[str, str]]:
    counts = ", ".join(f"{number} {state}" for state, number in status.counts.items() if number)
    return [
        ("state", status.state + ("" if status.stop is None else f", stopping ({status.stop})")),
        ("trials", f"{status.ended} of {status.total} ended ({counts or 'none yet'})"),
        ("remaining", str(status.remaining)),
        ("time left", "-" if status.eta_seconds is None else clock_time(status.eta_seconds)),
        ("objective", status.objective),
        ("best", "-" if status.best is None else f"{status.best.value:.4g}, trial {status.best.number}"),
        ("baseline", "-" if status.baseline is None else f"{status.baseline:.4g}"),
        *((one.name, f"{one.ended} of {one.total} ended") for one in status.beside),
        ("started again", str(status.restarted)),
        ("lost", ", ".join(f"trial {number}" for number in status.lost) or "none"),
        ("idle workers", str(len(status.idle))),
        ("storage", status.storage),
        ("runs", status.runs),
    ]


def _row(one: Running, status: Status) -> list[str]:
    from jorge_tune.tuning.results.confirm import run_in_words

    state = "lost" if one.is_lost else {"alive": "running", "unknown": "elsewhere"}.get(one.life, one.life)
    epoch = "-" if one.epoch is None else f"{one.epoch:g}"
    whose = run_in_words(status.rows, one.number, named=status.is_comparison)
    trial = f"{one.number} ({whose})" if whose else str(one.number)
    return [trial, one.worker or "-", state, "-" if one.seed is None else str(one.seed), epoch]
