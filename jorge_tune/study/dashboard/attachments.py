"""Notes, plots and files of one study, kept where Optuna's dashboard looks for them.

optuna-dashboard writes notes and plots itself, into the study's attributes, those of trials too. A file lies in a
directory under an id, and an attribute tells its name:

`artifacts:ID` of a trial                  attached while the trial ran, by Optuna's `upload_artifact`
`artifacts:ID` of the study                a file of the study
`dashboard:artifacts:T:ID` of the study    attached to trial T after its end, since an ended trial takes no attributes

`null` in place of the name says that somebody deleted the file in the dashboard.
"""

from __future__ import annotations

import contextlib
import importlib.util
import itertools
import json
import os
import shutil
import stat
import tempfile
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple

from optuna.artifacts import FileSystemArtifactStore, upload_artifact
from optuna.artifacts.exceptions import ArtifactNotFound

from jorge_tune.errors import InputError
from jorge_tune.files import open_regular

if TYPE_CHECKING:
    from optuna.trial import Trial

    from jorge_tune.study.study import OpenStudy

ARTIFACTS = "artifacts"
"""The directory of a study's files, in the directory of its runs."""
NOTE_BYTES = 2045
"""The most that a trial's note takes as JSON; optuna-dashboard cuts a longer one into several attributes."""
NO_PACKAGE = "no notes and plots for the dashboard: pip install 'jorge-tune[dashboard]'"
_DELETED = "null"
_YOURS = "*What is above is jorge-tune's and may be written anew; what you write below this line is kept.*"


class UnfitFileError(InputError):
    """A file that is not attached: a link, a pipe or a device, or one that cannot be read. Others may be."""


class Artifact(NamedTuple):
    """A file to attach: its name, its content or where that lies, and its MIME type."""

    name: str
    content: str | bytes | Path
    mimetype: str = "text/plain; charset=utf-8"


def has_package() -> bool:
    """Whether optuna-dashboard is installed, which alone writes notes and plots."""
    return importlib.util.find_spec("optuna_dashboard") is not None


