"""Norms of steps: float64's, on the CPU by pieces."""

from __future__ import annotations

import pytest
import torch

from jorge_tune.optim.grafting import norms

# Largest relative error against float64, of float32 tensors with up to 1e7 entries: 3.7e-7, for a constant 0.1 (0.1
# itself is 1.5e-8 off in float32, but so is the float64 sum's entry); random ones 5e-8.
FLOAT32_NORM_ERROR = 2e-6


@pytest.mark.parametrize("shape", [(), (7,), (2_000_000,), (1, 1_500_000), (1025, 3), (6, 5, 3, 3), (0, 3), (3, 0)])
@pytest.mark.parametrize("fill", ["normal", 0.1, 1e30, 1e-30, 0.0])
def test_norms_are_float64s(shape, fill):
    if fill == "normal":
        tensor = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    else:
        tensor = torch.full(shape, fill)
    (found,) = norms([tensor])
    wanted = float(tensor.double().norm())
    assert found.dtype == torch.float64
    assert abs(float(found) - wanted) <= FLOAT32_NORM_ERROR * wanted


def test_what_is_not_finite_has_no_finite_norm_and_order_in_memory_does_not_matter():
    spoiled = torch.ones(3000, 7)
    spoiled[17, 3] = torch.nan
    turned = torch.arange(12.0).reshape(3, 4).T
    found = norms([spoiled, spoiled.nan_to_num(torch.inf), turned])
    assert torch.isfinite(found).tolist() == [False, False, True]
    assert float(found[2]) == pytest.approx(506**0.5)
