"""What a run needs to resume as if it had never stopped: the last checkpoint, whole, and the one before it.

A checkpoint is torch's own file, a zip. The zip's comment holds the SHA-256 of the file as it was without a comment.
torch and zip programs read it as any other, and no bit of it can change unnoticed. Files of earlier versions have no
such comment; for them, the zip's own check sums are verified, which cover the data alone.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
import os
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, BinaryIO

import torch

from jorge_tune.errors import RunDirectoryError
from jorge_tune.files import open_regular
from jorge_tune.runs.run_result import Best
from jorge_tune.untrusted import is_number, shown

_FORMAT = 2
_FORMAT_WITHOUT_CHECKSUM = 1
_LAST, _PREVIOUS = "last.pt", "previous.pt"

_MAGIC = b"jorge-tune sha256:"
_COMMENT_BYTES = len(_MAGIC) + 64
_END_BYTES = 22  # of a zip's last record, whose last two are the length of the comment that follows
_END_MARK = b"PK\5\6"
_CHUNK_BYTES = 2**20


@dataclass(frozen=True)
class Position:
    """How far a run is: optimizer steps, whole epochs, and steps within the epoch after those.

    `closed` is False between a step and the evaluation that follows the epoch or the run.
    """

    step: int = 0
    epoch: int = 0
    step_in_epoch: int = 0
    closed: bool = True


@dataclass(frozen=True)
class Checkpoint:
    """The state of a run: plain data and tensors only, so that it loads without running code.

    `source` is the file that it was read from, and `note` what there is to say about that; neither is stored.
    """

    position: Position
    train_seconds: float
    best: Best | None
    model: dict[str, Any]
    optimizer: dict[str, Any]
    scheduler: dict[str, Any]
    scaler: dict[str, Any]
    cpu_rng: torch.Tensor
    cuda_rng: torch.Tensor | None
    source: Path | None = None
    note: str = ""


def save_checkpoint(folder: Path, checkpoint: Checkpoint) -> Path:
    """Write the run's checkpoint; the one before it is kept, and there is a whole one at every moment.

    Raises:
        OSError: it cannot be written, on a full disk say.
        RunDirectoryError: something that is not a file, or no directory, has been put in its place.
    """
    folder.mkdir(exist_ok=True)
    path, partial = folder / _LAST, folder / f".{_LAST}.partial"
    content = {name: getattr(checkpoint, name) for name in _STORED}
    content["position"] = asdict(checkpoint.position)
    content["best"] = None if checkpoint.best is None else asdict(checkpoint.best)

    try:
        with contextlib.suppress(FileNotFoundError):
            partial.unlink()  # left by a process that was killed
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL
        with os.fdopen(open_regular(partial, flags, below=folder.parent, error=RunDirectoryError), "w+b") as file:
            _save({"format": _FORMAT, **content}, file)
            file.flush()
            os.fsync(file.fileno())
        with contextlib.suppress(FileNotFoundError):
            path.replace(folder / _PREVIOUS)  # a run killed right here resumes from that one
        partial.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            partial.unlink()  # on a full disk it takes the room of the records' last words
        raise
    _sync_folder(folder)
    return path


def load_checkpoint(folder: Path) -> Checkpoint | None:
    """The run's checkpoint on the CPU, or None if the run was stopped before its first one.

    Raises:
        RunDirectoryError: the file is damaged, of another format, or no file; the message names the way on.
    """
    last, previous = folder / _LAST, folder / _PREVIOUS
    try:
        return _read(last)
    except FileNotFoundError:
        pass
    except RunDirectoryError as error:
        raise RunDirectoryError(f"{error}; {_way_on(last, previous)}") from error

    try:
        checkpoint = _read(previous)
    except FileNotFoundError:
        return None
    except RunDirectoryError as error:
        raise RunDirectoryError(f"{error}; remove {folder}, and --resume starts the run again") from error
    missing = f"{_LAST} is missing, so the run resumes from {_PREVIOUS}, at step {checkpoint.position.step}"
    return replace(checkpoint, note="; ".join(filter(None, (missing, checkpoint.note))))


def _way_on(last: Path, previous: Path) -> str:
    """How to resume a run whose last checkpoint is damaged."""
    anew = f"remove {last.parent}, and --resume starts the run again"
    try:
        step = _read(previous).position.step
    except FileNotFoundError:
        return f"there is no other checkpoint: {anew}"
    except RunDirectoryError:
        return f"{previous.name} next to it is damaged too: {anew}"
    return f"{previous.name} next to it is whole: remove {last.name}, and --resume continues from there, step {step}"


def _read(path: Path) -> Checkpoint:
    """One file, verified before anything is made of it.

    Raises:
        FileNotFoundError: there is none.
        RunDirectoryError: it is damaged, of another format, or no regular file.
    """
    with os.fdopen(open_regular(path, below=path.parent.parent, error=RunDirectoryError), "rb") as file:
        try:
            has_checksum = _verify(file)
            file.seek(0)
            content = torch.load(file, map_location="cpu", weights_only=True)
        except _DamagedError as error:
            raise RunDirectoryError(f"{path}: damaged: {error}") from error
        except OSError as error:
            raise RunDirectoryError(f"{path}: cannot be read ({error.strerror})") from error
        except Exception as error:  # torch and pickle raise whatever comes of a file that was made to be wrong
            raise RunDirectoryError(f"{path}: not a checkpoint ({type(error).__name__} while it was read)") from error

    expected = _FORMAT if has_checksum else _FORMAT_WITHOUT_CHECKSUM
    found = content.pop("format", None) if isinstance(content, dict) else None
    if not isinstance(found, int) or found != expected:
        raise RunDirectoryError(f"{path}: not a checkpoint of this version of jorge-tune")
    try:
        checkpoint = _decoded(content)
    except ValueError as error:
        raise RunDirectoryError(f"{path}: not a complete checkpoint: {error}") from error
    note = "" if has_checksum else f"{path.name} is of an earlier version, without a checksum; its data are intact"
    return replace(checkpoint, source=path, note=note)


class _DamagedError(Exception):
    """A sign that a file is not what was written."""


def _verify(file: BinaryIO) -> bool:
    """Compare a file with its checksum; False where it is whole but has none, as earlier versions wrote them.

    Raises:
        _DamagedError: it is not what was written.
    """
    size = os.fstat(file.fileno()).st_size
    file.seek(max(0, size - _END_BYTES - _COMMENT_BYTES))
    tail = file.read()
    if len(tail) == _END_BYTES + _COMMENT_BYTES and tail[_END_BYTES:].startswith(_MAGIC):
        if tail[_END_BYTES - 2 : _END_BYTES] != _COMMENT_BYTES.to_bytes(2, "little"):
            raise _DamagedError("its end is not that of a checkpoint")
        if tail[_END_BYTES + len(_MAGIC) :] != _digest(file, size - _COMMENT_BYTES - 2):
            raise _DamagedError("its SHA-256 is not the one it was written with")
        return True

    if tail[-_END_BYTES:][:4] != _END_MARK or tail[-2:] != b"\0\0":
        raise _DamagedError("its end is missing" if tail else "it is empty")
    try:
        with zipfile.ZipFile(file) as zipped:
            broken = zipped.testzip()
    except Exception as error:  # zipfile has no one error for what it cannot make sense of
        raise _DamagedError("its table of contents cannot be read") from error
    if broken is not None:
        raise _DamagedError(f"the check sum of {shown(broken)} in it is wrong")
    return False


def _digest(file: BinaryIO, count: int) -> bytes:
    """The SHA-256 of a zip without a comment, of which `count` bytes are as they were."""
    digest = hashlib.sha256()
    file.seek(0)
    while count > 0 and (chunk := file.read(min(count, _CHUNK_BYTES))):
        digest.update(chunk)
        count -= len(chunk)
    digest.update(b"\0\0")
    return digest.hexdigest().encode()


def check_state(optimizer: torch.optim.Optimizer, checkpoint: Checkpoint) -> None:
    """Look at what an optimizer has loaded: torch accepts any state, and continues with whatever is missing in it.

    Raises:
        ValueError: there is no state where steps have left one, or a tensor in it is not of its parameter's shape.
    """
    has_steps = checkpoint.position.step > 0 and not checkpoint.scaler  # a scaler may have left all of them out
    keeps_nothing = isinstance(optimizer, torch.optim.SGD) and not any(g["momentum"] for g in optimizer.param_groups)
    if has_steps and not optimizer.state and not keeps_nothing:
        raise ValueError(f"its optimizer has no state after {checkpoint.position.step} steps")
    if not isinstance(optimizer, (torch.optim.SGD, torch.optim.AdamW)):
        return  # ours look for themselves
    for group in optimizer.param_groups:
        for param in group["params"]:
            for name, value in optimizer.state.get(param, {}).items():
                if name != "step" and value is not None and getattr(value, "shape", None) != param.shape:
                    raise ValueError(f"its optimizer's {name} is not of its parameter's shape {tuple(param.shape)}")


class _Kept:
    """A file for torch, which turns whatever a write raises into a RuntimeError about positions; the error is kept."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.fault: OSError | None = None
        self.digest = hashlib.sha256()

    def write(self, content: bytes) -> int:
        try:
            written = self._file.write(content)
        except OSError as error:
            self.fault = self.fault or error
            raise
        self.digest.update(content)  # torch writes from beginning to end
        return written

    def flush(self) -> None:
        self._file.flush()