class Attachments:
    """What is attached to one study; every method that attaches returns whether it had to change anything.

    Args:
        opened: the study.
        directory: of its files; None: this machine does not have it.
    """

    def __init__(self, opened: OpenStudy, directory: Path | None) -> None:
        self._study, self._storage, self._study_id = opened.study, opened.storage, opened.study_id
        self._name = opened.name
        self.directory = directory
        self._attributes: dict[str, Any] = {}

    def look(self) -> None:
        """Read what is attached now."""
        self._attributes = dict(self._storage.get_study_system_attrs(self._study_id))

    def has_note(self, trial_id: int | None = None) -> bool:
        """Whether the study or a trial had a note at the last `look`."""
        return ("dashboard:note_ver" if trial_id is None else f"dashboard:{trial_id}:note_ver") in self._attributes

    def note(self, text: str, trial: Trial | None = None) -> bool:
        """Put a note (Markdown) on the study or a trial; what people wrote below the line of an earlier one stays."""
        from optuna_dashboard import get_note, save_note

        subject = self._study if trial is None else trial
        held = get_note(subject)
        if (whole := merged(text, held)) == held:
            return False
        save_note(subject, whole)
        return True

    def plot(self, name: str, figure: Any) -> bool:
        """Put one of plotly's figures on the study's page; `name` holds letters, digits and hyphens."""
        from optuna_dashboard import save_plotly_graph_object

        pieces = (self._attributes.get(f"dashboard:plot_data:{name}:{number}") for number in itertools.count())
        if figure.to_json() == "".join(map(str, itertools.takewhile(lambda piece: piece is not None, pieces))):
            return False
        save_plotly_graph_object(self._study, figure, graph_object_id=name)
        return True

    def objective(self, name: str) -> None:
        """Name the values of trials, which the dashboard's figures call `Objective 0` otherwise."""
        if self._study.metric_names != [name]:
            self._study.set_metric_names([name])

    def upload(self, artifact: Artifact, trial: Trial, trial_id: int) -> bool:
        """Attach a file to a trial that still runs, in place of an earlier one of that name.

        Raises:
            UnfitFileError: it is not a regular file, or cannot be read.
            InputError: the directory of files cannot be written.
        """
        assert self.directory is not None, "a study whose directory is here"
        known = _names(self._storage.get_trial_system_attrs(trial_id), f"{ARTIFACTS}:").get(artifact.name)
        if known is not None:  # a worker that was killed before it reported the trial attached it
            return _place(artifact.content, self.directory / known)

        store = ArtifactFolders([self.directory])
        with _staged(artifact, self.directory) as path:  # what may fail fails here, before anything is stored
            upload_artifact(artifact_store=store, file_path=str(path), study_or_trial=trial, mimetype=artifact.mimetype)
        return True

    def file(self, artifact: Artifact, trial_id: int | None = None) -> bool:
        """Attach a file to the study or to an ended trial; one that was deleted in the dashboard stays so.

        Optuna's own function takes no ended trial, and draws a new id each time. Here the id follows from study, trial
        and name, so that a file is neither attached twice nor brought back. Raises as `upload` does.
        """
        assert self.directory is not None, "a study whose directory is here"
        known = self.names_of(trial_id).get(artifact.name)
        made_of = f"{self._name}/{'' if trial_id is None else trial_id}/{artifact.name}"
        identity = known or str(uuid.uuid5(uuid.NAMESPACE_OID, made_of))
        key = self._key(identity, trial_id)
        if self._attributes.get(key) == _DELETED:
            return False

        is_new = _place(artifact.content, self.directory / identity)
        if known is not None:
            return is_new
        facts = {"artifact_id": identity, "filename": artifact.name, "mimetype": artifact.mimetype, "encoding": None}
        self._attributes[key] = json.dumps(facts)
        self._storage.set_study_system_attr(self._study_id, key, self._attributes[key])
        return True

    def names_of(self, trial_id: int | None = None) -> dict[str, str]:
        """The ids of the files of the study, or of a trial, by name; as they were at the last `look`."""
        own = _names(self._attributes, self._key("", trial_id))
        if trial_id is None:
            return own
        return {**_names(self._storage.get_trial_system_attrs(trial_id), f"{ARTIFACTS}:"), **own}

    def is_settled(self, identity: str, trial_id: int) -> bool:
        """Whether a trial's file lies in its place, or was deleted in the dashboard."""
        assert self.directory is not None, "a study whose directory is here"
        if self._attributes.get(self._key(identity, trial_id)) == _DELETED:
            return True
        try:
            return stat.S_ISREG((self.directory / identity).lstat().st_mode)
        except OSError:
            return False

    @staticmethod
    def _key(identity: str, trial_id: int | None) -> str:
        return f"{ARTIFACTS}:{identity}" if trial_id is None else f"dashboard:{ARTIFACTS}:{trial_id}:{identity}"


def _names(attributes: Mapping[str, Any], prefix: str) -> dict[str, str]:
    """Ids by file name; entries that cannot be read, which another program wrote, are left out."""
    names = {}
    for key, text in attributes.items():
        if not key.startswith(prefix):
            continue
        try:
            name, identity = json.loads(text)["filename"], key.removeprefix(prefix)
        except (KeyError, RecursionError, TypeError, ValueError):
            continue
        if isinstance(name, str) and identity == os.path.basename(identity):
            names[name] = identity
    return names


def merged(text: str, held: str) -> str:
    """A note's text above the line, and below it what people wrote into the one that is held."""
    _, line, below = held.partition(_YOURS)
    kept = (below if line else held).strip()
    return f"{text.strip()}\n\n---\n{_YOURS}\n" + (f"\n{kept}\n" if kept else "")


def shortened_to(text: str, most: int) -> str:
    """The beginning of a text, `...` at its end where it is cut: at most `most` bytes as JSON in ASCII before that."""
    size = 2
    for position, character in enumerate(text):
        size += len(json.dumps(character)) - 2
        if size > most:
            return text[:position] + "..."
    return text


@contextlib.contextmanager
def _staged(artifact: Artifact, directory: Path) -> Iterator[Path]:
    """The file under its own name in a directory where nobody else can exchange it while it is read."""
    _ready(directory)
    try:
        own = tempfile.TemporaryDirectory(prefix=".attaching-", dir=directory)
    except OSError as error:
        raise InputError(f"{directory}: cannot be written ({error.strerror})") from error

    with own as path:
        staged = Path(path) / artifact.name
        try:
            _write(artifact.content, staged)
        except OSError as error:
            raise InputError(f"{directory}: cannot be written ({error.strerror})") from error
        yield staged


