"""How long a recipe's steps and evaluations take, by a few of them: good enough for an estimate, no calibration."""

from __future__ import annotations

import itertools
import statistics
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from jorge_tune.compare.race import cpu_threads
from jorge_tune.recipe.schedule import total_steps
from jorge_tune.recipe.schema import Constant, KroneckerFields, Recipe
from jorge_tune.records import Record, RunDirectory, of_kind, read_records

_WARM, _STEPS = 3, 9  # steps that refresh everything (the first is left out), and steps in all


@dataclass(frozen=True)
class Pace:
    """Seconds of a step in the mean over a whole run, and of one evaluation of the part that selects."""

    steps_per_epoch: int
    step_seconds: float
    evaluation_seconds: float


def pace(recipe: Recipe, *, device: str = "auto", threads: int | None = None, download: bool = False) -> Pace | None:
    """Train a few steps and evaluate once, in a directory that is removed.

    Args:
        recipe: with a task.
        device: auto, cpu, cuda, cuda:1, ...
        threads: CPU threads; None: as they are.
        download: fetch a data set of torchvision that is not there.

    Returns:
        None where the few steps came to no good end.

    Raises:
        InputError: the recipe cannot be trained here.
    """
    from jorge_tune.training.runner import train

    with cpu_threads(threads), tempfile.TemporaryDirectory() as folder:
        result = train(_short(recipe), Path(folder) / "run", device=device, log_every=1, download=download)
        if result.outcome != "finished":
            return None
        return _read(read_records(RunDirectory(Path(folder) / "run").records), recipe)


def _short(recipe: Recipe) -> Recipe:
    optimizer = recipe.optimizer
    if isinstance(optimizer, KroneckerFields):
        optimizer = replace(optimizer, warm_refreshes=_WARM)
    return replace(recipe, optimizer=optimizer, schedule=Constant(), epochs=None, steps=_STEPS, target=None)


def _read(records: list[Record], recipe: Recipe) -> Pace:
    """Warm and later steps are told apart, and weighted as a whole run has them."""
    steps = list(of_kind(records, "step"))
    seconds = [after["train_seconds"] - before["train_seconds"] for before, after in itertools.pairwise(steps)]
    per_epoch = round(steps[-1]["step"] / steps[-1]["epoch"])
    warm, later = _typical(seconds[: _WARM - 1]), _typical(seconds[_WARM:])
    total = total_steps(recipe, per_epoch)
    optimizer = recipe.optimizer
    refreshing = min(optimizer.warm_refreshes, total) if isinstance(optimizer, KroneckerFields) else 0
    mean = (refreshing * warm + (total - refreshing) * later) / total
    evaluations = [record["evaluation_seconds"] for record in of_kind(records, "evaluation")]
    return Pace(per_epoch, mean, evaluations[0] if evaluations else 0.0)


def _typical(seconds: Sequence[float]) -> float:
    return statistics.median(seconds)
