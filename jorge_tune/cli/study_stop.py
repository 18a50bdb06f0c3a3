"""`jorge-tune study stop`: all workers leave."""

from __future__ import annotations

import click

from jorge_tune.cli.output import say
from jorge_tune.cli.studies import find_study, goes_on, name_option, storage_option


@click.command()
@name_option
@storage_option
@click.option("--now", is_flag=True, help="Do not finish the present trials: checkpoint them, to be resumed.")
def command(name: str | None, storage: str | None, now: bool) -> None:
    """Let every worker, on all machines, end its present trial and leave; with --now it checkpoints and leaves.

    Workers look every few seconds. `study run` takes the study up again, `compare` a comparison.

    \b
    Example:
      jorge-tune study stop --name digits
      jorge-tune study stop --name digits --now
    """
    from jorge_tune.tuning.results.confirm import beside

    found = find_study(storage, name)
    for study in (found.opened, *beside(found.opened)):
        study.ask_to_stop("checkpoint" if now else "finish", "asked for by `study stop`")
    what = "checkpoint their runs" if now else "finish their trials"
    say(f"study {found.name}: workers {what} and leave; {goes_on(found)}")
