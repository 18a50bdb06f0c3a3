"""Momenta and the weights' update, for the parameters of one group: lists of states and tensors, in place."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from jorge_tune.optim import grafting
from jorge_tune.optim.checks import Group


def graft_buffers(group: Group) -> tuple[str, ...]:
    """Names of the grafted optimizer's own buffers, kept as `graft.<name>`."""
    if group["graft"] == "adamw":
        return "first_moment", "second_moment"
    return ("momentum",) if group["momentum"] > 0 or group["graft"] == "none" else ()


def grafted_steps_(states: list[dict[str, Any]], grads: list[Tensor], group: Group) -> list[Tensor]:
    """The grafted optimizer's own steps; without a graft, the average of the gradients."""
    if group["graft"] == "adamw":
        return grafting.adamw_step_(
            [state["graft.first_moment"] for state in states],
            [state["graft.second_moment"] for state in states],
            grads,
            [int(state["step"]) for state in states],
            betas=group["graft_betas"],
            eps=group["graft_eps"],
        )
    return _moved_([state.get("graft.momentum") for state in states], states, grads, group)


def with_momentum_(states: list[dict[str, Any]], ps: list[Tensor], group: Group) -> list[Tensor]:
    """Directions d: the preconditioned gradients, with momentum."""
    buffers = [state["momentum"] for state in states]
    if group["graft"] == "adamw":
        grafting.average_(buffers, ps, group["graft_betas"][0])
        return buffers
    return _moved_(buffers, states, ps, group)


def _moved_(buffers: list[Any], states: list[dict[str, Any]], values: list[Tensor], group: Group) -> list[Tensor]:
    if group["graft"] == "none":
        grafting.average_(buffers, values, group["momentum"])
        return buffers
    return grafting.sgd_step_(
        buffers,
        values,
        [int(state["step"]) == 1 for state in states],
        momentum=group["momentum"],
        dampening=group["dampening"],
        nesterov=group["nesterov"],
    )


def descend_(params: list[Tensor], directions: list[Tensor], *, lr: float, weight_decay: float) -> None:
    """w <- (1 - lr wd) w - lr u, in state precision."""
    masters = [p.to(u.dtype) for p, u in zip(params, directions, strict=True)]
    if weight_decay != 0:
        torch._foreach_mul_(masters, 1 - lr * weight_decay)
    torch._foreach_add_(masters, directions, alpha=-lr)
    for param, master in zip(params, masters, strict=True):
        if master is not param:
            param.copy_(master)


def _step_tensors(param: Tensor, state: dict[str, Any]) -> list[Tensor]:
    momenta = [value for key, value in state.items() if key == "momentum" or key.startswith("graft.")]
    return [param, *momenta]


def copies(params: list[Tensor], states: list[dict[str, Any]]) -> list[list[Tensor]]:
    """What a step of these parameters changes besides the preconditioners, copied."""
    return [[t.clone() for t in _step_tensors(p, s)] for p, s in zip(params, states, strict=True)]


def restore_(
    params: list[Tensor], states: list[dict[str, Any]], before: list[list[Tensor]], finite: list[Tensor]
) -> None:
    """Undo the step where the gradient was not finite, without asking the device."""
    for param, state, copies, flag in zip(params, states, before, finite, strict=True):
        for tensor, copy in zip(_step_tensors(param, state), copies, strict=True):
            tensor.copy_(torch.where(flag, tensor, copy))
