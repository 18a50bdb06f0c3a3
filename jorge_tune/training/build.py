"""From a recipe to a model, an optimizer and what sets its learning rate, for `train` and for anyone's own loop."""

from __future__ import annotations

import dataclasses
import difflib
import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from jorge_tune.errors import InputError, first_line
from jorge_tune.optim import (
    DecoupledSGD,
    GeN,
    Jorge,
    KroneckerOptimizer,
    Muon,
    Shampoo,
    SketchyAdaGrad,
    SketchyShampoo,
    param_groups,
)
from jorge_tune.recipe import schema
from jorge_tune.recipe.checks import check_has_model, check_trainable
from jorge_tune.recipe.recipe_files import read_recipe
from jorge_tune.recipe.schedule import lr_factor
from jorge_tune.recipe.user_imports import load_object, user_code
from jorge_tune.training.factories import call_factory
from jorge_tune.training.models import OWN_MODELS
from jorge_tune.training.python_task import check_has_parameters, make_task

_OWN_FIELDS = ("name", "lr", "weight_decay", "no_decay", "groups", "args", "decoupled", "refresh_interval")


def build_model(recipe: schema.Recipe) -> nn.Module:
    """The recipe's model on the CPU. Its initial weights depend on the recipe's seed only.

    Of a python task it is the whole task that is made, its data included.

    Raises:
        InputError: a kind of task that cannot be trained, no model, an unknown one, or arguments it does not take.
    """
    check_trainable(recipe)
    if recipe.task is not None and recipe.task.kind == "python":
        return make_task(recipe, torch.device("cpu")).model
    check_has_model(recipe)
    if recipe.task is None or recipe.task.model is None:
        raise InputError(f"task.model: the recipe {recipe.name!r} names no model, so it cannot be trained")
    model = recipe.task.model
    if model.factory is not None:
        return _own_model(recipe, model.factory, model.args)
    assert model.name is not None, "checks.py asks for one of name and factory"
    factory = _model_factory(model.name)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        try:
            return factory(**model.args)
        except Exception as error:  # whatever a constructor raises, the arguments caused it
            raise InputError(
                f"task.model.args: {model.name} does not accept {dict(model.args)!r} ({first_line(error)})"
            ) from error


def _own_model(recipe: schema.Recipe, factory: str, args: Mapping[str, Any]) -> nn.Module:
    """The model that a factory of the user's own makes.

    Raises:
        InputError: it fails, or returns no module with parameters.
    """
    with user_code(recipe):
        model = call_factory(factory, args, "task.model", seed=recipe.seed)
    if not isinstance(model, nn.Module):
        raise InputError(f"task.model.factory: {factory} must return a torch module, got {type(model).__name__}")
    check_has_parameters(model, f"task.model.factory: {factory}")
    return model


def build_optimizer(section: schema.Optimizer, model: nn.Module) -> torch.optim.Optimizer:
    """The optimizer that a recipe's section describes, over the model's parameters.

    Raises:
        InputError: `refresh_interval: auto`, an unknown class, or arguments it does not take.
    """
    factory, arguments = _optimizer_factory(section)
    try:
        groups = param_groups(
            model,
            lr=section.lr,
            weight_decay=section.weight_decay,
            no_decay=section.no_decay,
            groups=section.groups,
        )
        if not (isinstance(factory, type) and issubclass(factory, KroneckerOptimizer)):
            for group in groups:
                del group["precondition"]  # only our own optimizers read it
        optimizer = factory(groups, lr=section.lr, **arguments)
    except (TypeError, ValueError) as error:
        raise InputError(f"optimizer: {section.name}: {error}") from error
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise InputError(f"optimizer.name: {section.name!r} is not a torch optimizer")
    return optimizer


def build_scheduler(recipe: schema.Recipe, optimizer: torch.optim.Optimizer, steps_per_epoch: int) -> LambdaLR:
    """The recipe's schedule, or the base of a `gen` schedule, as a torch scheduler: one step per optimizer step."""
    return LambdaLR(optimizer, lr_factor(recipe, steps_per_epoch))


def build_gen(recipe: schema.Recipe, optimizer: torch.optim.Optimizer) -> GeN | None:
    """GeN around the optimizer where the recipe's schedule is `gen`; step it instead of the optimizer. Else None.

    Its closure decides on which batches it reads the loss (`gen_stepper.build_stepper` follows the recipe in that too).
    """
    schedule = recipe.schedule
    if not isinstance(schedule, schema.Gen):
        return None
    return GeN(
        optimizer,
        interval=schedule.interval,
        smoothing=schedule.smoothing,
        points=5 if schedule.points == 5 else 3,
        initial_lr=schedule.initial_lr,
    )


def optimizer_from_recipe(path: str | Path, model: nn.Module) -> torch.optim.Optimizer:
    """The recipe's optimizer over your own model's parameters.

    Args:
        path: The recipe file; it needs no task.
        model: Your model. Its parameters are grouped as the recipe's `no_decay` and `groups` say.

    Example:
        >>> optimizer = optimizer_from_recipe("jorge.yaml", model)  # doctest: +SKIP
        >>> scheduler = scheduler_from_recipe("jorge.yaml", optimizer, len(loader))  # doctest: +SKIP

    Raises:
        InputError: a missing or faulty file, an unresolved `refresh_interval: auto`, or wrong arguments.
    """
    recipe = read_recipe(path)
    with user_code(recipe):
        return build_optimizer(recipe.optimizer, model)


