"""Waiting for a storage that is gone for a while: the one place where an operation is tried again.

An operation is tried again after a lost connection, and at once after the database refused it because of another's
transaction. It is handed the number of the attempt: a commit whose answer was lost may have arrived, so what must not
happen twice looks first. What waiting cannot mend is raised in words.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from shlex import quote
from typing import TypeVar

from jorge_tune.errors import JorgeTuneError
from jorge_tune.tuning.storages.address import Address
from jorge_tune.tuning.storages.damage import set_aside
from jorge_tune.tuning.storages.storage_faults import FULL, IO_ERROR, NO_HEADER, Cause, StorageFault, fault_of, is_full

T = TypeVar("T")

SECONDS = 120.0
FIRST_PAUSE, LONGEST_PAUSE = 0.2, 5.0
BUSY_PAUSE, LONGEST_BUSY_PAUSE = 0.01, 0.5
SLICE = 0.25  # a wait looks this often whether it is still wanted


class StorageError(JorgeTuneError):
    """The storage of a study cannot be worked with any more: gone for too long, full, damaged or refusing."""


class BrokenStorageError(StorageError):
    """Neither waiting nor starting again helps: it is full, damaged or refusing."""


@dataclass
class Patience:
    """How long to wait for a storage, and who hears of it.

    Args:
        address: where it is.
        seconds: how long it may be gone.
        told: hears, from whichever thread waits, once per outage that we wait and once that the storage is back.
        unwanted: asked during a wait; True ends it as if time were up.
        clock: seconds; another one in tests.
        sleep: waits for so many seconds; another one in tests.
    """

    address: Address
    seconds: float = SECONDS
    told: Callable[[str], None] = lambda text: None
    unwanted: Callable[[], bool] = lambda: False
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep
    _waiting: bool = field(default=False, init=False)
    _telling: threading.Lock = field(default_factory=threading.Lock, init=False, repr=False)

    def run(self, operation: Callable[[int], T]) -> T:
        """Do an operation, again where that can help.

        Args:
            operation: handed the attempt's number, 0 at first.

        Raises:
            StorageError: the storage stayed away; a `BrokenStorageError` where it is full, damaged or refuses.
        """
        attempt, pause, began = 0, FIRST_PAUSE, self.clock()
        while True:
            try:
                result = operation(attempt)
            except Exception as error:
                fault = fault_of(error)
                if fault is None:
                    raise
                self._check(fault, self.clock() - began)
            else:
                self._end_of_wait()
                return result
            if fault.cause is Cause.BUSY:
                self.sleep(random.uniform(0, min(BUSY_PAUSE * 2**attempt, LONGEST_BUSY_PAUSE)))
            else:
                self._wait(fault, min(pause, max(0.0, began + self.seconds - self.clock())))
                pause = min(2 * pause, LONGEST_PAUSE)
            attempt += 1

    def in_words(self, fault: StorageFault) -> str:
        """A fault as it may be printed, without the password; a damaged file is copied aside meanwhile."""
        path = self.address.path
        if fault.text == IO_ERROR and path is not None and is_full(path):  # as SQLite says it where it maps its files
            fault = fault._replace(text=FULL)
        text = f"{self.address}: {self.address.scrub(fault.text)}"
        if fault.cause is Cause.DAMAGED and path is not None:
            return f"{text}: the file is damaged; {set_aside(path)}. {self._way_out(fault)}"
        return text

    def _check(self, fault: StorageFault, waited: float) -> None:
        """Raise, in words, a fault that is not to be waited for (any longer); the driver's text stays behind."""
        if fault.cause not in (Cause.LOST, Cause.BUSY):
            raise BrokenStorageError(self.in_words(fault)) from None
        if waited >= self.seconds or self.unwanted():
            gone = "gone" if fault.cause is Cause.LOST else "busy"
            reason = self.address.scrub(fault.text)
            raise StorageError(
                f"{self.address}: {gone} for {waited:.0f} seconds ({reason}); start again when it is back"
            ) from None

    def _wait(self, fault: StorageFault, seconds: float) -> None:
        with self._telling:
            first, self._waiting = not self._waiting, True
        if first:
            self.told(f"{self.address}: waiting for the database ({self.address.scrub(fault.text)})")
        end = self.clock() + seconds
        while (left := end - self.clock()) > 0 and not self.unwanted():
            self.sleep(min(SLICE, left))

    def _end_of_wait(self) -> None:
        if not self._waiting:
            return
        with self._telling:
            last, self._waiting = self._waiting, False
        if last:
            self.told(f"{self.address}: the database is back")

    def _way_out(self, fault: StorageFault) -> str:
        elsewhere = "go on elsewhere with another --storage"
        if self.address.kind == "journal":
            return f"Take that line out to go on without it, or {elsewhere}"
        if fault.text == NO_HEADER:
            return f"Bring it back from a backup, or {elsewhere}"
        dump = f"sqlite3 {quote(str(self.address.path))} .dump | sed 's/^ROLLBACK.*/COMMIT;/' | sqlite3 mended.db"
        return f"What can still be read: {dump} -- or {elsewhere}"
