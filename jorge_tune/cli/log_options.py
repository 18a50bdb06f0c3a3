"""The options of commands that read logs of other programs: `--from-logs`, `--log-format` and `--log`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, get_args

import click

from jorge_tune.errors import InputError
from jorge_tune.recipe.schema import LogFormat, MetricsSection
from jorge_tune.untrusted import shown

if TYPE_CHECKING:
    from jorge_tune.compare.run_directories import Contender

F = TypeVar("F", bound=Callable[..., Any])

_FORMATS = [kind for kind in get_args(LogFormat) if kind != "report"]


def log_options(command: F) -> F:
    """Add the options; the command receives `from_logs`, `log_format` and `log_settings`."""
    options = (
        click.option(
            "--from-logs",
            is_flag=True,
            help="The arguments are NAME=LOG,LOG...: logs that other programs wrote, copied into run directories.",
        ),
        click.option(
            "--log-format", type=click.Choice(_FORMATS), help="Format of the logs [default: told by their contents]."
        ),
        click.option(
            "--log",
            "log_settings",
            metavar="KEY=VALUE",
            multiple=True,
            help="How the logs are read, as under task.metrics: columns.top1=val_acc, scale.top1=0.01.",
        ),
    )
    for option in reversed(options):
        command = option(command)
    return command


def read_logs(
    arguments: Sequence[str], out: Path, log_format: str | None, settings: Sequence[str], metric: str | None
) -> list[Contender]:
    """The contenders of `--from-logs`, their run directories made.

    Raises:
        InputError: an argument, a log or a setting is wrong.
    """
    from jorge_tune.compare.from_logs import contenders_from_logs

    return contenders_from_logs(arguments, out, log_section(log_format, settings), metric=metric)


def refuse_log_options(log_format: str | None, settings: Sequence[str]) -> None:
    """Refuse what is given without `--from-logs`.

    Raises:
        InputError: there is something.
    """
    if log_format is not None or settings:
        raise InputError("--log-format and --log: say how logs are read, and need --from-logs")


def log_section(log_format: str | None, settings: Sequence[str]) -> MetricsSection | None:
    """The settings as a recipe's `task.metrics`; None where none are given.

    Raises:
        InputError: a setting is wrong; the message has all faults.
    """
    from jorge_tune.config.decode import decode
    from jorge_tune.config.tree import KeyedNode, node_of, read_tree
    from jorge_tune.errors import Fault

    if log_format is None and not settings:
        return None
    is_printed = any(setting.startswith("pattern=") for setting in settings)
    root = node_of({"from": log_format or ("stdout" if is_printed else "report")})
    for setting in settings:
        path, equals, text = setting.partition("=")
        keys = path.strip().split(".", 1)
        tree = read_tree(text) if text.strip() else None
        if not equals or not all(keys) or tree is None or tree.root is None or tree.faults:
            raise InputError(f"--log {shown(setting)}: must be KEY=VALUE, as columns.top1=val_acc")
        section = root.section
        assert section is not None
        if len(keys) == 2:
            section = section.setdefault(keys[0], KeyedNode(1, 1, node_of({}))).node.section
            if section is None:
                raise InputError(f"--log {shown(setting)}: {keys[0]} has a value already")
        section[keys[-1]] = KeyedNode(1, 1, tree.root)

    faults: list[Fault] = []
    made = decode(MetricsSection, root, faults)
    if made is None:
        raise InputError("\n".join(f"--log {fault.path}: {fault.what}" for fault in faults))
    return made
