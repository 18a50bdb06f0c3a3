"""Norms and largest entries of stacked matrices, safe for entries of any size; the averaging weight they give."""

from __future__ import annotations

import torch
from torch import Tensor


def largest(matrix: Tensor) -> Tensor:
    """The largest absolute entry, shape (..., 1, 1); 1 for an all-zero matrix."""
    value = torch.maximum(matrix.amax((-1, -2), keepdim=True), -matrix.amin((-1, -2), keepdim=True))
    return torch.where(value == 0, 1.0, value).to(matrix.dtype)


def largest_diagonal(L: Tensor) -> Tensor:
    """The largest diagonal entry, of a positive definite matrix the largest of all, shape (..., 1, 1).

    One that drifted from definiteness may have larger ones; as a scale that keeps L^4 in range it still does.
    """
    return largest(L.diagonal(dim1=-2, dim2=-1).unsqueeze(-1))


def plus_transpose(matrix: Tensor) -> Tensor:
    """M + M^T, bitwise symmetric. On the CPU a large transpose is laid out first: a strided sum takes far longer."""
    if matrix.device.type != "cpu" or matrix.shape[-1] <= 512:
        return matrix + matrix.mT
    transposed = torch.empty(matrix.shape, dtype=matrix.dtype)
    for target, source in zip(transposed[None].flatten(0, -3), matrix[None].flatten(0, -3), strict=True):
        target.copy_(source.mT)
    return transposed.add_(matrix)


HIGHEST_DEAD = 1e3  # as a relative ridge of 1e-12 on the statistics


def bound_dead_rows(L: Tensor, G: Tensor) -> Tensor:
    """L with rows that no gradient has entered for long held to about `HIGHEST_DEAD` times the live ones.

    A row of G that is always zero (a dead unit, a constant input) has statistics that decay for ever, so its diagonal
    entry grows by b2^(-1/4) at each refresh: from 1e11 above the others on, L^4 would underflow on these and nothing
    would change any more. Such rows are scaled back, as D L D with D diagonal; other directions without gradient are
    not seen. The live level is the mean diagonal entry, weighted by the energies of G's rows. Where nothing is that
    high L is returned as it is.

    Shape:
        L: (..., m, m). G: (..., m, n), scaled to a largest entry near 1.
    """
    diagonal = L.diagonal(dim1=-2, dim2=-1).abs()
    if L.device.type == "cpu" and bool((diagonal.amax(-1) <= HIGHEST_DEAD * diagonal.amin(-1)).all()):
        return L  # whatever the live level is
    energies = torch.linalg.vector_norm(G, dim=-1, dtype=L.dtype) ** 2
    total = energies.sum(-1, keepdim=True)
    share = energies / torch.where(total > 0, total, 1.0)
    highest = HIGHEST_DEAD * (share * diagonal).sum(-1, keepdim=True)
    d = torch.where((total > 0) & (diagonal > highest), highest / diagonal, 1.0).sqrt()
    return L * (d.unsqueeze(-1) * d.unsqueeze(-2))


def norm(matrix: Tensor) -> Tensor:
    """Frobenius norm of a matrix whose largest entry is 1, in float64, shape (..., 1, 1)."""
    dtype = torch.promote_types(matrix.dtype, torch.float32)
    value: Tensor = torch.linalg.vector_norm(matrix, dim=(-1, -2), keepdim=True, dtype=dtype)
    return value.double()


def norm_of_product(Y: Tensor, right: Tensor) -> Tensor:
    """||Y right||_F without forming the product: its square is <Y^T Y, right right^T>."""
    squared: Tensor = ((Y.mT @ Y).double() * (right @ right.mT).double()).sum((-1, -2), keepdim=True)
    return squared.clamp(min=0).sqrt()


def is_start(L: Tensor) -> Tensor:
    """Whether L is still the identity it began as, shape (..., 1, 1).

    The diagonal tells: one refresh scales it by the gradient's own size, and one that leaves every entry at exactly 1
    would be a coincidence of rounding.
    """
    return (L.diagonal(dim1=-2, dim2=-1) == 1).all(-1)[..., None, None]


def averaging(
    L: Tensor, norm_x: Tensor, b2_floor: float = 0.0, relative_eps: float | None = None
) -> tuple[Tensor, Tensor]:
    """b2^(-1/4), times the start's scale where L is at its start, and ||c X||: 1, or less where the floor holds.

    Where X is zero they are 1 and 0: nothing changes.

    Shape:
        L: (..., m, m). norm_x, and both results: (..., 1, 1), float64.

    Reference:
        Jorge, A.1: b2 = ||X|| / (||X|| + 1), so c = (1 - b2) / b2 = 1 / ||X||, and b2^(-1/4) = (1 + c)^(1/4).
    """
    moved = norm_x > 0
    norm_x = torch.where(moved, norm_x, 1.0)
    start = torch.ones_like(norm_x)
    if relative_eps is not None:
        fresh = is_start(L)
        start = torch.where(fresh, (relative_eps * norm_x) ** (-1 / 4), start)
        norm_x = torch.where(fresh, 1 / relative_eps, norm_x)
    c = 1 / norm_x
    if b2_floor > 0:
        c = c.clamp(max=(1 - b2_floor) / b2_floor)
    return torch.where(moved, start * (1 + c) ** (1 / 4), 1.0), torch.where(moved, c * norm_x, 0.0)
