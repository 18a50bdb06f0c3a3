"""`jorge-tune study confirm`: baseline, bootstrap and best on seeds of their own."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import click

from jorge_tune.cli.calibration import EXIT_NO_ANSWER
from jorge_tune.cli.options import device_options
from jorge_tune.cli.output import tell
from jorge_tune.cli.studies import find_search, goes_on, name_option, runs_option, storage_option
from jorge_tune.cli.tables import format_option


@click.command()
@name_option
@storage_option
@runs_option
@click.option("--confirm-seeds", type=click.IntRange(min=1), help="How many seeds [default: as planned, else 6].")
@click.option("--workers", type=click.IntRange(min=1), default=1, show_default=True, help="Runs side by side.")
@device_options(default=None)
@click.option("--threads", type=click.IntRange(min=1), help="CPU threads of a run [default: the cores, shared out].")
@click.option("--download", is_flag=True, help="Fetch a torchvision data set that is not there.")
@format_option
def command(
    name: str | None,
    storage: str | None,
    runs: Path | None,
    confirm_seeds: int | None,
    workers: int,
    device: str | None,
    threads: int | None,
    download: bool,
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
    from jorge_tune.cli.study_end import last_word, show_end, watching
    from jorge_tune.tuning.planning.build_plan import confirmation_seeds
    from jorge_tune.tuning.running import Crew, confirm_whole
    from jorge_tune.tuning.study import open_study

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
        last_word=last_word(goes_on(found)),
    )
    with watching(found) as watch:
        end = confirm_whole(found.opened, found.address, found.runs, crew, watch)
    if end is None:
        tell(f"study {found.name} has nothing to confirm: no trial has a value to be the best by")
        return EXIT_NO_ANSWER
    return show_end(found, end, output_format)
