"""docs/cli.md is what the commands' own help says; `python -m tests.house.test_cli_reference` writes it anew."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import click

from jorge_tune.cli import _COMMANDS, _group

ROOT = Path(__file__).parents[2]
REFERENCE = ROOT / "docs" / "cli.md"


def help_of(command: click.Command, name: str) -> list[str]:
    names = ["-h", "--help"]  # as the group hands them down
    context = click.Context(command, info_name=name, terminal_width=100, help_option_names=names)
    sections = [f"## {name}", "", "```", command.get_help(context).rstrip(), "```", ""]
    if isinstance(command, click.Group) and command is not _group:
        for inner in command.list_commands(context):
            found = command.get_command(context, inner)
            assert found is not None
            sections += help_of(found, f"{name} {inner}")
    return sections


def reference() -> str:
    """The reference; of a fresh process only, since click keeps the help option of a command's first call."""
    lines = ["# Command line", "", "Written from the commands' own `--help`.", "", *help_of(_group, "jorge-tune")]
    context = click.Context(_group)
    for name in sorted(_COMMANDS):
        command = _group.get_command(context, name)
        assert command is not None
        lines += help_of(command, f"jorge-tune {name}")
    return "\n".join(lines)


def test_the_reference_is_up_to_date():
    printed = [sys.executable, "-m", "tests.house.test_cli_reference", "-"]
    fresh = subprocess.run(printed, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert REFERENCE.read_text() == fresh


def test_every_command_is_in_it():
    for name in _COMMANDS:
        assert f"## jorge-tune {name}\n" in REFERENCE.read_text()


if __name__ == "__main__":
    if sys.argv[1:] == ["-"]:
        sys.stdout.write(reference())
    else:
        REFERENCE.write_text(reference())
