"""Slow forms in float64 that store what the paper names: the oracles of the optimizer tests.

Nothing here is shared with the package. Formulas are written as printed, b2 and all.
"""

from __future__ import annotations

import torch
from torch import Tensor


def jorge_refresh(L: Tensor, G: Tensor, terms: int = 2, floor: float = 0.0) -> tuple[Tensor, float]:
    """Algorithm 2, line 5-6, with b2 of A.1, Eq. 10. Returns L' and b2."""
    L, G = L.double(), G.double()
    X = L @ L @ L @ L @ G @ G.T
    norm = float(torch.sqrt((X * X).sum()))
    if norm == 0:
        return L, 1.0
    b2, rest = norm / (norm + 1), 1 / (norm + 1)  # rest = 1 - b2, which even float64 rounds to 0 beyond 1e16
    if b2 < floor:
        b2, rest = floor, 1 - floor
    ratio = rest / b2
    series = torch.eye(len(L), dtype=torch.float64) - ratio / 4 * X
    if terms >= 2:
        series = series + 5 * ratio**2 / 32 * (X @ X)
    if terms >= 3:
        series = series - 15 * ratio**3 / 128 * (X @ X @ X)
    return b2 ** (-1 / 4) * L @ series, b2


def averaged(norm: float, floor: float = 0.0) -> tuple[float, float]:
    """b2 of A.1, Eq. 10, and c = (1 - b2) / b2, from the norm of what a gradient adds."""
    b2 = max(norm / (norm + 1), floor)
    return b2, (1 - b2) / b2 if b2 == floor else 1 / norm


def with_ridge(G: Tensor, signs: Tensor, ridge: float) -> Tensor:
    """[G, y] with y = (ridge / m)^(1/2) ||G||_F z; z has the opposite sign where a generator's state is negative."""
    z = torch.tensor([-1.0 if state < 0 else 1.0 for state in signs.tolist()], dtype=torch.float64)
    y = (ridge / len(G)) ** 0.5 * torch.sqrt((G.double() ** 2).sum()) * z
    return torch.cat((G.double(), y[:, None]), dim=1)


def congruence_refresh(L: Tensor, G: Tensor, floor: float = 0.0) -> tuple[Tensor, float]:
    """b2^(-1/4) T L T as written, T the series of (I + c M)^(-1/8) with M = L^2 G G^T L^2. Returns L' and b2."""
    L, G = L.double(), G.double()
    M = L @ L @ G @ G.T @ L @ L
    norm = float(torch.sqrt((M * M).sum()))
    if norm == 0:
        return L, 1.0
    b2, c = averaged(norm, floor)
    T = torch.eye(len(L), dtype=torch.float64) - c / 8 * M + 9 * c**2 / 128 * M @ M
    return b2 ** (-1 / 4) * T @ L @ T, b2


def half_refresh(H: Tensor, G: Tensor, floor: float = 0.0) -> tuple[Tensor, float]:
    """b2^(-1/2) T H T as written, T the series of (I + c M)^(-1/4) with M = H G G^T H. Returns H' and b2."""
    H, G = H.double(), G.double()
    M = H @ G @ G.T @ H
    norm = float(torch.sqrt((M * M).sum()))
    if norm == 0:
        return H, 1.0
    b2, c = averaged(norm, floor)
    T = torch.eye(len(H), dtype=torch.float64) - c / 4 * M + 5 * c**2 / 32 * M @ M
    return b2 ** (-1 / 2) * T @ H @ T, b2


def inverse_root(A: Tensor, power: float = 0.25) -> Tensor:
    """A^(-power) of a symmetric positive definite matrix."""
    values, vectors = torch.linalg.eigh(A.double())
    return vectors @ torch.diag(values**-power) @ vectors.T


class JorgeReference:
    """Algorithm 2 with A.1 and A.2 (Algorithm 3) for one parameter: interval 1, unblocked, absolute eps."""

    def __init__(self, weight: Tensor, *, eps: float, momentum: float, lr: float, weight_decay: float) -> None:
        self.shape = weight.shape
        self.weight = weight.double().reshape(weight.shape[0], -1).clone()
        m, n = self.weight.shape
        self.L = eps**-0.25 * torch.eye(m, dtype=torch.float64)
        self.R = eps**-0.25 * torch.eye(n, dtype=torch.float64)
        self.m = torch.zeros_like(self.weight)
        self.m_sgd = torch.zeros_like(self.weight)
        self.momentum, self.lr, self.weight_decay = momentum, lr, weight_decay

    def step(self, grad: Tensor) -> None:
        """One step; the momentum average m is Algorithm 3's, (1 - b1) and all."""
        G = grad.double().reshape(self.weight.shape)
        self.L, _ = jorge_refresh(self.L, G)
        self.R, _ = jorge_refresh(self.R, G.T)
        self.m = self.momentum * self.m + (1 - self.momentum) * (self.L @ G @ self.R)
        self.m_sgd = self.momentum * self.m_sgd + G
        direction = self.m / self.m.norm() if self.m.norm() > 0 else torch.zeros_like(self.m)
        self.weight = (1 - self.lr * self.weight_decay) * self.weight
        self.weight = self.weight - self.lr * self.m_sgd.norm() * direction
