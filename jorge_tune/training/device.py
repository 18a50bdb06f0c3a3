"""The device of a run: choosing and describing it, its arithmetic, and its clocks.

device      `choose_device`; `describe_environment` for environment.json, without host names, user names or paths
arithmetic  fp32 and tf32 products (`backends_for`), bf16 and fp16 by `autocast` and `grad_scaler`
clocks      `Stopwatch` counts training alone, `PhaseTimer` the two halves of a step, `LapTimer` a burst of steps
"""

from __future__ import annotations

import contextlib
import itertools
import platform
import shutil
import subprocess
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from torch.optim.lr_scheduler import LambdaLR

import jorge_tune
from jorge_tune.errors import InputError
from jorge_tune.hardware import cpu_name
from jorge_tune.recipe.schema import Precision

_TOOL_TIMEOUT_SECONDS = 10
_AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}
_OUT_OF_MEMORY = (  # in the messages of the host and of libraries
    "can't allocate memory",
    "not enough memory",
    "out of memory",
    "ALLOC_FAILED",
)
Clock = Callable[[], float]


def choose_device(name: str = "auto") -> torch.device:
    """A torch device from its name; `auto` takes CUDA where there is one.

    Raises:
        InputError: no such device here.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        reason = "torch knows no such device" + ("; use cuda" if name.lower().startswith("gpu") else "")
        raise InputError(f"device: {name!r} cannot be used here ({reason}); {_usable_devices()}") from error
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise InputError(
            f"device: {name!r} cannot be used here ({_unusable_because(device, error)}); {_usable_devices()}"
        ) from error
    if device.type == "meta":
        raise InputError("device: 'meta' holds no data, so nothing can be trained on it")
    return device


def describe_environment(device: torch.device) -> dict[str, Any]:
    """Plain data for environment.json."""
    return {
        "device": device_name(device),
        "device_type": device.type,
        "driver": _driver_version() if device.type == "cuda" else None,
        "cuda": torch.version.cuda if device.type == "cuda" else None,
        "cpu": cpu_name(),
        "threads": torch.get_num_threads(),
        "system": f"{platform.system()} {platform.machine()}",
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "torchvision": _version_of("torchvision"),
            "jorge-tune": jorge_tune.__version__,
        },
        "commit": _commit(),
    }


def device_name(device: torch.device) -> str:
    """The GPU's or the CPU's name."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else cpu_name()


def autocast(precision: Precision, device: torch.device) -> AbstractContextManager[object]:
    """The context of a forward pass."""
    dtype = _AUTOCAST.get(precision)
    return contextlib.nullcontext() if dtype is None else torch.autocast(device.type, dtype=dtype)


def grad_scaler(precision: Precision, device: torch.device) -> torch.amp.GradScaler:
    """Scales the loss under fp16 on a GPU, and does nothing elsewhere."""
    return torch.amp.GradScaler(device.type, enabled=precision == "fp16" and device.type == "cuda")


def step_schedule(scheduler: LambdaLR, scaler: torch.amp.GradScaler) -> None:
    """Step the schedule. The scaler may have skipped the first optimizer step, and torch would warn of that."""
    if not scaler.is_enabled():
        scheduler.step()
        return
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*lr_scheduler.step.*before.*optimizer.step.*")
        scheduler.step()


