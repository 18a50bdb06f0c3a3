"""Sketchy AdaGrad: full-matrix AdaGrad with its matrix kept as a few directions. For convex and small problems.

Legend: g a parameter's gradient as one vector (d); l the rank; B (d x k) and rho the sketch of the sum of g g^T and its
escaped mass, as in `sketchy.py`.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from jorge_tune.optim.blocks import Block, BlockShape
from jorge_tune.optim.checks import Group, require, without_torch_switches
from jorge_tune.optim.kronecker import KroneckerOptimizer, Params
from jorge_tune.optim.sketchy import (
    check_rank,
    initial_sketch,
    observe,
    product_cost,
    sketch_cost,
    sketched_root,
)
from jorge_tune.optim.stacks import SideState


class SketchyAdaGrad(KroneckerOptimizer):
    """AdaGrad with a sketch of the whole matrix: w <- w - lr (B B^T + rho I)^(-1/2) g at every step.

    Each parameter, of whatever shape, is one vector with one preconditioner of d (rank - 1) numbers; sums are not
    weighted, nothing is grafted and nothing projected. The inverse is the pseudo-inverse: with K = min(d, k + 1)
    singular values of [B, g], those up to K u of the largest (u the spacing of the state's dtype at 1) count as 0,
    because rounding each column by u moves them by K^(1/2) u of it at most. A parameter whose group says
    `precondition: False` takes the gradient's step.

    Args:
        params: Parameters or groups.
        lr: Learning rate, >= 0: the longest step of a parameter, as a vector; its first has this length. The scale of
            the gradients does not matter.
        momentum: m <- momentum m + (1 - momentum) P; the paper has none, 0.
        weight_decay: Decoupled, >= 0.
        rank: The paper's l, >= 2; a rank not below d is full-matrix AdaGrad.
        eps: Added to the sum, relative to its mean eigenvalue, >= 0; 0 is the paper's pseudo-inverse.
        nonfinite, maximize: As in `Jorge`.

    State: `step` int64 on the host; `momentum` and `graft.momentum` of the parameter's shape; `left.0` the sketch B
        (d, k) over its scale, k = rank - 1 or, for rank >= d, d; float64 scalars `left.0.scale` and `.escaped`.

    Raises:
        ValueError: a value out of its range, a complex parameter, a sparse gradient.

    Example:
        >>> model = torch.nn.Linear(4, 2)
        >>> optimizer = SketchyAdaGrad(model.parameters(), lr=0.1)

    Reference:
        Sketchy, Algorithm 2, without the projection (K = R^d).
    """

    @without_torch_switches
    def __init__(
        self,
        params: Params,
        lr: float | Tensor | None = None,
        *,
        momentum: float = 0.0,
        weight_decay: float = 0.0,
        rank: int = 64,
        eps: float = 0.0,
        nonfinite: Literal["skip", "raise"] = "skip",
        maximize: bool = False,
    ) -> None:
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "dampening": 0.0,
            "nesterov": False,
            "weight_decay": weight_decay,
            "graft": "none",
            "graft_betas": (0.9, 0.999),
            "graft_eps": 1e-8,
            "refresh_interval": 1,
            "warm_refreshes": 0,
            "stagger": False,
            "block_size": None,
            "rank": rank,
            "eps": eps,
            "nonfinite": nonfinite,
            "maximize": maximize,
        }
        super().__init__(params, defaults)

    def _check_member(self, group: Group) -> None:
        check_rank(group["rank"])
        require(group["eps"] >= 0, "eps", "be >= 0", group["eps"])

    def _matrix(self, grad: Tensor) -> Tensor:
        return grad.reshape(-1, 1)

    def _blocks(self, param: Tensor, group: Group) -> tuple[Block, ...]:
        if not group["precondition"] or param.numel() == 0:
            return ()
        return (Block(0, 0, BlockShape(param.numel(), 1, left=True, right=False)),)

    def _initial_side(self, size: int, group: Group, dtype: torch.dtype, device: torch.device) -> SideState:
        return initial_sketch(size, group["rank"], dtype, device)

    def _refresh_side(self, side: SideState, grads: Tensor, group: Group) -> SideState:
        return observe(side, grads, keep=1.0, take=1.0, tolerance=_rounding(side[""]))

    def _apply_side(self, side: SideState, grads: Tensor, group: Group, *, right: bool) -> Tensor:
        factor = torch.where(side["scale"] > 0, side["scale"], 1.0) ** (-1 / 2)
        g = grads * factor.to(grads.dtype)[..., None, None]
        return sketched_root(
            side[""], side["escaped"], g, eps=group["eps"], exponent=1 / 2, tolerance=_rounding(side[""])
        )

    def _refresh_cost(self, size: int, other: int, group: Group) -> int:
        return sketch_cost(size, other, group["rank"])

    def _apply_cost(self, size: int, other: int, group: Group) -> int:
        return product_cost(size, other, group["rank"])


def _rounding(B: Tensor) -> float:
    """K u: what rounding leaves of a direction that is none, relative to the largest."""
    size, columns = B.shape[-2:]
    return min(size, columns + 1) * torch.finfo(B.dtype).eps
