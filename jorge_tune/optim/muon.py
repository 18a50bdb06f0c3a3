"""Muon's direction with the family's length: momentum with its singular values made equal, no preconditioner."""

from __future__ import annotations

from typing import Literal, NoReturn

import torch
from torch import Tensor

from jorge_tune.optim.argument_checks import Group, require, without_torch_switches
from jorge_tune.optim.kronecker import WITHOUT_REFRESHES, KroneckerOptimizer, Params
from jorge_tune.optim.stacks import Block, BlockShape, SideState, collapse


class Muon(KroneckerOptimizer):
    """Muon with a grafted length: what `Jorge` with `flatten` does when nothing is preconditioned (L = R = I).

    torch's own Muon has a length of its own and so a rate to tune; this one takes SGD's rate with SGD's length.

    Args:
        params: Parameters or groups.
        lr: Learning rate, as in `Jorge`.
        momentum, dampening, nesterov, weight_decay, graft, graft_betas, graft_eps, length, embeddings: As in `Jorge`.
        flatten: Newton-Schulz steps, >= 1.
        nonfinite, maximize: As in `Jorge`.

    State: as `Jorge`, without `left.<i>` and `right.<i>`.

    Raises:
        ValueError: a value out of its range, a complex parameter, a sparse gradient.

    Example:
        >>> model = torch.nn.Linear(4, 2)
        >>> optimizer = Muon(model.parameters(), lr=0.1, nesterov=True)

    Reference:
        Jordan et al., "Muon: an optimizer for hidden layers in neural networks", 2024.
    """

    @without_torch_switches
    def __init__(
        self,
        params: Params,
        lr: float | Tensor | None = None,
        *,
        momentum: float = 0.9,
        dampening: float = 0.0,
        nesterov: bool = False,
        weight_decay: float = 0.0,
        graft: Literal["sgd", "adamw", "none"] = "sgd",
        graft_betas: tuple[float, float] = (0.9, 0.999),
        graft_eps: float = 1e-8,
        length: Literal["tensor", "mixed"] = "tensor",
        flatten: int = 5,
        embeddings: Literal["grafted", "adam"] = "grafted",
        nonfinite: Literal["skip", "raise"] = "skip",
        maximize: bool = False,
    ) -> None:
        defaults = WITHOUT_REFRESHES | {
            "lr": lr, "momentum": momentum, "dampening": dampening, "nesterov": nesterov, "weight_decay": weight_decay,
            "graft": graft, "graft_betas": graft_betas, "graft_eps": graft_eps, "length": length, "flatten": flatten,
            "embeddings": embeddings, "nonfinite": nonfinite, "maximize": maximize,
        }  # fmt: skip
        super().__init__(params, defaults)

    def _check_member(self, group: Group) -> None:
        require(group["flatten"] >= 1, "flatten", "be an int >= 1", group["flatten"])

    def _blocks(self, param: Tensor, group: Group) -> tuple[Block, ...]:
        """The whole matrix, with neither side preconditioned."""
        if not group["precondition"] or param.dim() < 2 or param.numel() == 0:
            return ()
        return (Block(0, 0, BlockShape(*collapse(param.shape), left=False, right=False)),)

    def _initial_side(self, size: int, group: Group, dtype: torch.dtype, device: torch.device) -> NoReturn:
        raise AssertionError("nothing is preconditioned")

    def _refresh_side(self, side: SideState, grads: Tensor, group: Group) -> NoReturn:
        raise AssertionError("nothing is preconditioned")

    def _apply_side(self, side: SideState, grads: Tensor, group: Group, *, right: bool) -> NoReturn:
        raise AssertionError("nothing is preconditioned")

    def _refresh_cost(self, size: int, other: int, group: Group) -> int:
        return 0
