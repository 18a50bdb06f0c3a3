"""One run in one directory: started or resumed, trained, and its result read back.

`train` looks at the directory first (`inspect_run_directory`), sets the training up, and makes the directory once all
input has proved good. Whatever happens short of a kill, how the run ended is recorded.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn

from jorge_tune.errors import InputError, JorgeTuneError, RunDirectoryError, TrainingError
from jorge_tune.files import is_disk_full
from jorge_tune.recipe.metrics import is_lower_better, is_own_task
from jorge_tune.recipe.schedule import evaluate_every, total_steps
from jorge_tune.recipe.schema import Recipe
from jorge_tune.recipe.user_imports import user_code
from jorge_tune.records import RunDirectory, of_kind, read_records
from jorge_tune.runs.record_loggers import check_loggers, open_loggers
from jorge_tune.runs.run_journal import ProgressCallback, RunJournal
from jorge_tune.runs.run_result import RunResult, read_result
from jorge_tune.runs.run_start import ResumeState, create_run, full_disk_in_words, inspect_run_directory
from jorge_tune.runs.stop_request import StopRequest
from jorge_tune.training.build import build_model, build_optimizer, build_scheduler
from jorge_tune.training.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from jorge_tune.training.data_summary import RunSummary
from jorge_tune.training.device import backends_for, choose_device, describe_environment
from jorge_tune.training.gen_stepper import build_stepper
from jorge_tune.training.loop import Loop, LoopPlan
from jorge_tune.training.tasks import Task, open_task


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
    loggers: Sequence[str] = (),
) -> RunResult:
    """Train a recipe with its own seed in the run directory `out`, which is made once all input has proved good.

    Divergence and interruption are outcomes. A run that has ended is not trained again: with `resume` its result
    is read from the directory.

    Args:
        recipe: what to train; its `seed` is the run's.
        out: the run directory; missing, empty, or (with `resume`) holding this very run.
        device: "auto", "cpu", "cuda", "cuda:1", ...
        resume: continue the run that the directory holds; starts it where there is none.
        max_steps: stop after that many steps in all, so that the run can be resumed; the schedule is as without it.
        log_every: steps between two readings of loss and timings, at least 1.
        progress: called at the start, after each step, evaluation and epoch.
        download: fetch a data set of torchvision if it is not there.
        stop: may ask the run to stop from elsewhere; Ctrl-C and SIGTERM do so in the main thread anyway.
        loggers: where to copy the records to: `csv`, `tensorboard`, `wandb`.

    Raises:
        InputError: recipe, data, device or directory cannot be used, or a package to log with is not there; nothing
            was written.
        TrainingError: the run broke off; its directory says where and why.
    """
    check_loggers(loggers)
    if log_every < 1 or (max_steps is not None and max_steps < 1):
        raise InputError(f"log_every and max_steps must be 1 or more, got {log_every!r} and {max_steps!r}")

    run_directory = RunDirectory(out)
    resume_state = inspect_run_directory(run_directory, recipe, resume=resume)
    if resume_state is ResumeState.ENDED:
        return read_result(run_directory, recipe)

    chosen = choose_device(device)
    stop = stop or StopRequest()
    with full_disk_in_words(run_directory), own_random_state(chosen), contextlib.ExitStack() as stack:
        stack.enter_context(backends_for(recipe.precision))

        # A run that is resumed is locked before its checkpoint is read; another process may have just ended it.
        journal, checkpoint = None, None
        if resume_state is not ResumeState.NOTHING:
            journal = stack.enter_context(RunJournal(run_directory))
            if inspect_run_directory(run_directory, recipe, resume=resume) is ResumeState.ENDED:
                return read_result(run_directory, recipe)
            checkpoint = load_checkpoint(run_directory.checkpoint)

        task, model, optimizer = stack.enter_context(set_up_training(recipe, chosen, download=download))
        scheduler = build_scheduler(recipe, optimizer, len(task.train))
        plan = _plan(recipe, task, max_steps, log_every)

        # All input has proved good: only now is a new directory made.
        if journal is None:
            journal = stack.enter_context(create_run(run_directory, recipe, describe_environment(chosen)))
        elif run_directory.records.is_file():
            task.summary = task.summary.compared_with(_first_data(run_directory))

        journal.also_to(open_loggers(loggers, run_directory, recipe))
        stack.enter_context(stop)
        save = partial(save_checkpoint, run_directory.checkpoint)
        torch.manual_seed(recipe.seed)
        stepper = build_stepper(recipe, optimizer, task.train)
        loop = Loop(task, model, optimizer, scheduler, plan, chosen, journal, save, stop, progress, stepper)
        _run(loop, journal, checkpoint, recipe, run_directory, task.summary)
    return read_result(run_directory, recipe)


class TrainingSetup(NamedTuple):
    """What a training works with, all on one device."""

    task: Task
    model: nn.Module
    optimizer: torch.optim.Optimizer


@contextlib.contextmanager
def set_up_training(recipe: Recipe, device: torch.device, *, download: bool) -> Iterator[TrainingSetup]:
    """A recipe's data, model and optimizer; the processes that load the data end with the context.

    Raises:
        InputError: recipe or data cannot be used, or they do not fit each other.
    """
    with user_code(recipe):
        model = None if is_own_task(recipe) else build_model(recipe)
        if model is not None:
            build_optimizer(recipe.optimizer, model)  # so that faults of the recipe show before the data are read
        with contextlib.closing(open_task(recipe, device, download=download)) as task:
            model = task.own_model if model is None else model
            assert model is not None
            model = model.to(device)
            task.check_model(model)
            yield TrainingSetup(task, model, build_optimizer(recipe.optimizer, model))


@contextlib.contextmanager
def own_random_state(device: torch.device) -> Iterator[None]:
    """Let a run seed torch's generators, and restore the caller's state afterwards."""
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        yield


def _run(
    loop: Loop,
    journal: RunJournal,
    checkpoint: Checkpoint | None,
    recipe: Recipe,
    run_directory: RunDirectory,
    data: RunSummary,
) -> None:
    """Train, and record how it ended, whatever happens short of a kill."""
    try:
        if checkpoint is not None:
            loop.restore(checkpoint)
            if checkpoint.note:
                journal.say(checkpoint.note)
        resumed = checkpoint is not None
        facts, said = {"world_size": 1, "data": data.to_json()}, (data.line(),)
        journal.start(loop.moment, seed=recipe.seed, resumed=resumed, about=recipe.name, facts=facts, said=said)
        ending = loop.run()
    except RunDirectoryError:
        raise  # the checkpoint was refused, or the directory must not be written to
    except JorgeTuneError as error:
        _record_failure(loop, journal, str(error))
        raise
    except Exception as error:  # whatever breaks the run is recorded and passed on
        reason = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
        _record_failure(loop, journal, reason)
        if isinstance(error, OSError) and is_disk_full(error):
            raise
        raise TrainingError(
            f"{run_directory.root}: the run broke off after step {loop.moment.step}: {reason}"
        ) from error
    journal.end(loop.moment, *ending)


def _record_failure(loop: Loop, journal: RunJournal, reason: str) -> None:
    """Record that the run broke off, unless that cannot be written either."""
    with contextlib.suppress(OSError):
        journal.end(loop.moment, "failed", reason)


def _plan(recipe: Recipe, task: Task, max_steps: int | None, log_every: int) -> LoopPlan:
    total = total_steps(recipe, len(task.train))
    return LoopPlan(
        total_steps=total,
        stop_at=total if max_steps is None else min(total, max_steps),
        evaluate_every=evaluate_every(recipe),
        log_every=log_every,
        precision=recipe.precision,
        is_lower_better=is_lower_better(task.main_metric, recipe),
    )


def _first_data(run_directory: RunDirectory) -> object:
    """What the run found in its data when it started; None where its records do not say."""
    start = next(of_kind(read_records(run_directory.records), "start"), {})
    return start.get("data")
