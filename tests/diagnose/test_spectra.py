"""Measures of directions, preconditioners and statistics against plain forms."""

from __future__ import annotations

import itertools

import pytest
import torch

from jorge_tune.diagnose import observe as spectra
from tests.gradients import decaying, network_gradients
from tests.reference import jorge_refresh

# Relative difference of b2 and of 1 - b2 to the reference's, over all gradients below: at most 8e-16.
B2_ERROR = 1e-14
# ||root^4 A - I|| / ||I|| of averages with condition 1600: at most 8e-14.
ROOT_ERROR = 1e-12


def gradients():
    """Decaying, rank-deficient, of extreme size, and a real network's; all float64 matrices."""
    for m, n in ((12, 5), (5, 12), (8, 8), (1, 7), (7, 1)):
        yield from itertools.islice(decaying(m, n, seed=m), 5)
    full = next(decaying(9, 6, seed=3))
    yield full[:, :1] @ full[:1, :6]
    yield from (full * 1e-30, full * 1e30)
    yield from (g.double().reshape(len(g), -1) for g in network_gradients(1, seed=0)[0] if g.dim() > 1)


@pytest.mark.parametrize("floor", [0.0, 0.9])
def test_b2_is_the_refreshs_own(floor):
    for G in gradients():
        L = float(torch.linalg.matrix_norm(G)) ** -0.5 * (torch.eye(len(G), dtype=torch.float64) + 0.1)
        for _ in range(3):
            after, b2 = jorge_refresh(L, G, floor=floor)
            found = spectra.averaging_of(L, G, floor=floor)
            assert found.b2 == pytest.approx(b2, rel=B2_ERROR)
            assert found.rest == pytest.approx(1 - b2, rel=B2_ERROR)
            L = after


def test_b2_of_a_zero_gradient_changes_nothing_and_rest_never_cancels():
    L = torch.eye(4, dtype=torch.float64)
    assert spectra.averaging_of(L, torch.zeros(4, 3, dtype=torch.float64)) == (1.0, 0.0)
    weight = spectra.averaging_of(1e5 * L, torch.ones(4, 3, dtype=torch.float64))
    assert weight.b2 == 1.0
    assert weight.rest == pytest.approx(1 / 12e20, rel=1e-12)


def test_cosines_and_what_has_none():
    P = next(decaying(6, 4, seed=0))
    assert spectra.cosine(P, 3 * P) == pytest.approx(1)
    assert spectra.cosine(P, -P) == pytest.approx(-1)
    assert spectra.cosine(1e30 * P, 1e-30 * P) == pytest.approx(1)
    Q = P.clone()
    Q[0, 0] += 1
    assert spectra.cosine(P, Q) == pytest.approx(float((P * Q).sum() / (P.norm() * Q.norm())))
    for without in (torch.zeros_like(P), torch.full_like(P, torch.nan), torch.full_like(P, torch.inf)):
        assert spectra.cosine(P, without) is None


def test_condition_and_asymmetry():
    basis = torch.linalg.qr(next(decaying(5, 5, seed=1)))[0]
    assert spectra.condition(torch.diag(torch.tensor([4.0, 2, 0.5, 1, 1]).double()) @ basis) == pytest.approx(8)
    assert spectra.condition(torch.diag(torch.tensor([1.0, 0, 1]).double())) == torch.inf
    L = next(decaying(5, 5, seed=2))
    assert spectra.asymmetry(L @ L.T) < 1e-15
    assert spectra.asymmetry(L - L.T) == pytest.approx(2)
    assert spectra.asymmetry(L) == pytest.approx(float((L - L.T).norm() / L.norm()))


def test_intrinsic_dimension_and_mass():
    values = torch.tensor([1.0, 2, 3, 4]).double()
    assert spectra.intrinsic_dimension(values) == pytest.approx(2.5)
    assert [spectra.mass(values, top) for top in (1, 2, 4)] == pytest.approx([0.4, 0.7, 1])
    one = next(decaying(8, 1, seed=0))
    found, _ = spectra.eigen(one @ one.T)
    assert spectra.intrinsic_dimension(found) == pytest.approx(1)
    found, _ = spectra.eigen(7 * torch.eye(8, dtype=torch.float64))
    assert spectra.intrinsic_dimension(found) == pytest.approx(8)


@pytest.mark.parametrize("scale", [1e-60, 1.0, 1e60])
def test_the_fourth_power_of_a_root_inverts(scale):
    A = torch.zeros(10, 10, dtype=torch.float64)
    for G in itertools.islice(decaying(10, 4, seed=4, power=2.0), 30):
        A = 0.9 * A + scale * G @ G.T
    root = spectra.root_from(*spectra.eigen(A))
    identity = torch.eye(10, dtype=torch.float64)
    assert spectra.relative_error(torch.linalg.matrix_power(root, 4) @ A, identity) < ROOT_ERROR
    assert spectra.asymmetry(root) < 1e-14


def test_the_root_of_a_singular_average_is_finite_and_exact_on_its_span():
    G = next(decaying(10, 3, seed=5))
    root = spectra.root_from(*spectra.eigen(G @ G.T))
    U, s, V = torch.linalg.svd(G, full_matrices=False)
    assert bool(torch.isfinite(root).all())
    # Measured 2e-12: rounding, amplified by the roots of the lifted zero eigenvalues.
    assert spectra.relative_error(root @ G, (U * s**0.5) @ V) < 1e-10
