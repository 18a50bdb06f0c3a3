"""One way to print a table: rich on a terminal, plain columns off it, whole unless COLUMNS is set; JSON on request."""

from __future__ import annotations

import json
import sys
import textwrap
from collections.abc import Callable, Collection, Sequence
from typing import Any, TypeVar

import click

from jorge_tune.cli.output import is_terminal, line_width, say, say_drawn
from jorge_tune.records import portable
from jorge_tune.texts import visible

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

    Where COLUMNS is set, a table that is wider is fitted to it, on a terminal and off it.

    Args:
        headings: one per column.
        rows: cells, shown with `str`; None is shown as "-".
        title: a line above the table.
        right: headings of the columns that are flush right (numbers).
        turn: where there is no room for it, print the table turned, a column per row.
    """
    headings = [visible(heading) for heading in headings]
    right = {visible(heading) for heading in right}
    cells = [["-" if cell is None else visible(cell) for cell in row] for row in rows]
    title, width = visible(title), line_width()
    if turn and _is_too_wide(plain_table(headings, cells), width):
        headings, cells = _turned(headings, cells)
        right = set(headings[1:])

    plain = plain_table(headings, cells, title=title, right=right)
    if not is_terminal() and not _is_too_wide(plain, width, -2):
        say(plain)
    else:
        assert width is not None
        _print_rich(headings, cells, title, right, width)


def print_text(text: str) -> None:
    """Lines of prose, broken between words on a terminal, or where COLUMNS is set; whole elsewhere."""
    width = line_width() or 0
    for line in visible(text).splitlines():
        wrapped = textwrap.wrap(line, width, subsequent_indent="  ", break_on_hyphens=False) if width > 20 else [line]
        say("\n".join(wrapped))


def print_json(data: object) -> None:
    """Print plain data to stdout as JSON; NaN and infinities become the strings "nan", "inf" and "-inf"."""
    say(as_json(data))


def as_json(data: object, indent: int | None = 2) -> str:
    """Plain data as JSON in printable ASCII, so that no terminal takes any of it for a command."""
    return json.dumps(portable(data), indent=indent, allow_nan=False).replace("\x7f", "\\u007f")


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


def _is_too_wide(text: str, width: int | None, more: int = 0) -> bool:
    """Whether a plain table, `more` characters wider in its box, has no room."""
    return width is not None and max(len(line) for line in text.splitlines()) + 2 + more > width


def _turned(headings: Sequence[str], cells: Sequence[Sequence[str]]) -> tuple[list[str], list[list[str]]]:
    """The first column's cells as headings, the other headings as the first column."""
    columns = [list(column) for column in zip(headings, *cells, strict=True)]
    return columns[0], columns[1:]


def _print_rich(
    headings: Sequence[str], cells: Sequence[Sequence[str]], title: str, right: Collection[str], width: int
) -> None:
    """As it is where it fits; else words and numbers stay whole, and columns without room follow below."""
    if not _is_too_wide(plain_table(headings, cells), width, len(headings)):
        _print_box(headings, cells, title, right, width)
        return
    for columns in _groups(_least_widths(headings, cells, right), width):
        part = [[row[column] for column in columns] for row in cells]
        _print_box([headings[column] for column in columns], part, title, right, width, is_narrow=True)
        title = ""


def _print_box(
    headings: Sequence[str],
    cells: Sequence[Sequence[str]],
    title: str,
    right: Collection[str],
    width: int,
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
    console = Console(file=sys.stdout, width=width, highlight=False)
    with console.capture() as drawn:
        console.print(table)
    say_drawn(drawn.get())


def _least_widths(headings: Sequence[str], cells: Sequence[Sequence[str]], right: Collection[str]) -> list[int]:
    """What each column needs so that no word is broken, and no number in those that are flush right."""
    widths = []
    for column, heading in enumerate(headings):
        texts = [row[column] for row in cells]
        whole = [line for text in texts for line in (text.splitlines() if heading in right else text.split())]
        widths.append(max(map(len, [*heading.split(), *whole]), default=0))
    return widths


def _groups(widths: Sequence[int], width: int) -> list[list[int]]:
    """Columns, as many side by side as there is room for, the first one beside all of them."""
    room = width - 2
    first = min(widths[0], room // 2)  # a longer name is folded
    groups: list[list[int]] = [[0]]
    taken = first
    for column, needed in enumerate(widths[1:], start=1):
        taken += needed + len(_GAP)
        if taken > room and len(groups[-1]) > 1:
            groups.append([0])
            taken = first + needed + len(_GAP)
        groups[-1].append(column)
    return groups
