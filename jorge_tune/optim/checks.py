"""What an optimizer of the family refuses, each with the rule and the way out."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

Group = dict[str, Any]


def require(holds: bool, name: str, rule: str, got: object) -> None:
    """Raise ValueError `<name> must <rule>, got <value>` unless `holds`."""
    if not holds:
        raise ValueError(f"{name} must {rule}, got {got!r}")


def is_count(value: object, minimum: int) -> bool:
    """Whether `value` is an int (and no bool) of at least `minimum`."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= minimum


_NUMBERS = ("momentum", "dampening", "weight_decay", "graft_eps", "b2", "eps", "b2_floor")
_FLAGS = ("nesterov", "stagger")


def is_number(value: object) -> bool:
    """Whether `value` is a finite real number (and no bool)."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _check_kinds(group: Group) -> None:
    """Numbers are numbers and flags are flags, before anything is compared."""
    lr = group["lr"]
    require(isinstance(lr, Tensor) or is_number(lr), "lr", "be a finite number", lr)
    for name in _NUMBERS:
        require(name not in group or is_number(group[name]), name, "be a finite number", group.get(name))
    for name in _FLAGS:
        require(isinstance(group[name], bool), name, "be True or False", group[name])
    betas = group["graft_betas"]
    fine = isinstance(betas, (tuple, list)) and len(betas) == 2 and all(is_number(b) and 0 <= b < 1 for b in betas)
    require(fine, "graft_betas", "be two numbers in [0, 1)", betas)


def check_group(group: Group) -> None:
    """Check the hyperparameters that every member has, and that the parameters are real."""
    _check_kinds(group)
    lr = group["lr"]
    require(isinstance(lr, Tensor) or lr >= 0, "lr", "be >= 0", lr)
    require(0 <= group["momentum"] < 1, "momentum", "be in [0, 1)", group["momentum"])
    require(0 <= group["dampening"] <= 1, "dampening", "be in [0, 1]", group["dampening"])
    require(group["weight_decay"] >= 0, "weight_decay", "be >= 0", group["weight_decay"])
    graft = group["graft"]
    require(graft in ("sgd", "adamw", "none"), "graft", "be 'sgd', 'adamw' or 'none'", graft)
    plain = group["momentum"] > 0 and group["dampening"] == 0 and graft == "sgd"
    given = f"momentum {group['momentum']}, dampening {group['dampening']} and graft {graft!r}"
    if group["nesterov"] and not plain:
        raise ValueError(f"nesterov must have momentum > 0, dampening 0 and graft 'sgd', got {given}")
    require(group["graft_eps"] > 0, "graft_eps", "be > 0", group["graft_eps"])
    require(is_count(group["refresh_interval"], 1), "refresh_interval", "be an int >= 1", group["refresh_interval"])
    require(is_count(group["warm_refreshes"], 0), "warm_refreshes", "be an int >= 0", group["warm_refreshes"])
    size = group["block_size"]
    require(size is None or is_count(size, 1), "block_size", "be an int >= 1 or None", size)
    require(group["nonfinite"] in ("skip", "raise"), "nonfinite", "be 'skip' or 'raise'", group["nonfinite"])
    distinct = len({id(param) for param in group["params"]}) == len(group["params"])
    require(distinct, "params", "not name a parameter twice", f"{len(group['params'])} parameters with repeats")
    for param in group["params"]:
        require(not param.is_complex(), "params", "be real (view a complex one as real pairs)", param.dtype)


def usable_gradient(param: Tensor, place: str) -> Tensor:
    """The gradient in state precision (float32, or float64 for float64 parameters)."""
    grad = param.grad
    assert grad is not None
    if hasattr(param, "full_tensor"):
        raise ValueError(f"{place}: sharded parameters (DTensor) are not supported; shard the data instead (DDP)")
    if grad.layout is not torch.strided:
        raise ValueError(f"{place}: sparse gradients are not supported (set sparse=False on the embedding)")
    return grad.detach().to(state_dtype(param))


def check_dtype(state: dict[str, Any], grad: Tensor, place: str) -> None:
    """Refuse a gradient whose state is of another precision: the parameter's dtype was changed on the way."""
    for name, value in state.items():
        if name == "momentum" or name.startswith("graft."):
            if value.dtype != grad.dtype:
                raise ValueError(
                    f"{place}: the state is {value.dtype}, the gradient needs {grad.dtype}; "
                    "make a new optimizer after changing the parameters' dtype"
                )
            return


def state_dtype(param: Tensor) -> torch.dtype:
    """Momenta and preconditioners live in float32, or float64 for float64 parameters."""
    return torch.float64 if param.dtype == torch.float64 else torch.float32


def check_state(
    state_dict: dict[str, Any],
    groups: list[Group],
    keys: set[str],
    side_shapes: Callable[[Tensor, Group], dict[str, tuple[int, ...]]],
) -> None:
    """Refuse another optimizer's state, and one of other groups, another block size or other shapes.

    `keys` are what every group of this optimizer holds; `side_shapes` gives a parameter's preconditioners by key.

    Raises:
        ValueError: with the place, the two shapes and the way out.
    """
    theirs = state_dict["param_groups"]
    missing = sorted(set().union(*(keys - set(group) for group in theirs)))
    if missing:
        raise ValueError(f"the state is another optimizer's: its groups have no {', '.join(missing)}")
    sizes, counts = ([[f(g) for g in gs] for gs in (groups, theirs)] for f in (_block_size, _count))
    if counts[0] != counts[1]:
        raise ValueError(f"the state has groups of {counts[1]} parameters, this optimizer of {counts[0]}")
    if sizes[0] != sizes[1]:
        raise ValueError(
            f"the state was made with block_size {sizes[1]}, this optimizer has {sizes[0]}: "
            "construct it with the same block_size"
        )
    ours = itertools.chain.from_iterable(((p, group) for p in group["params"]) for group in groups)
    for (param, group), key in zip(ours, itertools.chain.from_iterable(g["params"] for g in theirs), strict=True):
        _check_shapes(state_dict["state"].get(key, {}), param, side_shapes(param, group), f"state of parameter {key}")


def _block_size(group: Group) -> object:
    return group.get("block_size")


def _count(group: Group) -> int:
    return len(group["params"])


def _check_shapes(state: dict[str, Any], param: Tensor, expected: dict[str, tuple[int, ...]], place: str) -> None:
    for key, value in state.items():
        whole = key == "momentum" or key.startswith("graft.")
        shape = tuple(param.shape) if whole else expected.get(key)
        if key.startswith(("left.", "right.")) and shape is None:
            raise ValueError(f"{place}: {key} belongs to a block that shape {tuple(param.shape)} does not have")
        if shape is not None and tuple(value.shape) != shape:
            raise ValueError(f"{place}: {key} has shape {tuple(value.shape)}, but {shape} is needed here")
