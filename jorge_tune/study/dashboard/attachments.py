"""Notes, plots and artifacts of one study, kept where optuna-dashboard looks for them.

All of it lies in the study's own attributes: a trial that has ended takes no more attributes, and one that runs is its
worker's. Keys are the dashboard's, T a trial's id:

`dashboard:note_ver`, `dashboard:note_str:0..`           the study's note, in pieces, and a count of its changes
`dashboard:T:note_ver`, `dashboard:T:note_str:0..`       a trial's
`dashboard:plot_data:NAME:0..`                           a plot as plotly's JSON, in pieces
`dashboard:objective_names`                              what the values of trials are called
`artifacts:ID`, `dashboard:artifacts:T:ID`               an artifact of the study or of a trial, as JSON in a string
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import shutil
import stat
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple

from jorge_tune.errors import InputError
from jorge_tune.files import open_regular

if TYPE_CHECKING:
    from optuna.artifacts import FileSystemArtifactStore
    from optuna.storages import BaseStorage

NOTE_BYTES = 2048
"""The most that one piece of a note takes as JSON."""
_PLOT_BYTES = 60_000  # as much as MySQL's TEXT holds: a plot in one piece is never read half written
_TAKEN_AWAY = "null"  # what the dashboard leaves of an artifact that somebody deleted there
_YOURS = "*What is above is jorge-tune's and may be written anew; what you write below this line is kept.*"


class UnfitFileError(InputError):
    """A file that is not attached: a link, a pipe or a device, or one that cannot be read. Others may be."""


class Artifact(NamedTuple):
    """A file to attach: its name, its content or where that lies, and its MIME type."""

    name: str
    content: str | bytes | Path
    mimetype: str = "text/plain; charset=utf-8"


class Attachments:
    """What is attached to one study; every method returns whether it had to change anything.

    Args:
        storage: where the study is.
        study_id: its number there.
        study: its random name.
        directory: of its artifacts; None: it has none on this machine.
    """

    def __init__(self, storage: BaseStorage, study_id: int, study: str, folder: Path | None) -> None:
        self._storage, self._study_id, self._study, self.folder = storage, study_id, study, folder
        self._held: dict[str, Any] = {}
        self.look()

    def look(self) -> None:
        """Read what is attached by now, by whomever."""
        self._held = dict(self._storage.get_study_system_attrs(self._study_id))

    def note(self, text: str, trial_id: int | None = None) -> bool:
        """Put a note (Markdown) on the study or a trial; what people wrote below the line of an earlier one stays."""
        whose = "dashboard:" if trial_id is None else f"dashboard:{trial_id}:"
        pieces = f"{whose}note_str:"
        whole = merged(text, self._joined(pieces))
        if not self._put(pieces, whole, NOTE_BYTES):
            return False
        version = self._held.get(f"{whose}note_ver", 0)
        self._set(f"{whose}note_ver", version + 1 if isinstance(version, int) else 1)
        return True

    @property
    def has_note(self) -> bool:
        """Whether the study has one, of whomever."""
        return self._count("dashboard:note_str:") > 0

    def plot(self, name: str, figure: str) -> bool:
        """Put a plot, as plotly's JSON, on the study's page; `name` holds letters, digits and hyphens."""
        return self._put(f"dashboard:plot_data:{name}:", figure, _PLOT_BYTES)

    def objective(self, name: str) -> bool:
        """Name the values of trials, which the dashboard's figures call `Objective 0` otherwise."""
        return self._set("dashboard:objective_names", [name])

    def artifact(self, artifact: Artifact, trial_id: int | None = None) -> bool:
        """Attach a file under its name, in place of an earlier one; one that was deleted in the dashboard stays so.

        Raises:
            UnfitFileError: it is not a regular file, or cannot be read.
            InputError: it cannot be written.
        """
        assert self.folder is not None, "a study whose directory is here"
        made_of = f"{self._study}/{'' if trial_id is None else trial_id}/{artifact.name}"
        identity = str(uuid.uuid5(uuid.NAMESPACE_OID, made_of))
        key = f"artifacts:{identity}" if trial_id is None else f"dashboard:artifacts:{trial_id}:{identity}"
        if self._held.get(key) == _TAKEN_AWAY:
            return False
        is_new = _place(artifact.content, self.folder / identity)
        facts = {"artifact_id": identity, "filename": artifact.name, "mimetype": artifact.mimetype, "encoding": None}
        return self._set(key, json.dumps(facts)) or is_new

    def _joined(self, prefix: str) -> str:
        return "".join(str(self._held[f"{prefix}{number}"]) for number in range(self._count(prefix)))

    def _count(self, prefix: str) -> int:
        """How many pieces a text has."""
        return next(number for number in itertools.count() if f"{prefix}{number}" not in self._held)

    def _put(self, prefix: str, text: str, most: int) -> bool:
        """Keep a text in pieces; those of a longer one before become empty, since attributes cannot be deleted."""
        if text == self._joined(prefix):
            return False
        pieces = split(text, most)
        for number, piece in enumerate(pieces + [""] * (self._count(prefix) - len(pieces))):
            self._set(f"{prefix}{number}", piece)
        return True

    def _set(self, key: str, value: Any) -> bool:
        if self._held.get(key) == value:
            return False
        self._storage.set_study_system_attr(self._study_id, key, value)
        self._held[key] = value
        return True


