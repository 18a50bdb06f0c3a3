"""One run in one directory: started or resumed, trained, and its result read back.

`train` looks at the directory first (`inspect_run_directory`), sets the training up, and makes the directory once all
input has proved good. Whatever happens short of a kill, how the run ended is recorded.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from enum import Enum
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from jorge_tune.errors import InputError, JorgeTuneError, RunDirectoryError, TrainingError
from jorge_tune.files import is_disk_full, write_whole
from jorge_tune.recipe.metrics import is_lower_better, is_own_task, usual_metric
from jorge_tune.recipe.recipe_files import recipe_of_run, write_recipe
from jorge_tune.recipe.render import leaves
from jorge_tune.recipe.schedule import total_steps
from jorge_tune.recipe.schema import Recipe, evaluate_every
from jorge_tune.recipe.user_imports import user_code
from jorge_tune.records import Outcome, RunDirectory, of_kind, outcome_of, read_records
from jorge_tune.training.build import build_model, build_optimizer, build_scheduler
from jorge_tune.training.checkpoint import Best, Checkpoint, better, load_checkpoint, save_checkpoint
from jorge_tune.training.data_summary import RunSummary
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
        max_steps: stop after that many steps in all, so that the run can be resumed; the schedule is as without it.
        log_every: steps between two readings of loss and timings, at least 1.
        progress: called at the start, after each step, evaluation and epoch.
        download: fetch a data set of torchvision if it is not there.
        stop: may ask the run to stop from elsewhere; Ctrl-C and SIGTERM do so in the main thread anyway.

    Raises:
        InputError: recipe, data, device or directory cannot be used; nothing was written.
        TrainingError: the run broke off; its directory says where and why.
    """
    if log_every < 1 or (max_steps is not None and max_steps < 1):
        raise InputError(f"log_every and max_steps must be 1 or more, got {log_every!r} and {max_steps!r}")

    run_directory = RunDirectory(out)
    resume_state = inspect_run_directory(run_directory, recipe, resume=resume)
    if resume_state is ResumeState.ENDED:
        return read_result(run_directory, recipe)

    chosen = choose_device(device)
    stop = stop or StopRequest()
    with _full_disk_in_words(run_directory), own_random_state(chosen), contextlib.ExitStack() as stack:
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
            journal = stack.enter_context(_create(run_directory, recipe, chosen))
        elif run_directory.records.is_file():
            task.summary = task.summary.compared_with(_first_data(run_directory))

        stack.enter_context(stop)
        save = partial(save_checkpoint, run_directory.checkpoint)
        torch.manual_seed(recipe.seed)
        stepper = build_stepper(recipe, optimizer, task.train)
        loop = Loop(task, model, optimizer, scheduler, plan, chosen, journal, save, stop, progress, stepper)
        _run(loop, journal, checkpoint, recipe, run_directory, task.summary)
    return read_result(run_directory, recipe)


def read_result(run_directory: RunDirectory, recipe: Recipe) -> RunResult:
    """The result of a run of `recipe` that has ended, from its records."""
    records = read_records(run_directory.records)
    end = records[-1]
    judged = list(of_kind(records, "evaluation", "validation"))
    test = list(of_kind(records, "evaluation", "test"))
    part: PartName = "validation" if judged or not test else "test"
    judged, apart = (judged, test) if part == "validation" else (test, [])
    best: Best | None = None
    metric = usual_metric(recipe)
    for record in judged:
        if metric not in record["metrics"]:
            raise RunDirectoryError(f"{run_directory.records}: the evaluation at step {record['step']} has no {metric}")
        reading = Best(metric, record["metrics"][metric], record["step"], record["epoch"])
        best = better(best, reading, is_lower_better=is_lower_better(metric, recipe))
    return RunResult(
        outcome=end["outcome"],
        reason=end["reason"],
        folder=run_directory,
        step=end["step"],
        epoch=end["epoch"],
        metrics=judged[-1]["metrics"] if judged else {},
        test_metrics=apart[-1]["metrics"] if apart else {},
        part=part,
        best=best,
        train_seconds=end["train_seconds"],
    )


