"""A refresh that does not drift: Jorge's update of the statistics, taken as a congruence. Our own form.

Jorge's series multiplies L from one side only, which is exact where L and G G^T commute and loses accuracy where they
do not. In terms of M = L^2 G G^T L^2 the update A' = b2 (A + c G G^T) of A = L^(-4) reads

    A' = b2 L^(-2) (I + c M) L^(-2),    and here    L' = b2^(-1/4) T L T,    T = (I + c M)^(-1/8),

which is A'^(-1/4) where L and M commute. Where they do not, L' is symmetric still and, since ||c M|| <= 1 keeps T at
0.9 I or more, positive definite; to first order only L proportional to A^(-1/4) stays where it is on average.

Legend: as in `jorge.py`; T = I + U with U = -c M/8 + 9/128 (c M)^2, the series to the second power.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from jorge_tune.optim.scaling import (
    averaging,
    bound_dead_rows,
    largest,
    largest_diagonal,
    norm,
    norm_of_product,
    plus_transpose,
)

FIRST, SECOND = -1 / 8, 9 / 128  # coefficients of A and A^2 in (I + A)^(-1/8)


def congruence_refresh(
    L: Tensor,
    G: Tensor,
    *,
    b2_floor: float = 0.0,
    relative_eps: float | None = None,
    product_dtype: torch.dtype | None = None,
    out: Tensor | None = None,
    route: Literal["auto", "dense", "low_rank"] = "auto",
) -> Tensor:
    """One refresh: L' = b2^(-1/4) T L T, with b2 and c as in Jorge, A.1 (from ||L^4 G G^T||, not from ||M||).

    L' is bitwise symmetric if L is, and must be: an asymmetry of 1e-6 grows until the direction is lost.

    Shape:
        L: (..., m, m), symmetric positive definite. G: (..., m, n). Returns (..., m, m), in L's dtype.

    Args:
        L: The preconditioner before.
        G: The gradient block; all zero leaves L as it is.
        b2_floor: Lower bound of b2, in [0, 1).
        relative_eps, product_dtype, out: As in `series_refresh`.
        route: Two exact ways to the same L'; "auto" takes the one with fewer operations.
    """
    l_max, g_max = largest_diagonal(L), largest(G)  # (..., 1, 1), as is every scalar below
    Lh, Gh = (L / l_max).to(product_dtype or L.dtype), (G / g_max).to(product_dtype or L.dtype)
    true_size = l_max.double() ** 4 * g_max.double() ** 2  # what X has lost by the two scalings
    dense_flops, low_rank_flops = congruence_flops(*G.shape[-2:])
    if route == "dense" or (route == "auto" and dense_flops <= low_rank_flops):
        L2 = Lh @ Lh
        S = L2 @ (Gh @ Gh.mT)
        s_max = largest(S)
        S.div_(s_max)
        norm_x = norm(L2 @ S)
        growth, weight = averaging(L, true_size * s_max.double() * norm_x, b2_floor, relative_eps)
        scale = torch.where(norm_x > 0, weight / norm_x, 0.0).to(S.dtype)
        M = scale * (S @ L2)  # c M
        U = (SECOND * (M @ M)).add_(M, alpha=FIRST)
        LU = Lh @ U
        D = LU.add_(U @ LU, alpha=0.5)  # T L T - L = D + D^T
    else:
        Y = Lh @ (Lh @ Gh)  # M = Y Y^T
        y_max = largest(Y)
        Y.div_(y_max)
        LY = Lh @ Y
        Z = Lh @ LY
        z_max = largest(Z)
        norm_x = z_max.double() * norm_of_product(Z.div_(z_max), Gh.mT)
        growth, weight = averaging(L, true_size * y_max.double() * norm_x, b2_floor, relative_eps)
        scale = torch.where(norm_x > 0, weight * y_max.double() / norm_x, 0.0).to(Y.dtype)  # c M = scale Y Y^T
        K = SECOND * scale * scale * (Y.mT @ Y)  # U = Y K Y^T
        K.diagonal(dim1=-2, dim2=-1).add_(FIRST * scale[..., 0])
        D = (LY @ K + 0.5 * (Y @ (K @ (Y.mT @ LY) @ K))) @ Y.mT
    D = D.to(L.dtype)
    correction = plus_transpose(D).mul_((growth * l_max.double()).to(L.dtype))
    return bound_dead_rows(torch.mul(L, growth.to(L.dtype), out=out).add_(correction), Gh)


def congruence_flops(m: int, n: int) -> tuple[int, int]:
    """Operations of one side's refresh (side m, other side n) by the dense and by the low-rank route."""
    return 14 * m**3 + 2 * m * m * n, 10 * m * m * n + 12 * m * n * n + 4 * n**3
