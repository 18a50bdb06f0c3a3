"""What GeN refuses, each with the rule."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

from torch import Tensor
from torch.optim import Optimizer

from jorge_tune.optim.checks import is_count, is_number, require


def check_arguments(
    optimizer: object, interval: object, smoothing: Any, points: object, clamp: Any, initial_lr: object
) -> None:
    """Check the constructor's arguments."""
    kind = type(optimizer).__name__
    require(isinstance(optimizer, Optimizer), "optimizer", "be a torch optimizer", kind)
    require(_steps_alone(optimizer), "optimizer", "take its step without a closure", kind)
    require(is_count(interval, 1), "interval", "be an int >= 1", interval)
    require(is_number(smoothing) and 0 <= smoothing <= 1, "smoothing", "be in [0, 1]", smoothing)
    require(points in (3, 5), "points", "be 3 or 5", points)
    require(is_number(clamp) and clamp >= 1, "clamp", "be >= 1", clamp)
    require(initial_lr in ("given", "search"), "initial_lr", "be 'given' or 'search'", initial_lr)


def check_rates(groups: Sequence[dict[str, Any]]) -> None:
    """Check that every group has a learning rate."""
    for index, group in enumerate(groups):
        lr = group.get("lr")
        numeric = isinstance(lr, (int, float, Tensor)) and not isinstance(lr, bool)
        require(numeric, f"param_groups[{index}]['lr']", "be a number, which GeN scales", lr)


def _steps_alone(optimizer: Any) -> bool:
    """Whether the class's `step` can do without arguments (the instance's may be wrapped by a scheduler)."""
    _, *parameters = inspect.signature(type(optimizer).step).parameters.values()
    return all(p.default is not p.empty or p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD) for p in parameters)
