"""`jorge-tune study`: search around a bootstrapped recipe, and see whether one shot was enough."""

from __future__ import annotations

import click

from jorge_tune.cli.lazy import LazyGroup

_COMMANDS = {
    "add": "Queue a point of your own.",
    "best": "Print the best trial's recipe.",
    "confirm": "Run baseline, bootstrap and best on seeds that the search did not see.",
    "export": "Write trials as CSV or JSON, one trial's recipe, or an SQLite copy.",
    "launch": "Print the command lines that start workers on other machines.",
    "reap": "Put trials back whose workers are gone.",
    "run": "Search, confirm, and say whether single-shot tuning held.",
    "status": "Show how a study stands, and its verdict.",
    "stop": "Let all workers of a study leave.",
    "worker": "Join a study from any machine that reaches its storage.",
}


_HOMES = {
    **dict.fromkeys(("run", "confirm"), "cmd_study_run"),
    **dict.fromkeys(("launch", "worker"), "cmd_study_work"),
    **dict.fromkeys(("add", "best", "export", "reap", "status", "stop"), "cmd_study_manage"),
}


@click.group(cls=LazyGroup, texts=_COMMANDS, prefix="study_", homes=_HOMES)
def study_command() -> None:
    """Search around a bootstrapped recipe with Optuna, and see whether single-shot tuning held.

    A study lives in a storage (an SQLite file unless told otherwise) and survives what happens to its workers:
    interrupted, killed or cut off, it goes on with the same command, or with another worker.

    \b
    Example:
      jorge-tune study run digits/cnn-sgd --name digits --trials 40 --workers 2
      jorge-tune study status --name digits
    """
