"""A relative ridge on the statistics, without a dense matrix: one extra column of random signs beside each gradient.

With G' = [G, y], y = sqrt(ridge / m) ||G||_F z and z of random signs, G' G'^T is on average
G G^T + ridge ||G||_F^2 / m I. So directions that no gradient enters (the constant one of a softmax layer, dead units)
keep a share of the statistics, and no preconditioner grows along them without end.

The signs are drawn on the device by a linear congruential generator for each row, whose state is the optimizer's own
(`left.<i>.signs`, int64). So nothing waits for the host, the draws are the same on every device, and a resumed run
draws what an uninterrupted one would.

Legend: G a gradient block (m x n); z signs, and y the column, both (m x 1). A leading batch dimension is allowed.

Reference:
    Knuth, "The Art of Computer Programming", volume 2, Section 3.3.4, Table 1, for the multiplier.
"""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor

_MULTIPLIER: Final = 6364136223846793005
_INCREMENT: Final = 1442695040888963407
_SEED: Final = 16


def initial_signs(size: int, device: torch.device | str = "cpu") -> Tensor:
    """The generators' states before the first draw: int64, shape (size,), the same in every run."""
    generator = torch.Generator().manual_seed(_SEED)
    whole = torch.iinfo(torch.int64)
    seeds = torch.randint(whole.min, whole.max, (size,), generator=generator, device="cpu", dtype=torch.int64)
    return seeds.to(device)


def next_signs(states: Tensor) -> Tensor:
    """Each generator's next state, modulo 2^64."""
    return states * _MULTIPLIER + _INCREMENT


def ridge_column(G: Tensor, states: Tensor | None, ridge: float) -> Tensor | None:
    """y = sqrt(ridge / m) ||G||_F z; None without a ridge. The signs z are the states' highest bits.

    Shape:
        G: (..., m, n), scaled to a largest entry near 1. states: (..., m). Returns (..., m, 1), in G's dtype.
    """
    if states is None or ridge == 0:
        return None
    dtype = torch.promote_types(G.dtype, torch.float32)
    length = torch.linalg.vector_norm(G, dim=(-1, -2), dtype=dtype) * (ridge / G.shape[-2]) ** 0.5
    length = length.unsqueeze(-1)
    return torch.where(states < 0, -length, length).to(G.dtype).unsqueeze(-1)