def merged(text: str, held: str) -> str:
    """A note's text above the line, and below it what people wrote into the one that is held."""
    _, line, below = held.partition(_YOURS)
    kept = (below if line else held).strip()
    return f"{text.strip()}\n\n---\n{_YOURS}\n" + (f"\n{kept}\n" if kept else "")


def split(text: str, most: int) -> list[str]:
    """A text in pieces, each of which takes at most `most` bytes as JSON in ASCII."""
    pieces, start, size = [], 0, 2
    for position, character in enumerate(text):
        cost = len(json.dumps(character)) - 2
        if size + cost > most:
            pieces.append(text[start:position])
            start, size = position, 2
        size += cost
    return [*pieces, text[start:]]


def _place(content: str | bytes | Path, target: Path) -> bool:
    """Bring a file's content to its place, if it is not there already.

    A file is linked where that can be done, so that records take no room twice. What lies in its place, a link to
    elsewhere perhaps, is replaced and never written through; nor is a directory that is a link.
    """
    if target.parent.is_symlink():
        raise InputError(f"{target.parent}: must be a directory, got a symbolic link; move it away")
    if isinstance(content, Path):
        return _place_file(content, target)
    data = content.encode() if isinstance(content, str) else content
    if _held(target) == data:
        return False
    _put_in_place(target, lambda partial: partial.write_bytes(data))
    return True


def _place_file(source: Path, target: Path) -> bool:
    try:
        descriptor = open_regular(source, error=UnfitFileError)
    except FileNotFoundError as error:
        raise UnfitFileError(f"{source}: cannot be read ({error.strerror})") from error
    with os.fdopen(descriptor, "rb") as file:
        found = os.fstat(descriptor)
        with contextlib.suppress(OSError):
            there = target.lstat()
            if (there.st_dev, there.st_ino) == (found.st_dev, found.st_ino) or _same(file, target, found.st_size):
                return False

        def put(partial: Path) -> None:
            try:
                os.link(source, partial, follow_symlinks=False)
                linked = partial.lstat()
                if (linked.st_dev, linked.st_ino) == (found.st_dev, found.st_ino):
                    return
                partial.unlink()  # it was exchanged for another meanwhile
            except OSError:  # another file system, or one without links
                pass
            file.seek(0)
            with partial.open("xb") as copy:
                shutil.copyfileobj(file, copy)

        _put_in_place(target, put)
    return True


def _put_in_place(target: Path, put: Callable[[Path], object]) -> None:
    partial = target.with_name(f".{target.name}.{os.getpid()}.partial")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileNotFoundError):
            partial.unlink()
        put(partial)
        partial.replace(target)
    except OSError as error:
        raise InputError(f"{target}: cannot be written ({error.strerror})") from error


def _held(target: Path) -> bytes | None:
    """What is in its place; None where that is not a regular file."""
    try:
        with os.fdopen(open_regular(target), "rb") as file:
            return file.read()
    except (OSError, InputError):
        return None


def _same(file: BinaryIO, target: Path, size: int) -> bool:
    """Whether a copy in its place has the same content."""
    if not stat.S_ISREG(target.lstat().st_mode) or target.lstat().st_size != size:
        return False
    held = _held(target)
    file.seek(0)
    return held is not None and held == file.read()


ARTIFACTS = "artifacts"


class ArtifactFolders:
    """Optuna's file store over several directories; new files go into the first.

    Args:
        directories: of the artifacts; those that are missing hold nothing.
    """

    def __init__(self, folders: Sequence[Path]) -> None:
        from optuna.artifacts import FileSystemArtifactStore

        self._folders = list(folders)
        self._stores: list[FileSystemArtifactStore] = [FileSystemArtifactStore(folder) for folder in folders]

    def open_reader(self, artifact_id: str) -> BinaryIO:
        """The file, from whichever directory has it.

        Raises:
            ArtifactNotFound: none has, or it is a link, a pipe or a device.
        """
        from optuna.artifacts.exceptions import ArtifactNotFound

        if artifact_id != os.path.basename(artifact_id):
            raise ArtifactNotFound(f"{artifact_id}: no name of a file")
        for folder in self._folders:
            try:
                return os.fdopen(open_regular(folder / artifact_id, below=folder.parent), "rb")
            except FileNotFoundError:
                continue
            except InputError as error:
                raise ArtifactNotFound(str(error)) from None
        raise ArtifactNotFound(f"{artifact_id}: its file is not on this machine")

    def write(self, artifact_id: str, content_body: BinaryIO) -> None:
        """Keep a file that somebody brings to the dashboard."""
        self._folders[0].mkdir(parents=True, exist_ok=True)
        if self._folders[0].is_symlink():
            raise InputError(f"{self._folders[0]}: must be a directory, got a symbolic link; move it away")
        self._stores[0].write(artifact_id, content_body)

    def remove(self, artifact_id: str) -> None:
        """Delete the file; one that is not on this machine is nothing to this machine."""
        from optuna.artifacts.exceptions import ArtifactNotFound

        for store in self._stores:
            try:
                store.remove(artifact_id)
            except ArtifactNotFound:
                continue
