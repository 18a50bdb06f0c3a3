"""One run of any kind of task: a model that this process trains, or a command that it starts without torch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from jorge_tune.recipe.schema import Recipe
from jorge_tune.runs.run_journal import ProgressCallback
from jorge_tune.runs.run_result import RunResult
from jorge_tune.runs.stop_request import StopRequest


def is_command(recipe: Recipe) -> bool:
    """Whether the recipe's run is a process of its own, and needs no torch here."""
    return recipe.task is not None and recipe.task.kind == "command"


def train_any(
    recipe: Recipe,
    out: Path,
    *,
    device: str = "auto",
    resume: bool = False,
    max_steps: int | None = None,
    log_every: int = 50,
    threads: int | None = None,
    progress: ProgressCallback | None = None,
    download: bool = False,
    stop: StopRequest | None = None,
    loggers: Sequence[str] = (),
) -> RunResult:
    """Train a recipe of any kind, as `training.train` and `run_command` do.

    Args:
        recipe: what to train.
        out: the run directory.
        device: "auto", "cpu", "cuda", "cuda:1", ...
        resume: continue the run that the directory holds.
        max_steps: stop after that many steps in all.
        log_every: steps between two readings; a command decides for itself.
        threads: CPU threads of a command; this process's own are the caller's to set.
        progress: called as the run goes on.
        download: fetch a data set of torchvision if it is not there; a command decides for itself.
        stop: may ask the run to stop from elsewhere.
        loggers: where to copy the records to: `csv`, `tensorboard`, `wandb`.

    Raises:
        InputError: the recipe cannot be trained, or the directory cannot be used; nothing was written.
        TrainingError: the run broke off.
    """
    if is_command(recipe):
        from jorge_tune.command.run_command import run_command

        return run_command(
            recipe,
            out,
            device=device,
            resume=resume,
            max_steps=max_steps,
            threads=threads,
            progress=progress,
            stop=stop,
            loggers=loggers,
        )
    from jorge_tune.training.runner import train

    return train(
        recipe,
        out,
        device=device,
        resume=resume,
        max_steps=max_steps,
        log_every=log_every,
        progress=progress,
        download=download,
        stop=stop,
        loggers=loggers,
    )
