"""Runs of one study on one machine: side by side, or one of them alone after it ran out of memory."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from jorge_tune.errors import InputError
from jorge_tune.files import open_regular
from jorge_tune.locks import boot, take

_POLL_SECONDS = 0.5


class Machine:
    """This machine's runs in one folder. Whoever wants to be alone shuts the gate and waits for the others to end."""

    def __init__(self, runs: Path) -> None:
        self._lock = runs / "workers" / f"machine-{boot()[:8] or 'unnamed'}"
        self._gate = self._lock.with_suffix(".gate")

    @contextlib.contextmanager
    def holding(self, wait: Callable[[float], bool], *, alone: bool = False) -> Iterator[bool]:
        """Be one of the runs here, or the only one.

        Args:
            wait: waits that many seconds; True if there is no more use in waiting, and then nothing is held.
            alone: wait until no other run holds the machine, and let none begin meanwhile.
        """
        with _opened(self._gate) as gate, _opened(self._lock) as lock:
            held = _patiently(gate, wait, shared=not alone) and _patiently(lock, wait, shared=not alone)
            if not alone:
                take(gate, shared=True, release=True)
            yield held


def _patiently(descriptor: int, wait: Callable[[float], bool], *, shared: bool) -> bool:
    while not take(descriptor, shared=shared):
        if wait(_POLL_SECONDS):
            return False
    return True


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[int]:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = open_regular(path, os.O_RDWR | os.O_CREAT, mode=0o600)  # whoever can open it can hold it
    except OSError as error:
        raise InputError(f"{path.parent}: cannot be written ({error.strerror}); give another --runs") from error
    try:
        yield descriptor
    finally:
        os.close(descriptor)
