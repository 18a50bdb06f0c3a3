"""Optimizers that do to their process what the world does: each is SGD, but for one step."""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch


class Odd(torch.optim.SGD):
    """Does `act` at its third step; SGD otherwise. `mark` is a file that appears just before."""

    def __init__(self, params: Any, lr: float, act: str, mark: str | None = None) -> None:
        super().__init__(params, lr=lr)
        self._act, self._mark, self._steps = act, mark, 0

    def step(self, closure: Any = None) -> Any:
        self._steps += 1
        if self._steps == 3:
            if self._mark is not None:
                Path(self._mark).touch()
            ACTS[self._act]()
        return super().step(closure)


def _raise(error: Exception) -> None:
    raise error


def _tell() -> None:
    """What this process is, as a line of JSON."""
    facts = {
        "environment": dict(os.environ),
        "directory": os.getcwd(),
        "path": sys.path,
        "pid": os.getpid(),
        "session": os.getsid(0),
        "threads": len(os.listdir("/proc/self/task")),
        "torch_threads": torch.get_num_threads(),
        "numpy_draw": float(np.random.random()),
        "numpy_product": float((np.ones((300, 300)) @ np.ones((300, 300))).sum()),  # by its own BLAS threads
        "descriptors": sorted(os.readlink(f"/proc/self/fd/{n}") for n in _descriptors()),
    }
    print(json.dumps(facts))


def _descriptors() -> list[str]:
    return [name for name in os.listdir("/proc/self/fd") if os.path.lexists(f"/proc/self/fd/{name}")]


def _take_memory() -> None:
    hoard = []
    while True:
        hoard.append(b"\x01" * (1 << 25))


ACTS = {
    "complain": lambda: _raise(ValueError("no such luck\nat all")),
    "die": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "exit": lambda: os._exit(3),
    "hang": lambda: time.sleep(1000),
    "hang in a native call": lambda: ctypes.PyDLL(None).sleep(1000),  # keeps the interpreter's lock
    "leave": lambda: sys.exit(3),
    "no memory": lambda: _raise(MemoryError()),
    "no memory for a tensor": lambda: torch.empty(10**15),
    "no memory on the gpu": lambda: _raise(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")),
    "segfault": lambda: ctypes.string_at(0),
    "take memory": _take_memory,
    "tell": _tell,
}
