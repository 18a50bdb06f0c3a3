"""Shampoo with inverse roots by eigh or by coupled Newton iterations: the rival that Jorge approximates.

Gupta, Koren, Singer, "Shampoo: preconditioned stochastic tensor optimization"; Jorge, Algorithm 1.
Guo, Higham, "A Schur-Newton method for the matrix p-th root and its inverse", for the iteration.

Legend: A the running average of G G^T (m x m), w its accumulated weight (bias correction), s a float64 scale that
keeps the stored matrix near 1: the average is s * stored / w.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from jorge_tune.optim.argument_checks import Group, is_count, require, without_torch_switches
from jorge_tune.optim.kronecker import KroneckerOptimizer, Params
from jorge_tune.optim.numerics import largest, plus_transpose
from jorge_tune.optim.stacks import SideState


def inverse_root_eigh(A: Tensor, *, eps: float, exponent: float = 1 / 4) -> Tensor:
    """(A + eps (tr A / m) I)^(-exponent) of symmetric positive semi-definite matrices, by eigh.

    Shape:
        A: (..., m, m). Returns the same; the identity for an all-zero matrix.
    """
    mean = _mean_eigenvalue(A)
    values, vectors = torch.linalg.eigh(A / mean)
    values = torch.where(values.amax(-1, keepdim=True) > 0, values.clamp(min=0) + eps, 1.0)
    root: Tensor = (vectors * (values**-exponent).unsqueeze(-2)) @ vectors.mT * mean**-exponent
    return root


NEWTON_RIDGE = 4.0  # roundings of ||A||; below, float32 averages were found indefinite (to -0.3) and the iteration lost
NEWTON_TOLERANCE = 1e-6  # largest entry of M - I at which the iteration stops; 19 to 21 steps from the ridge alone


def inverse_root_newton(A: Tensor, *, eps: float, iterations: int = 30) -> Tensor:
    """(A + ridge I)^(-1/4) of symmetric positive semi-definite matrices, by matrix products alone.

    The coupled iteration, from X = z^(1/4) I and M = z (A + ridge I) with z = 5/2 / ||A + ridge I||_F:
    T = (5 I - M) / 4, X <- X T, M <- T^4 M, until M = I. An eigenvalue of M far below 1 grows 2.44-fold in a step,
    so a capped number of steps flattens the small end of the spectrum. The ridge is eps (tr A / m), as in
    `inverse_root_eigh`, but at least `NEWTON_RIDGE` roundings of ||A||_F, since negative eigenvalues would diverge: in
    float32 that is above the usual eps, so where statistics are rank-deficient the two roots differ (the largest
    eigenvalue by a factor of 0.3 to 0.6), and against its own ridge the root is then 5e-3 off.

    Shape:
        A: (..., m, m). Returns the same; the identity for an all-zero matrix.

    Args:
        A: The statistics.
        eps: Ridge relative to the mean eigenvalue, > 0.
        iterations: Cap, >= 1. Stops before it when all matrices have converged, which asks the device.
    """
    mean = _mean_eigenvalue(A)
    identity = torch.eye(A.shape[-1], dtype=A.dtype, device=A.device)
    length = torch.linalg.matrix_norm(A / mean, keepdim=True)
    ridge = (NEWTON_RIDGE * torch.finfo(A.dtype).eps * length).clamp(min=eps)
    M = torch.where(length > 0, A / mean + ridge * identity, identity)

    z = 5 / 2 / torch.linalg.matrix_norm(M, keepdim=True)
    X, M = z ** (1 / 4) * identity, z * M
    for step in range(iterations):
        T = (5 * identity - M) / 4
        T2 = T @ T
        following = T2 @ (T2 @ M)
        following = plus_transpose(following).div_(2)
        residual = (following - identity).abs().amax((-1, -2), keepdim=True)
        sound = residual <= 1 + 1e-3  # from the first step on no eigenvalue of a definite M is above 1
        X, M = torch.where(sound, X @ T, X), torch.where(sound, following, M)
        if step + 1 < iterations and not bool((sound & (residual > NEWTON_TOLERANCE)).any()):
            break

    return torch.where(length > 0, X, identity) * mean ** (-1 / 4)


def _mean_eigenvalue(A: Tensor) -> Tensor:
    """tr A / m, shape (..., 1, 1); 1 where it is 0."""
    mean = A.diagonal(dim1=-2, dim2=-1).mean(-1)[..., None, None]
    return torch.where(mean > 0, mean, 1.0)


class Shampoo(KroneckerOptimizer):
    """Shampoo: P = (A_L + ..)^(-1/4) G (A_R + ..)^(-1/4), with the family's momentum, grafting and decay.

    Statistics are averaged at every `statistics_interval`-th step, bias-corrected; roots are taken at refresh steps.

    Args:
        params: Parameters or groups.
        lr: Learning rate, as in `Jorge`.
        b2: Averaging weight of the statistics, in [0, 1).
        eps: Added to the statistics, relative to their mean eigenvalue, > 0.
        statistics_interval: Steps between two updates of the statistics, >= 1.
        root: "eigh" is exact; "newton" takes matrix products only (see `inverse_root_newton`).
        root_iterations: Cap of the Newton iteration, >= 1.
        momentum, dampening, nesterov, weight_decay, graft, graft_betas, graft_eps: As in `Jorge`.
        length, flatten, embeddings: As in `Jorge`.
        refresh_interval, warm_refreshes, stagger, block_size, nonfinite, maximize: As in `Jorge`.

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
        flatten: int = 0,
        embeddings: Literal["grafted", "adam"] = "grafted",
        refresh_interval: int = 10,
        warm_refreshes: int = 100,
        stagger: bool = True,
        block_size: int | None = 1024,
        b2: float = 0.999,
        eps: float = 1e-6,
        statistics_interval: int = 1,
        root: Literal["eigh", "newton"] = "eigh",
        root_iterations: int = 30,
        nonfinite: Literal["skip", "raise"] = "skip",
        maximize: bool = False,
    ) -> None:
        defaults = {
            "lr": lr, "momentum": momentum, "dampening": dampening, "nesterov": nesterov, "weight_decay": weight_decay,
            "graft": graft, "graft_betas": graft_betas, "graft_eps": graft_eps, "refresh_interval": refresh_interval,
            "warm_refreshes": warm_refreshes, "stagger": stagger, "block_size": block_size, "b2": b2, "eps": eps,
            "statistics_interval": statistics_interval, "root": root, "root_iterations": root_iterations,
            "nonfinite": nonfinite, "maximize": maximize, "length": length,
            "flatten": flatten, "embeddings": embeddings,
        }  # fmt: skip
        super().__init__(params, defaults)

    def _check_member(self, group: Group) -> None:
        require(0 <= group["b2"] < 1, "b2", "be in [0, 1)", group["b2"])
        require(group["eps"] > 0, "eps", "be > 0", group["eps"])
        interval = group["statistics_interval"]
        require(is_count(interval, 1), "statistics_interval", "be an int >= 1", interval)
        require(group["root"] in ("eigh", "newton"), "root", "be 'eigh' or 'newton'", group["root"])
        require(is_count(group["root_iterations"], 1), "root_iterations", "be an int >= 1", group["root_iterations"])

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

        # The new average is scale * matrix: the two parts of the scale, and the matrix as their weighted mean.
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
        if group["root"] == "newton":
            root = inverse_root_newton(side[""], eps=group["eps"], iterations=group["root_iterations"])
        else:
            root = inverse_root_eigh(side[""], eps=group["eps"])
        average = side["scale"] / side["weight"]
        factor = torch.where(average > 0, average, 1.0) ** (-1 / 4)
        return {"root": root * factor.to(root.dtype)[..., None, None]}

    def _apply_side(self, side: SideState, grads: Tensor, group: Group, *, right: bool) -> Tensor:
        return grads @ side["root"] if right else side["root"] @ grads

    def _apply_side_into(self, side: SideState, grads: Tensor, group: Group, out: Tensor, *, right: bool) -> None:
        torch.bmm(*((grads, side["root"]) if right else (side["root"], grads)), out=out)

    def _refresh_cost(self, size: int, other: int, group: Group) -> int:
        if group["root"] == "newton":
            return int(8 * size**3 * group["root_iterations"])  # four products in each
        return 25 * size**3  # eigh and the product that follows, to the order of magnitude

    def _observe_cost(self, size: int, other: int, group: Group) -> int:
        return 2 * size * size * other
