"""What a training script says to the run that started it, and hears from it. The standard library alone.

A script may call these functions wherever it runs. Started by hand, they check their arguments and do nothing else.
Started by `task: {kind: command}`, they read the run's place from the environment. Where there are ranks (torchrun,
Slurm, MPI), only the first one reports and is asked to stop.
"""

from __future__ import annotations

import errno
import json
import math
import operator
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

RECIPE: Final = "JORGE_TUNE_RECIPE"
RUN: Final = "JORGE_TUNE_RUN"
SEED: Final = "JORGE_TUNE_SEED"
DEVICE: Final = "JORGE_TUNE_DEVICE"
RESUMED: Final = "JORGE_TUNE_RESUMED"
OUTER_RANKS: Final = "JORGE_TUNE_OUTER_RANKS"

REPORTS: Final = "reports.jsonl"
"""In the run directory: what a script reported, one JSON object a line."""
STOP: Final = "stop"
"""In the run directory: there while the script is asked to stop; it holds the reason."""
LISTENS: Final = "listens"
"""In the run directory: there once the script has looked for a request to stop, so that it need not be killed."""

_VALIDATION = ("validation", "val", "valid", "eval", "evaluation", "dev")
PARTS: Final = {"train": "train", "training": "train", **dict.fromkeys(_VALIDATION, "validation"), "test": "test"}
"""The parts of the data that may be reported, by the names that people have for them."""

_LOOK_SECONDS: Final = 0.1
_RANKS: Final = (
    ("RANK",),
    ("SLURM_PROCID", "SLURM_STEP_ID"),
    ("OMPI_COMM_WORLD_RANK",),
    ("PMIX_RANK",),
    ("PMI_RANK",),
)


class _Listener:
    """What `should_stop` remembers: when it last looked, and what it saw."""

    looked = -math.inf
    is_asked = False


_listener = _Listener()


def report(step: int | None = None, epoch: float | None = None, part: str = "validation", **metrics: Any) -> None:
    """Report values: evaluations of the validation or the test part, or the training loss.

    Example:
        >>> report(step=400, epoch=2, top1=0.87, loss=0.41)
        >>> report(step=400, epoch=2, part="train", loss=0.35, lr=0.1)

    Args:
        step: Optimizer steps done so far. One of step and epoch is needed.
        epoch: Epochs done so far; after the first one it is 1.
        part: `train`, `validation` or `test`.
        metrics: A number for each name; tensors and arrays of one element are read. A loss, or the recipe's metric,
            that is NaN or infinite ends the run as diverged.

    Raises:
        TypeError: A value is not a number.
        ValueError: A number is out of its range, or there is nothing to report.
        OSError: There is no room for it.
    """
    line = _line(step, epoch, part, metrics)
    place = run_directory()
    if place is None or not is_first_rank():
        return
    descriptor = os.open(place / REPORTS, os.O_WRONLY | os.O_APPEND | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o644)
    try:
        written = os.write(descriptor, line)
        if written < len(line):  # the disk has just become full; the next line must not follow half a line
            os.ftruncate(descriptor, os.fstat(descriptor).st_size - written)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(place / REPORTS))
    finally:
        os.close(descriptor)


def should_stop() -> bool:
    """Whether the run is asked to stop: write a checkpoint and leave the loop. Cheap enough for every step.

    With ranks, only the first one is asked: let it tell the others, as by `torch.distributed.broadcast_object_list`,
    so that all leave their loops at the same step.
    """
    place = run_directory()
    if place is None or not is_first_rank():
        return False
    now = time.monotonic()
    if not _listener.is_asked and now - _listener.looked >= _LOOK_SECONDS:
        if _listener.looked == -math.inf:
            (place / LISTENS).touch()
        _listener.looked = now
        _listener.is_asked = (place / STOP).exists()
    return _listener.is_asked


def run_directory() -> Path | None:
    """The run's directory, the place for checkpoints; what it held before stays. None outside a run."""
    place = os.environ.get(RUN)
    return Path(place) if place else None


def is_first_rank() -> bool:
    """Whether this process is the one that speaks for the run.

    A rank that the run's own process has had already (a worker that Slurm started, say) is not the script's.
    """
    outer = os.environ.get(OUTER_RANKS, "").split()
    for names in _RANKS:
        if names[0] in os.environ and _rank(names, os.environ) not in outer:
            return os.environ[names[0]] == "0"
    return True


def ranks_of(environment: Mapping[str, str]) -> str:
    """The ranks that an environment gives its processes, for `OUTER_RANKS`."""
    return " ".join(_rank(names, environment) for names in _RANKS if names[0] in environment)


def _rank(names: tuple[str, ...], environment: Mapping[str, str]) -> str:
    return ",".join(f"{name}={environment.get(name, '')}" for name in names)


def _line(step: object, epoch: object, part: object, metrics: Mapping[str, Any]) -> bytes:
    """What is reported, checked, as a line of JSON."""
    said: dict[str, object] = {"clock": time.monotonic()}
    if step is None and epoch is None:
        raise ValueError("report needs step or epoch: the optimizer steps, or the epochs, done so far")
    if step is not None:
        said["step"] = _whole("step", step)
    if epoch is not None:
        said["epoch"] = _number("epoch", epoch)
        if not 0 <= float(str(said["epoch"])) < math.inf:
            raise ValueError(f"epoch must be 0 or more, got {epoch!r}")
    if not isinstance(part, str) or part not in PARTS:
        raise ValueError(f"part must be train, validation or test, got {part!r}")
    if not metrics:
        raise ValueError("report needs a value: report(step=..., top1=0.9), say")
    values = {name: _number(name, value) for name, value in metrics.items()}
    said |= {"part": PARTS[part], "metrics": {n: v if math.isfinite(v) else str(v) for n, v in values.items()}}
    return json.dumps(said, allow_nan=False).encode() + b"\n"


def _whole(name: str, value: Any) -> int:
    if isinstance(value, bool):
        raise TypeError(f"{name} must be a whole number, got {value!r}")
    try:
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"{name} must be a whole number, got {value!r}") from None
    if number < 0:
        raise ValueError(f"{name} must be 0 or more, got {value!r}")
    return number


def _number(name: str, value: Any) -> float:
    if isinstance(value, (bool, str, bytes, type(None))):
        raise TypeError(f"{name} must be a number, got {value!r}")
    try:
        return float(value)
    except (TypeError, ValueError, RuntimeError) as error:  # RuntimeError: a tensor of several elements
        raise TypeError(f"{name} must be a number, got a value of type {type(value).__name__} ({error})") from None
