"""`jorge-tune study worker`: one more worker of a study, from anywhere."""

from __future__ import annotations

import time
from pathlib import Path

import click

from jorge_tune.cli.options import device_options
from jorge_tune.cli.output import tell
from jorge_tune.cli.studies import EXIT_INTERRUPTED, find_study, goes_on, name_option, runs_option, storage_option


@click.command()
@name_option
@storage_option
@runs_option
@device_options(default=None)
@click.option("--threads", type=click.IntRange(min=1), help="CPU threads of a run [default: the study's].")
@click.option("--download", is_flag=True, help="Fetch a torchvision data set that is not there.")
def command(
    name: str | None,
    storage: str | None,
    runs: Path | None,
    device: str | None,
    threads: int | None,
    download: bool,
) -> int:
    """Join a study by its name and work until no trial is left, as one of any number of workers on any machines.

    The plan is in the storage; nothing else is needed here. Where --runs is on a disk that all workers see, a trial
    lost by one is resumed by another, else it starts anew. The study's hours count from here. NAME.sgd and
    NAME.confirm can be joined the same way.

    \b
    Example:
      JORGE_TUNE_STORAGE=postgresql://me:secret@db/studies jorge-tune study worker --name resnet
    """
    from jorge_tune.cli.study_display import study_display
    from jorge_tune.cli.study_end import last_word
    from jorge_tune.tuning.results.status import read_status
    from jorge_tune.tuning.runs.orders import Orders
    from jorge_tune.tuning.work.joining import work_on
    from jorge_tune.tuning.work.worker import WorkerSettings

    found = find_study(storage, name, runs)
    plan = found.opened.plan
    settings = WorkerSettings(
        device=device or plan.device,
        threads=threads or plan.threads,
        download=download,
        deadline=None if plan.hours is None else time.time() + 3600 * plan.hours,
    )
    seen = found.opened.for_display()
    with (
        Orders(last_word(goes_on(found))).listening() as orders,
        study_display(plan.name, lambda: read_status(seen, found.folder, found.address)) as report,
    ):
        left = work_on(found.opened, found.folder, settings, orders, lambda told: report(told, None))
    if left.kind != "done":
        tell(left.reason + (f"; {goes_on(found)}" if left.kind in ("stopped", "interrupted") else ""))
    return EXIT_INTERRUPTED if left.kind == "interrupted" else left.exit_code
