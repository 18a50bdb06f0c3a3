"""The machine as system files and NVML describe it, without torch: processor, cores, GPUs, driver, torch's build."""

from __future__ import annotations

import ctypes
import functools
import importlib.util
import os
import platform
import re
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

_NAME_BYTES = 96  # the longest name that NVML gives


class Gpu(NamedTuple):
    """A GPU's name and UUID."""

    name: str
    uuid: str


class Nvidia(NamedTuple):
    """The driver's version and every GPU, in the order of the PCI bus."""

    driver: str
    gpus: tuple[Gpu, ...]


def cpu_name() -> str:
    """The processor's name."""
    try:
        lines = Path("/proc/cpuinfo").read_text(errors="replace").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def usable_cores() -> tuple[int, ...]:
    """The cores that this process may use; all cores if the system does not say."""
    if hasattr(os, "sched_getaffinity"):
        return tuple(sorted(os.sched_getaffinity(0)))
    return tuple(range(os.cpu_count() or 1))


class Scheduling(NamedTuple):
    """Seconds that the threads of this process ran on a core, and seconds that they waited for a free core."""

    ran: float
    waited: float


def scheduling() -> Scheduling | None:
    """The seconds of all threads so far; None if the system does not count them (only Linux does)."""
    ran = waited = 0
    try:
        for path in Path("/proc/self/task").glob("*/schedstat"):
            on_core, in_queue, _ = path.read_text().split()
            ran, waited = ran + int(on_core), waited + int(in_queue)
    except (OSError, ValueError):
        return None
    return Scheduling(ran / 1e9, waited / 1e9) if ran else None


def oom_kills(process: Path = Path("/proc/self")) -> int | None:
    """The number of processes that the kernel killed because a process's control group was out of memory.

    If the group has no such count, this is the count of the whole machine; None if the kernel has no count either.
    """
    for group in _memory_groups(process):
        for name in ("memory.events", "memory.oom_control"):  # of cgroup v2 and v1
            counted = _number_after("oom_kill", group / name)
            if counted is not None:
                return counted
    return _number_after("oom_kill", Path("/proc/vmstat"))


def _memory_groups(process: Path) -> Iterator[Path]:
    """The directories of the control groups that may count the process's memory."""
    try:
        groups = [line.split(":", 2) for line in (process / "cgroup").read_text().splitlines()]
        mounts = [line.split(" ") for line in (process / "mountinfo").read_text().splitlines()]
    except OSError:
        return
    for number, controllers, path in groups:
        unified = number == "0"
        if not unified and "memory" not in controllers.split(","):
            continue
        for mount in mounts:
            kind, _, options = mount[mount.index("-") + 1 :][:3]
            root = mount[3].rstrip("/")  # a container may see its own group as the root
            right = kind == "cgroup2" if unified else kind == "cgroup" and "memory" in options.split(",")
            if right and f"{path}/".startswith(f"{root}/"):
                yield Path(mount[4]) / path[len(root) :].lstrip("/")


def _number_after(word: str, path: Path) -> int | None:
    """The number in the line `word number` of a kernel file; None if there is no such line."""
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return None
    numbers = [line.split()[1] for line in lines if line.startswith(f"{word} ")]
    return int(numbers[0]) if numbers else None


def visible_gpus(nvidia: Nvidia | None, environment: Mapping[str, str] = os.environ) -> tuple[Gpu, ...]:
    """The GPUs that CUDA shows under `CUDA_VISIBLE_DEVICES`."""
    if nvidia is None:
        return ()
    asked = environment.get("CUDA_VISIBLE_DEVICES")
    if asked is None:
        return nvidia.gpus
    chosen: list[Gpu] = []
    for piece in asked.split(","):
        gpu = _gpu_called(piece.strip(), nvidia.gpus)
        if gpu is None:  # CUDA stops at the first unknown name
            break
        chosen.append(gpu)
    return tuple(chosen)


def _gpu_called(piece: str, gpus: tuple[Gpu, ...]) -> Gpu | None:
    if piece.isdecimal():
        return gpus[int(piece)] if int(piece) < len(gpus) else None
    if piece.startswith("MIG-") and gpus:
        return Gpu(f"{gpus[0].name}, a slice of it", piece)
    return next((gpu for gpu in gpus if piece and gpu.uuid.startswith(piece)), None)


@functools.cache
def nvidia() -> Nvidia | None:
    """The driver and the GPUs; None without a driver."""
    try:
        library = ctypes.CDLL("libnvidia-ml.so.1")
    except OSError:
        return None
    if library.nvmlInit_v2() != 0:
        return None
    try:
        driver, count = ctypes.create_string_buffer(_NAME_BYTES), ctypes.c_uint()
        library.nvmlSystemGetDriverVersion(driver, _NAME_BYTES)
        library.nvmlDeviceGetCount_v2(ctypes.byref(count))
        gpus = []
        for index in range(count.value):
            handle = ctypes.c_void_p()
            name, uuid = (ctypes.create_string_buffer(_NAME_BYTES) for _ in range(2))
            if library.nvmlDeviceGetHandleByIndex_v2(index, ctypes.byref(handle)) == 0:
                library.nvmlDeviceGetName(handle, name, _NAME_BYTES)
                library.nvmlDeviceGetUUID(handle, uuid, _NAME_BYTES)
            gpus.append(Gpu(name.value.decode(errors="replace"), uuid.value.decode(errors="replace")))
        return Nvidia(driver.value.decode(errors="replace"), tuple(gpus))
    finally:
        library.nvmlShutdown()


def torch_cuda_build() -> str | None:
    """The CUDA version of the installed torch, read from its files; None for a CPU build."""
    spec = importlib.util.find_spec("torch")
    if spec is None or spec.origin is None:
        return None
    try:
        text = Path(spec.origin).with_name("version.py").read_text(errors="replace")
    except OSError:
        return None
    written = re.search(r"^cuda\b[^=\n]*=\s*['\"]([^'\"]+)['\"]", text, re.MULTILINE)
    return written[1] if written else None


def machine_clock() -> float:
    """Seconds of a clock that all processes of this machine share, and that counts during sleep if possible."""
    clock = getattr(time, "CLOCK_BOOTTIME", None)
    return time.monotonic() if clock is None else time.clock_gettime(clock)
