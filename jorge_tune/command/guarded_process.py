"""A command and its guard, as the run sees them: what it prints, how it ends, and how it is ended."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from jorge_tune.command import guard
from jorge_tune.errors import InputError

_CHUNK = 2**16
_LEAVE_SECONDS = guard.LEAVE_SECONDS + guard.GIVE_UP_SECONDS + 10.0


class CommandEnd(NamedTuple):
    """How a command ended: by its exit code, or by a signal."""

    code: int | None
    signal: int | None

    def words(self) -> str:
        """`exited with code 1`, `was killed by SIGKILL`."""
        if self.signal is None:
            return f"exited with code {self.code}"
        try:
            return f"was killed by {signal.Signals(self.signal).name}"
        except ValueError:  # the real-time ones have no names
            return f"was killed by signal {self.signal}"


class GuardedProcess:
    """A command in a session of its own, which ends with this process whatever happens; a context manager.

    Args:
        words: the program and its arguments.
        environment: the command's.
        lock: a descriptor of a lock that is held until nothing of the command is left; None: no lock.

    Raises:
        InputError: it cannot be started.
    """

    def __init__(self, words: Sequence[str], environment: Mapping[str, str], lock: int | None = None) -> None:
        theirs_orders, self._orders = os.pipe()
        self._answers, theirs_answers = os.pipe()
        passed = [theirs_orders, theirs_answers, *([] if lock is None else [lock])]
        head = [sys.executable, "-I", "-S", str(Path(guard.__file__))]
        descriptors = [str(theirs_orders), str(theirs_answers), str(-1 if lock is None else lock)]
        try:
            self._process = subprocess.Popen(
                [*head, *descriptors, *words],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                env=environment,
                pass_fds=passed,
                start_new_session=True,  # whoever ends this process's group must not end the guard before its command
            )
        except OSError as error:
            self._close_pipes()
            raise InputError(f"task.command: cannot be started ({error.strerror})") from error
        finally:
            os.close(theirs_orders)
            os.close(theirs_answers)
        assert self._process.stdout is not None
        self.output = self._process.stdout.fileno()
        os.set_blocking(self.output, False)
        os.set_blocking(self._answers, False)
        self._said = b""
        self._pid: int | None = None

    def __enter__(self) -> GuardedProcess:
        return self

    def __exit__(self, *exc_info: object) -> None:
        """End whatever is left, and wait until it is gone."""
        self._close_orders()
        try:
            self._process.wait(_LEAVE_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()
        self._close_pipes()

    @property
    def answers(self) -> int:
        """A descriptor that is readable when the guard has something to say."""
        return self._answers

    def printed(self) -> bytes | None:
        """What was printed since the last call, in part; nothing where there is nothing, None at the end."""
        try:
            return os.read(self.output, _CHUNK) or None
        except BlockingIOError:
            return b""

    def ended(self) -> CommandEnd | None:
        """How the command ended, once nothing of it is left.

        Raises:
            InputError: it could not be started.
        """
        try:
            said = os.read(self._answers, _CHUNK)
        except BlockingIOError:
            return None
        self._said += said
        *lines, rest = self._said.split(b"\n")
        for line in lines:
            word, _, number = line.decode().partition(" ")
            if word == "missing":
                raise InputError(f"task.command: cannot be started ({os.strerror(int(number))})")
            if word == "started":
                self._pid = int(number)
            else:
                return CommandEnd(int(number), None) if word == "exit" else CommandEnd(None, int(number))
        self._said = rest
        return None if said else self._without_guard()

    def ask_to_end(self) -> None:
        """Send SIGTERM to the command's group."""
        with contextlib.suppress(OSError):
            os.write(self._orders, b"t")

    def kill(self) -> None:
        """End the command and all that descends from it, at once."""
        with contextlib.suppress(OSError):
            os.write(self._orders, b"k")

    def _without_guard(self) -> CommandEnd:
        """The guard was killed, so its command is ended from here."""
        if self._pid is not None:
            with contextlib.suppress(OSError):
                os.killpg(self._pid, signal.SIGKILL)
        return CommandEnd(None, signal.SIGKILL)

    def _close_orders(self) -> None:
        if self._orders >= 0:
            os.close(self._orders)
            self._orders = -1

    def _close_pipes(self) -> None:
        self._close_orders()
        if self._answers >= 0:
            os.close(self._answers)
            self._answers = -1
