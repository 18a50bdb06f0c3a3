"""The learning rate as a pure factor of the recipe's rate.

t   time in the schedule's unit, from 0; within an epoch constant where the unit is epoch
W   length of the warm-up in that unit
T   length of the training in that unit

t < W: the warm-up, from `start_factor` to 1. After it cosine, polynomial and linear run over p = (t - W) / (T - W);
step and exponential count from 0, so milestones are absolute, warm-up included.

The warm-up has a clock of its own. It advances at every step, whatever the unit: at step s of S warm-up steps (W epochs
are W times an epoch's steps) the factor is start + (1 - start) s/S. With `per: epoch` s is the epoch's first step, so
the factor stands still within an epoch.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable

from jorge_tune.recipe.checks import base_schedule
from jorge_tune.recipe.schema import Cosine, Exponential, Linear, PlainSchedule, Polynomial, Recipe, Step, Unit, Warmup


def total_steps(recipe: Recipe, steps_per_epoch: int) -> int:
    """Optimizer steps from the first to the last."""
    return recipe.steps if recipe.steps is not None else (recipe.epochs or 0) * steps_per_epoch


def schedule_unit(recipe: Recipe) -> Unit:
    """The unit of the schedule's time: as written, else step for a recipe in steps and epoch for one in epochs."""
    return base_schedule(recipe).unit or ("step" if recipe.steps is not None else "epoch")


def lr_factor(recipe: Recipe, steps_per_epoch: int) -> Callable[[int], float]:
    """f(step) for optimizer steps counted from 0; the rate of a step is f times the group's own.

    A `gen` schedule gives its base's factor, on top of which GeN scales.

    Args:
        recipe: what to train.
        steps_per_epoch: optimizer steps in one epoch, at least 1.
    """
    if steps_per_epoch < 1:
        raise ValueError(f"steps_per_epoch must be 1 or more, got {steps_per_epoch!r}")
    schedule = base_schedule(recipe)
    steps_per_unit = steps_per_epoch if schedule_unit(recipe) == "epoch" else 1
    length = total_steps(recipe, steps_per_epoch) / steps_per_unit

    warmup = schedule.warmup
    if warmup is None:
        after = _after_warmup(schedule, 0.0, length, recipe.optimizer.lr)
        return lambda step: after(step // steps_per_unit)

    warming = warmup_steps(warmup, steps_per_epoch)
    stride = steps_per_epoch if warmup.per == "epoch" else 1
    after = _after_warmup(schedule, warming / steps_per_unit, length, recipe.optimizer.lr)

    def factor(step: int) -> float:
        reached = step - step % stride
        return warmup_factor(warmup, reached / warming) if reached < warming else after(step // steps_per_unit)

    return factor


def warmup_steps(warmup: Warmup, steps_per_epoch: int) -> float:
    """The warm-up's length in optimizer steps."""
    return warmup.steps if warmup.steps is not None else (warmup.epochs or 0.0) * steps_per_epoch


def warmup_factor(warmup: Warmup, progress: float) -> float:
    """The factor at `progress` in [0, 1) through the warm-up."""
    if warmup.kind == "constant":
        return warmup.start_factor
    return warmup.start_factor + (1 - warmup.start_factor) * progress


def _after_warmup(schedule: PlainSchedule, W: float, T: float, lr: float) -> Callable[[int], float]:
    """The schedule's own factor of t."""

    def progress(t: int) -> float:
        """(t - W) / (T - W), held at 0 in the rest of an epoch in which the warm-up ends."""
        return min(1.0, max(0.0, (t - W) / (T - W))) if T > W else 1.0

    match schedule:
        case Step(milestones=milestones, step_size=None, gamma=gamma):
            return lambda t: gamma ** bisect_right(milestones, t)
        case Step(step_size=int(size), gamma=gamma):
            return lambda t: gamma ** (t // size)
        case Exponential(gamma=gamma):
            return lambda t: gamma**t
        case Cosine(min_lr=min_lr):
            low = min_lr / lr
            return lambda t: low + (1 - low) * (1 + math.cos(math.pi * progress(t))) / 2
        case Polynomial(power=power):
            return lambda t: (1 - progress(t)) ** power
        case Linear():
            return lambda t: 1 - progress(t)
        case _:
            return lambda t: 1.0


def evaluate_every(recipe: Recipe) -> int:
    """Epochs between two evaluations; 1 where the recipe does not say it."""
    task = recipe.task
    every = None if task is None else task.data.evaluate_every if task.data is not None else task.evaluate_every
    return every or 1
