"""The command line: thin commands, loaded one at a time, errors turned into exit codes in one place."""

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
    "bootstrap": "Write a Jorge recipe from an SGD or AdamW recipe, each value with its reason.",
    "calibrate-freq": "Measure how often the preconditioner may be refreshed within a time budget.",
    "compare": "Race recipes on common seeds, or read finished runs.",
    "dashboard": "Serve Optuna's dashboard on this machine, with verdicts, recipes, records and curves.",
    "demo": "See Jorge against SGD on real data, in about a minute.",
    "diagnose": "Set Jorge's direction against exact Shampoo's, along a short run.",
    "doctor": "Show versions and devices, and what is missing.",
    "plan": "Show what the optimizer will keep and compute for each parameter, without data.",
    "probe": "Measure the best length of a recipe's own steps, along its own training.",
    "recipes": "List the shipped recipes, or copy one.",
    "report": "Write a self-contained HTML report of a study, or of runs: verdict, figures, tables.",
    "study": "Search around a bootstrapped recipe, and see whether one shot was enough.",
    "train": "Train a recipe.",
    "validate": "Check recipe files and report every fault.",
}


@click.group(
    cls=LazyGroup,
    texts=_COMMANDS,
    homes={"validate": "cmd_recipes"},
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.version_option(__version__, prog_name="jorge-tune")
@click.option("--debug", is_flag=True, help="Show tracebacks.")
def _group(debug: bool) -> None:
    """From a tuned SGD recipe to Jorge, a second-order optimizer without inverses, and the proof that it pays.

    Results go to stdout, messages and progress to stderr. Where COLUMNS is set, tables and sentences are fitted to
    that width, also in a pipe.

    \b
    Example:
      jorge-tune demo
      jorge-tune bootstrap sgd.yaml -o jorge.yaml
      eval "$(_JORGE_TUNE_COMPLETE=bash_source jorge-tune)"    # completion in bash; also zsh_source, fish_source
    """


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit: 0 done, 1 failed, 2 bad input, 3 diverged, 4 no answer, 130 interrupted."""
    open_streams()
    _tell_what_is_logged()
    arguments = sys.argv[1:] if arguments is None else arguments
    debug = "--debug" in arguments
    arguments = [a for a in arguments if a != "--debug"]  # accepted before and after the command's name
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
    """The exit code, after a word on stderr on what went wrong."""
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
    except Exception:  # a fault of ours: as Python ends, but for what the texts in it could do to a terminal
        tell(traceback.format_exc(), nl=False)
        return 1


def _show_usage(error: click.ClickException) -> None:
    """What click says of wrong arguments, on stderr."""
    if isinstance(error, getattr(click.exceptions, "NoArgsIsHelpError", ())):
        tell(error.format_message())
        return
    context = error.ctx if isinstance(error, click.UsageError) else None
    if context is not None:
        tell(context.get_usage())
        if context.command.get_help_option(context) is not None:
            tell(f"Try '{context.command_path} {context.help_option_names[0]}' for help.\n")
    tell(f"Error: {error.format_message()}")
