"""One run in one directory: checked, started or continued, trained, told."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from enum import Enum
from functools import partial
from pathlib import Path
from typing import Any

import torch

from jorge_tune.errors import InputError, JorgeTuneError, RunDirectoryError, TrainingError
from jorge_tune.files import is_disk_full, write_whole
from jorge_tune.recipe.recipe_files import recipe_of_run, write_recipe
from jorge_tune.recipe.render import leaves
from jorge_tune.recipe.schedule import total_steps
from jorge_tune.recipe.schema import Recipe
from jorge_tune.records import Outcome, RunDirectory, of_kind, outcome_of, read_records
from jorge_tune.training.build import build_model, build_optimizer, build_scheduler
from jorge_tune.training.checkpoint import Best, Checkpoint, better, load_checkpoint, save_checkpoint
from jorge_tune.training.data_summary import DataSummary
from jorge_tune.training.datasets import PartName
from jorge_tune.training.device import backends_for, choose_device, describe_environment
from jorge_tune.training.gen_stepper import build_stepper
from jorge_tune.training.loop import Loop, LoopPlan, StopRequest
from jorge_tune.training.run_journal import ProgressCallback, RunJournal, RunProgress
from jorge_tune.training.tasks import Task, open_task

__all__ = ["RunProgress", "RunResult", "train"]


@dataclass(frozen=True)
class RunResult:
    """How a run stands: `metrics` and `best` of the part it is judged by, `test_metrics` of a test part read apart."""

    outcome: Outcome
    reason: str
    folder: RunDirectory
    step: int
    epoch: float
    metrics: Mapping[str, float] = field(default_factory=dict)
    test_metrics: Mapping[str, float] = field(default_factory=dict)
    part: PartName = "validation"
    best: Best | None = None
    train_seconds: float = 0.0


def train(
    recipe: Recipe,
    out: Path,
    *,
    device: str = "auto",
    resume: bool = False,
    max_steps: int | None = None,
    log_every: int = 50,
    progress: ProgressCallback | None = None,
    download: bool = False,
    stop: StopRequest | None = None,
) -> RunResult:
    """Train a recipe with its own seed in the run directory `out`, which is made once all input has proved good.

    Divergence and interruption are outcomes. A run that has ended is not trained again: with `resume` its result
    is read from the directory.

    Args:
        recipe: what to train; its `seed` is the run's.
        out: the run directory; missing, empty, or (with `resume`) holding this very run.
        device: "auto", "cpu", "cuda", "cuda:1", ...
        resume: continue the run that the directory holds; starts it where there is none.
        max_steps: stop after that many steps in all, resumable; the schedule is as without it.
        log_every: steps between two readings of loss and timings, at least 1.
        progress: called at the start, after each step, evaluation and epoch.
        download: fetch a data set of torchvision if it is not there.
        stop: may ask the run to stop from elsewhere; Ctrl-C and SIGTERM do so in the main thread anyway.

    Raises:
        InputError: recipe, data, device or directory cannot be used; nothing was written.
        TrainingError: the run broke off; the directory says where and why.
    """
    if log_every < 1 or (max_steps is not None and max_steps < 1):
        raise InputError(f"log_every and max_steps must be 1 or more, got {log_every!r} and {max_steps!r}")
    folder = RunDirectory(out)
    holding = inspect_folder(folder, recipe, resume=resume)
    if holding is ResumeState.ENDED:
        return read_result(folder, recipe)
    chosen = choose_device(device)
    stop = stop or StopRequest()
    with _full_disk_in_words(folder), _own_random_state(chosen), contextlib.ExitStack() as stack:
        stack.enter_context(backends_for(recipe.precision))
        journal, checkpoint = None, None
        if holding is not ResumeState.NOTHING:
            journal = stack.enter_context(RunJournal(folder))
            if inspect_folder(folder, recipe, resume=resume) is ResumeState.ENDED:  # by whoever had the lock until now
                return read_result(folder, recipe)
            checkpoint = load_checkpoint(folder.checkpoint)
        model = build_model(recipe)
        build_optimizer(recipe.optimizer, model)  # faults of the recipe show before the data are read
        task = open_task(recipe, chosen, download=download)
        stack.callback(task.close)
        model = model.to(chosen)
        task.check_model(model)
        optimizer = build_optimizer(recipe.optimizer, model)
        scheduler = build_scheduler(recipe, optimizer, len(task.train))
        plan = _plan(recipe, task, max_steps, log_every)
        if journal is None:
            journal = stack.enter_context(_create(folder, recipe, chosen))
        elif folder.records.is_file():
            task.summary = task.summary.compared_with(_first_data(folder))
        stack.enter_context(stop)
        save = partial(save_checkpoint, folder.checkpoint)
        torch.manual_seed(recipe.seed)
        stepper = build_stepper(recipe, optimizer, task.train)
        loop = Loop(task, model, optimizer, scheduler, plan, chosen, journal, save, stop, progress, stepper)
        _run(loop, journal, checkpoint, recipe, folder, task.summary)
    return read_result(folder, recipe)


def read_result(folder: RunDirectory, recipe: Recipe) -> RunResult:
    """The result of a run of `recipe` that has ended, from its records."""
    records = read_records(folder.records)
    end = records[-1]
    judged = list(of_kind(records, "evaluation", "validation"))
    test = list(of_kind(records, "evaluation", "test"))
    part: PartName = "validation" if judged or not test else "test"
    judged, apart = (judged, test) if part == "validation" else (test, [])
    best: Best | None = None
    metric = recipe.target.metric if recipe.target else "top1"
    for record in judged:
        if metric not in record["metrics"]:
            raise RunDirectoryError(f"{folder.records}: the evaluation at step {record['step']} has no {metric}")
        best = better(best, Best(metric, record["metrics"][metric], record["step"], record["epoch"]))
    return RunResult(
        outcome=end["outcome"],
        reason=end["reason"],
        folder=folder,
        step=end["step"],
        epoch=end["epoch"],
        metrics=judged[-1]["metrics"] if judged else {},
        test_metrics=apart[-1]["metrics"] if apart else {},
        part=part,
        best=best,
        train_seconds=end["train_seconds"],
    )


def _run(
    loop: Loop,
    journal: RunJournal,
    checkpoint: Checkpoint | None,
    recipe: Recipe,
    folder: RunDirectory,
    data: DataSummary,
) -> None:
    """Train, and record how it ended, whatever happens short of a kill."""
    try:
        if checkpoint is not None:
            loop.restore(checkpoint)
            if checkpoint.note:
                journal.say(checkpoint.note)
        resumed = checkpoint is not None
        journal.start(loop.moment, seed=recipe.seed, resumed=resumed, about=recipe.name, data=data)
        ending = loop.run()
    except RunDirectoryError:
        raise  # of a checkpoint that was not taken, or a directory that is not to be written to
    except JorgeTuneError as error:
        _record_failure(loop, journal, str(error))
        raise
    except Exception as error:  # the run's boundary: anything that breaks it is recorded and passed on
        reason = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
        _record_failure(loop, journal, reason)
        if isinstance(error, OSError) and is_disk_full(error):
            raise
        raise TrainingError(f"{folder.root}: the run broke off after step {loop.moment.step}: {reason}") from error
    journal.end(loop.moment, *ending)


def _record_failure(loop: Loop, journal: RunJournal, reason: str) -> None:
    """That it broke off, unless that cannot be written either."""
    with contextlib.suppress(OSError):
        journal.end(loop.moment, "failed", reason)


def _plan(recipe: Recipe, task: Task, max_steps: int | None, log_every: int) -> LoopPlan:
    assert recipe.task is not None
    assert recipe.task.data is not None
    total = total_steps(recipe, len(task.train))
    return LoopPlan(
        total_steps=total,
        stop_at=total if max_steps is None else min(total, max_steps),
        evaluate_every=recipe.task.data.evaluate_every,
        log_every=log_every,
        precision=recipe.precision,
    )


def _first_data(folder: RunDirectory) -> object:
    """What the run found in its data when it began; None where its records do not say."""
    start = next(of_kind(read_records(folder.records), "start"), {})
    return start.get("data")


def _create(folder: RunDirectory, recipe: Recipe, device: torch.device) -> RunJournal:
    """The directory with its recipe and environment, in which nobody else trains.

    Raises:
        InputError: it cannot be written.
        RunDirectoryError: somebody else has begun a run there meanwhile.
    """
    try:
        folder.root.mkdir(parents=True, exist_ok=True)
        journal = RunJournal(folder)
    except OSError as error:
        raise InputError(f"{folder.root}: the run directory cannot be written ({error.strerror})") from error
    try:
        if inspect_folder(folder, recipe, resume=True) is not ResumeState.NOTHING:
            raise RunDirectoryError(f"{folder.root}: another process has begun this run meanwhile; --resume goes on")
        write_recipe(folder.recipe, recipe, force=True)
        environment = json.dumps(describe_environment(device), indent=2)
        write_whole(folder.environment, environment + "\n", force=True)
    except BaseException:
        journal.close()
        raise
    return journal


@contextlib.contextmanager
def _full_disk_in_words(folder: RunDirectory) -> Iterator[None]:
    """One message wherever the room for the run's files is missing."""
    try:
        yield
    except OSError as error:
        if not is_disk_full(error):
            raise
        what = f"the disk is full ({error.strerror}); make room and start again"
        raise TrainingError(f"{folder.root}: {what}, a run goes on from its checkpoint (train: --resume)") from error


