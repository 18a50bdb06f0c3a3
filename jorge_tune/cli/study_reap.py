"""`jorge-tune study reap`: lost trials go back."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from jorge_tune.cli.output import say
from jorge_tune.cli.studies import find_study, name_option, runs_option, storage_option
from jorge_tune.cli.tables import format_option, print_json

if TYPE_CHECKING:
    from jorge_tune.tuning.study import OpenStudy

_LOOK_SECONDS = 2.0


@click.command()
@name_option
@storage_option
@runs_option
@format_option
def command(name: str | None, storage: str | None, runs: Path | None, output_format: str) -> None:
    """Put back the trials whose workers are gone, to be resumed by whoever works next.

    A worker that died on this machine is known at once. One elsewhere is known by a lease that stands still, so this
    watches for as long as a lease lasts (90 s), unless no trial is in doubt. Workers do the same among themselves.

    \b
    Example:
      jorge-tune study reap --name digits
    """
    from jorge_tune.tuning.results.confirm import beside

    found = find_study(storage, name, runs)
    put_back = {
        study.plan.name: _reap(study, found.runs(study.plan.name)) for study in (found.opened, *beside(found.opened))
    }
    if output_format == "json":
        print_json(put_back)
        return
    for study, numbers in put_back.items():
        listed = ", ".join(str(number) for number in numbers)
        say(f"study {study}: " + (f"trial {listed} put back" if numbers else "nothing is lost"))


def _reap(opened: OpenStudy, runs: Path) -> list[int]:
    """Watch until every running trial has shown a sign of life, or is put back."""
    from jorge_tune.tuning.work.leases import LeaseTimes
    from jorge_tune.tuning.work.reaper import Reaper

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
