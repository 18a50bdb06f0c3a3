"""The only module that prints: results to stdout, messages to stderr, never a control character of a stored text.

A message that stderr does not take is lost, and the command goes on: a training run must not stop because nobody reads
its messages. A result that stdout does not take ends the command, because the result would be incomplete.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sys
import textwrap
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, TextIO, cast

import click

from jorge_tune.errors import InputError, JorgeTuneError
from jorge_tune.records import portable
from jorge_tune.untrusted import visible

if TYPE_CHECKING:
    from jorge_tune.errors import Fault
    from jorge_tune.reports.parts import Report
    from jorge_tune.runs.run_journal import RunProgress

STDOUT = Path("-")
"""What `-o -` names."""
_CLEAR_LINE = "\r\x1b[K"


class OutputError(JorgeTuneError):
    """stdout cannot be written."""


class ReaderLeftError(OutputError):
    """The reader of stdout has closed it early (`| head -1`); this needs no message."""


class _State:
    """The state of this process's streams."""

    is_stdout_closed: ClassVar[bool] = False
    is_stdout_data: ClassVar[bool] = False


def say(text: object = "", *, nl: bool = True) -> None:
    """Print a part of the result to stdout.

    Raises:
        OutputError: stdout cannot be written.
    """
    _write(visible(text), nl=nl)


def tell(text: object = "", *, nl: bool = True) -> None:
    """Print a message to stderr; it is lost if stderr cannot be written."""
    _write_talk(visible(text), nl=nl)


def warn(text: object) -> None:
    """Print `warning: text` to stderr."""
    tell(f"warning: {text}")


def warn_of_recipe(faults: Iterable[Fault], path: Path) -> None:
    """Print a recipe file's warnings to stderr, each with its line and column."""
    for fault in faults:
        warn(fault.located(str(path)))


def tell_over(text: object, *, nl: bool = False) -> None:
    """Print a message on a terminal, over the present line."""
    _write_talk(_CLEAR_LINE + visible(text), nl=nl)


def say_drawn(drawn: str) -> None:
    """Print what rich has drawn to stdout, colours included; raises as `say` does."""
    _write(drawn, nl=False)


def is_terminal() -> bool:
    """Whether the result goes to a terminal."""
    return _is_terminal(sys.stderr if _State.is_stdout_data else sys.stdout)


def is_talk_on_terminal() -> bool:
    """Whether stderr is a terminal."""
    return _is_terminal(sys.stderr)


def line_width() -> int | None:
    """The columns for tables and sentences: COLUMNS, else the terminal's width; None without a terminal."""
    columns = os.environ.get("COLUMNS", "")
    if columns.isdecimal() and int(columns) > 0:
        return int(columns)
    return shutil.get_terminal_size().columns if is_terminal() else None


def is_stdout(out: Path | None) -> bool:
    """Whether the user gave `-o -`."""
    return out == STDOUT


@contextlib.contextmanager
def data_on_stdout(out: Path | None) -> Iterator[None]:
    """Keep stdout for the file's content where the user gave `-o -`: everything else goes to stderr."""
    _State.is_stdout_data = is_stdout(out)
    try:
        yield
    finally:
        _State.is_stdout_data = False


def refuse_json_with_stdout(out: Path | None, output_format: str) -> None:
    """Raises InputError where `-o -` and `--format json` both want stdout."""
    if is_stdout(out) and output_format == "json":
        raise InputError("-o - and --format json both write to stdout; give one of them")


def write_out(out: Path, content: str | bytes, *, force: bool = False, make_folders: bool = False) -> None:
    """Write a file, or stdout where `out` is `-`.

    A terminal gets a text with its control characters written out; a file or a pipe gets it unchanged.

    Raises:
        InputError: The file exists and `force` is not set, or it cannot be written.
        OutputError: stdout cannot be written.
    """
    from jorge_tune.files import write_whole

    if not is_stdout(out):
        write_whole(out, content, force=force, make_folders=make_folders)
        return
    if _State.is_stdout_closed:
        raise OutputError("stdout is closed, so -o - cannot write to it; give a file name")
    if isinstance(content, str) and not _is_terminal(sys.stdout):
        content = content.encode()
    with _stdout_faults():
        click.echo(visible(content) if isinstance(content, str) else content, nl=False)


