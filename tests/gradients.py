"""Gradients that show faults: decaying spectra, rank deficiency, extreme sizes, and a real network's."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn


def decaying(m: int, n: int, *, seed: int, power: float = 1.0, drift: float = 0.05) -> Iterator[Tensor]:
    """Gradients U diag(k^-power) Z diag(k^-power) V^T with fresh normal Z, float64, without end.

    U and V are orthogonal and turn a little at each step; with drift 0 they stand still.
    """
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    sides = [torch.linalg.qr(normal(k, k))[0] for k in (m, n)]
    spectra = [torch.diag(torch.arange(1, k + 1, dtype=torch.float64) ** -power) for k in (m, n)]
    while True:
        yield sides[0] @ spectra[0] @ normal(m, n) @ spectra[1] @ sides[1].T
        if drift:
            sides = [torch.linalg.qr(side + drift * normal(*side.shape))[0] for side in sides]


def network_gradients(number: int, *, seed: int) -> list[list[Tensor]]:
    """`number` successive gradients of every parameter of a small network trained on the digits by SGD."""
    from sklearn.datasets import load_digits

    torch.manual_seed(seed)
    images, labels = load_digits(return_X_y=True)
    x, y = torch.tensor(images, dtype=torch.float32) / 16, torch.tensor(labels)
    model = nn.Sequential(
        nn.Unflatten(1, (1, 8, 8)), nn.Conv2d(1, 8, 3), nn.Tanh(), nn.Flatten(), nn.Linear(288, 16), nn.Linear(16, 10)
    )
    gradients = []
    for k in range(number):
        batch = slice(32 * (k % 50), 32 * (k % 50) + 32)
        loss = nn.functional.cross_entropy(model(x[batch]), y[batch])
        grads = torch.autograd.grad(loss, list(model.parameters()))
        gradients.append([g.detach() for g in grads])
        with torch.no_grad():
            for p, g in zip(model.parameters(), grads, strict=True):
                p -= 0.1 * g
    return gradients
