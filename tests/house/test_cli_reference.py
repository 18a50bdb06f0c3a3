"""docs/cli.md is what the commands' own help says; `python -m tests.house.test_cli_reference` writes it anew."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import click
import pytest

from jorge_tune.cli import _COMMANDS, _group
from jorge_tune.cli.cmd_recipes import recipes_command
from jorge_tune.cli.cmd_study import _COMMANDS as STUDY_COMMANDS
from jorge_tune.cli.cmd_study import study_command

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


@pytest.mark.parametrize(("name", "summary"), [*_COMMANDS.items(), *STUDY_COMMANDS.items()])
def test_a_summary_is_one_short_sentence_that_begins_with_a_verb(name, summary):
    assert len(summary) <= 64
    assert summary.endswith(".")
    assert not set(summary) & set(":;()")
    first = summary.split()[0].rstrip(",")
    assert first.isalpha()
    assert first[0].isupper()
    assert not first.endswith(("s", "ing", "ed")), "the imperative, as git has it"


def commands_of(group: click.Group) -> dict[str, click.Command]:
    context = click.Context(group)
    found = {name: group.get_command(context, name) for name in group.list_commands(context)}
    return {name: command for name, command in found.items() if command is not None}


def test_the_help_of_a_command_begins_with_one_line_and_shows_an_example():
    commands = commands_of(_group)
    commands |= {f"study {name}": one for name, one in commands_of(study_command).items()}
    commands |= {f"recipes {name}": one for name, one in commands_of(recipes_command).items()}
    for name, command in commands.items():
        assert command.help is not None, name
        summary = command.help.split("\n\n")[0]
        assert len(summary) <= 96, name
        assert "\n" not in summary, name
        assert summary.endswith("."), name
        assert f" jorge-tune {name}" in command.help, name


def test_every_command_is_in_it():
    for name in _COMMANDS:
        assert f"## jorge-tune {name}\n" in REFERENCE.read_text()


if __name__ == "__main__":
    if sys.argv[1:] == ["-"]:
        sys.stdout.write(reference())
    else:
        REFERENCE.write_text(reference())
