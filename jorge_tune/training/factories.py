"""Calls of the user's own factories: with the arguments of the recipe, seeded, and their faults in words."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch

from jorge_tune.errors import InputError, JorgeTuneError, TrainingError
from jorge_tune.recipe.user_imports import load_object, where_raised
from jorge_tune.training.device import is_out_of_memory
from jorge_tune.training.random_stream import RandomStream


def call_factory(
    reference: str, args: Mapping[str, Any], path: str, *, seed: int, offered: Mapping[str, Any] | None = None
) -> Any:
    """What the factory behind `module:name` returns; call it inside `user_code`.

    Args:
        reference: `module:name`.
        args: the recipe's arguments.
        path: the section of the recipe, for messages: `task`, `task.model`, `task.data`.
        seed: of all random numbers that it draws; the caller's stay as they are.
        offered: what it gets too, where it has parameters of these names that `args` leaves open.

    Raises:
        InputError: it cannot be imported, is not callable, does not take the arguments, or raises.
    """
    factory = load_object(reference, f"{path}.factory")
    if not callable(factory):
        raise InputError(f"{path}.factory: {reference} must be a function or class, got {type(factory).__name__}")
    arguments = dict(args) | _wanted(factory, args, offered or {})
    _check_arguments(factory, reference, arguments, path)
    with torch.random.fork_rng(devices=[]), RandomStream(seed):
        torch.manual_seed(seed)
        with in_words(f"{path}.factory: {reference}", InputError):
            return factory(**arguments)


@contextmanager
def in_words(what: str, kind: type[JorgeTuneError] = TrainingError) -> Iterator[None]:
    """Say where in the user's code an exception comes from; those of this package and of full memory pass.

    Raises:
        JorgeTuneError: of `kind`, with one sentence.
    """
    try:
        yield
    except JorgeTuneError:
        raise
    except Exception as error:
        if is_out_of_memory(error):
            raise
        raise kind(f"{what} failed: {where_raised(error)}") from error


def _wanted(factory: Callable[..., Any], args: Mapping[str, Any], offered: Mapping[str, Any]) -> dict[str, Any]:
    try:
        parameters = inspect.signature(factory).parameters
    except (TypeError, ValueError):  # of a class written in C, say
        return {}
    return {name: value for name, value in offered.items() if name in parameters and name not in args}


def _check_arguments(factory: Callable[..., Any], reference: str, arguments: Mapping[str, Any], path: str) -> None:
    try:
        inspect.signature(factory).bind(**arguments)
    except TypeError as error:
        raise InputError(f"{path}.args: {reference}: {error}") from error
    except ValueError:
        return
