"""Jorge's direction against exact Shampoo's, along a short run of a recipe on its own data."""

from __future__ import annotations

import contextlib
import tempfile
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import torch
from torch import nn

from jorge_tune.errors import InputError, TrainingError, shortened
from jorge_tune.measure.diagnosis import Diagnosis, QuadraticStudy, Trace
from jorge_tune.measure.quadratic import POWERS, study_quadratic
from jorge_tune.measure.watch import DEFAULT_CHOICE, Choice, Watch
from jorge_tune.optim import Jorge
from jorge_tune.recipe.bootstrap import bootstrap
from jorge_tune.recipe.schedule import total_steps
from jorge_tune.recipe.schema import SGD, AdamW, Recipe
from jorge_tune.recipe.schema import Jorge as JorgeSection
from jorge_tune.records import Outcome, Record, RunFolder, of_kind, read_records
from jorge_tune.training.build import build_model, build_optimizer, build_scheduler
from jorge_tune.training.environment import choose_device
from jorge_tune.training.journal import Journal, Progress, ProgressCallback
from jorge_tune.training.loop import Ending, Loop, Plan
from jorge_tune.training.precision import backends_for
from jorge_tune.training.signals import StopRequest
from jorge_tune.training.stepping import build_stepper
from jorge_tune.training.tasks import Task, open_task


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How a diagnosis is made: `steps` of training, a reading at the first, every `every`-th and the last of them.

    `refreshes` is the length of the convex quadratic; 0 leaves it out.
    """

    steps: int = 200
    every: int = 10
    refreshes: int = 300
    choice: Choice = DEFAULT_CHOICE
    device: str = "auto"
    download: bool = False

    def measures(self, step: int) -> bool:
        """Whether a step (from 1) is read."""
        return step % self.every == 0 or step in (1, self.steps)


@dataclass(frozen=True)
class WatchedRun:
    """A run that was watched: how it ended, its records, and the model and optimizer as it left them."""

    ending: Ending
    planned: int  # steps: those asked for, or fewer where the recipe has fewer
    records: list[Record]
    model: nn.Module
    optimizer: Jorge
    watch: Watch


DEFAULT_SETTINGS: Final = Settings()


def as_jorge(recipe: Recipe) -> tuple[Recipe, list[str]]:
    """The Jorge recipe to diagnose, and what was done to get it.

    Raises:
        InputError: the recipe trains with neither Jorge nor an optimizer that Jorge can be bootstrapped from.
    """
    if isinstance(recipe.optimizer, JorgeSection):
        return recipe, []
    if isinstance(recipe.optimizer, (SGD, AdamW)):
        made = bootstrap(recipe).recipe
        what = recipe.optimizer.name
        return made, [f"the recipe trains with {what}: what was diagnosed is the Jorge recipe bootstrapped from it"]
    raise InputError(
        f"optimizer.name: must be jorge, or sgd or adamw to bootstrap from, got {recipe.optimizer.name!r}: "
        "what is diagnosed is Jorge's approximate root. Write torch's own SGD or AdamW as `name: sgd` or `name: adamw`"
    )


def diagnose(
    recipe: Recipe,
    settings: Settings = DEFAULT_SETTINGS,
    *,
    progress: ProgressCallback | None = None,
    stop: StopRequest | None = None,
) -> Diagnosis:
    """Train a recipe for a while and set Jorge's direction against exact Shampoo's, Newton's and SGD's.

    Nothing is written; the run is bitwise the one that `train` makes of the same recipe. A diverged or interrupted
    run is an outcome, and holds what was read until then.

    Args:
        recipe: Of Jorge, or of SGD or AdamW: then the bootstrapped recipe is diagnosed.
        settings: How long, how often, which blocks.
        progress: Called at the start and after each step.
        stop: May ask the run to stop; Ctrl-C and SIGTERM do so in the main thread anyway.

    Raises:
        InputError: recipe, data, device or choice of blocks cannot be used.
        TrainingError: the run broke off.
    """
    recipe, notes = as_jorge(recipe)
    stop = stop or StopRequest()
    run = watched_run(recipe, settings, progress=progress, stop=stop)
    stopped = stop.reason is not None
    optimizer = recipe.optimizer
    assert isinstance(optimizer, JorgeSection)
    finished = run.ending.outcome == "interrupted" and not stopped
    outcome: Outcome = "finished" if finished else run.ending.outcome
    reason = "" if finished else run.ending.reason.split(";")[0]  # what follows tells of checkpoints
    studies, left_out = _studies(0 if stopped else settings.refreshes)
    if left_out:
        notes = [*notes, left_out]
        if finished:
            outcome, reason = "interrupted", "stopped by SIGINT in the convex quadratics, after the whole run"
    steps = list(of_kind(run.records, "step"))
    return Diagnosis(
        recipe=recipe.name,
        form=optimizer.form,
        seed=recipe.seed,
        device=str(next(run.model.parameters()).device),
        steps=len(steps),
        outcome=outcome,
        reason=reason,
        blocks=run.watch.results(),
        trace=_trace(steps),
        quadratics=studies,
        notes=tuple(notes + _notes(run, settings, len(steps))),
    )


def _studies(refreshes: int) -> tuple[tuple[QuadraticStudy, ...], str]:
    """The convex quadratics that were finished, none for 0 refreshes; and what Ctrl-C left out, if anything."""
    studies: list[QuadraticStudy] = []
    try:
        for power in POWERS if refreshes else ():
            studies.append(study_quadratic(refreshes, power))
    except KeyboardInterrupt:
        missing = len(POWERS) - len(studies)
        return tuple(studies), f"{missing} of {len(POWERS)} convex quadratics are left out: interrupted by Ctrl-C"
    return tuple(studies), ""


def watched_run(
    recipe: Recipe,
    settings: Settings,
    *,
    progress: ProgressCallback | None = None,
    stop: StopRequest | None = None,
) -> WatchedRun:
    """The first steps of a Jorge recipe's training, watched; no evaluation, no checkpoint, no folder left.

    Raises:
        InputError, TrainingError: as `diagnose`.
    """
    if settings.steps < 1 or settings.every < 1:
        raise InputError(f"steps and every must be 1 or more, got {settings.steps!r} and {settings.every!r}")
    device = choose_device(settings.device)
    with contextlib.ExitStack() as stack:
        stack.enter_context(torch.random.fork_rng(devices=[device] if device.type == "cuda" else []))
        stack.enter_context(backends_for(recipe.precision))
        model = build_model(recipe)
        build_optimizer(recipe.optimizer, model)  # faults of the recipe show before the data are read
        task = open_task(recipe, device, download=settings.download)
        stack.callback(task.close)
        model = model.to(device)
        task.check_model(model)
        optimizer = build_optimizer(recipe.optimizer, model)
        assert isinstance(optimizer, Jorge)
        scheduler = build_scheduler(recipe, optimizer, len(task.train))
        plan = _plan(recipe, task, settings)
        settings = replace(settings, steps=plan.stop_at)
        watch = stack.enter_context(Watch(optimizer, model.named_parameters(), settings.measures, settings.choice))
        folder = RunFolder(Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="jorge-tune-"))))
        journal = stack.enter_context(Journal(folder))
        stop = stack.enter_context(stop or StopRequest())
        told = _told(progress, plan.stop_at)
        torch.manual_seed(recipe.seed)
        stepper = build_stepper(recipe, optimizer, task.train)
        loop = Loop(task, model, optimizer, scheduler, plan, device, journal, _keep_nothing, stop, told, stepper)
        try:
            ending = loop.run()
        except (FloatingPointError, RuntimeError) as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise TrainingError(f"{recipe.name}: the run broke off after step {loop.moment.step}: {reason}") from error
        return WatchedRun(ending, plan.stop_at, read_records(folder.records), model, optimizer, watch)


def _plan(recipe: Recipe, task: Task, settings: Settings) -> Plan:
    """Short of the recipe's end by a step at least, so that the loop neither evaluates nor reads the test part."""
    stop_at = min(settings.steps, total_steps(recipe, len(task.train)))
    return Plan(
        total_steps=stop_at + 1,
        stop_at=stop_at,
        evaluate_every=stop_at + 1,
        log_every=1,
        precision=recipe.precision,
    )


