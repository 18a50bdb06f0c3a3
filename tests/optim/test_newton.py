"""Coupled inverse Newton against roots taken in float64 by eigenvalues."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from jorge_tune.optim import Shampoo, inverse_root_eigh, inverse_root_newton
from jorge_tune.optim.shampoo import NEWTON_RIDGE
from tests.gradients import decaying, network_gradients
from tests.reference import inverse_root

# Relative error of the root against float64 at the same ridge. Measured in float32: at most 3.7e-5 where the spectrum
# stays above the rounding of A, 5.6e-3 where it falls below it (k^-4, or rank 10 of 96); in float64 6e-9.
FLOAT32, FLOAT32_AT_ROUNDING, FLOAT64 = 2e-4, 2e-2, 1e-7


def statistics(m, n, power, steps=5, dtype=torch.float64):
    source = decaying(m, n, seed=3, power=power, drift=0.0)
    return sum(g @ g.T for g, _ in zip(source, range(steps), strict=False)).to(dtype)


def with_ridge(A, eps=1e-6, unit=2.0**-23):
    """What the root is taken of, written out again."""
    A = A.double()
    mean = A.trace() / len(A)
    return A + max(eps * mean, NEWTON_RIDGE * unit * A.norm()) * torch.eye(len(A), dtype=torch.float64)


def error(root, exact):
    return float((root.double() - exact).norm() / exact.norm())


@pytest.mark.parametrize("power", [0.5, 1.0, 2.0])
@pytest.mark.parametrize(("m", "n"), [(16, 8), (64, 64), (96, 2)])
def test_float32_roots_of_decaying_and_rank_deficient_statistics(m, n, power):
    A = statistics(m, n, power)
    bound = FLOAT32_AT_ROUNDING if power == 2.0 or m == 96 else FLOAT32
    root = inverse_root_newton(A.float(), eps=1e-6)
    assert error(root, inverse_root(with_ridge(A))) < bound


def test_float64_equals_eigh_where_the_ridge_is_the_same():
    A = statistics(32, 20, 1.0)
    assert error(inverse_root_newton(A, eps=1e-6), inverse_root_eigh(A, eps=1e-6)) < FLOAT64


def test_each_of_a_batch_is_as_if_alone():
    """In float64: a batch's products may round otherwise than one alone, and in float32 the last root shows that."""
    batch = torch.stack([statistics(12, 6, p) for p in (0.5, 1.0, 2.0)])
    together = inverse_root_newton(batch, eps=1e-6)
    for A, root in zip(batch, together, strict=True):
        # 1e-7 measured: those that converged early go on while the others run
        assert error(root, inverse_root_newton(A, eps=1e-6)) < 1e-5


@pytest.mark.parametrize("scale", [1e-30, 1e-12, 1e12, 1e30])
def test_the_scale_of_the_statistics_factors_out(scale):
    A = statistics(16, 16, 1.0).float()
    scaled = inverse_root_newton(A * scale, eps=1e-6) * scale**0.25
    assert error(scaled, inverse_root_newton(A, eps=1e-6).double()) < 1e-5  # 2e-6 measured


def test_zero_gives_the_identity_and_an_indefinite_matrix_stays_finite():
    both = torch.stack([torch.zeros(6, 6), torch.diag(torch.tensor([1.0, 1, 1, 1, 1, -0.1]))])
    roots = inverse_root_newton(both, eps=1e-6)
    assert torch.equal(roots[0], torch.eye(6))
    assert torch.isfinite(roots).all()


def test_more_iterations_come_closer():
    """A capped root flattens the small end of the spectrum; by 30 it is the root."""
    A = statistics(32, 32, 1.0)
    exact = inverse_root(with_ridge(A, unit=2.0**-52))
    errors = [error(inverse_root_newton(A, eps=1e-6, iterations=k), exact) for k in (1, 2, 4, 8, 30)]
    assert errors == sorted(errors, reverse=True)
    assert errors[0] > 0.5
    assert errors[-1] < FLOAT64


def test_shampoo_by_newton_follows_shampoo_by_eigh_on_a_real_networks_gradients():
    """Relative distance of the weights after 20 steps; 1.5e-4 measured, with a ridge of 1e-3 for both."""
    weights = {}
    for root in ("eigh", "newton"):
        params = [nn.Parameter(torch.zeros_like(g)) for g in network_gradients(1, seed=0)[0]]
        optimizer = Shampoo(params, lr=0.1, root=root, eps=1e-3)
        for grads in network_gradients(20, seed=0):
            for p, g in zip(params, grads, strict=True):
                p.grad = g
            optimizer.step()
        weights[root] = torch.cat([p.detach().flatten() for p in params])
    assert error(weights["newton"], weights["eigh"].double()) < 1e-3
