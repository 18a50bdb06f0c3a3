"""`half_refresh` against its own formula in float64, its ridge, and what it is for: A^(-1/2) without an inverse."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import nn

from jorge_tune.optim import Jorge
from jorge_tune.optim.half_power import half_refresh
from jorge_tune.optim.jorge import congruence_refresh
from jorge_tune.optim.ridge import initial_signs, next_signs, ridge_column
from tests import reference
from tests.gradients import decaying
from tests.optim.test_series import relative_error

SHAPES = [(24, 6), (6, 24), (12, 12), (1, 7), (7, 1), (16, 27)]
ROUTES = ["dense", "low_rank"]
# Largest relative error of one float32 refresh against float64, over SHAPES, both routes, with and without a ridge, and
# 40 refreshes: 1.7e-7.
F32_ERROR = 1e-6


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize(("floor", "ridge"), [(0.0, 0.0), (0.9, 0.0), (0.0, 1e-2), (0.0, 0.5)])
def test_refresh_equals_the_formula(shape, route, floor, ridge):
    H, signs = torch.eye(shape[0], dtype=torch.float64), initial_signs(shape[0])
    for G in itertools.islice(decaying(*shape, seed=1), 40):
        signs = next_signs(signs)
        options = {"ridge": ridge, "signs": signs, "b2_floor": floor, "route": route}
        wanted, _ = reference.half_refresh(H, reference.with_ridge(G, signs, ridge), floor)
        assert relative_error(half_refresh(H, G, **options), wanted) < 1e-13
        single = half_refresh(H.float(), G.float(), **options)
        rounded, _ = reference.half_refresh(H.float(), reference.with_ridge(G.float(), signs, ridge), floor)
        assert relative_error(single, rounded) < F32_ERROR
        assert torch.equal(single, single.mT)
        H = (wanted + wanted.T) / 2  # the literal product is symmetric to rounding only


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("route", ROUTES)
def test_the_congruence_forms_ridge_is_the_same(shape, route):
    L, signs = torch.eye(shape[0], dtype=torch.float64), initial_signs(shape[0])
    for G in itertools.islice(decaying(*shape, seed=1), 20):
        signs = next_signs(signs)
        wanted, _ = reference.congruence_refresh(L, reference.with_ridge(G, signs, 1e-2))
        assert relative_error(congruence_refresh(L, G, ridge=1e-2, signs=signs, route=route), wanted) < 1e-13
        L = (wanted + wanted.T) / 2


def test_where_everything_commutes_it_is_the_inverse_root_up_to_truncation():
    """200 refreshes of a still spectrum: the scale is 4.8 % off, by the series' truncation, and nothing else is."""
    G = torch.diag(torch.arange(1.0, 7.0, dtype=torch.float64))
    H, A = torch.eye(6, dtype=torch.float64), torch.eye(6, dtype=torch.float64)
    for _ in range(200):
        _, b2 = reference.half_refresh(H, G)
        A = b2 * A + (1 - b2) * G @ G.T
        H = half_refresh(H, G)
    ratios = H.diagonal() / reference.inverse_root(A, 0.5).diagonal()
    assert float(ratios.max() / ratios.min()) == pytest.approx(1.0, abs=1e-6)
    assert float(ratios.mean()) == pytest.approx(1.0, abs=0.06)


@pytest.mark.parametrize("route", ROUTES)
def test_batched_zero_and_relative_start(route):
    Gs = torch.stack(list(itertools.islice(decaying(9, 5, seed=3), 3))).float()
    Gs[1] = 0
    Hs = torch.stack([torch.eye(9) * (k + 1) + 0.1 for k in range(3)])
    signs = next_signs(torch.stack([initial_signs(9) + k for k in range(3)]))
    options = {"ridge": 1e-2, "route": route}
    together = half_refresh(Hs, Gs, signs=signs, **options)
    for k in range(3):
        alone = half_refresh(Hs[k], Gs[k], signs=signs[k], **options)
        assert torch.allclose(together[k], alone, rtol=1e-6, atol=1e-7)
    assert torch.equal(together[1], Hs[1])

    eye, G = torch.eye(9), Gs[0].double()
    assert torch.equal(half_refresh(eye, Gs[1], relative_eps=1.0, route=route), eye)
    start = (0.3 * torch.linalg.matrix_norm(G @ G.T)) ** -0.5
    got = half_refresh(eye.double(), G, relative_eps=0.3, route=route)
    assert relative_error(got, reference.half_refresh(start * eye.double(), G)[0]) < 1e-13


@pytest.mark.parametrize("gradient_scale", [1e-30, 1e-8, 1.0, 1e8, 1e30])
@pytest.mark.parametrize("side_scale", [1e-8, 1.0, 1e8])
@pytest.mark.parametrize("route", ROUTES)
def test_extreme_sizes_match_float64(gradient_scale, side_scale, route):
    G = (next(decaying(8, 5, seed=5)) * gradient_scale).float()
    H = side_scale * torch.eye(8) + 0.1 * side_scale * torch.ones(8, 8)
    wanted, _ = reference.half_refresh(H, G)
    if wanted.abs().max() > torch.finfo(torch.float32).max:
        pytest.skip("the answer itself is beyond float32")
    assert relative_error(half_refresh(H, G, route=route), wanted) < F32_ERROR


