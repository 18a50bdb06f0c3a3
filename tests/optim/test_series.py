"""`series_refresh` against the paper's formula in float64, and the laws of the refresh."""

from __future__ import annotations

import itertools

import pytest
import torch

from jorge_tune.optim import congruence_refresh, half_refresh, series_refresh
from jorge_tune.optim.jorge import refresh_flops
from tests.gradients import decaying
from tests.reference import jorge_refresh

SHAPES = [(24, 6), (6, 24), (12, 12), (1, 7), (7, 1), (16, 27)]

# Largest relative error of one float32 refresh against float64, measured over SHAPES, both routes, all terms and 40
# successive refreshes of decaying gradients: 1.1e-7;
# 6.3e-7 for gradients of rank one. Room for other processors' product kernels is left.
F32_REFRESH_ERROR = 2e-6


def relative_error(got: torch.Tensor, wanted: torch.Tensor) -> float:
    return float((got.double() - wanted).norm() / wanted.norm())


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("route", ["dense", "low_rank"])
@pytest.mark.parametrize(("terms", "floor"), [(1, 0.0), (2, 0.0), (3, 0.0), (2, 0.9)])
def test_refresh_equals_the_formula(shape, route, terms, floor):
    L = torch.eye(shape[0])
    for G in itertools.islice(decaying(*shape, seed=1), 40):
        wanted, _ = jorge_refresh(L, G.float(), terms, floor)
        got = series_refresh(L, G.float(), series_terms=terms, b2_floor=floor, route=route)
        assert relative_error(got, wanted) < F32_REFRESH_ERROR
        L = wanted.float()  # resynchronise: drift must not mask a fault


@pytest.mark.parametrize("shape", SHAPES)
def test_refresh_in_float64_is_exact_to_rounding(shape):
    L = torch.eye(shape[0], dtype=torch.float64)
    for G in itertools.islice(decaying(*shape, seed=2), 20):
        wanted, _ = jorge_refresh(L, G)
        for route in ("dense", "low_rank"):
            assert relative_error(series_refresh(L, G, route=route), wanted) < 1e-13
        L = wanted


def test_batched_equals_one_by_one():
    Gs = torch.stack(list(itertools.islice(decaying(9, 5, seed=3), 4))).float()
    Ls = torch.stack([torch.eye(9) * (k + 1) + 0.1 * torch.ones(9, 9) for k in range(4)])
    for route in ("dense", "low_rank"):
        together = series_refresh(Ls, Gs, route=route)
        alone = torch.stack([series_refresh(L, G, route=route) for L, G in zip(Ls, Gs, strict=True)])
        assert torch.allclose(together, alone, rtol=1e-6, atol=1e-7)
        assert not torch.allclose(together[0], together[1])


def test_direction_does_not_depend_on_the_start():
    """c X is scale-free: starts of eps 1e-12 and 1e+12 keep proportional preconditioners."""
    sides = {scale: scale * torch.eye(10, dtype=torch.float64) for scale in (1e-3, 1.0, 1e3)}
    for G in itertools.islice(decaying(10, 20, seed=4), 50):
        sides = {scale: series_refresh(L, G) for scale, L in sides.items()}
    directions = [L / L.norm() for L in sides.values()]
    assert all(torch.allclose(d, directions[0], atol=1e-12) for d in directions)
    norms = [float(L.norm()) for L in sides.values()]
    assert len({f"{n:.6g}" for n in norms}) == 3  # the scale itself does depend on it, so the test can fail


@pytest.mark.parametrize("gradient_scale", [1e-30, 1e-8, 1.0, 1e8, 1e30])
@pytest.mark.parametrize("side_scale", [1e-8, 1.0, 1e8])
@pytest.mark.parametrize("route", ["dense", "low_rank"])
def test_extreme_sizes_match_float64(gradient_scale, side_scale, route):
    G = next(decaying(8, 5, seed=5)) * gradient_scale
    L = side_scale * torch.eye(8) + 0.1 * side_scale * torch.ones(8, 8)
    wanted, _ = jorge_refresh(L.double(), G.float().double())
    if wanted.abs().max() > torch.finfo(torch.float32).max:
        pytest.skip("the answer itself is beyond float32")
    got = series_refresh(L, G.float(), route=route)
    assert relative_error(got, wanted) < F32_REFRESH_ERROR


