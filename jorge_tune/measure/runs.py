"""Run folders as values: what a finished run measured, read without torch."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from jorge_tune.errors import RunFolderError
from jorge_tune.recipe.io import read_recipe
from jorge_tune.recipe.schema import Recipe
from jorge_tune.records import Outcome, Record, RunFolder, of_kind, outcome_of, read_records


class Evaluation(NamedTuple):
    """One reading of one part of the data."""

    step: int
    epoch: float
    train_seconds: float
    metrics: Mapping[str, float]


@dataclass(frozen=True)
class Run:
    """One run as its folder tells it. `outcome` is None while it has not ended."""

    folder: Path
    recipe: Recipe
    seed: int
    outcome: Outcome | None
    reason: str
    train_seconds: float
    evaluations: Mapping[str, tuple[Evaluation, ...]]  # by part
    device: str | None

    @property
    def ended(self) -> bool:
        """Whether the run has come to an end of its own: it finished, or it diverged."""
        return self.outcome in ("finished", "diverged")


@dataclass(frozen=True)
class Contender:
    """One recipe in a race, under the name that tables show, with the runs made of it so far."""

    name: str
    recipe: Recipe
    runs: tuple[Run, ...] = ()


def read_run(path: Path) -> Run:
    """Read one run folder.

    Raises:
        RunFolderError: no run there, or a damaged one.
        FaultyFileError: its recipe does not read.
    """
    folder = RunFolder(path)
    if not folder.records.is_file():
        raise RunFolderError(f"{path}: not a run folder (no {folder.records.name})")
    if not folder.recipe.is_file():
        raise RunFolderError(f"{path}: not a whole run folder (no {folder.recipe.name})")
    records = read_records(folder.records)
    starts = list(of_kind(records, "start"))
    recipe = read_recipe(folder.recipe)
    seed = starts[0].get("seed", recipe.seed) if starts else recipe.seed
    seconds = [record.get("train_seconds", 0.0) for record in records]
    if not isinstance(seed, int) or isinstance(seed, bool) or not all(_is_amount(value) for value in seconds):
        raise RunFolderError(f"{folder.records}: damaged: a seed that is no integer, or seconds that are no amount")
    return Run(
        folder=path,
        recipe=recipe,
        seed=seed,
        outcome=outcome_of(records),
        reason=str(records[-1].get("reason") or "") if records else "",
        train_seconds=max(map(float, seconds), default=0.0),
        evaluations=_evaluations(records, folder.records),
        device=_device(folder.environment),
    )


def find_runs(path: Path) -> list[Path]:
    """The run folder itself, or every run folder below, in order of their names.

    Raises:
        RunFolderError: there is none.
    """
    if (path / "records.jsonl").is_file():
        return [path]
    found = sorted((records.parent for records in path.rglob("records.jsonl")), key=_natural)
    if not found:
        raise RunFolderError(f"{path}: no run folder here or below (a run folder holds records.jsonl)")
    return found


def read_contenders(paths: Sequence[Path]) -> list[Contender]:
    """Read run folders, and folders of them, into contenders: one per recipe, whatever its seed.

    Runs of one recipe belong together if they were named by one argument, or lie side by side.

    Raises:
        RunFolderError: no runs, or one recipe and seed twice.
    """
    groups: dict[tuple[Path, str], list[Run]] = {}
    seen: set[Path] = set()
    for path in paths:
        for folder in find_runs(path):
            if folder.resolve() in seen:
                continue  # named twice, or with a folder around it
            seen.add(folder.resolve())
            run = read_run(folder)
            home = folder.parent.resolve() if folder == path else path.resolve()
            groups.setdefault((home, repr(replace(run.recipe, seed=0))), []).append(run)
    contenders = []
    for runs in groups.values():
        _refuse_repeated_seeds(runs)
        runs.sort(key=lambda run: run.seed)
        contenders.append(Contender(runs[0].recipe.name, runs[0].recipe, tuple(runs)))
    return with_distinct_names(contenders)


def with_distinct_names(contenders: Sequence[Contender]) -> list[Contender]:
    """Give contenders of one name a number each, the first one too."""
    names = [contender.name for contender in contenders]
    named = []
    for index, contender in enumerate(contenders):
        if names.count(contender.name) == 1:
            named.append(contender)
            continue
        number = names[: index + 1].count(contender.name)
        name = f"{contender.name}-{number}"
        while name in names:
            name += "'"
        named.append(replace(contender, name=name))
    return named


def _refuse_repeated_seeds(runs: Sequence[Run]) -> None:
    by_seed: dict[int, Run] = {}
    for run in runs:
        if run.seed in by_seed:
            raise RunFolderError(
                f"{run.folder}: a second run of seed {run.seed} of the same recipe as "
                f"{by_seed[run.seed].folder}; name their folders as two arguments to race them"
            )
        by_seed[run.seed] = run


def _evaluations(records: Sequence[Record], source: Path) -> dict[str, tuple[Evaluation, ...]]:
    """The readings of each part, in order."""
    parts: dict[str, list[Evaluation]] = {}
    for record in of_kind(list(records), "evaluation"):
        try:
            reading = Evaluation(
                step=record["step"],
                epoch=float(record["epoch"]),
                train_seconds=float(record["train_seconds"]),
                metrics={str(name): float(value) for name, value in record["metrics"].items()},
            )
            if not (math.isfinite(reading.epoch) and isinstance(record["part"], str)):
                raise ValueError("its epoch must be finite, its part a text")
            parts.setdefault(record["part"], []).append(reading)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            kind = type(error).__name__
            raise RunFolderError(f"{source}: a faulty evaluation at step {record['step']} ({kind}: {error})") from error
    return {part: tuple(readings) for part, readings in parts.items()}


def _is_amount(value: object) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value) and value >= 0


def _device(path: Path) -> str | None:
    """The device's name in environment.json; None where the file says nothing readable."""
    try:
        environment = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
    device = environment.get("device") if isinstance(environment, dict) else None
    return None if device is None else json.dumps(device) if not isinstance(device, str) else device


def _natural(path: Path) -> list[tuple[str, int]]:
    """Order in which seed-2 comes before seed-10, and both after rate-3."""
    pieces: list[tuple[str, int]] = []
    for part in path.parts:
        stem, _, number = part.rpartition("-")
        pieces.append((stem, int(number)) if number.isdecimal() else (part, -1))
    return pieces
