"""Training one run of one recipe: data, models, loop, checkpoints, records."""

from jorge_tune.runs.run_journal import RunProgress
from jorge_tune.runs.run_result import RunResult
from jorge_tune.training.build import (
    build_gen,
    build_model,
    build_optimizer,
    build_scheduler,
    gen_from_recipe,
    optimizer_from_recipe,
    scheduler_from_recipe,
)
from jorge_tune.training.runner import train

__all__ = [
    "RunProgress",
    "RunResult",
    "build_gen",
    "build_model",
    "build_optimizer",
    "build_scheduler",
    "gen_from_recipe",
    "optimizer_from_recipe",
    "scheduler_from_recipe",
    "train",
]
