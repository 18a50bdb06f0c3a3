"""Waiting for a storage that is gone for a while: the one place where an operation is tried again.

An operation is tried again after a lost connection, and, quickly, after the database refused it because of another's
transaction. It is handed the number of the attempt: a commit whose answer was lost may have arrived, so what must not
happen twice looks first. Faults that waiting cannot mend are raised in words at once.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from jorge_tune.errors import JorgeTuneError
from jorge_tune.tuning.storage_faults import Cause, fault_of

T = TypeVar("T")

FIRST_PAUSE, LONGEST_PAUSE = 0.2, 5.0
BUSY_PAUSE = 0.02
SLICE = 0.25  # a wait looks this often whether it is still wanted


class StorageError(JorgeTuneError):
    """The storage of a study cannot be worked with any more: gone for too long, full or damaged."""


@dataclass
class Patience:
    """How long to wait for the storage, and who hears of it.

    Args:
        name: the storage as it may be printed.
        seconds: how long a storage may be gone.
        told: hears once per outage that we wait, and once that the storage is back.
        unwanted: asked during a wait; True ends it as if time were up.
        in_words: turns a text of the database into one that may be printed.
    """

    name: str
    seconds: float = 120.0
    told: Callable[[str], None] = lambda text: None
    unwanted: Callable[[], bool] = lambda: False
    in_words: Callable[[str], str] = lambda text: text
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep

    def __post_init__(self) -> None:
        self._outage = threading.Lock()
        self._waiting = False

    def run(self, operation: Callable[[int], T]) -> T:
        """Do `operation`, again where waiting can help.

        Args:
            operation: handed the attempt's number, 0 at first.

        Raises:
            StorageError: the storage stayed away, is full or is damaged.
        """
        attempt, pause, began = 0, FIRST_PAUSE, self.clock()
        while True:
            try:
                result = operation(attempt)
            except Exception as error:
                fault = fault_of(error)
                if fault is None:
                    raise
                if fault.cause not in (Cause.LOST, Cause.BUSY):
                    raise StorageError(f"{self.name}: {self.in_words(fault.text)}") from None
                waited = self.clock() - began
                if waited >= self.seconds or self.unwanted():
                    raise StorageError(self._given_up(waited, fault.text)) from None
            else:
                self._tell_of_end()
                return result
            if fault.cause is Cause.BUSY:
                self.sleep(random.uniform(0, BUSY_PAUSE * min(2**attempt, 32)))
            else:
                self._tell_of_wait(fault.text)
                self._wait(min(pause, max(0.0, self.seconds - waited)))
                pause = min(2 * pause, LONGEST_PAUSE)
            attempt += 1

    def _wait(self, seconds: float) -> None:
        end = self.clock() + seconds
        while (left := end - self.clock()) > 0 and not self.unwanted():
            self.sleep(min(SLICE, left))

    def _tell_of_wait(self, text: str) -> None:
        with self._outage:
            first, self._waiting = not self._waiting, True
        if first:
            self.told(f"{self.name}: waiting for the database ({self.in_words(text)})")

    def _tell_of_end(self) -> None:
        if self._waiting:
            with self._outage:
                last, self._waiting = self._waiting, False
            if last:
                self.told(f"{self.name}: the database is back")

    def _given_up(self, waited: float, text: str) -> str:
        return f"{self.name}: gone for {waited:.0f} seconds ({self.in_words(text)}); start again when it is back"
