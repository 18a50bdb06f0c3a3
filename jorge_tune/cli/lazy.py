"""Groups whose commands are imported when they are asked for: `--help` of the whole needs none of them."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

import click


class LazyGroup(click.Group):
    """A group by its commands' one-line texts; each command's module holds it as `command`.

    Args:
        texts: what each command does, by its name.
        prefix: what a module's name begins with; the command's name follows, `-` as `_`.
    """

    def __init__(self, *arguments: Any, texts: Mapping[str, str], prefix: str, **attributes: Any) -> None:
        super().__init__(*arguments, **attributes)
        self.texts, self._prefix = texts, prefix

    def module_of(self, command: str) -> str:
        """The module that holds a command."""
        return self._prefix + command.replace("-", "_")

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The commands' names."""
        return sorted(self.texts)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command, imported now; None where there is none of this name."""
        if cmd_name not in self.texts:
            return None
        command: click.Command = importlib.import_module(self.module_of(cmd_name)).command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The texts, without a command being imported."""
        with formatter.section("Commands"):
            formatter.write_dl(sorted(self.texts.items()))
