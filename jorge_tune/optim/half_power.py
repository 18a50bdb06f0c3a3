"""The half power, held directly: H near A^(-1/2) in place of L near A^(-1/4), refreshed by a congruence.

One refresh, for each side of a block:

    Y = H G,  M = Y Y^T                                      = A^(-1/2) G G^T A^(-1/2)
    c = 1 / ||M||_F                                          b2 = ||M|| / (||M|| + 1) as in Jorge, A.1
    U = -1/4 c M + 5/32 (c M)^2                              I + U ~ (I + c M)^(-1/4), Jorge's own series (Eq. 6)
    D = H U + 1/2 U H U
    H <- (1 + c)^(1/2) [H + (D + D^T)]                       = b2^(-1/2) (I + U) H (I + U)

A' = b2 A + (1 - b2) G G^T is b2 A^(1/2) (I + c M) A^(1/2), so H' is A'^(-1/2) where A and M commute. Where they do not,
H' is still symmetric, and positive definite, since ||c M|| <= 1 keeps I + U at 0.9 I or more. (D + D^T) is added as one
matrix: H + D + D^T would not be symmetric to the last bit, and asymmetry grows.

Legend: G a gradient block (m x n) with one more column where there is a ridge (ridge.py); H its left preconditioner
(m x m), A the running average of G G^T, which is never stored. A hat (`Hh`, `Gh`) marks a matrix scaled to a largest
entry of 1. A leading batch dimension is allowed everywhere.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from jorge_tune.optim.numerics import averaging, bound_dead_rows, largest, largest_diagonal, norm, plus_transpose
from jorge_tune.optim.ridge import ridge_column

FIRST, SECOND = -1 / 4, 5 / 32  # coefficients of A and A^2 in (I + A)^(-1/4), Jorge, Eq. 6


def half_refresh(
    H: Tensor,
    G: Tensor,
    *,
    ridge: float = 0.0,
    signs: Tensor | None = None,
    b2_floor: float = 0.0,
    relative_eps: float | None = None,
    product_dtype: torch.dtype | None = None,
    out: Tensor | None = None,
    route: Literal["auto", "dense", "low_rank"] = "auto",
) -> Tensor:
    """One refresh: H' = (1 + c)^(1/2) (I + U) H (I + U), with c = 1 / ||M||_F and M = H G G^T H.

    H' is bitwise symmetric if H is, and must be.

    Shape:
        H: (..., m, m), symmetric positive definite. G: (..., m, n). Returns (..., m, m), in H's dtype.

    Args:
        H: The preconditioner before.
        G: The gradient block; if it is all zero, H stays as it is.
        ridge: Relative ridge on the statistics, >= 0; needs `signs`.
        signs: States of the sign generators (`ridge.next_signs`), int64, (..., m).
        b2_floor: Lower bound of b2, in [0, 1).
        relative_eps: If given, an H with a diagonal of exact ones stands for the start
            (relative_eps ||G G^T||_F)^(-1/2) I.
        product_dtype: Dtype of the products that make the correction, if it is not H's.
        out: Where to put H'; may be H itself.
        route: Two exact ways to the same H'. "dense" forms M, "low_rank" keeps it as Y Y^T; "auto" takes the one with
            fewer operations.
    """
    # c M depends on the scale of neither H nor G. What is scaled away is kept apart, in float64, for c itself.
    dtype = product_dtype or H.dtype
    h_max, g_max = largest_diagonal(H), largest(G)
    Hh, Gh = (H / h_max).to(dtype), (G / g_max).to(dtype)
    lost = h_max.double() ** 2 * g_max.double() ** 2
    y = ridge_column(Gh, signs, ridge)

    dense, low_rank = half_flops(*G.shape[-2:], ridged=y is not None)
    if route == "dense" or (route == "auto" and dense <= low_rank):
        M = gram_through(Hh, Gh, y)
        growth, scale = _averaging(H, norm(M), lost, b2_floor, relative_eps)
        M = scale.to(dtype) * M  # c M

        U = (SECOND * (M @ M)).add_(M, alpha=FIRST)
        HU = Hh @ U
        D = HU.add_(U @ HU, alpha=0.5)
    else:
        Y = Hh @ (Gh if y is None else torch.cat((Gh, y), dim=-1))
        S = Y.mT @ Y
        growth, scale = _averaging(H, norm(S), lost, b2_floor, relative_eps)  # ||S|| is ||M||
        scale = scale.to(dtype)

        K = SECOND * scale * (scale * S)  # U = Y K Y^T
        K.diagonal(dim1=-2, dim2=-1).add_(FIRST * scale[..., 0])
        HY = Hh @ Y
        D = (HY @ K + 0.5 * (Y @ (K @ (Y.mT @ HY) @ K))) @ Y.mT

    correction = plus_transpose(D.to(H.dtype)).mul_((growth * h_max.double()).to(H.dtype))
    refreshed = torch.mul(H, growth.to(H.dtype), out=out).add_(correction)
    return refreshed if y is not None else bound_dead_rows(refreshed, Gh)


def half_flops(m: int, n: int, *, ridged: bool) -> tuple[int, int]:
    """Operations of one side's refresh (side m, other side n), by the dense and by the low-rank route."""
    columns = n + ridged
    low_rank = 6 * m * m * columns + 8 * m * columns**2 + 4 * columns**3
    return 6 * m**3 + gram_flops(m, n, ridged=ridged), low_rank


def gram_through(T: Tensor, G: Tensor, y: Tensor | None) -> Tensor:
    """(T G') (T G')^T with G' = [G, y], for a symmetric T.

    Shape:
        T: (..., m, m). G: (..., m, n). y: (..., m, 1) or None. Returns (..., m, m).
    """
    if _squares_first(*G.shape[-2:]):
        S = G @ G.mT
        if y is not None:
            S = S.add_(y * y.mT)
        return T @ S @ T
    Y = T @ G
    M = Y @ Y.mT
    if y is not None:
        y = T @ y
        M = M.add_(y * y.mT)
    return M


def gram_flops(m: int, n: int, *, ridged: bool) -> int:
    """Operations of `gram_through`."""
    if _squares_first(m, n):
        return 4 * m**3 + 2 * m * m * n
    return 4 * m * m * n + 2 * m * m * ridged


def _squares_first(m: int, n: int) -> bool:
    """Whether T (G G^T) T takes fewer operations than (T G) (T G)^T."""
    return n >= 2 * m


def _averaging(
    H: Tensor, norm_m: Tensor, lost: Tensor, b2_floor: float, relative_eps: float | None
) -> tuple[Tensor, Tensor]:
    """b2^(-1/2) with the start's scale, and what takes the scaled M to c M; for M = 0 they are 1 and 0.

    `averaging` gives the fourth root of A's growth, as L ~ A^(-1/4) needs it; H needs its square.
    """
    growth, weight = averaging(H, lost * norm_m, b2_floor, relative_eps)
    return growth.square(), torch.where(norm_m > 0, weight / norm_m, 0.0)
