"""Run directories read as values, without torch; contenders made of them; and which recipes are paired by seeds."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, NamedTuple

from jorge_tune.errors import RunDirectoryError
from jorge_tune.files import read_regular_bytes
from jorge_tune.recipe.bootstrap import control
from jorge_tune.recipe.recipe_files import recipe_of_run
from jorge_tune.recipe.schedule import evaluate_every
from jorge_tune.recipe.schema import DataSection, JorgeSection, Recipe, TaskSection
from jorge_tune.records import Outcome, Record, RunDirectory, of_kind, outcome_of, read_records
from jorge_tune.untrusted import parse_json, shown

_LARGEST_ENVIRONMENT = 2**20  # bytes; ours have under 1,000


class Evaluation(NamedTuple):
    """One evaluation of one part of the data."""

    step: int
    epoch: float
    train_seconds: float
    metrics: Mapping[str, float]


@dataclass(frozen=True)
class Run:
    """One run, read from its directory.

    `outcome` is None while the run has not ended. `notes` say what could not be read.
    """

    folder: Path
    recipe: Recipe
    seed: int
    outcome: Outcome | None
    reason: str
    train_seconds: float
    evaluations: Mapping[str, tuple[Evaluation, ...]]  # by part
    device: str | None
    environment: Mapping[str, Any] | None = field(default=None, compare=False)
    clock: str = "training"  # what its seconds are: see `records`
    notes: tuple[str, ...] = ()

    @property
    def ended(self) -> bool:
        """Whether the run finished or diverged, and was not stopped."""
        return self.outcome in ("finished", "diverged")


@dataclass(frozen=True)
class Contender:
    """One recipe in a race, by the name that tables show, with its runs so far."""

    name: str
    recipe: Recipe
    runs: tuple[Run, ...] = ()


def read_run(path: Path) -> Run:
    """Read one run directory.

    Raises:
        RunDirectoryError: there is no run, or it is damaged.
    """
    directory = RunDirectory(path)
    if not os.path.lexists(directory.records):
        raise RunDirectoryError(f"{path}: not a run directory (no {directory.records.name})")

    recipe = recipe_of_run(directory)
    records = read_records(directory.records)
    starts = list(of_kind(records, "start"))
    environment, notes = _environment(directory.environment)
    device = None if environment is None else environment.get("device")
    return Run(
        folder=path,
        recipe=recipe,
        seed=starts[0]["seed"] if starts else recipe.seed,
        outcome=outcome_of(records),
        reason=records[-1].get("reason", "") if records else "",
        train_seconds=max((float(record["train_seconds"]) for record in records), default=0.0),
        evaluations=_evaluations(records),
        device=device if isinstance(device, str) or device is None else json.dumps(device),
        environment=environment,
        clock=str(starts[0].get("clock", "training")) if starts else "training",
        notes=(*notes, *_counting(records)),
    )


def find_runs(path: Path) -> list[Path]:
    """The run directory itself, or all run directories below it, sorted by name.

    Raises:
        RunDirectoryError: there is no run directory.
    """
    if os.path.lexists(path / "records.jsonl"):
        return [path]

    # A directory of that name counts too, so that reading it reports the fault.
    inside = [Path(place) for place, below, files in os.walk(path) if "records.jsonl" in [*below, *files]]
    if not inside:
        raise RunDirectoryError(f"{path}: no run directory here or below (a run directory holds records.jsonl)")
    return sorted(inside, key=_natural)


def read_contenders(paths: Sequence[Path], leave_out: Callable[[str], None] | None = None) -> list[Contender]:
    """Read run directories, and directories of them, into contenders: one per recipe, whatever its seed.

    Runs of one recipe are one contender if one argument named them, or if they are in the same directory.

    Args:
        paths: the directories. They may be links, but the directories below may not.
        leave_out: called for each damaged run, which is then left out; None raises the first fault.

    Raises:
        RunDirectoryError: there are no runs, all are damaged, or there are two runs of one recipe and seed.
    """
    groups: dict[tuple[Path, str], list[Run]] = {}
    seen: set[Path] = set()
    damaged: list[RunDirectoryError] = []
    for path in paths:
        for directory in find_runs(path):
            if directory.resolve() in seen:
                continue  # it was named twice, or together with a directory that contains it
            seen.add(directory.resolve())
            try:
                run = read_run(directory)
            except RunDirectoryError as error:
                damaged.append(error)
                continue
            home = directory.parent.resolve() if directory == path else path.resolve()
            groups.setdefault((home, repr(replace(run.recipe, seed=0))), []).append(run)

    if damaged and (leave_out is None or not groups):
        raise damaged[0]
    for fault in damaged:
        assert leave_out is not None
        leave_out(f"left out, since it is damaged: {fault}")

    contenders = []
    for runs in groups.values():
        _refuse_repeated_seeds(runs)
        runs.sort(key=lambda run: run.seed)
        contenders.append(Contender(runs[0].recipe.name, runs[0].recipe, tuple(runs)))
    return with_distinct_names(contenders)


def with_distinct_names(contenders: Sequence[Contender]) -> list[Contender]:
    """Add a number to the name of each contender whose name another one has."""
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
            raise RunDirectoryError(
                f"{run.folder}: a second run of seed {run.seed} of the same recipe as "
                f"{by_seed[run.seed].folder}; name their directories as two arguments to race them"
            )
        by_seed[run.seed] = run


def _evaluations(records: Sequence[Record]) -> dict[str, tuple[Evaluation, ...]]:
    """The evaluations of each part, in order."""
    parts: dict[str, list[Evaluation]] = {}
    for record in of_kind(list(records), "evaluation"):
        when = record["step"], float(record["epoch"]), float(record["train_seconds"])
        parts.setdefault(record["part"], []).append(Evaluation(*when, record["metrics"]))
    return {part: tuple(readings) for part, readings in parts.items()}


def _counting(records: Sequence[Record]) -> tuple[str, ...]:
    """A note where a log without epochs is counted in steps."""
    counted = any(record.get("counts") == "steps" for record in of_kind(list(records), "evaluation"))
    return ("its log has no epochs, so each step counts as one (task.metrics.steps_per_epoch)",) if counted else ()


def _environment(path: Path) -> tuple[Mapping[str, Any] | None, tuple[str, ...]]:
    """The content of environment.json; None, with a note, if it cannot be read: a run is complete without it."""
    try:
        environment = parse_json(read_regular_bytes(path, most=_LARGEST_ENVIRONMENT, error=RunDirectoryError))
        if not isinstance(environment, dict):
            raise ValueError(f"must be an object, got {shown(environment)}")
        return environment, ()
    except FileNotFoundError:
        return None, ()
    except RunDirectoryError as error:
        return None, (str(error),)
    except ValueError as error:
        return None, (f"{path}: cannot be read: {error}",)


def _natural(path: Path) -> list[tuple[str, int]]:
    """A sort key by which seed-2 comes before seed-10, and both after rate-3."""
    pieces: list[tuple[str, int]] = []
    for part in path.parts:
        stem, _, number = part.rpartition("-")
        pieces.append((stem, int(number)) if number.isdecimal() else (part, -1))
    return pieces


_NOTED = ("epochs", "steps", "batch_size", "precision")
_NOT_PAIRING = ("metrics", "grace_seconds", "silence_seconds")  # how a command is read does not change what it does


def unpaired_because(recipe: Recipe, other: Recipe) -> str | None:
    """Why equal seeds do not pair the two recipes; None if they do."""
    task, other_task = recipe.task, other.task
    if task is None or other_task is None:
        return None if task == other_task else "only one has a task"

    for part in fields(TaskSection):
        if part.name in _NOT_PAIRING:
            continue
        mine, theirs = getattr(task, part.name), getattr(other_task, part.name)
        if part.name == "data":
            mine, theirs = _examples_of(mine), _examples_of(theirs)
        if mine != theirs and part.name != "evaluate_every":
            return f"task.{part.name} differs"
    return None


def worth_a_note(recipe: Recipe, other: Recipe) -> list[str]:
    """Differences of paired recipes that a reader of the race should know, as `field: a against b`."""
    notes = []
    for name in _NOTED:
        mine, theirs = getattr(recipe, name), getattr(other, name)
        if mine != theirs:
            notes.append(f"{name}: {_shown(mine)} against {_shown(theirs)}")

    mine, theirs = evaluate_every(recipe), evaluate_every(other)
    if mine != theirs:
        notes.append(f"task.data.evaluate_every: {mine} against {theirs}")
    return notes


def is_control(recipe: Recipe, jorge: Recipe) -> bool:
    """Whether a recipe is the control of a Jorge recipe: it differs only by the optimizer, which is the grafted one."""
    if not isinstance(jorge.optimizer, JorgeSection) or jorge.optimizer.graft == "none":
        return False
    is_same_training = not worth_a_note(recipe, jorge)
    return is_same_training and (recipe.optimizer, recipe.schedule) == (control(jorge).optimizer, jorge.schedule)


def _examples_of(data: DataSection | None) -> DataSection | None:
    """The data section without the fields that change neither the examples nor their order."""
    return None if data is None else replace(data, root="", workers=0, evaluate_every=1)


def _shown(value: object) -> str:
    return "unset" if value is None else str(value)
