"""Slow forms of the sketches in float64, as printed: d x d matrices and their eigenvalues.

Nothing here is shared with the package.
"""

from __future__ import annotations

import torch
from torch import Tensor


def fd_update(S: Tensor, M: Tensor, rank: int) -> tuple[Tensor, float]:
    """Sketchy, Algorithm 1: the sketch after adding M, and lambda_l (0 where the matrix has no l-th eigenvalue)."""
    values, vectors = torch.linalg.eigh((S + M).double())
    values, vectors = values.flip(0).clamp(min=0), vectors.flip(1)
    last = float(values[rank - 1]) if rank <= len(values) else 0.0
    kept = (values[:rank] - last).clamp(min=0)
    return vectors[:, :rank] @ torch.diag(kept) @ vectors[:, :rank].T, last


class SketchedSum:
    """S and the cumulative escaped mass rho of keep, take-weighted sums (Observation 6); Algorithm 2 has both at 1."""

    def __init__(self, size: int, rank: int, *, keep: float = 1.0, take: float = 1.0) -> None:
        self.S, self.rho, self.weight = torch.zeros(size, size, dtype=torch.float64), 0.0, 0.0
        self.rank, self.keep, self.take = rank, keep, take

    def add(self, G: Tensor) -> None:
        """Add G G^T."""
        G = G.double()
        self.S, escaped = fd_update(self.keep * self.S, self.take * G @ G.T, self.rank)
        self.rho = self.keep * self.rho + escaped
        self.weight = self.keep * self.weight + self.take

    def matrix(self) -> Tensor:
        """S + rho I."""
        return self.S + self.rho * torch.eye(len(self.S), dtype=torch.float64)

    def root(self, eps: float, power: float = 0.25) -> Tensor:
        """(average + eps (tr average / d) I)^(-power) of the bias-corrected average."""
        average = self.matrix() / self.weight
        ridge = eps * float(average.trace()) / len(average)
        values, vectors = torch.linalg.eigh(average + ridge * torch.eye(len(average), dtype=torch.float64))
        return vectors @ torch.diag(values**-power) @ vectors.T


def adagrad_steps(gradients: list[Tensor], rank: int) -> list[Tensor]:
    """Algorithm 2, line 6 with lr 1: (S + rho I)^(-1/2) g for each gradient, by the pseudo-inverse."""
    total, steps = SketchedSum(gradients[0].numel(), rank), []
    for gradient in gradients:
        g = gradient.double().reshape(-1, 1)
        total.add(g)
        values, vectors = torch.linalg.eigh(total.matrix())
        inverse = torch.where(values > 1e-13 * values.max(), values.clamp(min=1e-300) ** -0.5, 0.0)
        steps.append((vectors @ (inverse.unsqueeze(1) * (vectors.T @ g))).reshape(gradient.shape))
    return steps


def full_adagrad_steps(gradients: list[Tensor]) -> list[Tensor]:
    """(sum of g g^T)^(-1/2) g without a sketch, from the singular values of all gradients so far, never squared."""
    columns, steps = [], []
    for gradient in gradients:
        columns.append(gradient.double().flatten())
        U, sigma, _ = torch.linalg.svd(torch.stack(columns, dim=1), full_matrices=False)
        inverse = torch.where(sigma > 1e-12 * sigma.max(), 1 / sigma.clamp(min=1e-300), 0.0)
        steps.append((U @ (inverse * (U.T @ columns[-1]))).reshape(gradient.shape))
    return steps
