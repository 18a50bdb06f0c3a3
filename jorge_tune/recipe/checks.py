"""Rules that span several fields: faults, which refuse a recipe, and warnings, which do not."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator
from typing import Final

from jorge_tune.errors import Finding, InputError
from jorge_tune.recipe.metrics import metric_fault, target_fault
from jorge_tune.recipe.placeholders import passes_recipe_on, placeholder_faults
from jorge_tune.recipe.schema import (
    AdamWSection,
    Cosine,
    DataSection,
    Gen,
    GraftedFields,
    GroupSection,
    KroneckerFields,
    MetricsSection,
    ModelSection,
    PlainSchedule,
    Recipe,
    ScheduleFields,
    SGDSection,
    SketchyAdaGradSection,
    Step,
    TaskKind,
    TaskSection,
    Warmup,
)
from jorge_tune.recipe.unread import unread_fields
from jorge_tune.untrusted import shown

_WITH_MODEL_AND_DATA = ("classification", "segmentation", "detection", "language")
TRAINABLE_KINDS: Final[tuple[TaskKind, ...]] = ("classification", "python", "command")
_OF_COMMANDS = ("metrics", "grace_seconds", "silence_seconds")


def faults_of(recipe: Recipe) -> Iterator[Finding]:
    """Faults between fields, in a recipe whose fields are all well formed."""
    if (recipe.epochs is None) == (recipe.steps is None):
        given = "neither" if recipe.epochs is None else "both"
        yield ("epochs" if given == "both" else "", f"exactly one of epochs and steps must be given, got {given}")
    if recipe.task is not None:
        yield from _task_faults(recipe.task)
        yield from placeholder_faults(recipe)
    if recipe.target is not None:
        yield from _target_faults(recipe)
    yield from _optimizer_faults(recipe)
    if isinstance(recipe.schedule, Gen):
        yield from _schedule_faults(recipe, recipe.schedule.base, "schedule.base")
    else:
        yield from _schedule_faults(recipe, recipe.schedule, "schedule")


def warnings_of(recipe: Recipe) -> Iterator[Finding]:
    """What is allowed but most likely a mistake."""
    path = "schedule.base" if isinstance(recipe.schedule, Gen) else "schedule"
    schedule = base_schedule(recipe)
    if schedule.warmup is not None:
        yield from _endless_warmup(recipe, schedule.warmup, path)
        yield from _flat_warmup(schedule.warmup, path)
    if isinstance(schedule, Step):
        yield from _idle_milestones(recipe, schedule, path)
    yield from _overwhelming_decay(recipe)
    yield from _unread(recipe)
    yield from _unread_recipe(recipe)


def untrainable_because(recipe: Recipe) -> Finding | None:
    """Why this version cannot train the recipe, by the kind of its task; None where it can, or where it has no task.

    Such a recipe is still valid: the bootstrap rules apply to it.
    """
    if recipe.task is None or recipe.task.kind in TRAINABLE_KINDS:
        return None
    kinds = " and ".join(filter(None, (", ".join(TRAINABLE_KINDS[:-1]), TRAINABLE_KINDS[-1])))
    way_out = "your own loop can train it with jorge_tune.optimizer_from_recipe"
    if isinstance(recipe.optimizer, (SGDSection, AdamWSection)):
        way_out = f"`bootstrap` accepts the recipe, and {way_out}"
    return "task.kind", f"this version cannot train a {recipe.task.kind} task, only {kinds}; {way_out}"


def check_trainable(recipe: Recipe) -> None:
    """Refuse a recipe whose kind of task this version cannot train.

    Raises:
        InputError: naming the kind.
    """
    if (untrainable := untrainable_because(recipe)) is not None:
        raise InputError(f"recipe {recipe.name}: {untrainable[0]}: {untrainable[1]}")


def has_model(recipe: Recipe) -> bool:
    """Whether a model can be made of the recipe alone: it names one, or a factory that brings one."""
    task = recipe.task
    return task is not None and (task.model is not None or task.kind == "python")


def check_has_model(recipe: Recipe) -> None:
    """Refuse a command, for all that looks into the model: plan, probe, diagnose, calibrate-freq.

    Raises:
        InputError: naming the kind of task that has one.
    """
    if recipe.task is not None and recipe.task.kind == "command":
        raise InputError(
            f"recipe {recipe.name}: task.kind: this needs a model, and a command keeps its own to itself; "
            "write the task as `{kind: python, factory: module:function}` for it"
        )


def unresolved_because(recipe: Recipe) -> Finding | None:
    """Why a command cannot run yet: `refresh_interval: auto` is measured where the model is. None where it can."""
    is_auto = isinstance(recipe.optimizer, KroneckerFields) and recipe.optimizer.refresh_interval == "auto"
    if recipe.task is None or recipe.task.kind != "command" or not is_auto:
        return None
    return (
        "optimizer.refresh_interval",
        "'auto' cannot be measured for a command, whose model is in the script; measure it there with "
        "jorge_tune.calibrate, or give a number",
    )


def check_resolved(recipe: Recipe) -> None:
    """Refuse a command whose refresh interval is still `auto`.

    Raises:
        InputError: with the ways out.
    """
    if (unresolved := unresolved_because(recipe)) is not None:
        raise InputError(f"recipe {recipe.name}: {unresolved[0]}: {unresolved[1]}")


def _endless_warmup(recipe: Recipe, warmup: Warmup, path: str) -> Iterator[Finding]:
    for unit in ("epochs", "steps"):
        length, last = getattr(warmup, unit), getattr(recipe, unit)
        if length is not None and last is not None and length >= last:
            yield f"{path}.warmup", f"lasts {length:g} {unit}, as long as the training or longer"


def _flat_warmup(warmup: Warmup, path: str) -> Iterator[Finding]:
    """A warm-up that never rises, or that starts at 0 and trains nothing for an epoch or for its whole length."""
    stands_still = warmup.kind == "linear" and warmup.per == "epoch"
    if stands_still and warmup.epochs is not None and warmup.epochs <= 1:
        yield (
            f"{path}.warmup.per",
            f"a warm-up of {warmup.epochs:g} epochs never rises with per: epoch, it stays at start_factor "
            f"({warmup.start_factor:g}) for an epoch; leave per out",
        )
    if warmup.start_factor == 0 and (stands_still or warmup.kind == "constant"):
        lasts = "the first epoch" if stands_still else "the warm-up"
        way_out = "leave per out" if stands_still else "use kind linear"
        yield f"{path}.warmup.start_factor", f"0 during {lasts} trains nothing; use more than 0, or {way_out}"


def _overwhelming_decay(recipe: Recipe) -> Iterator[Finding]:
    """Decoupled decay takes w to (1 - lr weight_decay) w; the full rate counts, which is where a warm-up ends."""
    optimizer = recipe.optimizer
    is_decoupled = isinstance(optimizer, (AdamWSection, GraftedFields, SketchyAdaGradSection)) or (
        isinstance(optimizer, SGDSection) and optimizer.decoupled
    )
    is_searched = isinstance(recipe.schedule, Gen) and recipe.schedule.initial_lr == "search"
    if not is_decoupled or is_searched:
        return
    whole = GroupSection(pattern="")
    places = [("optimizer.weight_decay", whole)]
    places += [(f"optimizer.groups[{index}]", rule) for index, rule in enumerate(optimizer.groups)]
    for path, rule in places:
        lr, decay = optimizer.lr * rule.lr_scale, optimizer.weight_decay * rule.weight_decay_scale
        product = lr * decay
        same_as_all = rule is not whole and rule.lr_scale == rule.weight_decay_scale == 1
        if product < 1 or same_as_all:
            continue
        effect = "sets the weights to 0" if product == 1 else "flips the sign of every weight"
        effect += " and makes it grow" if product > 2 else ""
        yield (
            path,
            f"lr x weight_decay is {lr:g} x {decay:g} = {product:g}, 1 or more: the decay alone takes w to "
            f"(1 - {product:g}) w at each step, which {effect}; lower the decay or the rate, to a product far below 1",
        )


def _unread(recipe: Recipe) -> Iterator[Finding]:
    """A hyperparameter that the recipe sets and that has no effect."""
    defaults = {field.name: field.default for field in dataclasses.fields(recipe.optimizer)}
    for entry in unread_fields(recipe):
        name = entry.path.removeprefix("optimizer.")
        if entry.is_warned and getattr(recipe.optimizer, name) != defaults[name]:
            yield entry.path, f"has no effect {entry.why}; leave it out"


def _unread_recipe(recipe: Recipe) -> Iterator[Finding]:
    """A command to which nothing hands the optimizer that the recipe asks for."""
    task = recipe.task
    if task is None or task.kind != "command" or isinstance(recipe.optimizer, (SGDSection, AdamWSection)):
        return
    if not passes_recipe_on(task):
        yield (
            "task.command",
            f"does not pass {{recipe}} on: unless the script reads JORGE_TUNE_RECIPE, it trains with an optimizer of "
            f"its own, and not with {recipe.optimizer.name}",
        )


def _idle_milestones(recipe: Recipe, schedule: Step, path: str) -> Iterator[Finding]:
    in_steps = (schedule.unit or ("step" if recipe.steps else "epoch")) == "step"
    last = recipe.steps if in_steps else recipe.epochs
    beyond = [milestone for milestone in schedule.milestones if last is not None and milestone >= last]
    unit = "step" if in_steps else "epoch"
    if beyond:
        listed = ", ".join(str(milestone) for milestone in beyond)
        yield (f"{path}.milestones", f"not reached: {listed}; training ends after {unit} {last}")
    warmup = schedule.warmup
    length = None if warmup is None else (warmup.steps if in_steps else warmup.epochs)
    early = [milestone for milestone in schedule.milestones if length is not None and milestone < length]
    if early:
        listed = ", ".join(str(milestone) for milestone in early)
        yield (f"{path}.milestones", f"inside the warm-up of {length:g} {unit}s: {listed}; the full rate is never used")


def base_schedule(recipe: Recipe) -> PlainSchedule:
    """The schedule, or what a gen schedule builds on."""
    return recipe.schedule.base if isinstance(recipe.schedule, Gen) else recipe.schedule


def _task_faults(task: TaskSection) -> Iterator[Finding]:
    if task.kind in _WITH_MODEL_AND_DATA:
        for key in ("model", "data"):
            if getattr(task, key) is None:
                yield "task", f"'{key}' is missing: a {task.kind} task needs it"
        yield from _source_faults("task.model", task.model)
        yield from _source_faults("task.data", task.data)
    yield from _python_faults(task)
    if task.kind == "command" and not task.command:
        yield "task", "'command' is missing: a command task lists the program and its arguments"
    if task.kind != "command" and task.command:
        yield "task.command", f"belongs to kind command, not to {task.kind}"
    if task.kind == "command":
        yield from _command_faults(task)
        return
    for key in _OF_COMMANDS:
        if getattr(task, key) is not None:
            yield f"task.{key}", f"belongs to kind command, not to {task.kind}"


def _command_faults(task: TaskSection) -> Iterator[Finding]:
    """What a command has no use for, and settings of its log that do not go together."""
    for key in ("model", "data"):
        if getattr(task, key) is not None:
            yield f"task.{key}", f"belongs to other kinds: a command has its own {key}; leave it out"
    metrics = task.metrics
    if metrics is None:
        return
    patterns = patterns_of(metrics)
    if metrics.from_ == "stdout" and not patterns:
        yield "task.metrics", "'pattern' is missing: stdout is read by regular expressions with named groups"
    if metrics.from_ != "stdout" and patterns:
        yield "task.metrics.pattern", f"belongs to stdout, not to {metrics.from_}"
    for index, pattern in enumerate(patterns):
        if not re.compile(pattern).groupindex:
            where = "task.metrics.pattern" if isinstance(metrics.pattern, str) else f"task.metrics.pattern[{index}]"
            yield where, f"must have a named group, such as (?P<top1>[0-9.]+), got {shown(pattern)}"
    if metrics.from_ in ("report", "stdout") and metrics.path is not None:
        yield "task.metrics.path", f"belongs to log files; {metrics.from_} has none"
    if metrics.from_ == "report" and metrics.columns:
        yield "task.metrics.columns", "belongs to logs; jorge_tune.report names its values itself"
    columns = list(metrics.columns.values())
    for name in sorted({name for name in columns if columns.count(name) > 1 and name not in ("step", "epoch")}):
        yield "task.metrics.columns", f"the column {shown(name)} is named twice"


def patterns_of(metrics: MetricsSection) -> tuple[str, ...]:
    """The regular expressions for stdout, one or several."""
    return (metrics.pattern,) if isinstance(metrics.pattern, str) else metrics.pattern


_ELSEWHERE: Final = {
    ("classification", "factory"): "; a classification has task.model.factory and task.data.factory",
    ("classification", "args"): "; a classification has task.model.args and task.data.args",
    ("classification", "evaluate_every"): "; a classification has task.data.evaluate_every",
}


def _python_faults(task: TaskSection) -> Iterator[Finding]:
    """A python task makes its model and data itself; what belongs to it alone is nobody else's."""
    if task.kind == "python":
        if task.factory is None:
            yield "task", "'factory' is missing: a python task names one as module:function"
        for key in ("model", "data"):
            if getattr(task, key) is not None:
                yield f"task.{key}", f"belongs to kind classification: the factory of a python task makes its own {key}"
        return
    if task.higher_is_better and task.kind != "command":
        yield "task.higher_is_better", f"belongs to kinds python and command; the metrics of a {task.kind} are known"
    given = {"factory": task.factory, "args": task.args or None, "evaluate_every": task.evaluate_every}
    for key, value in given.items():
        if value is not None:
            yield f"task.{key}", f"belongs to kind python, not to {task.kind}{_ELSEWHERE.get((task.kind, key), '')}"


def _source_faults(path: str, section: ModelSection | DataSection | None) -> Iterator[Finding]:
    """A model or a data set is one of ours or the user's own."""
    if section is not None and (section.name is None) == (section.factory is None):
        given = "neither" if section.name is None else "both"
        yield path, f"exactly one of name and factory must be given, got {given}"


def _target_faults(recipe: Recipe) -> Iterator[Finding]:
    assert recipe.target is not None
    faults = {
        "target.metric": metric_fault(recipe, recipe.target.metric),
        "target.value": target_fault(recipe.target.metric, recipe.target.value, recipe),
    }
    for path, what in faults.items():
        if what is not None:
            yield path, what


def _optimizer_faults(recipe: Recipe) -> Iterator[Finding]:
    optimizer = recipe.optimizer
    if isinstance(optimizer, (SGDSection, GraftedFields)) and optimizer.nesterov:
        if isinstance(optimizer, GraftedFields) and optimizer.graft != "sgd":
            yield "optimizer.nesterov", f"needs graft sgd, got {optimizer.graft}"
            return
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
    if warmup.per == "epoch" and warmup.steps is not None:
        yield f"{path}.warmup.per", "must be step for a warm-up in steps; give its length in epochs, or leave per out"
