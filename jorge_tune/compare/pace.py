"""The time of a recipe's steps and evaluations, measured on a few of them: an estimate, not a calibration."""

from __future__ import annotations

import itertools
import statistics
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

from jorge_tune.compare.race import cpu_threads
from jorge_tune.recipe.schedule import total_steps
from jorge_tune.recipe.schema import Constant, KroneckerFields, Recipe
from jorge_tune.records import Record, RunDirectory, of_kind, read_records

_WARM, _STEPS = 3, 9  # steps that refresh everything (the first is not counted), and all steps


@dataclass(frozen=True)
class Pace:
    """The mean seconds of a step over a whole run, and those of one evaluation of the part that selects."""

    steps_per_epoch: int
    step_seconds: float
    evaluation_seconds: float


def pace(recipe: Recipe, *, device: str = "auto", threads: int | None = None, download: bool = False) -> Pace | None:
    """Measure a recipe by training a few steps and evaluating once, in a temporary directory.

    Args:
        recipe: with a task.
        device: auto, cpu, cuda, cuda:1, ...
        threads: CPU threads; None leaves their number as it is.
        download: fetch a data set of torchvision that is not there.

    Returns:
        None if the few steps did not finish.

    Raises:
        InputError: the recipe cannot be trained here.
    """
    from jorge_tune.training.runner import train

    with cpu_threads(threads), tempfile.TemporaryDirectory() as directory:
        result = train(_short(recipe), Path(directory) / "run", device=device, log_every=1, download=download)
        if result.outcome != "finished":
            return None
        return _read(read_records(RunDirectory(Path(directory) / "run").records), recipe)


def _short(recipe: Recipe) -> Recipe:
    optimizer = recipe.optimizer
    if isinstance(optimizer, KroneckerFields):
        optimizer = replace(optimizer, warm_refreshes=_WARM)
    return replace(recipe, optimizer=optimizer, schedule=Constant(), epochs=None, steps=_STEPS, target=None)


def _read(records: list[Record], recipe: Recipe) -> Pace:
    """The pace by the records: warm and later steps apart, weighted by their numbers in a whole run."""
    steps = list(of_kind(records, "step"))
    seconds = [after["train_seconds"] - before["train_seconds"] for before, after in itertools.pairwise(steps)]
    per_epoch = round(steps[-1]["step"] / steps[-1]["epoch"])

    warm, later = statistics.median(seconds[: _WARM - 1]), statistics.median(seconds[_WARM:])
    total = total_steps(recipe, per_epoch)
    optimizer = recipe.optimizer
    refreshing = min(optimizer.warm_refreshes, total) if isinstance(optimizer, KroneckerFields) else 0
    mean = (refreshing * warm + (total - refreshing) * later) / total

    evaluations = [record["evaluation_seconds"] for record in of_kind(records, "evaluation")]
    return Pace(per_epoch, mean, evaluations[0] if evaluations else 0.0)