def _save(content: dict[str, Any], file: BinaryIO) -> None:
    """torch.save, followed by the checksum; a failed write stays the OSError that it is."""
    kept = _Kept(file)
    try:
        torch.save(content, kept)  # type: ignore[arg-type]
    except RuntimeError as error:
        if kept.fault is None:
            raise
        raise kept.fault from error
    file.seek(-2, os.SEEK_END)
    file.write(_COMMENT_BYTES.to_bytes(2, "little") + _MAGIC + kept.digest.hexdigest().encode())


def _sync_folder(folder: Path) -> None:
    """Make the rename itself durable, where directories can be synchronised."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _decoded(content: dict[Any, Any]) -> Checkpoint:
    """A checkpoint from what torch read, every field of its type.

    Raises:
        ValueError: a field is missing, unknown, or of another type.
    """
    wrong = [f"{name} is missing" for name in _STORED if name not in content]
    wrong += [f"{shown(name)} is unknown" for name in content if name not in _STORED]
    if wrong:
        raise ValueError(wrong[0])
    for name, (holds, rule) in _STORED.items():
        if not holds(content[name]):
            value = content[name]
            what = shown(value) if isinstance(value, (bool, int, float, str)) or value is None else type(value).__name__
            raise ValueError(f"{name} must be {rule}, got {what}")
    best = content["best"]
    return Checkpoint(
        **content | {"position": Position(**content["position"]), "best": None if best is None else Best(**best)}
    )


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**53


def _is_amount(value: object) -> bool:
    return is_number(value) and 0 <= value < math.inf  # type: ignore[operator]


def _is_position(value: object) -> bool:
    names = {field.name for field in fields(Position)}
    if not isinstance(value, dict) or value.keys() != names:
        return False
    return isinstance(value["closed"], bool) and all(_is_count(value[name]) for name in names - {"closed"})


def _is_best(value: object) -> bool:
    if value is None:
        return True
    if not isinstance(value, dict) or value.keys() != {field.name for field in fields(Best)}:
        return False
    is_read = isinstance(value["metric"], str) and isinstance(value["value"], float)
    return is_read and _is_count(value["step"]) and _is_amount(value["epoch"])


def _is_state(value: object) -> bool:
    return isinstance(value, dict) and all(isinstance(name, str) for name in value)


def _is_random_state(value: object) -> bool:
    return isinstance(value, torch.Tensor) and value.dtype == torch.uint8 and value.ndim == 1


_STATE: tuple[Callable[[object], bool], str] = (_is_state, "a state dict")
_STORED: Mapping[str, tuple[Callable[[object], bool], str]] = {
    "position": (_is_position, "a position in the training"),
    "train_seconds": (_is_amount, "a finite number of 0 or more"),
    "best": (_is_best, "the best reading, or none"),
    "model": _STATE,
    "optimizer": _STATE,
    "scheduler": _STATE,
    "scaler": _STATE,
    "cpu_rng": (_is_random_state, "a generator's state"),
    "cuda_rng": (lambda value: value is None or _is_random_state(value), "a generator's state, or none"),
}
"""What a file holds beside its format: how each field is known, and in words."""