def _keep_nothing(checkpoint: object) -> None:
    """A diagnosis leaves no checkpoint."""


def _told(progress: ProgressCallback | None, steps: int) -> ProgressCallback | None:
    """`progress` with the diagnosis's own length."""
    if progress is None:
        return None

    def tell(moment: Progress) -> None:
        progress(replace(moment, total_steps=steps))

    return tell


def _trace(steps: list[Record]) -> Trace:
    return Trace(
        tuple(record["step"] for record in steps),
        tuple(record["loss"] for record in steps),
        tuple(record["lr"][0] for record in steps),
        tuple(record["graft_ratio"] for record in steps),
    )


def _notes(run: WatchedRun, settings: Settings, steps: int) -> list[str]:
    """What was left out and what could not be measured."""
    notes = []
    if run.planned < settings.steps:
        notes.append(f"{settings.steps} steps were asked for, but the recipe's training has only {run.planned}")
    if run.watch.left_out:
        notes.append(f"left out: {shortened(run.watch.left_out)}")
    if run.watch.steps < steps:
        notes.append(f"the loss scaler left out {steps - run.watch.steps} optimizer steps")
    missing = Counter(
        (block.name, reading.missing) for block in run.watch.results() for reading in block.readings if reading.missing
    )
    for (name, why), count in missing.items():
        notes.append(f"{name}: {count} of {len(run.watch.results()[0].readings)} readings are missing: {why}")
    return notes
