"""Shampoo with exact inverse roots: the rival that Jorge approximates.

Gupta, Koren, Singer, "Shampoo: preconditioned stochastic tensor optimization"; Jorge, Algorithm 1.

Legend: A the running average of G G^T (m x m), w its accumulated weight (bias correction), s a float64 scale that
keeps the stored matrix near 1: the average is s * stored / w.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from jorge_tune.optim.checks import Group, require
from jorge_tune.optim.kronecker import KroneckerOptimizer, Params
from jorge_tune.optim.scaling import largest
from jorge_tune.optim.stacks import SideState


def inverse_root_eigh(A: Tensor, *, eps: float, exponent: float = 1 / 4) -> Tensor:
    """(A + eps (tr A / m) I)^(-exponent) of symmetric positive semi-definite matrices, by eigh.

    Shape:
        A: (..., m, m). Returns the same; the identity for an all-zero matrix.
    """
    mean = A.diagonal(dim1=-2, dim2=-1).mean(-1)[..., None, None]
    mean = torch.where(mean > 0, mean, 1.0)
    values, vectors = torch.linalg.eigh(A / mean)
    values = torch.where(values.amax(-1, keepdim=True) > 0, values.clamp(min=0) + eps, 1.0)
    root: Tensor = (vectors * (values**-exponent).unsqueeze(-2)) @ vectors.mT * mean**-exponent
    return root


class Shampoo(KroneckerOptimizer):
    """Shampoo: P = (A_L + ..)^(-1/4) G (A_R + ..)^(-1/4), with the family's momentum, grafting and decay.

    Statistics are averaged at every `statistics_interval`-th step, bias-corrected; roots are taken, by eigh, at
    refresh steps.

    Args:
        params: Parameters or groups.
        lr: Learning rate, >= 0.
        b2: Averaging weight of the statistics, in [0, 1).
        eps: Added to the statistics, relative to their mean eigenvalue, > 0.
        statistics_interval: Steps between two updates of the statistics, >= 1.
        momentum, dampening, nesterov, weight_decay, graft, graft_betas, graft_eps: As in `Jorge`.
        refresh_interval, warm_refreshes, stagger, block_size, nonfinite: As in `Jorge`.

    State: as `Jorge`, where `left.<i>` is the scaled average, and `left.<i>.scale`, `.weight` (float64 scalars) and
        `.root` (the applied matrix) stand beside it; the right likewise.

    Raises:
        ValueError: a value out of its range, a complex parameter, a sparse gradient.

    Example:
        >>> model = torch.nn.Linear(4, 2)
        >>> optimizer = Shampoo(model.parameters(), lr=0.1)

    Reference:
        Jorge, Algorithm 1, Eq. 2.
    """

    def __init__(
        self,
        params: Params,
        lr: float,
        *,
        momentum: float = 0.9,
        dampening: float = 0.0,
        nesterov: bool = False,
        weight_decay: float = 0.0,
        graft: Literal["sgd", "adamw", "none"] = "sgd",
        graft_betas: tuple[float, float] = (0.9, 0.999),
        graft_eps: float = 1e-8,
        refresh_interval: int = 10,
        warm_refreshes: int = 100,
        stagger: bool = True,
        block_size: int | None = 1024,
        b2: float = 0.999,
        eps: float = 1e-6,
        statistics_interval: int = 1,
        nonfinite: Literal["skip", "raise"] = "skip",
    ) -> None:
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "dampening": dampening,
            "nesterov": nesterov,
            "weight_decay": weight_decay,
            "graft": graft,
            "graft_betas": graft_betas,
            "graft_eps": graft_eps,
            "refresh_interval": refresh_interval,
            "warm_refreshes": warm_refreshes,
            "stagger": stagger,
            "block_size": block_size,
            "b2": b2,
            "eps": eps,
            "statistics_interval": statistics_interval,
            "nonfinite": nonfinite,
        }
        super().__init__(params, defaults)

    def _check_member(self, group: Group) -> None:
        require(0 <= group["b2"] < 1, "b2", "be in [0, 1)", group["b2"])
        require(group["eps"] > 0, "eps", "be > 0", group["eps"])
        interval = group["statistics_interval"]
        require(isinstance(interval, int) and interval >= 1, "statistics_interval", "be an int >= 1", interval)

    def _initial_side(self, size: int, group: Group, dtype: torch.dtype, device: torch.device) -> SideState:
        scalar = torch.zeros((), dtype=torch.float64, device=device)
        return {
            "": torch.zeros(size, size, dtype=dtype, device=device),
            "scale": scalar,
            "weight": scalar.clone(),
            "root": torch.eye(size, dtype=dtype, device=device),
        }

    def _observes(self, step: int, group: Group) -> bool:
        return bool((step - 1) % group["statistics_interval"] == 0)

    def _observe_side(self, side: SideState, grads: Tensor, group: Group) -> SideState:
        """A <- b2 A + (1 - b2) G G^T (Eq. 2), kept as scale * matrix so that no gradient is too small or large."""
        b2 = group["b2"]
        g = largest(grads)
        new_part = torch.where(grads.abs().amax((-1, -2)) > 0, (1 - b2) * g[..., 0, 0].double() ** 2, 0.0)
        old_part = b2 * side["scale"]
        scale = old_part + new_part
        safe = torch.where(scale > 0, scale, 1.0)
        gh = grads / g
        keep, take = ((part / safe).to(grads.dtype)[..., None, None] for part in (old_part, new_part))
        return {
            "": keep * side[""] + take * (gh @ gh.mT),
            "scale": scale,
            "weight": b2 * side["weight"] + (1 - b2),
        }

    def _refresh_side(self, side: SideState, grads: Tensor, group: Group) -> SideState:
        root = inverse_root_eigh(side[""], eps=group["eps"])
        average = side["scale"] / side["weight"]
        factor = torch.where(average > 0, average, 1.0) ** (-1 / 4)
        return {"root": root * factor.to(root.dtype)[..., None, None]}

    def _apply_side(self, side: SideState, grads: Tensor, group: Group, *, right: bool) -> Tensor:
        return grads @ side["root"] if right else side["root"] @ grads

    def _refresh_cost(self, size: int, other: int, group: Group) -> int:
        return 25 * size**3  # eigh and the product that follows, to the order of magnitude
