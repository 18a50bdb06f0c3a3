"""Norms and largest entries of stacked matrices, safe for entries of any size."""

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
