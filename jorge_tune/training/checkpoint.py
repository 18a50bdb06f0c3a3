"""What a run needs to go on as if it had never stopped, in one file that is whole or the one before."""

from __future__ import annotations

import contextlib
import os
import pickle
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

import torch

from jorge_tune.errors import RunFolderError

_FORMAT = 1
_FILE_NAME = "last.pt"


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
class Best:
    """The best value of the metric that the run is judged by, and where it was reached."""

    metric: str
    value: float
    step: int
    epoch: float


def better(best: Best | None, other: Best) -> Best:
    """The better of two, the earlier one of equals; smaller is better for a loss."""
    sign = -1 if other.metric == "loss" else 1
    return other if best is None or sign * other.value > sign * best.value else best


@dataclass(frozen=True)
class Checkpoint:
    """The state of a run: plain data and tensors only, so that it loads without running code."""

    position: Position
    train_seconds: float
    best: Best | None
    model: dict[str, Any]
    optimizer: dict[str, Any]
    scheduler: dict[str, Any]
    scaler: dict[str, Any]
    cpu_rng: torch.Tensor
    cuda_rng: torch.Tensor | None


def save_checkpoint(folder: Path, checkpoint: Checkpoint) -> Path:
    """Write the run's checkpoint; the one before stays until the new one is safe on the disk.

    Raises:
        OSError: it cannot be written, on a full disk say.
    """
    folder.mkdir(exist_ok=True)
    path = folder / _FILE_NAME
    partial = folder / f".{_FILE_NAME}.partial"
    content = {field: getattr(checkpoint, field) for field in checkpoint.__dataclass_fields__}
    content["position"] = asdict(checkpoint.position)
    content["best"] = None if checkpoint.best is None else asdict(checkpoint.best)
    try:
        with partial.open("wb") as file:
            _save({"format": _FORMAT, **content}, file)
            file.flush()
            os.fsync(file.fileno())
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
        RunFolderError: the file is damaged, or of another format.
    """
    path = folder / _FILE_NAME
    if not path.exists():
        return None
    way_out = "remove the run folder to train it anew"
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, ValueError, pickle.UnpicklingError) as error:
        raise RunFolderError(f"{path}: damaged, cannot be read; {way_out}") from error
    if not isinstance(content, dict) or content.pop("format", None) != _FORMAT:
        raise RunFolderError(f"{path}: not a checkpoint of this version of jorge-tune; {way_out}")
    content["position"] = Position(**content["position"])
    content["best"] = None if content["best"] is None else Best(**content["best"])
    return Checkpoint(**content)


class _Kept:
    """A file for torch, which makes a RuntimeError about positions of whatever a write raises; it is kept here."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.fault: OSError | None = None

    def write(self, content: bytes) -> int:
        try:
            return self._file.write(content)
        except OSError as error:
            self.fault = self.fault or error
            raise

    def flush(self) -> None:
        self._file.flush()


def _save(content: dict[str, Any], file: BinaryIO) -> None:
    """torch.save, whose failed writes stay the OSErrors that they are."""
    kept = _Kept(file)
    try:
        torch.save(content, kept)  # type: ignore[arg-type]
    except RuntimeError as error:
        if kept.fault is None:
            raise
        raise kept.fault from error


def _sync_folder(folder: Path) -> None:
    """Make the rename itself durable, where folders can be synchronised."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
