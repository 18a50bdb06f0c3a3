"""`jorge-tune study`: search around a bootstrapped recipe, and judge the bootstrap."""

from __future__ import annotations

import click

from jorge_tune.cli.lazy import LazyGroup

_COMMANDS = {
    "add": "Queue a trial with your own values.",
    "best": "Print the recipe of the best trial.",
    "confirm": "Run baseline, bootstrap and best trial on new seeds.",
    "export": "Write the trials, a recipe or a copy of the study.",
    "launch": "Print the commands that start workers on other machines.",
    "reap": "Put the trials of lost workers back into the queue.",
    "run": "Search, confirm the best trial, and judge the bootstrap.",
    "status": "Show the progress and the verdict of a study.",
    "stop": "Ask all workers of a study to stop.",
    "worker": "Join a study as a worker, from any machine.",
}


_HOMES = {
    **dict.fromkeys(("run", "confirm"), "cmd_study_run"),
    **dict.fromkeys(("launch", "worker"), "cmd_study_work"),
    **dict.fromkeys(("add", "best", "export", "reap", "status", "stop"), "cmd_study_manage"),
}


@click.group(cls=LazyGroup, texts=_COMMANDS, prefix="study_", homes=_HOMES)
def study_command() -> None:
    """Search around a bootstrapped recipe, and judge whether the bootstrap alone was enough.

    The search uses Optuna. A storage keeps the study; by default it is an SQLite file. If a worker is interrupted,
    killed or cut off, the same command or another worker resumes the study.

    \b
    Example:
      jorge-tune study run digits/cnn-sgd --name digits --trials 40 --workers 2
      jorge-tune study status --name digits
    """