def _ready(directory: Path) -> None:
    """Make a directory of files, which must not be a link to elsewhere."""
    if directory.is_symlink():
        raise InputError(f"{directory}: must be a directory, got a symbolic link; move it away")
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{directory}: cannot be written ({error.strerror})") from error


def _place(content: str | bytes | Path, target: Path) -> bool:
    """Bring a file's content to its place, if it is not there already.

    A file is linked where that can be done, so that records take no room twice. What lies in its place, a link to
    elsewhere perhaps, is replaced and never written through; nor is a directory that is a link.
    """
    _ready(target.parent)
    if isinstance(content, Path):
        return _place_file(content, target)
    data = content.encode() if isinstance(content, str) else content
    if _held(target) == data:
        return False
    _put_in_place(target, lambda partial: partial.write_bytes(data))
    return True


def _write(content: str | bytes | Path, target: Path) -> None:
    if isinstance(content, Path):
        with _opened(content) as file:
            _bring(file, content, target)
    else:
        target.write_bytes(content.encode() if isinstance(content, str) else content)


def _opened(source: Path) -> BinaryIO:
    try:
        return os.fdopen(open_regular(source, error=UnfitFileError), "rb")
    except FileNotFoundError as error:
        raise UnfitFileError(f"{source}: cannot be read ({error.strerror})") from error


def _place_file(source: Path, target: Path) -> bool:
    with _opened(source) as file:
        if _is_there(file, target):
            return False
        _put_in_place(target, lambda partial: _bring(file, source, partial))
    return True


def _bring(file: BinaryIO, source: Path | None, target: Path) -> None:
    """Link an open file, by the path that it was opened by, to a new place; copy it where that cannot be done."""
    if source is not None:
        try:
            os.link(source, target, follow_symlinks=False)
            if os.path.samestat(target.lstat(), os.fstat(file.fileno())):
                return
            target.unlink()  # it was exchanged for another meanwhile
        except OSError:  # another file system, or one without links
            pass
        file.seek(0)
    with target.open("xb") as copy:
        shutil.copyfileobj(file, copy)


def _put_in_place(target: Path, put: Callable[[Path], object]) -> None:
    partial = target.with_name(f".{target.name}.{os.getpid()}.partial")
    try:
        with contextlib.suppress(FileNotFoundError):
            partial.unlink()
        put(partial)
        partial.replace(target)
    except OSError as error:
        with contextlib.suppress(OSError):
            partial.unlink()
        raise InputError(f"{target.parent}: cannot be written ({error.strerror})") from error


def _held(target: Path) -> bytes | None:
    """What is in its place; None where that is not a regular file."""
    try:
        with os.fdopen(open_regular(target), "rb") as file:
            return file.read()
    except (OSError, InputError):
        return None


def _is_there(file: BinaryIO, target: Path) -> bool:
    """Whether the very file, or a copy with the same content, is in its place."""
    facts = os.fstat(file.fileno())
    try:
        there = target.lstat()
    except OSError:
        return False
    if os.path.samestat(there, facts):
        return True
    if not stat.S_ISREG(there.st_mode) or there.st_size != facts.st_size:
        return False
    held = _held(target)
    file.seek(0)
    return held is not None and held == file.read()


class ArtifactFolders:
    """Optuna's file store over several directories; new files go into the first, linked where that can be done.

    Args:
        directories: of the artifacts; those that are missing hold nothing.
    """

    def __init__(self, folders: Sequence[Path]) -> None:
        self._folders = list(folders)
        self._stores = [FileSystemArtifactStore(folder) for folder in folders]

    def open_reader(self, artifact_id: str) -> BinaryIO:
        """The file, from whichever directory has it.

        Raises:
            ArtifactNotFound: none has, or it is a link, a pipe or a device.
        """
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
        """Keep a file, whole or not at all."""
        folder, name = self._folders[0], getattr(content_body, "name", None)
        _ready(folder)
        source = Path(name) if isinstance(name, str) else None
        _put_in_place(folder / artifact_id, lambda partial: _bring(content_body, source, partial))

    def remove(self, artifact_id: str) -> None:
        """Delete the file; one that is not on this machine is nothing to this machine."""
        for store in self._stores:
            try:
                store.remove(artifact_id)
            except ArtifactNotFound:
                continue
