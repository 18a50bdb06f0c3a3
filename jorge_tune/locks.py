"""Kernel locks on files: free the moment their holder is dead, whatever killed it. Only this machine's prove that."""

from __future__ import annotations

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
