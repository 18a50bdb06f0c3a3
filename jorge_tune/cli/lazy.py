"""Command groups: one suggests the right name for a misspelt command, one imports a command only when it is called."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem


class SuggestingGroup(click.Group):
    """A group that suggests similar names for a misspelt command."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """The command that the arguments name.

        Raises:
            UsageError: The group has no such command; the message names similar ones.
        """
        name = args[0]
        if self.get_command(ctx, name) is None and not ctx.resilient_parsing and not name.startswith("-"):
            near = difflib.get_close_matches(name, self.list_commands(ctx))
            hint = f"Did you mean {' or '.join(map(repr, near))}?" if near else f"`{ctx.command_path} -h` lists them."
            raise click.UsageError(f"No such command {name!r}. {hint}", ctx)
        return super().resolve_command(ctx, args)


class LazyGroup(SuggestingGroup):
    """A group that knows its commands' summaries and imports a command only when it is called.

    The module `jorge_tune.cli.cmd_NAME` holds the command NAME as `NAME_command`.

    Args:
        texts: The one-line summary of each command, by name.
        prefix: What precedes the name of the module and of the command (`study_`).
        homes: The module of each command that is in another one, by name.
    """

    def __init__(
        self,
        *arguments: Any,
        texts: Mapping[str, str],
        prefix: str = "",
        homes: Mapping[str, str] | None = None,
        **attributes: Any,
    ) -> None:
        super().__init__(*arguments, **attributes)
        self.texts, self._prefix, self._homes = texts, prefix, homes or {}

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names of the commands."""
        return sorted(self.texts)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the command and return it; None if the group has no such command."""
        if cmd_name not in self.texts:
            return None
        name = self._prefix + cmd_name.replace("-", "_")
        module = importlib.import_module(f"jorge_tune.cli.{self._homes.get(cmd_name, f'cmd_{name}')}")
        command: click.Command = getattr(module, f"{name}_command")
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the summaries without importing a command."""
        with formatter.section("Commands"):
            formatter.write_dl(sorted(self.texts.items()))

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Complete command names from the summaries, without importing a command; click completes the options."""
        from click.shell_completion import CompletionItem

        commands = [CompletionItem(n, help=t) for n, t in sorted(self.texts.items()) if n.startswith(incomplete)]
        return [*commands, *click.Command.shell_complete(self, ctx, incomplete)]
