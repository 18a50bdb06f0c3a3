"""Rules that span several fields: faults, which refuse a recipe, and warnings, which do not."""

from __future__ import annotations

from collections.abc import Iterator

from jorge_tune.recipe.schema import (
    SGD,
    Cosine,
    Gen,
    KroneckerFields,
    PlainSchedule,
    Recipe,
    ScheduleFields,
    Step,
    Task,
    Warmup,
)

Finding = tuple[str, str]  # dotted path, what
_WITH_MODEL_AND_DATA = ("classification", "segmentation", "detection", "language")


def faults_of(recipe: Recipe) -> Iterator[Finding]:
    """What makes the recipe meaningless although each field is well formed."""
    if (recipe.epochs is None) == (recipe.steps is None):
        given = "neither" if recipe.epochs is None else "both"
        yield ("epochs" if given == "both" else "", f"exactly one of epochs and steps must be given, got {given}")
    if recipe.task is not None:
        yield from _task_faults(recipe.task)
    yield from _optimizer_faults(recipe)
    if isinstance(recipe.schedule, Gen):
        yield from _schedule_faults(recipe, recipe.schedule.base, "schedule.base")
    else:
        yield from _schedule_faults(recipe, recipe.schedule, "schedule")


def warnings_of(recipe: Recipe) -> Iterator[Finding]:
    """What is allowed and most likely not meant."""
    path = "schedule.base" if isinstance(recipe.schedule, Gen) else "schedule"
    schedule = base_schedule(recipe)
    if schedule.warmup is not None:
        yield from _endless_warmup(recipe, schedule.warmup, path)
    if isinstance(schedule, Step):
        yield from _idle_milestones(recipe, schedule, path)


def _endless_warmup(recipe: Recipe, warmup: Warmup, path: str) -> Iterator[Finding]:
    for unit in ("epochs", "steps"):
        length, last = getattr(warmup, unit), getattr(recipe, unit)
        if length is not None and last is not None and length >= last:
            yield f"{path}.warmup", f"lasts {length:g} {unit}, as long as the training or longer"


def _idle_milestones(recipe: Recipe, schedule: Step, path: str) -> Iterator[Finding]:
    in_steps = (schedule.unit or ("step" if recipe.steps else "epoch")) == "step"
    last = recipe.steps if in_steps else recipe.epochs
    beyond = [milestone for milestone in schedule.milestones if last is not None and milestone >= last]
    unit = "step" if in_steps else "epoch"
    if beyond:
        listed = ", ".join(str(milestone) for milestone in beyond)
        yield (f"{path}.milestones", f"{listed} never reached: training ends after {unit} {last}")
    warmup = schedule.warmup
    length = None if warmup is None else (warmup.steps if in_steps else warmup.epochs)
    early = [milestone for milestone in schedule.milestones if length is not None and milestone < length]
    if early:
        listed = ", ".join(str(milestone) for milestone in early)
        yield (f"{path}.milestones", f"{listed} inside the warm-up of {length:g} {unit}s: the full rate is never used")


def base_schedule(recipe: Recipe) -> PlainSchedule:
    """The schedule, or what a gen schedule builds on."""
    return recipe.schedule.base if isinstance(recipe.schedule, Gen) else recipe.schedule


def _task_faults(task: Task) -> Iterator[Finding]:
    if task.kind in _WITH_MODEL_AND_DATA:
        for key in ("model", "data"):
            if getattr(task, key) is None:
                yield "task", f"'{key}' is missing: a {task.kind} task needs it"
    if task.kind == "python" and task.factory is None:
        yield "task", "'factory' is missing: a python task names one as module:function"
    if task.kind == "command" and not task.command:
        yield "task", "'command' is missing: a command task lists the program and its arguments"
    if task.kind != "python" and task.factory is not None:
        yield "task.factory", f"belongs to kind python, not to {task.kind}"
    if task.kind != "command" and task.command:
        yield "task.command", f"belongs to kind command, not to {task.kind}"


def _optimizer_faults(recipe: Recipe) -> Iterator[Finding]:
    optimizer = recipe.optimizer
    if isinstance(optimizer, (SGD, KroneckerFields)) and optimizer.nesterov:
        if optimizer.momentum == 0:
            yield "optimizer.nesterov", "needs momentum greater than 0"
        if optimizer.dampening != 0:
            yield "optimizer.nesterov", f"needs dampening 0, got {optimizer.dampening:g}"


def _schedule_faults(recipe: Recipe, schedule: PlainSchedule, path: str) -> Iterator[Finding]:
    if schedule.unit == "epoch" and recipe.steps is not None:
        yield f"{path}.unit", "must be step where the recipe's length is given in steps"
    yield from _warmup_faults(schedule, recipe, path)
    if isinstance(schedule, Step) and bool(schedule.milestones) == (schedule.step_size is not None):
        given = "both" if schedule.milestones else "neither"
        yield path, f"a step schedule needs exactly one of milestones and step_size, got {given}"
    if isinstance(schedule, Cosine) and schedule.min_lr > recipe.optimizer.lr:
        yield f"{path}.min_lr", f"must be at most optimizer.lr ({recipe.optimizer.lr:g}), got {schedule.min_lr:g}"


def _warmup_faults(schedule: ScheduleFields, recipe: Recipe, path: str) -> Iterator[Finding]:
    warmup = schedule.warmup
    if warmup is None:
        return
    if (warmup.epochs is None) == (warmup.steps is None):
        given = "neither" if warmup.epochs is None else "both"
        yield f"{path}.warmup", f"exactly one of epochs and steps must be given, got {given}"