class ResumeState(Enum):
    """What a directory that may be used holds: nothing, this run unfinished, or this run ended."""

    NOTHING = "nothing"
    UNFINISHED = "unfinished"
    ENDED = "ended"


def inspect_run_directory(run_directory: RunDirectory, recipe: Recipe, *, resume: bool) -> ResumeState:
    """What a directory holds of a run of `recipe`; asked before anything is read or written.

    Raises:
        RunDirectoryError: the directory holds another run, or something else, or this run and `resume` is not set.
    """
    root = run_directory.root
    if not root.exists():
        return ResumeState.NOTHING
    if not root.is_dir():
        raise RunDirectoryError(f"{root}: is a file; a run directory is expected (choose another --out)")
    if not os.path.lexists(run_directory.recipe):
        if all(_is_of_a_beginning(path, run_directory) for path in root.iterdir()):
            return ResumeState.NOTHING
        raise RunDirectoryError(f"{root}: is not empty and holds no run; choose another --out")

    try:
        held = recipe_of_run(run_directory)
        outcome = outcome_of(read_records(run_directory.records)) if os.path.lexists(run_directory.records) else None
    except RunDirectoryError as error:
        raise RunDirectoryError(f"{error}; repair it, or choose another --out") from error

    differences = what_differs(held, recipe)
    if differences:
        raise RunDirectoryError(f"{root}: holds another run ({'; '.join(differences)}); choose another --out")
    if not resume:
        state = f"which is {outcome}" if outcome else "which has not ended"
        raise RunDirectoryError(f"{root}: already holds this run, {state}; pass --resume, or choose another --out")
    return ResumeState.ENDED if outcome in ("finished", "diverged") else ResumeState.UNFINISHED


def what_differs(held: Recipe, asked: Recipe) -> list[str]:
    """The fields that make two recipes two runs, at most three; where the data lie and how they are loaded does not."""
    before, after = (_flat(recipe) for recipe in (held, asked))
    paths = [path for path in {**before, **after} if before.get(path) != after.get(path)]
    shown = [f"{path} is {before.get(path)!r} there, {after.get(path)!r} here" for path in paths[:3]]
    return shown + ([f"and {len(paths) - 3} more"] if len(paths) > 3 else [])


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
        journal.start(loop.moment, seed=recipe.seed, resumed=resumed, about=recipe.name, data=data)
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


def _create(run_directory: RunDirectory, recipe: Recipe, device: torch.device) -> RunJournal:
    """Make the directory with its recipe and environment, and lock it.

    Raises:
        InputError: it cannot be written.
        RunDirectoryError: another process has started a run there in the meantime.
    """
    try:
        run_directory.root.mkdir(parents=True, exist_ok=True)
        journal = RunJournal(run_directory)
    except OSError as error:
        raise InputError(f"{run_directory.root}: the run directory cannot be written ({error.strerror})") from error
    try:
        if inspect_run_directory(run_directory, recipe, resume=True) is not ResumeState.NOTHING:
            raise RunDirectoryError(
                f"{run_directory.root}: another process has just started this run; pass --resume to continue it"
            )
        write_recipe(run_directory.recipe, recipe, force=True)
        environment = json.dumps(describe_environment(device), indent=2)
        write_whole(run_directory.environment, environment + "\n", force=True)
    except BaseException:
        journal.close()
        raise
    return journal


@contextlib.contextmanager
def _full_disk_in_words(run_directory: RunDirectory) -> Iterator[None]:
    """One message wherever the disk has no room for the run's files."""
    try:
        yield
    except OSError as error:
        if not is_disk_full(error):
            raise
        what = f"the disk is full ({error.strerror}); free some space and start again"
        raise TrainingError(
            f"{run_directory.root}: {what}: a run resumes from its checkpoint (train: --resume)"
        ) from error


def _is_of_a_beginning(path: Path, run_directory: RunDirectory) -> bool:
    """Whether a run that was killed before it wrote its recipe leaves such a file."""
    if path == run_directory.log:
        return not path.is_symlink() and path.is_file() and path.stat().st_size == 0
    return path.name.startswith(f".{run_directory.recipe.name}.") and path.suffix == ".partial"


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
