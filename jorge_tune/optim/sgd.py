"""SGD with decoupled decay: the family without its preconditioner."""

from __future__ import annotations

from typing import Literal, NoReturn

import torch
from torch import Tensor

from jorge_tune.optim.argument_checks import Group, require, without_torch_switches
from jorge_tune.optim.kronecker import WITHOUT_REFRESHES, KroneckerOptimizer, Params
from jorge_tune.optim.stacks import SideState


class DecoupledSGD(KroneckerOptimizer):
    """torch's SGD, but with w <- (1 - lr wd) w in place of the decay term in the gradient.

    What Jorge does when nothing is preconditioned; the control that sets the schedule's and the decay's part of a
    result apart from the preconditioner's.

    Args:
        params: Parameters or groups.
        lr: Learning rate, as in `Jorge`.
        momentum, dampening, nesterov: As in torch's SGD.
        weight_decay: Decoupled, >= 0.
        nonfinite, maximize: As in `Jorge`.

    State: `step` and `graft.momentum`, of the parameter's shape.

    Raises:
        ValueError: a value out of its range, a complex parameter, a sparse gradient.

    Example:
        >>> model = torch.nn.Linear(4, 2)
        >>> optimizer = DecoupledSGD(model.parameters(), lr=0.1, weight_decay=5e-3)

    Reference:
        Loshchilov and Hutter, "Decoupled weight decay regularization", Algorithm 1.
    """

    @without_torch_switches
    def __init__(
        self,
        params: Params,
        lr: float | Tensor | None = None,
        *,
        momentum: float = 0.0,
        dampening: float = 0.0,
        nesterov: bool = False,
        weight_decay: float = 0.0,
        nonfinite: Literal["skip", "raise"] = "skip",
        maximize: bool = False,
    ) -> None:
        defaults = WITHOUT_REFRESHES | {
            "lr": lr, "momentum": momentum, "dampening": dampening, "nesterov": nesterov, "weight_decay": weight_decay,
            "graft": "sgd", "nonfinite": nonfinite, "maximize": maximize,
        }  # fmt: skip
        super().__init__(params, defaults)

    def add_param_group(self, param_group: dict[str, object]) -> None:
        """Add a group; nothing in it is preconditioned."""
        super().add_param_group({**param_group, "precondition": False})

    def _check_member(self, group: Group) -> None:
        require(group["flatten"] == 0, "flatten", "be 0, since nothing is preconditioned", group["flatten"])

    def _initial_side(self, size: int, group: Group, dtype: torch.dtype, device: torch.device) -> NoReturn:
        raise AssertionError("nothing is preconditioned")

    def _refresh_side(self, side: SideState, grads: Tensor, group: Group) -> NoReturn:
        raise AssertionError("nothing is preconditioned")

    def _apply_side(self, side: SideState, grads: Tensor, group: Group, *, right: bool) -> NoReturn:
        raise AssertionError("nothing is preconditioned")

    def _refresh_cost(self, size: int, other: int, group: Group) -> int:
        return 0