@contextlib.contextmanager
def _own_random_state(device: torch.device) -> Iterator[None]:
    """Let the run seed torch's generators without the caller noticing."""
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        yield


class ResumeState(Enum):
    """A directory that may be used holds nothing, this run unfinished, or this run ended."""

    NOTHING = "nothing"
    UNFINISHED = "unfinished"
    ENDED = "ended"


def inspect_folder(folder: RunDirectory, recipe: Recipe, *, resume: bool) -> ResumeState:
    """Look before anything is read or written.

    Raises:
        RunDirectoryError: the directory holds another run, or something else, or this run and `resume` is not set.
    """
    root = folder.root
    if not root.exists():
        return ResumeState.NOTHING
    if not root.is_dir():
        raise RunDirectoryError(f"{root}: is a file; a run directory is expected (choose another --out)")
    if not os.path.lexists(folder.recipe):
        if all(_is_of_a_beginning(path, folder) for path in root.iterdir()):
            return ResumeState.NOTHING
        raise RunDirectoryError(f"{root}: is not empty and holds no run; choose another --out")
    try:
        held = recipe_of_run(folder)
        outcome = outcome_of(read_records(folder.records)) if os.path.lexists(folder.records) else None
    except RunDirectoryError as error:
        raise RunDirectoryError(f"{error}; mend it, or choose another --out") from error
    differences = what_differs(held, recipe)
    if differences:
        raise RunDirectoryError(f"{root}: holds another run ({'; '.join(differences)}); choose another --out")
    if not resume:
        state = f"which is {outcome}" if outcome else "which has not ended"
        raise RunDirectoryError(f"{root}: holds this run already, {state}; give --resume, or choose another --out")
    return ResumeState.ENDED if outcome in ("finished", "diverged") else ResumeState.UNFINISHED