@contextlib.contextmanager
def backends_for(precision: Precision) -> Iterator[None]:
    """float32 products as the recipe says (fp32 means fp32, in convolutions too); what was set before is put back."""
    wanted = "tf32" if precision == "tf32" else "ieee"
    products: Any = torch.backends.cuda.matmul
    convolutions: Any = getattr(torch.backends.cudnn, "conv")  # noqa: B009  (unknown to torch's types)
    before = products.fp32_precision, convolutions.fp32_precision, torch.backends.cudnn.benchmark
    products.fp32_precision = convolutions.fp32_precision = wanted
    torch.backends.cudnn.benchmark = True
    try:
        yield
    finally:
        products.fp32_precision, convolutions.fp32_precision, torch.backends.cudnn.benchmark = before


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error of torch says that the device or the host is out of memory."""
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or any(
        words in str(error) for words in _OUT_OF_MEMORY
    )


class Stopwatch:
    """Seconds of training so far; runs only inside `running`. The device is waited for before the clock is read."""

    def __init__(self, device: torch.device, seconds: float = 0.0, clock: Clock = time.perf_counter) -> None:
        self._device, self._seconds, self._clock = device, seconds, clock
        self._since: float | None = None

    @property
    def seconds(self) -> float:
        """Seconds until now, without waiting for the device."""
        return self._seconds + (0.0 if self._since is None else self._clock() - self._since)

    @contextmanager
    def running(self) -> Iterator[None]:
        """Count what happens inside."""
        assert self._since is None, "a stopwatch runs once at a time"
        self._since = self._clock()
        try:
            yield
        finally:
            synchronize(self._device)
            self._seconds, self._since = self.seconds, None


class PhaseTimer:
    """Seconds of named phases of one step: CUDA events on a GPU, the clock elsewhere; reads nothing until asked."""

    def __init__(self, device: torch.device, clock: Clock = time.perf_counter) -> None:
        self._device, self._clock = device, clock
        self._marks: dict[str, tuple[Any, Any]] = {}

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Time what happens inside, under `name`."""
        start = _mark(self._device, self._clock)
        yield
        self._marks[name] = (start, _mark(self._device, self._clock))

    def read(self) -> dict[str, float]:
        """Seconds by phase; waits for the device."""
        if self._device.type != "cuda":
            return {name: end - start for name, (start, end) in self._marks.items()}
        seconds = {}
        for name, (start, end) in self._marks.items():
            end.synchronize()
            seconds[name] = start.elapsed_time(end) / 1000
        return seconds


class LapTimer:
    """Seconds between one mark and the next, so that nothing lies between two laps; read when all is done.

    CUDA events on a GPU, so that the host need not wait within a burst; the clock elsewhere.
    """

    def __init__(self, device: torch.device, clock: Clock = time.perf_counter) -> None:
        self._device, self._clock = device, clock
        self._marks: list[Any] = []

    def mark(self) -> None:
        """End a lap and start the next."""
        self._marks.append(_mark(self._device, self._clock))

    def read(self) -> list[float]:
        """Seconds of each lap since the first mark; waits for the device and starts anew."""
        marks, self._marks = self._marks, []
        if self._device.type != "cuda":
            return [end - start for start, end in itertools.pairwise(marks)]
        synchronize(self._device)
        return [start.elapsed_time(end) / 1000 for start, end in itertools.pairwise(marks)]


def synchronize(device: torch.device) -> None:
    """Wait until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _mark(device: torch.device, clock: Clock) -> Any:
    """Now, on the device's own clock."""
    if device.type != "cuda":
        return clock()
    event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
    event.record(torch.cuda.current_stream(device))
    return event


def _unusable_because(device: torch.device, error: Exception) -> str:
    """Why a device that torch knows cannot be used, in one line; torch's own words where there are no better ones."""
    if isinstance(error, NotImplementedError):
        return f"this torch is built without {device.type}"
    count = torch.cuda.device_count()
    if device.type == "cuda" and torch.version.cuda is None and torch.version.hip is None:
        return "the installed torch is built without CUDA"
    if device.type == "cuda" and (device.index or 0) >= count:
        return f"{count} found" if count else "no GPU found"
    return (str(error).splitlines() or [""])[0].rstrip(".")


def _usable_devices() -> str:
    """What can be given instead."""
    gpus = [f"cuda:{index}" for index in range(torch.cuda.device_count())]
    return f"use auto or {' or '.join(['cpu', *gpus])}"


def _driver_version() -> str | None:
    return _first_line("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader")


def _commit() -> str | None:
    """The commit of this package's own checkout; None where it is installed from a wheel."""
    checkout = Path(jorge_tune.__file__).resolve().parents[1]
    return _first_line("git", "-C", str(checkout), "rev-parse", "HEAD") if (checkout / ".git").exists() else None


def _first_line(program: str, *arguments: str) -> str | None:
    path = shutil.which(program)
    if path is None:
        return None
    try:
        done = subprocess.run(
            [path, *arguments], capture_output=True, text=True, timeout=_TOOL_TIMEOUT_SECONDS, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    lines = done.stdout.splitlines()
    return lines[0] if lines else None


def _version_of(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None
