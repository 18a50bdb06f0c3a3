"""What a matrix says about itself: pure measures of directions, preconditioners and statistics, in float64.

Legend: L a preconditioner (m x m), G a gradient with its side first (m x n), A a running average of G G^T; values are
the eigenvalues of A, ascending.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

RESOLUTION = torch.finfo(torch.float64).eps  # eigenvalues below m times this share of the largest are noise


class Averaging(NamedTuple):
    """b2, and 1 - b2 without cancellation: even float64 rounds b2 to 1 once ||X|| > 1e16."""

    b2: float
    rest: float


def averaging_of(L: Tensor, G: Tensor, *, floor: float = 0.0) -> Averaging:
    """The averaging weight that a refresh of L by G has: b2 = ||X||_F / (||X||_F + 1), X = L^4 G G^T.

    Shape:
        L: (m, m). G: (m, n). Both float64.

    Args:
        L: The preconditioner before the refresh, its true scale included.
        G: The gradient; all zero gives b2 = 1, a refresh that changes nothing.
        floor: Lower bound of b2, in [0, 1).

    Reference:
        Jorge, A.1, Eq. 10.
    """
    norm = float(torch.linalg.matrix_norm(L @ (L @ (L @ (L @ G))) @ G.mT))
    if norm == 0:
        return Averaging(1.0, 0.0)
    b2 = norm / (norm + 1)
    return Averaging(b2, 1 / (norm + 1)) if b2 >= floor else Averaging(floor, 1 - floor)


def cosine(P: Tensor, Q: Tensor) -> float | None:
    """<P, Q> / (||P|| ||Q||); None where one of them has no direction: zero, or not finite."""
    lengths = torch.linalg.vector_norm(P) * torch.linalg.vector_norm(Q)
    value = float((P * Q).sum() / lengths)
    return value if abs(value) <= 2 else None  # also false for NaN


def condition(L: Tensor) -> float:
    """Largest over smallest singular value; infinite for a singular matrix. L need not be symmetric."""
    values = torch.linalg.svdvals(L)
    return float(values[0] / values[-1])


def asymmetry(L: Tensor) -> float:
    """||L - L^T||_F / ||L||_F: 0 for a symmetric matrix, 2 for a skew one."""
    return relative_error(L.mT, L)


def relative_error(approximate: Tensor, exact: Tensor) -> float:
    """||approximate - exact||_F / ||exact||_F."""
    return float(torch.linalg.matrix_norm(approximate - exact) / torch.linalg.matrix_norm(exact))


def intrinsic_dimension(values: Tensor) -> float:
    """tr A / lambda_max: 1 for a matrix of rank one, m for the identity.

    Reference:
        Sketchy, Fig. 3.
    """
    return float(values.sum() / values[-1])


def mass(values: Tensor, directions: int) -> float:
    """The share of tr A that lies in the top `directions` eigenvalues (Sketchy, Fig. 3)."""
    return float(values[-directions:].sum() / values.sum())


def eigen(A: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues, those below the resolution of float64 lifted to it, and eigenvectors of a symmetric A >= 0."""
    values, vectors = torch.linalg.eigh(A)
    return values.clamp(min=float(values[-1]) * len(values) * RESOLUTION), vectors


def root_from(values: Tensor, vectors: Tensor) -> Tensor:
    """A^(-1/4) from the eigenvalues and eigenvectors of A."""
    root: Tensor = (vectors * values**-0.25) @ vectors.mT
    return root