def write_plot(report: Report, plot: Path) -> None:
    """Write a report to the file of `--plot`: its numbers if the name ends in `.json`, else the page."""
    from jorge_tune.files import write_whole
    from jorge_tune.reports.page import report_page

    twin = report.to_json()
    content = as_json(twin, indent=1) + "\n" if plot.suffix == ".json" else report_page(twin)
    write_whole(plot, content, force=True, make_folders=True)
    tell(f"wrote {plot}")


def tell_written(*outs: Path) -> None:
    """Tell the user which files were written; `-` does not count."""
    files = [str(out) for out in outs if not is_stdout(out)]
    if files:
        tell(f"wrote {' and '.join(files)}")


def open_streams() -> None:
    """Replace closed standard streams (`2>&-`, cron) by the null device, and let every stream print any text.

    Without this, the next file that is opened would take the place of a closed stream, and everything printed would go
    into that file.
    """
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # open takes the lowest free number: this one
    _State.is_stdout_closed = sys.stdout is None
    if sys.stdin is None:
        sys.stdin = _nowhere("r")
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, _nowhere("w"))
        elif getattr(stream, "errors", "") == "strict" and hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # the locale may lack a character


def close_streams() -> bool:
    """Flush the streams at the end of the process; whether stdout took everything."""
    try:
        sys.stdout.flush()
    except OSError:
        _mute(sys.stdout)
        return False
    finally:
        with contextlib.suppress(OSError):
            sys.stderr.flush()
    return True


def _write(text: str, *, nl: bool) -> None:
    if _State.is_stdout_data:
        _write_talk(text, nl=nl)
        return
    with _stdout_faults():
        click.echo(text, nl=nl)


def _write_talk(text: str, *, nl: bool) -> None:
    try:
        click.echo(text, nl=nl, err=True)
    except OSError:
        _mute(sys.stderr)


@contextlib.contextmanager
def _stdout_faults() -> Iterator[None]:
    """Raises OutputError where the system refuses a write to stdout."""
    try:
        yield
    except BrokenPipeError as error:
        _mute(sys.stdout)
        raise ReaderLeftError("the reader of stdout has closed it") from error
    except OSError as error:
        _mute(sys.stdout)
        raise OutputError(f"stdout cannot be written ({error.strerror or error})") from error


def _mute(stream: TextIO) -> None:
    """Point a broken stream to the null device, so that its buffered text raises no second error at exit."""
    with contextlib.suppress(OSError, ValueError):  # the stream has no descriptor
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)


def _nowhere(mode: str) -> TextIO:
    return cast(TextIO, open(os.devnull, mode, encoding="utf-8"))  # open for as long as the process


def _is_terminal(stream: TextIO | None) -> bool:
    try:
        return stream is not None and stream.isatty()
    except ValueError:  # closed
        return False


_GAP = "  "


def print_table(
    headings: Sequence[str],
    rows: Sequence[Sequence[object]],
    *,
    title: str = "",
    right: Collection[str] = (),
    turn: bool = False,
) -> None:
    """Print a table to stdout: in rich's box on a terminal, else as plain columns with one line per row.

    Where COLUMNS is set, a wider table is fitted to that width, also without a terminal.

    Args:
        headings: One heading per column.
        rows: The cells, shown with `str`; None is shown as "-".
        title: A line above the table.
        right: The headings of the columns that are flush right (numbers).
        turn: Whether a table that is too wide is transposed.
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
    """Print lines of prose, wrapped on a terminal or where COLUMNS is set."""
    width = line_width() or 0
    for line in visible(text).splitlines():
        wrapped = textwrap.wrap(line, width, subsequent_indent="  ", break_on_hyphens=False) if width > 20 else [line]
        say("\n".join(wrapped))


def print_json(data: object) -> None:
    """Print plain data to stdout as JSON; NaN and the infinities become "nan", "inf" and "-inf"."""
    say(as_json(data))


def as_json(data: object, indent: int | None = 2) -> str:
    """Plain data as JSON in printable ASCII, so that no terminal reads a part of it as a command."""
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
    """Whether a plain table, with `more` characters for its box, is wider than `width`."""
    return width is not None and max(len(line) for line in text.splitlines()) + 2 + more > width


def _turned(headings: Sequence[str], cells: Sequence[Sequence[str]]) -> tuple[list[str], list[list[str]]]:
    """The transposed table: its headings are the first column's cells, its first column the other headings."""
    columns = [list(column) for column in zip(headings, *cells, strict=True)]
    return columns[0], columns[1:]