@pytest.mark.parametrize("drift", [0.0, 0.05])
def test_it_does_not_drift_in_float32(drift):
    """Cosine to A^(-1/2) G A^(-1/2) for the same b2, 300 refreshes; least 0.991 and 0.986 measured."""
    m, n = 24, 16
    sides = {"left": torch.eye(m), "right": torch.eye(n)}
    averages = {name: torch.eye(len(side), dtype=torch.float64) for name, side in sides.items()}
    cosines = []
    for G in itertools.islice(decaying(m, n, seed=0, drift=drift), 300):
        for name, g in (("left", G), ("right", G.T)):
            _, b2 = reference.half_refresh(sides[name], g.float())
            averages[name] = b2 * averages[name] + (1 - b2) * g @ g.T
            sides[name] = half_refresh(sides[name], g.float())
        exact = reference.inverse_root(averages["left"], 0.5) @ G @ reference.inverse_root(averages["right"], 0.5)
        ours = sides["left"].double() @ G @ sides["right"].double()
        cosines.append(float((ours * exact).sum() / (ours.norm() * exact.norm())))
    assert min(cosines[10:]) > 0.97
    assert float(torch.linalg.eigvalsh(sides["left"].double())[0]) > 0
    assert torch.equal(sides["left"], sides["left"].mT)


@pytest.mark.parametrize(("refresh", "power", "highest"), [(half_refresh, 2, 12.0), (congruence_refresh, 4, 4.0)])
def test_with_a_ridge_idle_directions_stay_bounded_and_a_jump_is_forgotten(refresh, power, highest):
    """As in a softmax layer: columns add up to zero. Idle over live 8.8 and 3.0; 30 and 29 refreshes measured."""
    generator = torch.Generator().manual_seed(0)
    live = torch.linalg.svd(torch.eye(10) - 0.1)[0][:, :9]
    side, signs, levels = torch.eye(10), initial_signs(10), []
    for step in range(360):
        G = live @ torch.randn(9, 16, generator=generator) * (10.0 if step >= 300 else 1.0)
        signs = next_signs(signs)
        side = refresh(side, G, ridge=1e-2, signs=signs, relative_eps=1.0)
        levels.append(float((live.T @ side @ live).trace()) / 9)
    idle = float(torch.full((10,), 0.1) @ side @ torch.ones(10))
    assert idle < highest * levels[-1]
    before, after = sum(levels[250:300]) / 50, sum(levels[350:]) / 10
    assert after / before == pytest.approx(10 ** (-2 / power), rel=0.1)


def test_signs_are_even_and_unlike_from_draw_to_draw_and_row_to_row():
    states, draws = initial_signs(256), []
    assert torch.equal(states[:100], initial_signs(100))
    for _ in range(400):
        states = next_signs(states)
        draws.append(torch.where(states < 0, -1.0, 1.0))
    signs = torch.stack(draws).double()
    assert abs(float(signs.mean())) < 0.01  # a standard error is 0.003
    rows, steps = signs.T @ signs / len(signs), signs @ signs.T / signs.shape[1]
    for correlation in (rows, steps):  # standard errors are 0.05 and 0.06; the largest of 30,000 to 80,000 of them
        assert float((correlation - torch.eye(len(correlation))).abs().max()) < 0.35
    assert float((rows - torch.eye(256)).norm()) / 256 == pytest.approx(0.05, abs=0.005)


def test_a_ridge_of_zero_or_a_zero_gradient_adds_nothing():
    G, signs = torch.ones(3, 2), initial_signs(3)
    assert ridge_column(G, signs, 0.0) is None
    assert ridge_column(G, None, 0.1) is None
    column = ridge_column(torch.zeros(3, 2), signs, 0.1)
    assert not bool(column.any())


@pytest.mark.parametrize("form", ["half", "congruence"])
def test_the_optimizer_draws_new_signs_at_each_refresh_and_keeps_their_states(form):
    weight = nn.Parameter(torch.ones(6, 4))
    optimizer = Jorge([weight], 0.05, form=form, warm_refreshes=2, refresh_interval=3, stagger=False)
    seen = [initial_signs(6)]
    for G in itertools.islice(decaying(6, 4, seed=2), 6):
        weight.grad = G.float()
        optimizer.step()
        seen.append(optimizer.state[weight]["left.0.signs"].clone())
    changed = [not torch.equal(a, b) for a, b in itertools.pairwise(seen)]
    assert changed == [True, True, True, False, False, True]
    assert torch.equal(seen[1], next_signs(seen[0]))


@pytest.mark.parametrize("kind", ["relative", "absolute"])
def test_the_optimizer_follows_the_reference(kind):
    """H from its start on, with interval 1, float64, both sides."""
    weight = nn.Parameter(torch.ones(7, 5, dtype=torch.float64))
    optimizer = Jorge([weight], 0.05, form="half", refresh_interval=1, eps=0.5, eps_kind=kind)
    sides, signs = {}, {"left": initial_signs(7), "right": initial_signs(5)}
    for G in itertools.islice(decaying(7, 5, seed=3), 12):
        weight.grad = G.clone()
        optimizer.step()
        for side, g in (("left", G), ("right", G.T)):
            signs[side] = next_signs(signs[side])
            ridged = reference.with_ridge(g, signs[side], 1e-2)
            if side not in sides:
                scale = 0.5 * torch.linalg.matrix_norm(ridged @ ridged.T) if kind == "relative" else 0.5
                sides[side] = scale**-0.5 * torch.eye(len(g), dtype=torch.float64)
            sides[side], _ = reference.half_refresh(sides[side], ridged)
            assert relative_error(optimizer.state[weight][f"{side}.0"], sides[side]) < 1e-12
