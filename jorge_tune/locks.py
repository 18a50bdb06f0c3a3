"""Kernel locks on files: free the moment their holder is dead, whatever killed it. Only this machine's prove that."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path


def boot() -> str:
    """The running kernel's own random name; nothing where it has none."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def take(descriptor: int, *, shared: bool = False, release: bool = False) -> bool:
    """Take (or let go of) an open file until it is closed, without waiting.

    False where somebody else has it; True too where the system or the file system knows no locks.
    """
    try:
        import fcntl
    except ImportError:
        return True
    wish = fcntl.LOCK_UN if release else fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    try:
        fcntl.flock(descriptor, wish | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        pass
    return True


_kept: set[int] = set()


def keep_from_children(descriptor: int) -> None:
    """Let no forked process inherit an open file, and with it a lock that would outlive its holder's death.

    A lock of `flock` is free when the last copy of its descriptor is closed, and fork makes copies: a loader process
    that is still waiting for data when its parent is killed would hold the folder for as long as it waits.
    """
    _kept.add(descriptor)


def let_children_have(descriptor: int) -> None:
    """Forget a descriptor that is about to be closed, since its number will be another file's."""
    _kept.discard(descriptor)


def _close_in_child() -> None:
    for descriptor in _kept:
        with contextlib.suppress(OSError):
            os.close(descriptor)
    _kept.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_close_in_child)


def is_held(path: Path) -> bool:
    """Whether somebody holds a file alone; asked by sharing it for a moment. A file that is not there is not held."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError:
        return False
    try:
        return not take(descriptor, shared=True)
    finally:
        os.close(descriptor)
