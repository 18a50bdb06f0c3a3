"""The one place that prints: data to stdout, talk to stderr, and no control character of a stored text to either.

What cannot be written to stderr is lost and ends nothing: a training does not stop because nobody listens. What cannot
be written to stdout ends the command, since its result is then not whole.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar, TextIO, cast

import click

from jorge_tune.errors import InputError, JorgeTuneError
from jorge_tune.texts import visible

STDOUT = Path("-")
"""What `-o -` names."""
_CLEAR_LINE = "\r\x1b[K"


class OutputError(JorgeTuneError):
    """stdout takes no more."""


class ReaderLeftError(OutputError):
    """Whoever read stdout has left early (`| head -1`): nothing went wrong that is worth a word."""


class _State:
    """What holds for the whole process."""

    is_stdout_closed: ClassVar[bool] = False
    is_stdout_data: ClassVar[bool] = False


def say(text: object = "", *, nl: bool = True) -> None:
    """A text of the result, on stdout.

    Raises:
        OutputError: it cannot be written.
    """
    _write(visible(text), nl=nl)


def tell(text: object = "", *, nl: bool = True) -> None:
    """Talk, on stderr; lost where that takes nothing."""
    _write_talk(visible(text), nl=nl)


def tell_over(text: object, *, nl: bool = False) -> None:
    """Talk on a terminal, in place of the line that stands there."""
    _write_talk(_CLEAR_LINE + visible(text), nl=nl)


def say_drawn(drawn: str) -> None:
    """What rich has drawn of visible text, colours included, on stdout. Raises as `say` does."""
    _write(drawn, nl=False)


def is_terminal() -> bool:
    """Whether the result goes to a terminal."""
    return _is_terminal(sys.stderr if _State.is_stdout_data else sys.stdout)


def is_talk_on_terminal() -> bool:
    """Whether stderr is a terminal."""
    return _is_terminal(sys.stderr)


def line_width() -> int | None:
    """Columns that tables and sentences have room for: COLUMNS, else the terminal's; None off a terminal."""
    columns = os.environ.get("COLUMNS", "")
    if columns.isdecimal() and int(columns) > 0:
        return int(columns)
    return shutil.get_terminal_size().columns if is_terminal() else None


def is_stdout(out: Path | None) -> bool:
    """Whether `-o -` was given."""
    return out == STDOUT


@contextlib.contextmanager
def data_on_stdout(out: Path | None) -> Iterator[None]:
    """With `-o -` stdout has the file's content alone: what else there is to say goes to stderr meanwhile."""
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
    """Write what `-o OUT` asks for, to stdout where OUT is `-`.

    On a terminal the control characters of a text are written out; a file or a pipe gets it as it is.

    Raises:
        InputError: the file exists (without `force`), or cannot be written.
        OutputError: stdout cannot be written.
    """
    from jorge_tune.files import write_whole

    if not is_stdout(out):
        write_whole(out, content, force=force, make_folders=make_folders)
        return
    if _State.is_stdout_closed:
        raise OutputError("stdout: is closed, so -o - cannot write to it; give a file name")
    if isinstance(content, str) and not _is_terminal(sys.stdout):
        content = content.encode()
    with _stdout_faults():
        click.echo(visible(content) if isinstance(content, str) else content, nl=False)


def tell_written(*outs: Path) -> None:
    """Say which files were written; stdout is none."""
    files = [str(out) for out in outs if not is_stdout(out)]
    if files:
        tell(f"wrote {' and '.join(files)}")


def open_streams() -> None:
    """Lead standard streams that are closed (`2>&-`, cron) nowhere, and let all print whatever text there is.

    Without this the next file to be opened would take the place of a closed stream, and everything printed would go
    into it.
    """
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # takes the lowest number that is free: this one
    _State.is_stdout_closed = sys.stdout is None
    if sys.stdin is None:
        sys.stdin = _nowhere("r")
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, _nowhere("w"))
        elif getattr(stream, "errors", "") == "strict" and hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # a locale without the character


def close_streams() -> bool:
    """Write what is still to be written, at the very end; whether stdout took all of it."""
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
    """Raises OutputError for what the system says of stdout."""
    try:
        yield
    except BrokenPipeError as error:
        _mute(sys.stdout)
        raise ReaderLeftError("stdout: its reader has left") from error
    except OSError as error:
        _mute(sys.stdout)
        raise OutputError(f"stdout: cannot be written ({error.strerror or error})") from error


def _mute(stream: TextIO) -> None:
    """Lead a stream that takes nothing nowhere, so that what it still holds raises no second fault at the end."""
    with contextlib.suppress(OSError, ValueError):  # a stream without a descriptor has nothing to lead
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
