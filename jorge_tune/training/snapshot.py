"""A run's training set up next to the run: walked step by step and observed, without leaving anything behind."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn

from jorge_tune.errors import RunDirectoryError, TrainingError, first_line
from jorge_tune.recipe.recipe_files import recipe_of_run
from jorge_tune.recipe.schedule import total_steps
from jorge_tune.recipe.schema import Recipe
from jorge_tune.records import Record, RunDirectory, read_records
from jorge_tune.runs.run_journal import ProgressCallback, RunJournal, RunProgress
from jorge_tune.runs.run_result import RunEnding
from jorge_tune.runs.run_start import what_differs
from jorge_tune.runs.stop_request import StopRequest
from jorge_tune.training.build import build_scheduler
from jorge_tune.training.checkpoint import Checkpoint, load_checkpoint
from jorge_tune.training.device import backends_for, choose_device
from jorge_tune.training.gen_stepper import Stepper, build_stepper
from jorge_tune.training.loop import Loop, LoopPlan
from jorge_tune.training.runner import own_random_state, set_up_training
from jorge_tune.training.tasks import Task


@dataclass(frozen=True)
class Snapshot:
    """A recipe's training at its start, or at a run's last checkpoint. A stepper takes the optimizer's steps."""

    recipe: Recipe
    device: torch.device
    task: Task
    model: nn.Module
    optimizer: torch.optim.Optimizer
    stepper: Stepper | None
    checkpoint: Checkpoint | None

    @property
    def step(self) -> int:
        """Steps that are behind it."""
        return 0 if self.checkpoint is None else self.checkpoint.position.step

    @property
    def total_steps(self) -> int:
        """The length of the whole training."""
        return total_steps(self.recipe, len(self.task.train))

    def walk(
        self,
        stop_at: int,
        look: Callable[[torch.optim.Optimizer | Stepper], Stepper] | None = None,
        *,
        progress: ProgressCallback | None = None,
        stop: StopRequest | None = None,
    ) -> tuple[RunEnding, list[Record]]:
        """Train to `stop_at` steps in all, bitwise as the run itself would; no evaluation, no checkpoint, no directory.

        Args:
            stop_at: More than `step`, at most `total_steps`. May be asked for once.
            look: Wraps what takes the steps in something that looks on; None takes the steps as they are.
            progress: Called at the start and after each step.
            stop: May ask the walk to stop; Ctrl-C and SIGTERM do so in the main thread anyway.

        Raises:
            TrainingError: the training broke off.
        """
        scheduler = build_scheduler(self.recipe, self.optimizer, len(self.task.train))
        plan = LoopPlan(  # short of its end by a step, so that the loop neither evaluates nor reads the test part
            total_steps=stop_at + 1,
            stop_at=stop_at,
            evaluate_every=stop_at + 1,
            log_every=1,
            precision=self.recipe.precision,
        )
        with contextlib.ExitStack() as stack:
            run_directory = RunDirectory(Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="jorge-tune-"))))
            journal = stack.enter_context(RunJournal(run_directory))
            stop = stack.enter_context(stop or StopRequest())
            save: Callable[[object], None] = _keep_nothing
            stepper = self.stepper if look is None else look(self.stepper or self.optimizer)
            torch.manual_seed(self.recipe.seed)
            state = self.task, self.model, self.optimizer, scheduler
            loop = Loop(*state, plan, self.device, journal, save, stop, _with_length(progress, stop_at), stepper)
            try:
                if self.checkpoint is not None:
                    loop.restore(self.checkpoint)
                ending = loop.run()
            except (FloatingPointError, RuntimeError) as error:
                name, reason = self.recipe.name, first_line(error)
                raise TrainingError(
                    f"{name}: the training broke off after step {loop.moment.step}: {reason}"
                ) from error
            return ending, read_records(run_directory.records)


@contextmanager
def open_snapshot(
    recipe: Recipe, *, run: Path | None = None, device: str = "auto", download: bool = False
) -> Iterator[Snapshot]:
    """Set a training up; it has torch's random state and precision of its own, and only reads the run's directory.

    Args:
        recipe: What to train.
        run: A directory with a run of this recipe, whose checkpoint to start from; None: the recipe's start.
        device: "auto", "cpu", "cuda", "cuda:1", ...
        download: Fetch a data set of torchvision if it is not there.

    Raises:
        InputError: recipe, data or device cannot be used.
        RunDirectoryError: `run` holds another run, none, no checkpoint, or one that has ended.
    """
    checkpoint = None if run is None else _checkpoint_of(recipe, RunDirectory(run))
    chosen = choose_device(device)
    with (
        own_random_state(chosen),
        backends_for(recipe.precision),
        set_up_training(recipe, chosen, download=download) as (task, model, optimizer),
    ):
        stepper = build_stepper(recipe, optimizer, task.train)
        snapshot = Snapshot(recipe, chosen, task, model, optimizer, stepper, checkpoint)
        if snapshot.step >= snapshot.total_steps:
            raise RunDirectoryError(f"{run}: the run has ended after its {snapshot.step} steps: there is no step ahead")
        yield snapshot


def _checkpoint_of(recipe: Recipe, run_directory: RunDirectory) -> Checkpoint:
    differences = what_differs(recipe_of_run(run_directory), recipe)
    if differences:
        raise RunDirectoryError(
            f"{run_directory.root}: holds another run ({'; '.join(differences)}); give its own recipe and seed"
        )
    checkpoint = load_checkpoint(run_directory.checkpoint)
    if checkpoint is None:
        raise RunDirectoryError(
            f"{run_directory.root}: the run has no checkpoint yet; leave it out to start from the recipe"
        )
    return checkpoint


def _keep_nothing(checkpoint: object) -> None:
    """A snapshot leaves no checkpoint."""


def _with_length(progress: ProgressCallback | None, steps: int) -> ProgressCallback | None:
    """`progress` with the walk's own length."""
    if progress is None:
        return None

    def report(moment: RunProgress) -> None:
        progress(replace(moment, total_steps=steps))

    return report
