"""The directory of a study's runs, and the traces that workers leave there.

A marker in the directory holds a random name, and the study's attributes hold the same name. If a worker uses a
directory with another name, it does not see the runs of lost trials, so such trials start again there.
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
    """The directory of one study's runs.

    `name` is a random name of this directory alone. `is_shared`: it is the one that the study's attributes name.
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
    """Use a directory for the runs of a study; one without a marker gets a new name.

    Args:
        path: the directory; it is made if it is not there.
        study: the study's random name.
        study_name: the study's name, for messages.
        first: the random name of the study's first directory.

    Raises:
        InputError: the directory belongs to another study, or cannot be used.
    """
    path_of_marker = path / _MARKER
    marker = _read(path_of_marker)
    if marker is None:
        _mark(path, study=study, study_name=study_name, name=new_name())
        marker = _read(path_of_marker)

    if marker is None or marker["study"] != study:
        whose = "nothing readable" if marker is None else f"the runs of another study ({marker['study_name']})"
        raise InputError(f"{path}: holds {whose}; give another --runs for study {study_name}, or move it away")
    return RunsDirectory(path, marker["folder"], marker["folder"] == first)


def mark_first(path: Path, *, study: str, study_name: str, name: str) -> None:
    """Make and mark the first directory of a new study.

    A marker with the study's name but without any run is left over from an attempt that was cut short.

    Raises:
        InputError: the directory belongs to another study, or cannot be used.
    """
    marker = _read(path / _MARKER)
    cut_short = marker is not None and marker["study_name"] == study_name and not any(path.glob("trial-*"))
    if marker is not None and marker["study"] != study and not cut_short:
        raise InputError(
            f"{path}: holds the runs of another study ({marker['study_name']}), of this storage or an earlier one; "
            f"give another --runs for study {study_name}, or move it away"
        )
    _mark(path, study=study, study_name=study_name, name=name, force=cut_short)


def folder_name(path: Path, study: str) -> str | None:
    """The random name of a directory, if it holds runs of the study of that random name; else None.

    Raises:
        InputError: the marker is damaged.
    """
    marker = _read(path / _MARKER)
    return marker["folder"] if marker is not None and marker["study"] == study else None


def is_folder_of(path: Path, study: str) -> bool:
    """Whether a directory holds runs of the study of that random name. Raises as `folder_name` does."""
    return folder_name(path, study) is not None


def _mark(path: Path, *, study: str, study_name: str, name: str, force: bool = False) -> None:
    content = {"study": study, "study_name": study_name, "folder": name}
    try:
        write_whole(path / _MARKER, json.dumps(content) + "\n", force=force, make_folders=True)
    except InputError:
        if _read(path / _MARKER) is None:  # if there is one, another worker was faster
            raise


def _read(marker: Path) -> dict[str, str] | None:
    """The content of a marker; None if there is no marker.

    Raises:
        InputError: it is damaged, or not a regular file.
    """
    if marker.parent.is_file():
        raise InputError(f"{marker.parent}: is a file; a directory is expected (give another --runs)")

    try:
        content = json.loads(read_regular_bytes(marker, most=_MOST_MARKER_BYTES))
        if not isinstance(content, dict) or not all(isinstance(content.get(key), str) for key in _KEYS):
            raise ValueError
        return {key: content[key] for key in _KEYS}
    except FileNotFoundError:
        return None
    except (ValueError, RecursionError) as error:
        raise InputError(f"{marker}: is damaged; move the directory away, or give another --runs") from error


Life = Literal["alive", "dead", "unknown"]

_WORKERS = "workers"
_MOST_BYTES = 1 << 16
_LEAST_SECONDS = 0.5  # between two updates that are not urgent


class Presence:
    """A worker's trace in the directory of runs, until it is closed: a lock while it is alive, and facts for displays.

    Raises:
        InputError: the directory cannot be written.
    """

    def __init__(self, runs: Path, worker: str) -> None:
        directory = runs / _WORKERS
        try:
            directory.mkdir(parents=True, exist_ok=True)
            self._descriptor = open_regular(directory / f"{worker}.lock", os.O_RDWR | os.O_CREAT, mode=0o600)
            locked = take(self._descriptor) and is_held(directory / f"{worker}.lock")
            os.write(self._descriptor, (boot() if locked else "no locks here").encode())
        except OSError as error:
            raise InputError(f"{directory}: cannot be written ({error.strerror}); give another --runs") from error
        self._path = directory / f"{worker}.json"
        self._facts: dict[str, Any] = {"worker": worker, "pid": os.getpid(), "since": round(time.time(), 1)}
        self._written = 0.0

    def update(self, *, at_once: bool = True, **facts: object) -> None:
        """Change some facts; without `at_once`, at most twice a second. A full disk does no harm."""
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
        """Remove the worker's files."""
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
    """One worker by its files; `facts` are those that it wrote last."""

    worker: str
    life: Life
    facts: dict[str, Any]


def workers_in(runs: Path) -> list[SeenWorker]:
    """The workers with files in a directory of runs, also those of which it is not known whether they are alive."""
    workers = []
    for path in sorted((runs / _WORKERS).glob("*.lock")):
        workers.append(SeenWorker(path.stem, life_of(runs, path.stem), _facts(runs, path.with_suffix(".json"))))
    return workers


def _facts(runs: Path, path: Path) -> dict[str, Any]:
    """The facts that a worker wrote last; empty if the file is not of that form, since anybody may have written it."""
    try:
        facts = json.loads(read_regular_bytes(path, most=_MOST_BYTES, below=runs))
    except (InputError, OSError, RecursionError, ValueError):
        return {}
    return facts if isinstance(facts, dict) and is_shallow(facts) else {}


def life_of(runs: Path, worker: str) -> Life:
    """Whether a worker is alive, as far as this machine's kernel knows."""
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
    """Remove a dead worker's files, once nothing needs the proof of its death any more."""
    for suffix in (".json", ".partial", ".lock"):
        with contextlib.suppress(OSError):
            (runs / _WORKERS / f"{worker}{suffix}").unlink()


def is_training(directory: Path) -> bool:
    """Whether a process holds a run directory."""
    return is_held(RunDirectory(directory).log)
