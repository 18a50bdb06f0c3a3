"""The command line: thin commands that are imported one at a time, and one place that turns errors into exit codes."""

from __future__ import annotations

import logging
import sys
import traceback

import click

from jorge_tune import __version__
from jorge_tune.cli.lazy import LazyGroup
from jorge_tune.cli.output import ReaderLeftError, close_streams, open_streams, tell
from jorge_tune.errors import JorgeTuneError

_COMMANDS = {
    "bootstrap": "Derive a Jorge recipe from an SGD or AdamW recipe.",
    "calibrate-freq": "Measure the smallest refresh interval within a time budget.",
    "compare": "Race recipes on the same seeds, or compare finished runs.",
    "dashboard": "Serve Optuna's dashboard on this machine.",
    "demo": "Race Jorge against SGD on real data in about a minute.",
    "diagnose": "Compare Jorge's direction with exact Shampoo's.",
    "doctor": "Show versions, devices and missing packages.",
    "plan": "Show the optimizer's memory and operations per parameter.",
    "probe": "Measure the best step length during training.",
    "recipes": "List or copy the shipped recipes.",
    "report": "Write an HTML report of a study or of runs.",
    "study": "Search around a bootstrapped recipe.",
    "train": "Train a recipe.",
    "validate": "Check recipe files and list every fault.",
}


@click.group(
    cls=LazyGroup,
    texts=_COMMANDS,
    homes={"validate": "cmd_recipes"},
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.version_option(__version__, prog_name="jorge-tune")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
def _group(debug: bool) -> None:
    """Turn a tuned SGD recipe into a recipe for Jorge, and measure whether Jorge pays.

    Jorge is a second-order optimizer: Shampoo without matrix inverses. Results go to stdout; messages and progress go
    to stderr. If the variable COLUMNS is set, tables and sentences fit that width, also in a pipe.

    Exit codes: 0 done, 1 failed, 2 bad input, 3 diverged, 4 no answer, 130 interrupted.

    \b
    Example:
      jorge-tune demo
      jorge-tune bootstrap digits/cnn-sgd -o jorge.yaml
      eval "$(_JORGE_TUNE_COMPLETE=bash_source jorge-tune)"    # completion; also zsh_source, fish_source
    """


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit; `jorge_tune.errors` lists the exit codes."""
    open_streams()
    _tell_what_is_logged()
    arguments = sys.argv[1:] if arguments is None else arguments
    debug = "--debug" in arguments
    arguments = [a for a in arguments if a != "--debug"]  # the user may write it before or after the command's name
    status = _run(arguments, debug)
    sys.exit(status if close_streams() else status or 1)


class _Telling(logging.Handler):
    """Sentences that library code logs, on stderr."""

    def emit(self, record: logging.LogRecord) -> None:
        tell(record.getMessage())


def _tell_what_is_logged() -> None:
    log = logging.getLogger("jorge_tune")
    log.setLevel(logging.INFO)
    if not any(isinstance(handler, _Telling) for handler in log.handlers):
        log.addHandler(_Telling())


def _run(arguments: list[str], debug: bool) -> int:
    """Run a command, print its error to stderr, and return its exit code."""
    try:
        status = _group.main(arguments, prog_name="jorge-tune", standalone_mode=False)
        return status if isinstance(status, int) else 0
    except (KeyboardInterrupt, click.Abort):
        tell("interrupted")
        return 130
    except click.ClickException as error:
        _show_usage(error)
        return 2
    except ReaderLeftError as error:
        return error.exit_code
    except JorgeTuneError as error:
        if debug:
            tell(traceback.format_exc(), nl=False)
        tell(error)
        return error.exit_code
    except OSError as error:
        if debug:
            tell(traceback.format_exc(), nl=False)
        tell(f"{error.filename or 'output'}: {error.strerror or error}")
        return 1
    except Exception:  # our own error: the traceback, printed safely for a terminal
        tell(traceback.format_exc(), nl=False)
        return 1


def _show_usage(error: click.ClickException) -> None:
    """Print what click says about wrong arguments to stderr."""
    if isinstance(error, getattr(click.exceptions, "NoArgsIsHelpError", ())):
        tell(error.format_message())
        return
    context = error.ctx if isinstance(error, click.UsageError) else None
    if context is not None:
        tell(context.get_usage())
        if context.command.get_help_option(context) is not None:
            tell(f"Try '{context.command_path} {context.help_option_names[0]}' for help.\n")
    tell(f"Error: {error.format_message()}")
