"""What a command is started with: its words, its environment, and the facts of where it runs."""

from __future__ import annotations

import os
import platform
import re
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jorge_tune
from jorge_tune import reporting
from jorge_tune.errors import InputError
from jorge_tune.hardware import cpu_name, nvidia, torch_cuda_build, visible_gpus
from jorge_tune.recipe.placeholders import command_words, fill
from jorge_tune.recipe.schema import Recipe
from jorge_tune.records import RunDirectory

_DEVICE = re.compile(r"[a-z]+(:\d+)?")
_PYTHONS = ("python", "python3")
_VISIBLE = "CUDA_VISIBLE_DEVICES"


class Launch(NamedTuple):
    """The program with its arguments, its environment, and the path of its log, if the recipe names one."""

    words: tuple[str, ...]
    environment: dict[str, str]
    log: str | None


class CommandDevice(NamedTuple):
    """The device as a command hears of it, and what its environment needs for that."""

    name: str
    environment: Mapping[str, str]


def prepare(
    recipe: Recipe, directory: RunDirectory, device: CommandDevice, *, resumed: bool, threads: int | None
) -> Launch:
    """How a run's command is started: in this process's directory and environment, with a few variables more.

    Raises:
        InputError: there is no such program.
    """
    task = recipe.task
    assert task is not None
    run = directory.root.absolute()
    of_run = {
        "recipe": str(run / directory.recipe.name),
        "run": str(run),
        "seed": str(recipe.seed),
        "device": device.name,
    }
    words = [fill(word, recipe, of_run) for word in command_words(task)]
    environment = {
        **os.environ,
        "PYTHONUNBUFFERED": os.environ.get("PYTHONUNBUFFERED", "1"),  # what it prints is read as it is printed
        **({} if threads is None else {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}),
        **device.environment,
        reporting.RECIPE: of_run["recipe"],
        reporting.RUN: of_run["run"],
        reporting.SEED: of_run["seed"],
        reporting.DEVICE: device.name,
        reporting.RESUMED: "1" if resumed else "0",
        reporting.OUTER_RANKS: reporting.ranks_of(os.environ),
    }
    path = None if task.metrics is None or task.metrics.path is None else fill(task.metrics.path, recipe, of_run)
    return Launch((program(words[0], environment), *words[1:]), environment, path)


def program(word: str, environment: Mapping[str, str]) -> str:
    """The program that a command's first word means.

    A bare `python` is the interpreter of this process, since that one has jorge_tune; any other name is searched for in
    PATH, and then beside that interpreter, where `torchrun` is.

    Raises:
        InputError: there is none, or it is no program.
    """
    if word in _PYTHONS:
        return sys.executable
    path = os.pathsep.join([environment.get("PATH", os.defpath), str(Path(sys.executable).parent)])
    found = shutil.which(word, path=path)
    if found is None:
        exists = os.sep in word and Path(word).exists()
        what = "is not a program that can be run (chmod +x, or name its interpreter)" if exists else "is not there"
        raise InputError(f"task.command: the program {word!r} {what}")
    return found


def command_device(asked: str) -> CommandDevice:
    """The device for a command; a GPU that is named by its number is the only one that it sees.

    Raises:
        InputError: this is no name of a device, or there is no such GPU.
    """
    if asked == "auto":
        return CommandDevice("cuda" if _gpus() else "cpu", {})
    if not _DEVICE.fullmatch(asked):
        raise InputError(f"device: must be auto, cpu, cuda or cuda:<number>, got {asked!r}")
    kind, _, number = asked.partition(":")
    if kind != "cuda":
        return CommandDevice(asked, {})
    if int(number or 0) >= len(_gpus()):
        raise InputError(f"device: {asked!r} cannot be used here ({len(_gpus())} GPUs found)")
    if not number:
        return CommandDevice("cuda", {})
    visible = os.environ.get(_VISIBLE)
    return CommandDevice("cuda:0", {_VISIBLE: number if visible is None else visible.split(",")[int(number)].strip()})


def environment_facts(device: CommandDevice) -> dict[str, Any]:
    """Plain data for environment.json; no host name, no user name, no path."""
    on_gpu = device.name.startswith("cuda")
    seen = nvidia()
    gpus = visible_gpus(seen, {**os.environ, **device.environment})
    return {
        "device": gpus[0].name if on_gpu and gpus else cpu_name(),
        "device_type": device.name.partition(":")[0],
        "driver": seen.driver if on_gpu and seen is not None else None,
        "cpu": cpu_name(),
        "system": f"{platform.system()} {platform.machine()}",
        "versions": {"python": platform.python_version(), "jorge-tune": jorge_tune.__version__},
    }


def _gpus() -> tuple[object, ...]:
    return visible_gpus(nvidia()) if torch_cuda_build() else ()
