"""`congruence_refresh` against its own formula in float64, and what it is for: no drift."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import nn

from jorge_tune.optim import Jorge
from jorge_tune.optim.jorge import congruence_refresh
from jorge_tune.optim.numerics import plus_transpose
from tests import reference
from tests.gradients import decaying
from tests.optim.test_series import relative_error
from tests.reference import inverse_root, jorge_refresh

SHAPES = [(24, 6), (6, 24), (12, 12), (1, 7), (7, 1), (16, 27)]
ROUTES = ["dense", "low_rank"]

# Largest relative error of one float32 refresh against float64, over SHAPES, both routes and 40 refreshes: 1.3e-7.
F32_ERROR = 1e-6


def literal(L, G, floor=0.0):
    return reference.congruence_refresh(L, G, floor)[0]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("floor", [0.0, 0.9])
def test_refresh_equals_the_formula(shape, route, floor):
    L = torch.eye(shape[0], dtype=torch.float64)
    for G in itertools.islice(decaying(*shape, seed=1), 40):
        wanted = literal(L, G, floor)
        assert relative_error(congruence_refresh(L, G, b2_floor=floor, route=route), wanted) < 1e-13
        single = congruence_refresh(L.float(), G.float(), b2_floor=floor, route=route)
        assert relative_error(single, literal(L.float(), G.float(), floor)) < F32_ERROR
        assert torch.equal(single, single.mT)
        L = (wanted + wanted.T) / 2  # the literal product is symmetric to rounding only


def test_where_everything_commutes_it_is_the_series_up_to_truncation():
    G = torch.diag(torch.arange(1.0, 6.0, dtype=torch.float64))
    L = torch.diag(torch.arange(5.0, 0.0, -1.0, dtype=torch.float64))
    assert relative_error(congruence_refresh(L, G), jorge_refresh(L, G)[0]) < 0.01


@pytest.mark.parametrize("route", ROUTES)
def test_batched_zero_and_relative_start(route):
    Gs = torch.stack(list(itertools.islice(decaying(9, 5, seed=3), 3))).float()
    Gs[1] = 0
    Ls = torch.stack([torch.eye(9) * (k + 1) + 0.1 for k in range(3)])
    together = congruence_refresh(Ls, Gs, route=route)
    for k in range(3):
        assert torch.allclose(together[k], congruence_refresh(Ls[k], Gs[k], route=route), rtol=1e-6, atol=1e-7)
    assert torch.equal(together[1], Ls[1])
    eye = torch.eye(9)
    assert torch.equal(congruence_refresh(eye, Gs[1], relative_eps=1.0, route=route), eye)
    G, start = Gs[0].double(), (0.3 * torch.linalg.matrix_norm(Gs[0].double() @ Gs[0].double().T)) ** -0.25
    got = congruence_refresh(eye.double(), G, relative_eps=0.3, route=route)
    assert relative_error(got, literal(start * eye.double(), G)) < 1e-13


@pytest.mark.parametrize("scale", [1e-30, 1e30])
@pytest.mark.parametrize("route", ROUTES)
def test_extreme_gradients_match_float64(scale, route):
    G = (next(decaying(8, 5, seed=5)) * scale).float()
    L = scale**-0.5 * (torch.eye(8) + 0.1)
    assert relative_error(congruence_refresh(L, G, route=route), literal(L, G)) < F32_ERROR


@pytest.mark.parametrize(("drift", "bound"), [(0.0, 0.99), (0.05, 0.99)])
def test_it_does_not_drift_in_float32(drift, bound):
    """Cosine to the exact roots for the same b2, 300 refreshes; 0.999 measured, the series ends at 0.4 for 0.05."""
    m, n = 24, 16
    L, R = torch.eye(m), torch.eye(n)
    A_L, A_R = torch.eye(m, dtype=torch.float64), torch.eye(n, dtype=torch.float64)
    cosines = []
    for G in itertools.islice(decaying(m, n, seed=0, drift=drift), 300):
        for A, side, g in ((A_L, L, G), (A_R, R, G.T)):
            _, b2 = reference.congruence_refresh(side, g.float())
            A.mul_(b2).add_((1 - b2) * g @ g.T)
        L, R = congruence_refresh(L, G.float()), congruence_refresh(R, G.T.float())
        ours, exact = L.double() @ G @ R.double(), inverse_root(A_L) @ G @ inverse_root(A_R)
        cosines.append(float((ours * exact).sum() / (ours.norm() * exact.norm())))
    assert min(cosines[10:]) > bound
    assert float(torch.linalg.eigvalsh(L.double())[0]) > 0
    assert torch.equal(L, L.mT)


def test_the_optimizer_keeps_its_preconditioners_symmetric():
    weight = nn.Parameter(torch.ones(12, 7))
    optimizer = Jorge([weight], 0.05, form="congruence", block_size=5)
    for G in itertools.islice(decaying(12, 7, seed=2), 50):
        weight.grad = G.float()
        optimizer.step()
    sides = {k: v for k, v in optimizer.state[weight].items() if k.startswith(("left", "right"))}
    assert len(sides) == 24  # 6 blocks, 2 sides, a matrix and its sign generators each
    for side in (value for key, value in sides.items() if not key.endswith(".signs")):
        assert torch.equal(side, side.mT)
        assert float(torch.linalg.eigvalsh(side.double())[0]) > 0


@pytest.mark.parametrize("shape", [(7, 7), (2, 7, 7), (520, 520), (2, 520, 520)])
def test_a_sum_with_the_transpose_is_the_same_however_it_is_taken(shape):
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    assert torch.equal(plus_transpose(matrix), matrix + matrix.mT)
