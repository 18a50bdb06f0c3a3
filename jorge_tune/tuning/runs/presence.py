"""Workers as their runs folder shows them: `workers/<id>.lock`, held while one lives, and `<id>.json` for displays.

A kernel lock is free the moment its holder is dead, whatever killed it. That proves a death on this machine only: the
lock file names the kernel's boot, so that a file system which knows no locks, or another machine's, proves nothing.
Whoever can open a file can lock it, so a lock file is its user's alone; to others its worker's life is unknown.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from jorge_tune.errors import InputError
from jorge_tune.files import open_regular, read_regular_bytes
from jorge_tune.locks import boot, is_held, take
from jorge_tune.recipe.plain_values import is_shallow
from jorge_tune.recipe.ranges import FILE_NAME
from jorge_tune.records import RunFolder

Life = Literal["alive", "dead", "unknown"]

_WORKERS = "workers"
_MOST_BYTES = 1 << 16
_LEAST_SECONDS = 0.5  # between two writings of the facts


class Presence:
    """This worker in the runs folder, until it is closed.

    Raises:
        InputError: the folder cannot be written.
    """

    def __init__(self, runs: Path, worker: str) -> None:
        folder = runs / _WORKERS
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._descriptor = open_regular(folder / f"{worker}.lock", os.O_RDWR | os.O_CREAT, mode=0o600)
            locked = take(self._descriptor) and is_held(folder / f"{worker}.lock")
            os.write(self._descriptor, (boot() if locked else "no locks here").encode())
        except OSError as error:
            raise InputError(f"{folder}: cannot be written ({error.strerror}); give another --runs") from error
        self._path = folder / f"{worker}.json"
        self._facts: dict[str, Any] = {"worker": worker, "pid": os.getpid(), "since": round(time.time(), 1)}
        self._written = 0.0

    def tell(self, *, at_once: bool = True, **facts: object) -> None:
        """Change some facts; without `at_once` not more often than a display looks. A full disk is no matter here."""
        self._facts |= facts
        now = time.monotonic()
        if not at_once and now - self._written < _LEAST_SECONDS:
            return
        self._written = now
        partial = self._path.with_suffix(".partial")
        with contextlib.suppress(OSError):
            partial.write_text(json.dumps(self._facts))
            partial.replace(self._path)

    def close(self) -> None:
        """Leave no trace."""
        with contextlib.suppress(OSError):
            self._path.unlink()
        with contextlib.suppress(OSError):
            self._path.with_suffix(".lock").unlink()
        os.close(self._descriptor)

    def __enter__(self) -> Presence:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


@dataclass(frozen=True)
class Seen:
    """One worker as its files tell it; `facts` as it last wrote them."""

    worker: str
    life: Life
    facts: dict[str, Any]


def workers_in(runs: Path) -> list[Seen]:
    """The workers that left a trace in a runs folder, those whose death cannot be proved among them."""
    found = []
    for path in sorted((runs / _WORKERS).glob("*.lock")):
        found.append(Seen(path.stem, life_of(runs, path.stem), _facts(runs, path.with_suffix(".json"))))
    return found


def _facts(runs: Path, path: Path) -> dict[str, Any]:
    """What a worker wrote last; nothing where that is no file of its form, which may be anybody's."""
    try:
        facts = json.loads(read_regular_bytes(path, most=_MOST_BYTES, below=runs))
    except (InputError, OSError, RecursionError, ValueError):
        return {}
    return facts if isinstance(facts, dict) and is_shallow(facts) else {}


def life_of(runs: Path, worker: str) -> Life:
    """Whether a worker lives, as far as this machine's kernel knows."""
    if not FILE_NAME.holds(worker):  # a lease may name anything
        return "unknown"
    path = runs / _WORKERS / f"{worker}.lock"
    try:
        kernel = read_regular_bytes(path, most=_MOST_BYTES, below=runs).decode()
    except (InputError, OSError, ValueError):
        return "unknown"
    if not kernel or kernel != boot():
        return "unknown"
    return "alive" if is_held(path) else "dead"


def forget(runs: Path, worker: str) -> None:
    """Remove a dead worker's files, once nothing waits for the proof of its death."""
    for suffix in (".json", ".partial", ".lock"):
        with contextlib.suppress(OSError):
            (runs / _WORKERS / f"{worker}{suffix}").unlink()


def is_training(folder: Path) -> bool:
    """Whether some process holds a run folder."""
    return is_held(RunFolder(folder).log)