def gen_from_recipe(path: str | Path, optimizer: torch.optim.Optimizer) -> GeN:
    """GeN around `optimizer`, as the recipe's `gen` schedule asks for; step it instead of the optimizer.

    Your closure decides on which batches the loss is read, so the recipe's `earlier_batches` has no effect here.

    Args:
        path: The recipe file; its schedule must be `gen`.
        optimizer: The optimizer to wrap, usually from `optimizer_from_recipe`.

    Example:
        >>> gen = gen_from_recipe("gen.yaml", optimizer)  # doctest: +SKIP
        >>> scheduler = scheduler_from_recipe("gen.yaml", gen, len(loader))  # doctest: +SKIP
        >>> gen.step(lambda: loss_of(batch), loss)  # doctest: +SKIP

    Raises:
        InputError: a missing or faulty file, or another schedule.
    """
    recipe = read_recipe(path)
    gen = build_gen(recipe, optimizer)
    if gen is None:
        raise InputError(f"schedule.name: must be gen, got {recipe.schedule.name!r}: step the optimizer itself")
    return gen


def scheduler_from_recipe(path: str | Path, optimizer: torch.optim.Optimizer | GeN, steps_per_epoch: int) -> LambdaLR:
    """The recipe's schedule for `optimizer`; call its `step` once after each optimizer step.

    Args:
        path: The recipe file.
        optimizer: Usually from `optimizer_from_recipe`; for a `gen` schedule, from `gen_from_recipe`.
        steps_per_epoch: Optimizer steps in one epoch of your loop, at least 1.

    Raises:
        InputError: a missing or faulty file, or a `gen` schedule for an optimizer that is not wrapped.
    """
    recipe = read_recipe(path)
    if isinstance(recipe.schedule, schema.Gen) and not isinstance(optimizer, GeN):
        raise InputError(
            "schedule.name: 'gen' wraps the optimizer: give `gen_from_recipe(path, optimizer)` here, and step that"
        )
    return build_scheduler(recipe, optimizer.optimizer if isinstance(optimizer, GeN) else optimizer, steps_per_epoch)


def _model_factory(name: str) -> Callable[..., nn.Module]:
    if name in OWN_MODELS:
        return OWN_MODELS[name]
    from torchvision import models

    known = models.list_models(module=models)
    if name not in known:
        near = difflib.get_close_matches(name, [*OWN_MODELS, *known], n=3)
        hint = f"did you mean {' or '.join(map(repr, near))}?" if near else "no known name is similar."
        raise InputError(
            f"task.model.name: unknown model {name!r}; {hint} "
            f"Known are our own ({', '.join(OWN_MODELS)}) and torchvision's classification models"
        )
    builder: Callable[..., nn.Module] = models.get_model_builder(name)
    fixed: dict[str, Any] = {"weights": None}
    if "aux_logits" in inspect.signature(builder).parameters or name in ("googlenet", "inception_v3"):
        fixed |= {"aux_logits": False, "init_weights": True}  # one output, also while training
    return lambda **arguments: builder(**(fixed | arguments))


def _optimizer_factory(section: schema.Optimizer) -> tuple[Callable[..., Any], dict[str, Any]]:
    """The class and its arguments besides the groups and lr."""
    match section:
        case schema.SGDSection(decoupled=True):
            return DecoupledSGD, _own_arguments(section)
        case schema.SGDSection():
            return torch.optim.SGD, _own_arguments(section)
        case schema.AdamWSection():
            return torch.optim.AdamW, _own_arguments(section)
        case schema.JorgeSection():
            return Jorge, _kronecker_arguments(section)
        case schema.ShampooSection():
            return Shampoo, _kronecker_arguments(section)
        case schema.SketchyShampooSection():
            return SketchyShampoo, _kronecker_arguments(section)
        case schema.MuonSection():
            return Muon, _own_arguments(section)
        case schema.SketchyAdaGradSection():
            return SketchyAdaGrad, _own_arguments(section)
        case schema.CustomOptimizerSection():
            return _imported(section.name), dict(section.args)


def _own_arguments(section: schema.OptimizerFields) -> dict[str, Any]:
    return {
        field.name: getattr(section, field.name)
        for field in dataclasses.fields(section)
        if field.name not in _OWN_FIELDS
    }


def _kronecker_arguments(section: schema.KroneckerFields) -> dict[str, Any]:
    """All fields; under a preset only those that differ from the defaults, since a given value overrides the preset."""
    arguments = _own_arguments(section)
    if isinstance(section, schema.JorgeSection) and section.preset is not None:
        plain = _own_arguments(schema.JorgeSection(lr=section.lr))
        arguments = {key: value for key, value in arguments.items() if value != plain[key]}
    if section.refresh_interval == "auto":
        raise InputError(
            "optimizer.refresh_interval: 'auto' must be measured first: run "
            "`jorge-tune calibrate-freq RECIPE --write`, or give a number"
        )
    if section.refresh_interval is not None:
        arguments["refresh_interval"] = section.refresh_interval
    return arguments


def _imported(name: str) -> Callable[..., Any]:
    """The class behind `module:Class`."""
    target = load_object(name, "optimizer.name")
    if not callable(target):
        raise InputError(f"optimizer.name: {name!r} is not a class")
    factory: Callable[..., Any] = target
    return factory
