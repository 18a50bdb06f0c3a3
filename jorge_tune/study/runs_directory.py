"""The directory of a study's runs, and whether a worker sees the same one as the others.

The study's first worker writes a marker into it, a random name that the study's attributes repeat. Where a worker finds
another directory than that, trials that were lost elsewhere start anew there.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from jorge_tune.config.ranges import FILE_NAME
from jorge_tune.errors import InputError
from jorge_tune.files import boot, is_held, open_regular, read_regular_bytes, take, write_whole
from jorge_tune.records import RunDirectory
from jorge_tune.untrusted import is_shallow

_MARKER = "study.json"
_KEYS = ("study", "study_name", "folder")
_MOST_MARKER_BYTES = 1 << 16


@dataclass(frozen=True)
class RunsDirectory:
    """A directory of runs of one study.

    `name` is random and this directory's alone; `is_shared`: it is the one that the study's attributes name.
    """

    path: Path
    name: str
    is_shared: bool

    def trial(self, number: int) -> Path:
        """The directory of a trial's runs."""
        return self.path / f"trial-{number}"

    def run(self, number: int, seed: int) -> Path:
        """The directory of one run."""
        return run_path(self.path, number, seed)


def run_path(runs: Path, number: int, seed: int) -> Path:
    """The directory of one run in a study's directory of runs."""
    return runs / f"trial-{number}" / f"seed-{seed}"


def new_name() -> str:
    """A random name, for a study or a directory."""
    return uuid.uuid4().hex[:16]


def enter(path: Path, *, study: str, study_name: str, first: str) -> RunsDirectory:
    """Use a directory for the runs of a study; one without a marker becomes this machine's own.

    Args:
        path: the directory; it is made.
        study: the study's random name.
        study_name: as people call it, for messages.
        first: the random name of the study's first directory.

    Raises:
        InputError: the directory belongs to another study, or cannot be used.
    """
    marker = path / _MARKER
    held = _read(marker)
    if held is None:
        _mark(path, study=study, study_name=study_name, name=new_name())
        held = _read(marker)
    if held is None or held["study"] != study:
        whose = "nothing readable" if held is None else f"the runs of another study ({held['study_name']})"
        raise InputError(f"{path}: holds {whose}; give another --runs for study {study_name}, or move it away")
    return RunsDirectory(path, held["folder"], held["folder"] == first)


def mark_first(path: Path, *, study: str, study_name: str, name: str) -> None:
    """Make the first directory of a new study; a marker of its name with no run beside it is of one that was cut short.

    Raises:
        InputError: the directory belongs to another study, or cannot be used.
    """
    held = _read(path / _MARKER)
    cut_short = held is not None and held["study_name"] == study_name and not any(path.glob("trial-*"))
    if held is not None and held["study"] != study and not cut_short:
        raise InputError(
            f"{path}: holds the runs of another study ({held['study_name']}), of this storage or an earlier one; "
            f"give another --runs for study {study_name}, or move it away"
        )
    _mark(path, study=study, study_name=study_name, name=name, force=cut_short)


def folder_name(path: Path, study: str) -> str | None:
    """The random name of a directory with runs of the study of that random name, else None; nothing is made or changed.

    Raises:
        InputError: its marker is damaged.
    """
    held = _read(path / _MARKER)
    return held["folder"] if held is not None and held["study"] == study else None


def is_folder_of(path: Path, study: str) -> bool:
    """Whether a directory holds runs of the study of that random name. Raises as `folder_name` does."""
    return folder_name(path, study) is not None


def _mark(path: Path, *, study: str, study_name: str, name: str, force: bool = False) -> None:
    content = {"study": study, "study_name": study_name, "folder": name}
    try:
        write_whole(path / _MARKER, json.dumps(content) + "\n", force=force, make_folders=True)
    except InputError:
        if _read(path / _MARKER) is None:  # else another worker was faster
            raise


def _read(marker: Path) -> dict[str, str] | None:
    """The marker; None where there is none.

    Raises:
        InputError: it is damaged, or no regular file.
    """
    if marker.parent.is_file():
        raise InputError(f"{marker.parent}: is a file; a directory is expected (give another --runs)")
    try:
        held = json.loads(read_regular_bytes(marker, most=_MOST_MARKER_BYTES))
        if not isinstance(held, dict) or not all(isinstance(held.get(key), str) for key in _KEYS):
            raise ValueError
        return {key: held[key] for key in _KEYS}
    except FileNotFoundError:
        return None
    except (ValueError, RecursionError) as error:
        raise InputError(f"{marker}: is damaged; move the directory away, or give another --runs") from error


Life = Literal["alive", "dead", "unknown"]

_WORKERS = "workers"
_MOST_BYTES = 1 << 16
_LEAST_SECONDS = 0.5  # between two writings of the facts


class Presence:
    """This worker in the runs directory, until it is closed.

    Raises:
        InputError: the directory cannot be written.
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

    def update(self, *, at_once: bool = True, **facts: object) -> None:
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
class SeenWorker:
    """One worker as its files tell it; `facts` as it last wrote them."""

    worker: str
    life: Life
    facts: dict[str, Any]


def workers_in(runs: Path) -> list[SeenWorker]:
    """The workers that left a trace in a runs directory, those whose death cannot be proved among them."""
    found = []
    for path in sorted((runs / _WORKERS).glob("*.lock")):
        found.append(SeenWorker(path.stem, life_of(runs, path.stem), _facts(runs, path.with_suffix(".json"))))
    return found


def _facts(runs: Path, path: Path) -> dict[str, Any]:
    """What a worker wrote last; nothing where that is not a file of its form, which may be anybody's."""
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
    """Whether some process holds a run directory."""
    return is_held(RunDirectory(folder).log)
