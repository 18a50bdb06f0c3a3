"""One run in one folder: checked, started or continued, trained, told."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import torch

from jorge_tune.errors import InputError, JorgeTuneError, RunFolderError, TrainingError
from jorge_tune.files import is_disk_full, write_whole
from jorge_tune.recipe.io import write_recipe
from jorge_tune.recipe.schedule import total_steps
from jorge_tune.recipe.schema import Recipe
from jorge_tune.records import Outcome, RunFolder, of_kind, read_records
from jorge_tune.training.build import build_model, build_optimizer, build_scheduler
from jorge_tune.training.checkpoint import Best, Checkpoint, better, load_checkpoint, save_checkpoint
from jorge_tune.training.data import PartName
from jorge_tune.training.data_summary import DataSummary
from jorge_tune.training.environment import choose_device, describe_environment
from jorge_tune.training.holding import Holding, inspect_folder
from jorge_tune.training.journal import Journal, Progress, ProgressCallback
from jorge_tune.training.loop import Loop, Plan
from jorge_tune.training.precision import backends_for
from jorge_tune.training.signals import StopRequest
from jorge_tune.training.stepping import build_stepper
from jorge_tune.training.tasks import Task, open_task

__all__ = ["Progress", "RunResult", "train"]


@dataclass(frozen=True)
class RunResult:
    """How a run stands: `metrics` and `best` of the part it is judged by, `test_metrics` of a test part read apart."""

    outcome: Outcome
    reason: str
    folder: RunFolder
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
    """Train a recipe with its own seed in the run folder `out`, which is made once all input has proved good.

    Divergence and interruption are outcomes. A run that has ended is not trained again: with `resume` its result
    is read from the folder.

    Args:
        recipe: what to train; its `seed` is the run's.
        out: the run folder; missing, empty, or (with `resume`) holding this very run.
        device: "auto", "cpu", "cuda", "cuda:1", ...
        resume: continue the run that the folder holds; starts it where there is none.
        max_steps: stop after that many steps in all, resumable; the schedule is as without it.
        log_every: steps between two readings of loss and timings, at least 1.
        progress: called at the start, after each step, evaluation and epoch.
        download: fetch a data set of torchvision if it is not there.
        stop: may ask the run to stop from elsewhere; Ctrl-C and SIGTERM do so in the main thread anyway.

    Raises:
        InputError: recipe, data, device or folder cannot be used; nothing was written.
        TrainingError: the run broke off; the folder says where and why.
    """
    if log_every < 1 or (max_steps is not None and max_steps < 1):
        raise InputError(f"log_every and max_steps must be 1 or more, got {log_every!r} and {max_steps!r}")
    folder = RunFolder(out)
    holding = inspect_folder(folder, recipe, resume=resume)
    if holding is Holding.ENDED:
        return read_result(folder, recipe)
    chosen = choose_device(device)
    stop = stop or StopRequest()
    with _full_disk_in_words(folder), _own_random_state(chosen), contextlib.ExitStack() as stack:
        stack.enter_context(backends_for(recipe.precision))
        journal, checkpoint = None, None
        if holding is not Holding.NOTHING:
            journal = stack.enter_context(Journal(folder))
            if inspect_folder(folder, recipe, resume=resume) is Holding.ENDED:  # by whoever had the lock until now
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


def read_result(folder: RunFolder, recipe: Recipe) -> RunResult:
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
            raise RunFolderError(f"{folder.records}: the evaluation at step {record['step']} has no {metric}")
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
    journal: Journal,
    checkpoint: Checkpoint | None,
    recipe: Recipe,
    folder: RunFolder,
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
    except RunFolderError:
        raise  # of a checkpoint that was not taken, or a folder that is not to be written to
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


def _record_failure(loop: Loop, journal: Journal, reason: str) -> None:
    """That it broke off, unless that cannot be written either."""
    with contextlib.suppress(OSError):
        journal.end(loop.moment, "failed", reason)


def _plan(recipe: Recipe, task: Task, max_steps: int | None, log_every: int) -> Plan:
    assert recipe.task is not None
    assert recipe.task.data is not None
    total = total_steps(recipe, len(task.train))
    return Plan(
        total_steps=total,
        stop_at=total if max_steps is None else min(total, max_steps),
        evaluate_every=recipe.task.data.evaluate_every,
        log_every=log_every,
        precision=recipe.precision,
    )


def _first_data(folder: RunFolder) -> object:
    """What the run found in its data when it began; None where its records do not say."""
    start = next(of_kind(read_records(folder.records), "start"), {})
    return start.get("data")


def _create(folder: RunFolder, recipe: Recipe, device: torch.device) -> Journal:
    """The folder with its recipe and environment, in which nobody else trains.

    Raises:
        InputError: it cannot be written.
        RunFolderError: somebody else has begun a run there meanwhile.
    """
    try:
        folder.root.mkdir(parents=True, exist_ok=True)
        journal = Journal(folder)
    except OSError as error:
        raise InputError(f"{folder.root}: the run folder cannot be written ({error.strerror})") from error
    try:
        if inspect_folder(folder, recipe, resume=True) is not Holding.NOTHING:
            raise RunFolderError(f"{folder.root}: another process has begun this run meanwhile; --resume goes on")
        write_recipe(folder.recipe, recipe, force=True)
        environment = json.dumps(describe_environment(device), indent=2)
        write_whole(folder.environment, environment + "\n", force=True)
    except BaseException:
        journal.close()
        raise
    return journal


@contextlib.contextmanager
def _full_disk_in_words(folder: RunFolder) -> Iterator[None]:
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
