"""What an optimizer keeps and computes, parameter by parameter, without a step: works on the meta device.

Bytes are those of the tensors that the state holds once every parameter that requires a gradient has had one. (One that
never gets any still has its rows in the stacks, so these are counted.) A step's temporaries and what an allocator
rounds up come on top. Operations are floating-point operations, by the members' own formulas.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from jorge_tune.optim.argument_checks import Group, state_dtype
from jorge_tune.optim.grafting import flatten_flops, graft_buffers, keeps_length
from jorge_tune.optim.kronecker import KroneckerOptimizer
from jorge_tune.optim.stacks import MAX_SIDE, BlockShape, collapse

FROZEN = "frozen"
EXCLUDED = "not preconditioned by its group"
ONE_DIMENSIONAL = "one-dimensional"
NOTHING = "no elements"
TOO_LONG = f"both sides longer than {MAX_SIDE}"
OTHER = "this optimizer has no preconditioners"


@dataclass(frozen=True, kw_only=True)
class ParameterCost:
    """One parameter: its blocks or the reason it has none, bytes by kind, operations by kind.

    `step_bytes` lie on the host. `statistics_flops` are spent outside a refresh, every `statistics_interval` steps
    (None: never).
    """

    name: str
    shape: tuple[int, ...]
    parameter_bytes: int
    blocks: tuple[BlockShape, ...] = ()
    reason: str | None = None
    momentum_bytes: int = 0
    graft_bytes: int = 0
    preconditioner_bytes: int = 0
    step_bytes: int = 0
    refresh_flops: int = 0
    apply_flops: int = 0
    statistics_flops: int = 0
    refresh_interval: int = 1
    statistics_interval: int | None = None

    @property
    def state_bytes(self) -> int:
        """All that the optimizer keeps for this parameter."""
        return self.momentum_bytes + self.graft_bytes + self.preconditioner_bytes + self.step_bytes

    @property
    def flops_per_step(self) -> float:
        """Applying, and the mean share of a step in refreshes and statistics."""
        statistics = self.statistics_flops / (self.statistics_interval or 1)
        return self.apply_flops + self.refresh_flops / self.refresh_interval + statistics


@dataclass(frozen=True, kw_only=True)
class Total:
    """The same, summed over parameters."""

    parameter_bytes: int
    momentum_bytes: int
    graft_bytes: int
    preconditioner_bytes: int
    step_bytes: int
    state_bytes: int
    refresh_flops: int
    apply_flops: int
    statistics_flops: int
    flops_per_step: float


def total(costs: Sequence[ParameterCost]) -> Total:
    """The sum over parameters."""
    return Total(**{name: sum(getattr(cost, name) for cost in costs) for name in Total.__dataclass_fields__})


def account(optimizer: Optimizer, names: Mapping[Tensor, str]) -> tuple[ParameterCost, ...]:
    """What `optimizer` will keep and compute for each of its parameters, in the order of its groups.

    A member of the family is asked, and may have parameters on any device. Another optimizer takes a step on the
    meta device and its state is read; its tensors besides `step` count as momenta.

    Args:
        optimizer: not stepped if it is of the family.
        names: what to call each parameter.

    Raises:
        ValueError: an optimizer that is not of the family, with parameters off the meta device.

    Example:
        >>> weight = torch.empty(64, 128, device="meta", requires_grad=True)
        >>> cost, = account(torch.optim.AdamW([weight]), {weight: "weight"})
        >>> cost.state_bytes  # two moments in float32 and a step count
        65540
    """
    pairs = [(param, group) for group in optimizer.param_groups for param in group["params"]]
    if isinstance(optimizer, KroneckerOptimizer):
        return tuple(_member_cost(optimizer, param, group, names[param]) for param, group in pairs)
    if not all(param.is_meta for param, _ in pairs):
        raise ValueError(f"parameters of {type(optimizer).__name__} must be on the meta device: it takes a step there")
    params = [param for param, _ in pairs]
    _step_on_meta(optimizer, params)
    return tuple(_foreign_cost(optimizer.state[param], param, names[param]) for param in params)


def _member_cost(optimizer: KroneckerOptimizer, param: Tensor, group: Group, name: str) -> ParameterCost:
    if not param.requires_grad:
        return ParameterCost(name=name, shape=tuple(param.shape), parameter_bytes=param.nbytes, reason=FROZEN)
    blocks = optimizer._blocks(param, group)
    sides = Counter(side for block in blocks for side in _sides(block.shape))
    own = param.numel() * state_dtype(param).itemsize
    interval = group.get("statistics_interval")
    refresh, application, statistics = (
        sum(number * cost(*side, group) for side, number in sides.items())
        for cost in (optimizer._refresh_cost, optimizer._apply_cost, optimizer._observe_cost)
    )
    return ParameterCost(
        name=name,
        shape=tuple(param.shape),
        parameter_bytes=param.nbytes,
        blocks=tuple(block.shape for block in blocks),
        reason=None if blocks else _reason(param, group),
        momentum_bytes=own if blocks else 0,
        graft_bytes=own * len(graft_buffers(group, param)) + 8 * keeps_length(group, param, bool(blocks)),
        preconditioner_bytes=sum(n * _side_bytes(optimizer, size, param, group) for (size, _), n in sides.items()),
        step_bytes=torch.int64.itemsize,
        refresh_flops=refresh,
        apply_flops=application + _flatten_cost(param, group, bool(blocks)),
        statistics_flops=0 if interval is None else statistics,
        refresh_interval=group["refresh_interval"],
        statistics_interval=interval,
    )


def _flatten_cost(param: Tensor, group: Group, has_blocks: bool) -> int:
    is_flattened = has_blocks and group["flatten"] > 0 and param.dim() > 1
    return flatten_flops(*collapse(param.shape), group["flatten"]) if is_flattened else 0


def _sides(shape: BlockShape) -> list[tuple[int, int]]:
    """(size, other) of a block's preconditioned sides."""
    rows, columns, left, right = shape
    return [(rows, columns)] * left + [(columns, rows)] * right


def _side_bytes(optimizer: KroneckerOptimizer, size: int, param: Tensor, group: Group) -> int:
    side = optimizer._initial_side(size, group, state_dtype(param), torch.device("meta"))
    return sum(tensor.nbytes for tensor in side.values())


def _reason(param: Tensor, group: Group) -> str:
    if not group["precondition"]:
        return EXCLUDED
    if math.prod(param.shape) == 0:
        return NOTHING
    return ONE_DIMENSIONAL if param.dim() < 2 else TOO_LONG


def _step_on_meta(optimizer: Optimizer, params: list[Tensor]) -> None:
    """One step with gradients that have shapes and no values; they are taken away again."""
    for param in params:
        param.grad = torch.empty_like(param) if param.requires_grad else None
    optimizer.step()
    for param in params:
        param.grad = None


def _foreign_cost(state: dict[str, Any], param: Tensor, name: str) -> ParameterCost:
    tensors = {key: value.nbytes for key, value in state.items() if isinstance(value, Tensor)}
    step = tensors.pop("step", 0)
    return ParameterCost(
        name=name,
        shape=tuple(param.shape),
        parameter_bytes=param.nbytes,
        reason=OTHER if param.requires_grad else FROZEN,
        momentum_bytes=sum(tensors.values()),
        step_bytes=step,
    )
