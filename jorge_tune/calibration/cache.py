"""The cache of calibrations: JSON files, each named by the fingerprint of the facts that its timings depend on.

The directory is `--cache`, else JORGE_TUNE_CACHE, else XDG_CACHE_HOME/jorge-tune, else ~/.cache/jorge-tune. A damaged
file is set aside and never trusted.
"""

from __future__ import annotations

import dataclasses
import datetime
import functools
import hashlib
import itertools
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import jorge_tune
from jorge_tune.calibration.input_shapes import input_in_words, needs_own_batches, trainable_data
from jorge_tune.calibration.timings import (
    Measurements,
    Profile,
    measurements_from_json,
    measurements_to_json,
    profile_from_json,
    profile_to_json,
)
from jorge_tune.errors import InputError
from jorge_tune.files import write_whole
from jorge_tune.hardware import Nvidia, cpu_name, nvidia, torch_cuda_build, usable_cores, visible_gpus
from jorge_tune.recipe.schema import JorgeSection, Recipe, ShampooSection, SketchyShampooSection
from jorge_tune.recipe.user_code import names_own_task, source_digest

_FORMAT = 3
_LARGEST_BYTES = 10_000_000


@dataclass(frozen=True)
class CacheEntry:
    """One calibration as it was measured, with the facts that it depends on."""

    fingerprint: str
    facts: Mapping[str, Any]
    measured_on: str  # a date
    measurements: Measurements
    profile: Profile


class Lookup(NamedTuple):
    """The entry of the cache, if there is one, and a warning if its file could not be used."""

    entry: CacheEntry | None
    warning: str | None = None


def cache_folder(asked: Path | None = None, environment: Mapping[str, str] = os.environ) -> Path:
    """The directory of the cache."""
    if asked is not None:
        return asked

    own = environment.get("JORGE_TUNE_CACHE")
    if own:
        return Path(own).expanduser()

    shared = environment.get("XDG_CACHE_HOME")
    return (Path(shared) if shared else Path("~/.cache").expanduser()) / "jorge-tune"


def entry_path(folder: Path, fingerprint: str) -> Path:
    """The file of one calibration."""
    return folder / "calibrations" / f"{fingerprint}.json"


def look_up(folder: Path, fingerprint: str) -> Lookup:
    """Read a calibration.

    A damaged file is renamed to end in `.damaged`, and the warning names it. A file in the format of an older version
    is ignored.
    """
    path = entry_path(folder, fingerprint)
    try:
        if path.stat().st_size > _LARGEST_BYTES:
            raise ValueError("too large")
        data = json.loads(path.read_text())
        is_older = data["format"] in range(1, _FORMAT)
        return Lookup(None if is_older else _entry_from_json(data, fingerprint))
    except FileNotFoundError:
        return Lookup(None)
    except OSError as error:
        return Lookup(None, f"{path}: cannot be read ({error.strerror}), so the recipe is measured again")
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        return Lookup(None, _set_aside(path, error))


def keep(folder: Path, entry: CacheEntry) -> str | None:
    """Write a calibration; return the reason if it could not be written, else None."""
    data = {
        "format": _FORMAT,
        "fingerprint": entry.fingerprint,
        "facts": entry.facts,
        "measured_on": entry.measured_on,
        "measurements": measurements_to_json(entry.measurements),
        "profile": profile_to_json(entry.profile),
    }
    path = entry_path(folder, entry.fingerprint)
    try:
        write_whole(path, json.dumps(data) + "\n", force=True, make_folders=True)
    except InputError as error:
        return f"the measurements were not stored for the next time: {error}"
    return None


def today() -> str:
    """The date in UTC."""
    return datetime.datetime.now(datetime.UTC).date().isoformat()