def _is_of_a_beginning(path: Path, folder: RunDirectory) -> bool:
    """Whether a run that was killed before it had its recipe leaves this."""
    if path == folder.log:
        return not path.is_symlink() and path.is_file() and path.stat().st_size == 0
    return path.name.startswith(f".{folder.recipe.name}.") and path.suffix == ".partial"


def what_differs(held: Recipe, asked: Recipe) -> list[str]:
    """What makes two recipes two runs, at most three of them; where the data lie and who loads them does not."""
    before, after = (_flat(recipe) for recipe in (held, asked))
    paths = [path for path in {**before, **after} if before.get(path) != after.get(path)]
    shown = [f"{path} is {before.get(path)!r} there, {after.get(path)!r} here" for path in paths[:3]]
    return shown + ([f"and {len(paths) - 3} more"] if len(paths) > 3 else [])


def _without_places(recipe: Recipe) -> Recipe:
    if recipe.task is None or recipe.task.data is None:
        return recipe
    data = replace(recipe.task.data, root="", workers=0)
    return replace(recipe, task=replace(recipe.task, data=data))


def _flat(recipe: Recipe) -> dict[str, Any]:
    return {path: _as_lists(value) for path, value in leaves(asdict(_without_places(recipe))).items()}


def _as_lists(value: Any) -> Any:
    """Tuples and lists are one thing in a file."""
    return [_as_lists(item) for item in value] if isinstance(value, (list, tuple)) else value
