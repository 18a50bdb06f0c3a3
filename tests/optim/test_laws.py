"""Degenerate settings equal something known."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import nn

from jorge_tune.optim import DecoupledSGD, Jorge, KroneckerOptimizer, Shampoo, SketchyShampoo, inverse_root_eigh
from tests.gradients import decaying
from tests.optim.test_exam import feed, parameters, run
from tests.reference import inverse_root


class Identity(KroneckerOptimizer):
    """L = R = I through the full path."""

    def __init__(self, params, lr, **values):
        super().__init__(params, {**Jorge([nn.Parameter(torch.ones(1))], lr).defaults, **values})

    def _check_member(self, group):
        pass

    def _initial_side(self, size, group, dtype, device):
        return {"": torch.eye(size, dtype=dtype, device=device)}

    def _refresh_side(self, side, grads, group):
        return {}

    def _apply_side(self, side, grads, group, *, right):
        return grads @ side[""] if right else side[""] @ grads

    def _refresh_cost(self, size, other, group):
        return 1


SGD_SETTINGS = [
    {"momentum": 0.9},
    {"momentum": 0.9, "nesterov": True},
    {"momentum": 0.5, "dampening": 0.3},
    {"momentum": 0.0},
]


def torch_sgd_with_decoupled_decay(params, steps, *, lr, weight_decay, **values):
    optimizer = torch.optim.SGD(params, lr=lr, **values)
    for step in range(steps):
        feed(params, step)
        with torch.no_grad():
            for p in params:
                p.mul_(1 - lr * weight_decay)
        optimizer.step()


@pytest.mark.parametrize("values", SGD_SETTINGS)
@pytest.mark.parametrize("block_size", [None, 3])
def test_identity_preconditioners_are_sgd_to_rounding(values, block_size):
    ours, theirs = parameters(), parameters()
    run(Identity(ours, 0.05, weight_decay=0.1, block_size=block_size, **values), ours, 20)
    torch_sgd_with_decoupled_decay(theirs, 20, lr=0.05, weight_decay=0.1, **values)
    for p, q in zip(ours, theirs, strict=True):
        assert torch.allclose(p, q, rtol=2e-6, atol=1e-7)


@pytest.mark.parametrize("values", SGD_SETTINGS)
def test_excluded_parameters_are_sgd_bitwise(values):
    theirs = parameters()
    torch_sgd_with_decoupled_decay(theirs, 20, lr=0.05, weight_decay=0.1, **values)
    for make in (
        lambda params: DecoupledSGD(params, 0.05, weight_decay=0.1, **values),
        lambda params: Jorge([{"params": params, "precondition": False}], 0.05, weight_decay=0.1, **values),
    ):
        ours = parameters()
        run(make(ours), ours, 20)
        assert all(torch.equal(p, q) for p, q in zip(ours, theirs, strict=True))


def test_excluded_parameters_under_an_adamw_graft_are_adamw():
    ours, theirs = parameters(torch.float64), parameters(torch.float64)
    group = [{"params": ours, "precondition": False}]
    run(Jorge(group, 0.01, graft="adamw", weight_decay=0.1, graft_betas=(0.8, 0.95)), ours, 20)
    run(torch.optim.AdamW(theirs, 0.01, betas=(0.8, 0.95), weight_decay=0.1), theirs, 20)
    for p, q in zip(ours, theirs, strict=True):
        assert torch.allclose(p, q, rtol=1e-12, atol=0)


@pytest.mark.parametrize("make", [Jorge, Shampoo, SketchyShampoo])
@pytest.mark.parametrize("values", SGD_SETTINGS)
def test_a_grafted_step_has_the_norm_of_sgds(make, values):
    ours, theirs = parameters(), parameters()
    optimizer, reference = make(ours, 0.05, **values), torch.optim.SGD(theirs, 0.05, **values)
    for step in range(12):
        feed(theirs, step)
        before = [(p.detach().clone(), q.detach().clone()) for p, q in zip(ours, theirs, strict=True)]
        for p, q in zip(ours, theirs, strict=True):
            p.grad = q.grad.clone()
        optimizer.step()
        reference.step()
        for (old, old_q), p, q in zip(before, ours, theirs, strict=True):
            assert float((p - old).detach().norm()) == pytest.approx(
                float((q - old_q).detach().norm()), rel=1e-4, abs=1e-7
            )
    assert not torch.allclose(ours[2], theirs[2], rtol=1e-2)


@pytest.mark.parametrize("block_size", [None, 4])
def test_stacked_parameters_move_as_they_do_alone(block_size):
    together = [nn.Parameter(torch.ones(6, 9)) for _ in range(3)]
    alone = [nn.Parameter(torch.ones(6, 9)) for _ in range(3)]
    values = {"lr": 0.05, "block_size": block_size, "stagger": False, "warm_refreshes": 2, "refresh_interval": 3}
    one, many = Jorge(together, **values), [Jorge([p], **values) for p in alone]
    for step in range(10):
        feed(together, step)
        for p, q, optimizer in zip(together, alone, many, strict=True):
            q.grad = p.grad.clone()
            optimizer.step()
        one.step()
    for p, q in zip(together, alone, strict=True):
        assert torch.allclose(p, q, rtol=1e-5, atol=1e-7)
    assert not torch.allclose(together[0], together[1])


def test_blocks_are_preconditioned_each_by_its_own_gradient():
    whole = nn.Parameter(torch.zeros(4, 6))
    parts = [nn.Parameter(torch.zeros(2, 3)) for _ in range(4)]
    values = {"lr": 1.0, "momentum": 0.0, "graft": "none", "warm_refreshes": 10}
    big, small = Jorge([whole], block_size=3, **values), Jorge(parts, **values)
    for G in itertools.islice(decaying(4, 6, seed=0), 5):
        whole.grad = G.float()
        pieces = [G[r : r + rows, c : c + 3] for r, rows in ((0, 3), (3, 1)) for c in (0, 3)]
        for p, piece in zip(parts, pieces, strict=True):
            if p.shape != piece.shape:
                p.data = torch.zeros_like(piece, dtype=torch.float32)
            p.grad = piece.float().clone()
        big.step()
        small.step()
    rebuilt = torch.cat([torch.cat(parts[:2], dim=1), torch.cat(parts[2:], dim=1)])
    assert torch.allclose(whole, rebuilt, rtol=1e-5, atol=1e-7)


def test_changing_the_interval_mid_run_keeps_the_preconditioners():
    params = parameters()[2:5]
    optimizer = Jorge(params, 0.05, warm_refreshes=2, refresh_interval=4)
    run(optimizer, params, 5)
    before = {k: v.clone() for k, v in optimizer.state[params[0]].items() if k.startswith(("left", "right"))}
    optimizer.param_groups[0]["refresh_interval"] = 1000
    optimizer.param_groups[0]["warm_refreshes"] = 0
    run(optimizer, params, 1, start=5)
    assert all(torch.equal(before[k], optimizer.state[params[0]][k]) for k in before)


@pytest.mark.parametrize(("m", "n"), [(12, 5), (5, 12), (8, 8)])
def test_shampoo_is_the_exact_root_of_bias_corrected_averages(m, n):
    weight = nn.Parameter(torch.zeros(m, n, dtype=torch.float64))
    optimizer = Shampoo(
        [weight], 1.0, momentum=0.0, graft="none", b2=0.9, eps=1e-4, refresh_interval=1, block_size=None
    )
    A_L, A_R = torch.zeros(m, m, dtype=torch.float64), torch.zeros(n, n, dtype=torch.float64)
    for t, G in enumerate(itertools.islice(decaying(m, n, seed=1), 20), start=1):
        A_L, A_R = 0.9 * A_L + 0.1 * G @ G.T, 0.9 * A_R + 0.1 * G.T @ G
        roots = [inverse_root((A + 1e-4 * A.trace() / len(A) * torch.eye(len(A))) / (1 - 0.9**t)) for A in (A_L, A_R)]
        before = weight.detach().clone()
        weight.grad = G.clone()
        optimizer.step()
        wanted = roots[0] @ G @ roots[1]
        got = before - weight.detach()
        assert float((got - wanted).norm() / wanted.norm()) < 1e-8  # 1.1e-9 measured: small eigenvalues


def test_inverse_root_of_zero_is_the_identity_and_of_rank_one_is_finite():
    A = torch.stack([torch.zeros(4, 4), torch.ones(4, 4), 1e-30 * torch.eye(4)])
    roots = inverse_root_eigh(A, eps=1e-6)
    assert torch.equal(roots[0], torch.eye(4))
    assert torch.isfinite(roots).all()
    assert torch.allclose(roots[2], (1e-30 * (1 + 1e-6)) ** -0.25 * torch.eye(4), rtol=1e-5)