def _entry_from_json(data: Any, fingerprint: str) -> CacheEntry:
    if data["format"] != _FORMAT or data["fingerprint"] != fingerprint:
        raise ValueError("another format or fingerprint")

    return CacheEntry(
        fingerprint=fingerprint,
        facts=dict(data["facts"]),
        measured_on=str(data["measured_on"]),
        measurements=measurements_from_json(data["measurements"]),
        profile=profile_from_json(data["profile"]),
    )


def _set_aside(path: Path, error: Exception) -> str:
    """Rename a damaged file; return the warning."""
    reason = (str(error).splitlines() or [type(error).__name__])[0]
    if isinstance(error, KeyError):
        reason = f"it has no {reason}"
    aside = path.with_name(path.name + ".damaged")
    try:
        path.replace(aside)
    except OSError:
        return f"{path}: is damaged ({reason}) and cannot be renamed, so the recipe is measured again"
    return f"{path}: is damaged ({reason}); it was renamed to {aside.name}, and the recipe is measured again"


Calibratable = JorgeSection | ShampooSection | SketchyShampooSection

_WITHOUT_COST = frozenset(
    {"lr", "weight_decay", "refresh_interval", "warm_refreshes"}
)  # they do not change the time of an iteration or of a refresh
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
_WAITING_VARIABLES = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME", "OMP_PROC_BIND", "GOMP_CPU_AFFINITY")
_COMMANDS_WAIT = "PASSIVE"  # all commands set this unless the environment says otherwise


def resolve_device(asked: str, nvidia_seen: Nvidia | None = None) -> str:
    """`cpu` or `cuda:<n>` for auto, cpu, cuda and cuda:<n>, according to files and NVML, without torch.

    Raises:
        InputError: the name is none of these, or there is no such GPU; the message lists the devices.
    """
    gpus = visible_gpus(nvidia_seen or nvidia()) if torch_cuda_build() else ()
    if asked == "auto":
        return "cuda:0" if gpus else "cpu"
    kind, colon, index = asked.partition(":")
    if asked == "cpu":
        return "cpu"
    if kind != "cuda" or (colon and not index.isdecimal()):
        raise InputError(f"device must be auto, cpu, cuda or cuda:<number>, got {asked!r}")

    number = int(index or 0)
    if number < len(gpus):
        return f"cuda:{number}"
    if not torch_cuda_build():
        reason = "the installed torch is built without CUDA"
    else:
        reason = f"{len(gpus)} found" if gpus else "no GPU found"
    raise InputError(f"device: {asked!r} cannot be used here ({reason}); usable here: {_devices(gpus)}")


def facts_of(recipe: Recipe, device: str, *, threads: int | None = None, real_data: bool = False) -> dict[str, Any]:
    """Everything that the timings of a recipe's iteration depend on.

    Args:
        recipe: A jorge, shampoo or sketchy recipe with a task.
        device: As `resolve_device` returns it.
        threads: The number of CPU threads that was asked for; None is the environment's or torch's choice.
        real_data: Whether the batches come from the loader.

    Raises:
        InputError: the recipe cannot be calibrated.
    """
    facts = machine_facts(recipe, device, threads=threads) | _task_facts(recipe, real_data=real_data)
    plain: dict[str, Any] = json.loads(json.dumps(facts, default=str))  # as they are when they are read back
    return plain


def machine_facts(recipe: Recipe, device: str, *, threads: int | None = None) -> dict[str, Any]:
    """What the timings of an iteration depend on besides its model and its batches. Arguments as `facts_of`."""
    section = calibrated_section(recipe)
    work = {k: v for k, v in dataclasses.asdict(section).items() if k not in _WITHOUT_COST}
    return {
        "device": _device_facts(device),
        "cpu": cpu_name(),
        "cores": _ranges(usable_cores()),
        "threads": threads or _threads_asked(os.environ) or "default",
        "waiting": {name: how for name in _WAITING_VARIABLES if (how := _waiting(name)) is not None},
        "versions": {name: _version(name) for name in ("torch", "torchvision")}
        | {"jorge-tune": jorge_tune.__version__, "optimizers": _optimizer_sources()},
        "precision": recipe.precision,
        "batch_size": recipe.batch_size,
        "optimizer": {**work, "decays": section.weight_decay > 0},
    }