def _print_rich(
    headings: Sequence[str], cells: Sequence[Sequence[str]], title: str, right: Collection[str], width: int
) -> None:
    """Print one box if the table fits; else several below each other, without breaking words or numbers."""
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
    """The width that each column needs so that no word breaks, and no number in a flush-right column."""
    widths = []
    for column, heading in enumerate(headings):
        texts = [row[column] for row in cells]
        whole = [line for text in texts for line in (text.splitlines() if heading in right else text.split())]
        widths.append(max(map(len, [*heading.split(), *whole]), default=0))
    return widths


def _groups(widths: Sequence[int], width: int) -> list[list[int]]:
    """Groups of columns that fit the width; each group repeats the first column."""
    room = width - 2
    first = min(widths[0], room // 2)  # a longer name wraps
    groups: list[list[int]] = [[0]]
    taken = first
    for column, needed in enumerate(widths[1:], start=1):
        taken += needed + len(_GAP)
        if taken > room and len(groups[-1]) > 1:
            groups.append([0])
            taken = first + needed + len(_GAP)
        groups[-1].append(column)
    return groups


def show_bytes(number: float) -> str:
    """1536 as `1.5 KiB`."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if number < 999.5:
            return f"{number:.3g} {unit}"
        number /= 1024
    return f"{number:.3g} TiB"


def show_operations(number: float) -> str:
    """2500 as `2.5 k`."""
    for unit in ("", " k", " M", " G", " T"):
        if number < 999.5:
            return f"{number:.3g}{unit}"
        number /= 1000
    return f"{number:.3g} P"


def share(part: float, whole: float) -> float:
    """`part` as a fraction of `whole`; 0 where `whole` is 0."""
    return part / whole if whole else 0.0


_WIDE = 110  # from this many columns on, the bar is longer


@contextmanager
def training_progress(name: str) -> Iterator[Callable[[RunProgress], None]]:
    """Show a training run on stderr while the context lasts; gives the callback for `train`."""
    if not is_talk_on_terminal():
        yield plain_line
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
    from rich.progress import Progress as Bar
    from rich.table import Column

    name = visible(name)
    console = Console(stderr=True)
    whole = Column(no_wrap=True, min_width=len(name))
    columns = (
        TextColumn("{task.description}", markup=False, table_column=whole),
        BarColumn(bar_width=20 if console.width >= _WIDE else 6),
        MofNCompleteColumn(table_column=Column(no_wrap=True, min_width=9)),
        TextColumn("{task.fields[numbers]}", markup=False, table_column=Column(no_wrap=True)),
    )
    with Bar(*columns, console=console, refresh_per_second=4) as bar:
        line = bar.add_task(name, total=None, numbers="")

        def show(progress: RunProgress) -> None:
            if progress.data:
                console.print(visible(progress.data), markup=False, highlight=False, soft_wrap=True)
            bar.update(
                line, completed=progress.step, total=progress.total_steps or None, numbers=visible(numbers_of(progress))
            )

        yield show


def plain_line(progress: RunProgress) -> None:
    """Print one line for the data and one for each evaluation; other events print nothing."""
    if progress.data:
        tell(progress.data)
    if progress.event == "evaluation":
        of_all = f"/{progress.total_steps}" if progress.total_steps else ""
        where = f"step {progress.step}{of_all}  epoch {progress.epoch:.2f}"
        tell(f"{where}  {numbers_of(progress)}")


def numbers_of(progress: RunProgress) -> str:
    """The known numbers of time left, loss, metrics and throughput, the most important first."""
    parts = []
    if progress.eta_seconds is not None:
        parts.append(f"ETA {clock_time(progress.eta_seconds)}")
    if progress.loss is not None:
        parts.append(f"loss {progress.loss:.4f}")
    if progress.part is not None:
        scores = {name: value for name, value in progress.metrics.items() if name != "loss"}
        parts.append(f"{progress.part} " + " ".join(f"{name} {value:.4f}" for name, value in scores.items()))
    if progress.samples_per_second is not None:
        parts.append(f"{progress.samples_per_second:.0f} samples/s")
    return "  ".join(parts)


def clock_time(seconds: float) -> str:
    """Seconds as `h:mm:ss`, rounded up.

    Example:
        >>> clock_time(61.2)
        '0:01:02'
    """
    whole = -int(-seconds // 1)
    return f"{whole // 3600}:{whole // 60 % 60:02d}:{whole % 60:02d}"
