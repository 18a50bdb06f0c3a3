"""One way to print a table: rich on a terminal, plain columns never wrapped off it, JSON on request."""

from __future__ import annotations

import json
import shutil
import sys
import textwrap
from collections.abc import Callable, Collection, Sequence
from typing import Any, TypeVar

import click

from jorge_tune.records import portable

F = TypeVar("F", bound=Callable[..., Any])

_GAP = "  "


def format_option_for(text: str) -> Callable[[F], F]:
    """Add `--format table|json` with a help text; the command receives it as `output_format`."""
    return click.option(
        "--format",
        "output_format",
        type=click.Choice(["table", "json"]),
        default="table",
        show_default=True,
        help=text,
    )


def format_option(command: F) -> F:
    """Add `--format table|json` to a command that prints a result."""
    return format_option_for("How to print the result.")(command)


def print_table(
    headings: Sequence[str],
    rows: Sequence[Sequence[object]],
    *,
    title: str = "",
    right: Collection[str] = (),
    turn: bool = False,
) -> None:
    """Print rows to stdout: boxed by rich on a terminal, else as plain columns, whole and one line per row.

    Args:
        headings: one per column.
        rows: cells, shown with `str`; None is shown as "-".
        title: a line above the table.
        right: headings of the columns that are flush right (numbers).
        turn: on a terminal too narrow for it, print the table turned, a column per row.
    """
    cells = [["-" if cell is None else str(cell) for cell in row] for row in rows]
    if sys.stdout.isatty():
        if turn and _is_too_wide(plain_table(headings, cells)):
            headings, cells = _turned(headings, cells)
            right = headings[1:]
        _print_rich(headings, cells, title, right)
    else:
        click.echo(plain_table(headings, cells, title=title, right=right))


def print_text(text: str) -> None:
    """Lines of prose, broken between words on a terminal and never elsewhere."""
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else 0
    for line in text.splitlines():
        wrapped = textwrap.wrap(line, width, subsequent_indent="  ", break_on_hyphens=False) if width > 20 else [line]
        click.echo("\n".join(wrapped))


def print_json(data: object) -> None:
    """Print plain data to stdout as JSON; NaN and infinities become the strings "nan", "inf" and "-inf"."""
    click.echo(json.dumps(portable(data), indent=2, allow_nan=False))


def plain_table(
    headings: Sequence[str],
    cells: Sequence[Sequence[str]],
    *,
    title: str = "",
    right: Collection[str] = (),
) -> str:
    """The table as text: columns as wide as their widest cell, two spaces between, line breaks as "; "."""
    lines = [[" ".join(heading.split()) for heading in headings]]
    lines += [["; ".join(cell.splitlines()) for cell in row] for row in cells]
    widths = [max(len(line[column]) for line in lines) for column in range(len(headings))]
    flush_right = [heading in right for heading in headings]
    text = [_GAP.join(_pad(*cell) for cell in zip(line, widths, flush_right, strict=True)) for line in lines]
    rule = _GAP.join("-" * width for width in widths)
    return "\n".join(line.rstrip() for line in ([title] if title else []) + [text[0], rule, *text[1:]])


def _pad(cell: str, width: int, flush_right: bool) -> str:
    return cell.rjust(width) if flush_right else cell.ljust(width)


def _is_too_wide(text: str, more: int = 0) -> bool:
    """Whether a plain table, `more` characters wider in its box, is wider than the terminal."""
    return max(len(line) for line in text.splitlines()) + 2 + more > shutil.get_terminal_size().columns


def _turned(headings: Sequence[str], cells: Sequence[Sequence[str]]) -> tuple[list[str], list[list[str]]]:
    """The first column's cells as headings, the other headings as the first column."""
    columns = [list(column) for column in zip(headings, *cells, strict=True)]
    return columns[0], columns[1:]


def _print_rich(headings: Sequence[str], cells: Sequence[Sequence[str]], title: str, right: Collection[str]) -> None:
    """As it is where it fits; else words and numbers stay whole, and columns without room follow below."""
    if not _is_too_wide(plain_table(headings, cells), len(headings)):
        _print_box(headings, cells, title, right)
        return
    for columns in _groups(_least_widths(headings, cells, right)):
        part = [[row[column] for column in columns] for row in cells]
        _print_box([headings[column] for column in columns], part, title, right, is_narrow=True)
        title = ""


def _print_box(
    headings: Sequence[str],
    cells: Sequence[Sequence[str]],
    title: str,
    right: Collection[str],
    *,
    is_narrow: bool = False,
) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, title=Text(title) if title else None, title_justify="left")
    table.collapse_padding, table.pad_edge = is_narrow, not is_narrow
    for heading in headings:
        is_number = heading in right
        text = Text("\n".join(heading.split()) if is_narrow and is_number else heading)
        table.add_column(text, justify="right" if is_number else "left", overflow="fold", no_wrap=is_number)
    for row in cells:
        table.add_row(*(Text(cell) for cell in row))
    Console(file=sys.stdout).print(table)


def _least_widths(headings: Sequence[str], cells: Sequence[Sequence[str]], right: Collection[str]) -> list[int]:
    """What each column needs so that no word is broken, and no number in those that are flush right."""
    widths = []
    for column, heading in enumerate(headings):
        texts = [row[column] for row in cells]
        whole = [line for text in texts for line in (text.splitlines() if heading in right else text.split())]
        widths.append(max(map(len, [*heading.split(), *whole]), default=0))
    return widths


def _groups(widths: Sequence[int]) -> list[list[int]]:
    """Columns, as many side by side as the terminal has room for, the first one beside all of them."""
    room = shutil.get_terminal_size().columns - 2
    first = min(widths[0], room // 2)  # a longer name is folded
    groups: list[list[int]] = [[0]]
    taken = first
    for column, width in enumerate(widths[1:], start=1):
        taken += width + len(_GAP)
        if taken > room and len(groups[-1]) > 1:
            groups.append([0])
            taken = first + width + len(_GAP)
        groups[-1].append(column)
    return groups
