"""Every error that this package raises on purpose, and every exit code of the command line.

Code  Meaning
0     done
1     failed: a run, a storage or the machine (JorgeTuneError), or an internal error
2     bad input: a file, a value, a name or an option (InputError)
3     diverged: the loss was not finite
4     no answer: nothing feasible, or the measurements support no suggestion
130   interrupted by a signal; the same command, or --resume, continues

The outcomes that a run may honestly have (diverged, unstable, infeasible) are values, not exceptions.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, NamedTuple

EXIT_DIVERGED = 3
EXIT_NO_ANSWER = 4
EXIT_INTERRUPTED = 130

Finding = tuple[str, str]  # dotted path, what is wrong


def shortened(items: Sequence[str], shown: int = 3) -> str:
    """The first items of a list as messages show them, and the number of further items."""
    rest = len(items) - shown
    return "; ".join(items[:shown]) + (f"; and {rest} more" if rest > 0 else "")


def first_line(error: BaseException) -> str:
    """The first line of an error's message, or the name of its type where it has none."""
    return (str(error).splitlines() or [type(error).__name__])[0]


class JorgeTuneError(Exception):
    """The root of all errors: something failed, and the message says what, where and the way out."""

    exit_code: ClassVar[int] = 1


class InputError(JorgeTuneError):
    """The user's input is wrong: a file, a value, a name, a directory that holds something else."""

    exit_code: ClassVar[int] = 2


class Fault(NamedTuple):
    """One fault of a file and its place; lines and columns count from 1."""

    line: int
    column: int
    path: str
    what: str

    def located(self, source: str) -> str:
        """`source:line:column: dotted.path: what`."""
        where = f"{self.path}: " if self.path else ""
        return f"{source}:{self.line}:{self.column}: {where}{self.what}"


SHOWN_FAULTS = 20  # more of them bury the first, which often causes the others


def first_faults(lines: Sequence[str], source: str) -> list[str]:
    """The first lines of many, and a line that counts the rest."""
    more = len(lines) - SHOWN_FAULTS
    if more <= 0:
        return list(lines)
    return [*lines[:SHOWN_FAULTS], f"{source}: {len(lines)} faults in all, {more} more than these; fix these first"]


class FaultyFileError(InputError):
    """A file has faults: `faults` holds all of them, the message shows the first twenty."""

    def __init__(self, source: str, faults: tuple[Fault, ...]) -> None:
        self.source = source
        self.faults = faults
        super().__init__("\n".join(first_faults([fault.located(source) for fault in faults], source)))


class RunDirectoryError(InputError):
    """A run directory holds another run, no run, or a damaged run."""


class TrainingError(JorgeTuneError):
    """A run could not continue for a reason other than divergence."""


class KilledCommandError(TrainingError):
    """Somebody else killed a run's command, so that another start may well succeed."""

    def __init__(self, message: str, *, out_of_memory: bool) -> None:
        self.out_of_memory = out_of_memory
        super().__init__(message)
