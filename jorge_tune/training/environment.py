"""Where a run happened: device, driver, versions, commit. No host names, no user names, no paths."""

from __future__ import annotations

import platform
import shutil
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

import jorge_tune
from jorge_tune.errors import InputError
from jorge_tune.hardware import cpu_name

_TOOL_TIMEOUT_SECONDS = 10


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
            f"device: {name!r} cannot be used here ({_why_not(device, error)}); {_usable_devices()}"
        ) from error
    if device.type == "meta":
        raise InputError("device: 'meta' holds no data, so nothing can be trained on it")
    return device


def _why_not(device: torch.device, error: Exception) -> str:
    """Why a device that torch knows cannot be used; torch's own words, where ours are no better, in one line."""
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
    return f"auto or {' or '.join(['cpu', *gpus])} can"


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
