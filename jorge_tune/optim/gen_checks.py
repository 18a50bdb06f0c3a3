"""What GeN refuses, each with the rule."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from numbers import Real
from typing import Any

from torch import Tensor
from torch.optim import Optimizer

from jorge_tune.optim.checks import is_count, is_number, require


def check_arguments(
    optimizer: object, interval: object, smoothing: Any, points: object, clamp: Any, initial_lr: object
) -> None:
    """Check the constructor's arguments, NumPy's scalars made plain before."""
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
        numeric = lr.numel() == 1 if isinstance(lr, Tensor) else isinstance(lr, Real) and not isinstance(lr, bool)
        require(numeric, f"param_groups[{index}]['lr']", "be a number, which GeN scales", lr)


def check_own_state(state_dict: Any, keys: set[str]) -> None:
    """Check that a state is GeN's, with numbers that it could have saved.

    Raises:
        ValueError: what is wrong.
    """
    require(isinstance(state_dict, Mapping), "state_dict", "be a dict", type(state_dict).__name__)
    found = sorted(map(str, state_dict))
    require(found == ["gen", "optimizer"], "state_dict", "be GeN's own, not the optimizer's", found)
    own = state_dict["gen"]
    form = isinstance(own, Mapping) and own.keys() == keys
    require(form, "state_dict['gen']", "be GeN's own", sorted(own) if isinstance(own, Mapping) else own)
    sound = is_number(own["scale"]) and own["scale"] > 0
    require(sound, "state_dict['gen']['scale']", "be a finite number > 0", own["scale"])
    require(is_count(own["steps"], 0), "state_dict['gen']['steps']", "be an int >= 0", own["steps"])
    require(isinstance(own["searching"], bool), "state_dict['gen']['searching']", "be True or False", own["searching"])
    trusts = own["trusts"]
    require(trusts is None or isinstance(trusts, bool), "state_dict['gen']['trusts']", "be True, False or None", trusts)


def _steps_alone(optimizer: Any) -> bool:
    """Whether the class's `step` can do without arguments (the instance's may be wrapped by a scheduler)."""
    _, *parameters = inspect.signature(type(optimizer).step).parameters.values()
    return all(p.default is not p.empty or p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD) for p in parameters)