def _task_facts(recipe: Recipe, *, real_data: bool) -> dict[str, Any]:
    """The model and its batches; of code of the user's own, a digest too."""
    task = recipe.task
    if needs_own_batches(recipe) and not real_data:
        data: Any = "kept"
    else:
        data = _loader_facts(recipe) if real_data else "synthetic"
    facts: dict[str, Any] = {"input": input_in_words(recipe), "data": data}
    assert task is not None
    if task.kind == "python":
        facts["model"] = {"factory": task.factory, "args": dict(task.args)}
    else:
        assert task.model is not None
        named = {"name": task.model.name} if task.model.factory is None else {"factory": task.model.factory}
        facts["model"] = {**named, "args": dict(task.model.args)}
    return facts | ({"code": source_digest(recipe)} if names_own_task(recipe) else {})


def fingerprint_of(facts: Mapping[str, Any]) -> str:
    """A hash of the facts, sixteen hexadecimal digits."""
    canonical = json.dumps(facts, sort_keys=True)
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]


def calibrated_section(recipe: Recipe) -> Calibratable:
    """The optimizer section of a recipe that has a refresh interval.

    Raises:
        InputError: the optimizer has no refresh interval.
    """
    section = recipe.optimizer
    if not isinstance(section, Calibratable):
        raise InputError(
            f"optimizer.name must be jorge, shampoo or sketchy, got {section.name!r}, which has no refresh interval"
        )
    return section


def _device_facts(device: str) -> dict[str, Any]:
    """The kind of device; of a GPU also its name, its driver and the CUDA build of torch."""
    if device == "cpu":
        return {"kind": "cpu"}
    seen = nvidia()
    names = [gpu.name for gpu in visible_gpus(seen)]
    if len(set(names)) == 1:
        name = names[0]
    else:  # CUDA may order them otherwise than the bus does, but in the same way in each run
        name = f"{device} of {', '.join(names)}"
    return {"kind": "cuda", "name": name, "driver": seen.driver if seen else None, "cuda": torch_cuda_build()}


def _devices(gpus: Sequence[Any]) -> str:
    names = [f"cuda:{index} ({gpu.name})" for index, gpu in enumerate(gpus)]
    return ", ".join([f"cpu ({cpu_name()})", *names])


def _threads_asked(environment: Mapping[str, str]) -> int | None:
    """The number of threads that the environment asks for."""
    for name in _THREAD_VARIABLES:
        value = environment.get(name, "")
        if value.isdecimal() and int(value) > 0:
            return int(value)
    return None


def _loader_facts(recipe: Recipe) -> dict[str, Any]:
    """What the time of a loader depends on."""
    if recipe.task is not None and recipe.task.kind == "python":
        return {"factory": recipe.task.factory}
    data = trainable_data(recipe)
    named = {"name": data.name} if data.factory is None else {"factory": data.factory}
    return {**named, "augment": data.augment, "workers": data.workers, "args": dict(data.args)}


def _waiting(name: str) -> str | None:
    """How the environment makes idle threads wait; None if that is what the commands set anyway."""
    how = os.environ.get(name)
    return None if how is None or how.upper() == _COMMANDS_WAIT else how


def _ranges(numbers: Iterable[int]) -> str:
    """`0-3,8` for 0, 1, 2, 3, 8."""
    pieces = []
    for _, group in itertools.groupby(enumerate(numbers), key=lambda pair: pair[1] - pair[0]):
        run = [number for _, number in group]
        pieces.append(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}")
    return ",".join(pieces)


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


@functools.cache
def _optimizer_sources() -> str:
    """A digest of the optimizers' source, so that a changed optimizer is measured again."""
    digest = hashlib.sha256()
    for path in sorted((Path(jorge_tune.__file__).parent / "optim").glob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:8]
