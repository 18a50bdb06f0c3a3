"""The folder of a study's runs, and whether a worker sees the same one as the others.

The study's first worker writes a marker into it, a random name that the study's attributes repeat. Where a worker finds
another folder than that, trials that were lost elsewhere start anew there.
"""

from __future__ import annotations

import json
import uuid
from dataclasses import dataclass
from pathlib import Path

from jorge_tune.errors import InputError
from jorge_tune.files import read_regular_bytes, write_whole

_MARKER = "study.json"
_KEYS = ("study", "study_name", "folder")
_MOST_MARKER_BYTES = 1 << 16


@dataclass(frozen=True)
class RunsFolder:
    """A folder of runs of one study.

    `name` is random and this folder's alone; `is_shared`: it is the one that the study's attributes name.
    """

    path: Path
    name: str
    is_shared: bool

    def trial(self, number: int) -> Path:
        """The folder of a trial's runs."""
        return self.path / f"trial-{number}"

    def run(self, number: int, seed: int) -> Path:
        """The folder of one run."""
        return run_path(self.path, number, seed)


def run_path(runs: Path, number: int, seed: int) -> Path:
    """The folder of one run in a study's folder of runs."""
    return runs / f"trial-{number}" / f"seed-{seed}"


def new_name() -> str:
    """A random name, for a study or a folder."""
    return uuid.uuid4().hex[:16]


def enter(path: Path, *, study: str, study_name: str, first: str) -> RunsFolder:
    """Use a folder for the runs of a study; one without a marker becomes this machine's own.

    Args:
        path: the folder; it is made.
        study: the study's random name.
        study_name: as people call it, for messages.
        first: the random name of the study's first folder.

    Raises:
        InputError: the folder belongs to another study, or cannot be used.
    """
    marker = path / _MARKER
    held = _read(marker)
    if held is None:
        _mark(path, study=study, study_name=study_name, name=new_name())
        held = _read(marker)
    if held is None or held["study"] != study:
        whose = "nothing readable" if held is None else f"the runs of another study ({held['study_name']})"
        raise InputError(f"{path}: holds {whose}; give another --runs for study {study_name}, or move it away")
    return RunsFolder(path, held["folder"], held["folder"] == first)


def found(path: Path, *, study: str, study_name: str, name: str) -> None:
    """Make the first folder of a new study; a marker of its name with no run beside it is of one that was cut short.

    Raises:
        InputError: the folder belongs to another study, or cannot be used.
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
    """The random name of a folder with runs of the study of that random name, else None; nothing is made or changed.

    Raises:
        InputError: its marker is damaged.
    """
    held = _read(path / _MARKER)
    return held["folder"] if held is not None and held["study"] == study else None


def is_folder_of(path: Path, study: str) -> bool:
    """Whether a folder holds runs of the study of that random name. Raises as `folder_name` does."""
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
        raise InputError(f"{marker.parent}: is a file; a folder is expected (give another --runs)")
    try:
        held = json.loads(read_regular_bytes(marker, most=_MOST_MARKER_BYTES))
        if not isinstance(held, dict) or not all(isinstance(held.get(key), str) for key in _KEYS):
            raise ValueError
        return {key: held[key] for key in _KEYS}
    except FileNotFoundError:
        return None
    except (ValueError, RecursionError) as error:
        raise InputError(f"{marker}: is damaged; move the folder away, or give another --runs") from error