@pytest.mark.parametrize("route", ["dense", "low_rank"])
def test_zero_gradient_leaves_the_side_as_it_is_bitwise(route):
    L = torch.stack([torch.eye(6), torch.rand(6, 6)])
    G = torch.stack([torch.zeros(6, 4), torch.zeros(6, 4)])
    assert torch.equal(series_refresh(L, G, route=route), L)
    assert torch.equal(series_refresh(L, G, route=route, relative_eps=1.0), L)
    G[1, 0, 0] = 1.0
    mixed = series_refresh(L, G, route=route)
    assert torch.equal(mixed[0], L[0])
    assert not torch.equal(mixed[1], L[1])


@pytest.mark.parametrize("route", ["dense", "low_rank"])
def test_rank_deficient_gradients_from_the_first_step(route):
    column = torch.arange(1.0, 9.0)[:, None]
    G = column @ torch.ones(1, 5)
    L = torch.eye(8)
    for _ in range(200):
        wanted, _ = jorge_refresh(L, G)
        L = series_refresh(L, G, route=route)
        assert relative_error(L, wanted) < F32_REFRESH_ERROR
    along, across = column[:, 0] / column.norm(), torch.zeros(8)
    across[0], across[1] = column[1, 0], -column[0, 0]
    assert float(along @ L @ along) < 0.25 * float(across @ L @ across) / float(across @ across)


def test_relative_eps_starts_from_the_first_gradient():
    G = next(decaying(6, 9, seed=6))
    eps = 0.3
    start = (eps * torch.linalg.matrix_norm(G @ G.T)) ** -0.25
    wanted, b2 = jorge_refresh(start * torch.eye(6, dtype=torch.float64), G)
    got = series_refresh(torch.eye(6, dtype=torch.float64), G, relative_eps=eps)
    assert relative_error(got, wanted) < 1e-13
    assert b2 == pytest.approx(1 / (1 + eps))  # ||X|| = 1/eps at the start
    again = series_refresh(got, G, relative_eps=eps)
    assert relative_error(again, jorge_refresh(got, G)[0]) < 1e-13


def test_the_result_is_not_symmetrised():
    L = torch.eye(6, dtype=torch.float64)
    for G in itertools.islice(decaying(6, 6, seed=7), 10):
        L = series_refresh(L, G)
    assert float((L - L.T).norm() / L.norm()) > 1e-3


def test_large_x_still_corrects_in_float32():
    """||X|| = 1e12, where float32's b2 rounds to 1: the correction must not vanish."""
    G = torch.diag(torch.tensor([1.0, 0.5]))
    refreshed = series_refresh(1e3 * torch.eye(2), G)
    assert relative_error(refreshed, jorge_refresh(1e3 * torch.eye(2), G)[0]) < F32_REFRESH_ERROR
    assert refreshed[0, 0] / refreshed[1, 1] < 0.96


def test_flop_counts_choose_the_cheaper_route():
    assert refresh_flops(1000, 10)[0] > refresh_flops(1000, 10)[1]
    assert refresh_flops(10, 1000)[0] < refresh_flops(10, 1000)[1]


@pytest.mark.parametrize("refresh", [series_refresh, congruence_refresh, half_refresh])
@pytest.mark.parametrize("route", ["dense", "low_rank"])
def test_rows_that_no_gradient_enters_are_held_and_the_others_go_on(refresh, route):
    """Unbounded they reach 1e11 times the others by refresh 360, and nothing would change any more."""
    generator, L = torch.Generator().manual_seed(0), torch.eye(32)
    for _ in range(600):
        G = torch.randn(32, 16, generator=generator)
        G[4:] = 0
        before, L = L, refresh(L, G, relative_eps=1.0, route=route)
    live = float(L.diagonal()[:4].mean())
    assert 500 * live < float(L.diagonal()[4:].max()) < 2000 * live
    assert not torch.equal(L[:4, :4], before[:4, :4])
    assert torch.isfinite(L).all()
    assert refresh is series_refresh or torch.equal(L, L.T)


def test_rows_that_rest_for_a_while_are_left_to_the_formula():
    L = torch.eye(12)
    for step, G in enumerate(itertools.islice(decaying(12, 8, seed=6), 60)):
        G[step % 12] = 0
        wanted, _ = jorge_refresh(L, G.float())
        assert relative_error(series_refresh(L, G.float()), wanted) < F32_REFRESH_ERROR
        L = wanted.float()
