"""Norms and largest entries of stacked matrices, safe for entries of any size; the averaging weight they give."""

from __future__ import annotations

import torch
from torch import Tensor


def largest(matrix: Tensor) -> Tensor:
    """The largest absolute entry, shape (..., 1, 1); 1 for an all-zero matrix."""
    value = matrix.abs().amax((-1, -2), keepdim=True)
    return torch.where(value == 0, 1.0, value).to(matrix.dtype)


def norm(matrix: Tensor) -> Tensor:
    """Frobenius norm in float64, shape (..., 1, 1)."""
    value: Tensor = torch.linalg.vector_norm(matrix, dim=(-1, -2), keepdim=True, dtype=torch.float64)
    return value


def norm_of_product(Y: Tensor, right: Tensor) -> Tensor:
    """||Y right||_F without forming the product: its square is <Y^T Y, right right^T>."""
    squared: Tensor = ((Y.mT @ Y).double() * (right @ right.mT).double()).sum((-1, -2), keepdim=True)
    return squared.clamp(min=0).sqrt()


def is_identity(matrix: Tensor) -> Tensor:
    """Whether a matrix is exactly the identity, shape (..., 1, 1)."""
    identity = torch.eye(matrix.shape[-1], dtype=matrix.dtype, device=matrix.device)
    return (matrix == identity).all(-1, keepdim=True).all(-2, keepdim=True)


def averaging(
    L: Tensor, norm_x: Tensor, b2_floor: float = 0.0, relative_eps: float | None = None
) -> tuple[Tensor, Tensor]:
    """b2^(-1/4), times the start's scale where L is at its start, and ||c X||: 1, or less where the floor holds.

    Shape:
        L: (..., m, m). norm_x, and both results: (..., 1, 1), float64; not finite where norm_x is 0.

    Reference:
        Jorge, A.1: b2 = ||X|| / (||X|| + 1), so c = (1 - b2) / b2 = 1 / ||X||, and b2^(-1/4) = (1 + c)^(1/4).
    """
    start = torch.ones_like(norm_x)
    if relative_eps is not None:
        is_start = is_identity(L)
        start = torch.where(is_start, (relative_eps * norm_x) ** (-1 / 4), start)
        norm_x = torch.where(is_start & (norm_x > 0), 1 / relative_eps, norm_x)
    c = 1 / norm_x
    if b2_floor > 0:
        c = c.clamp(max=(1 - b2_floor) / b2_floor)
    return start * (1 + c) ** (1 / 4), c * norm_x
