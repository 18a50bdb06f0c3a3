"""The sketch against the paper's printed form, its guarantee, and Sketchy Shampoo against Shampoo."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import nn

from jorge_tune.optim import Shampoo, SketchyShampoo, frequent_directions
from jorge_tune.optim.costs import account
from jorge_tune.optim.sketchy import initial_sketch, observe, sketched_root
from tests.gradients import decaying, network_gradients
from tests.optim.test_exam import feed, parameters, run
from tests.sketchy_reference import SketchedSum, fd_update


def relative(got, wanted):
    return float((got.double() - wanted).norm() / wanted.norm())


def gradients(m, n, number, **values):
    return list(itertools.islice(decaying(m, n, **{"seed": 0, **values}), number))


# d, columns of the gradient, rank: tall, wide, square; full rank and beyond it
CASES = [(24, 4, 6), (8, 40, 5), (12, 12, 2), (10, 3, 10), (10, 30, 11), (6, 1, 4)]


@pytest.mark.parametrize(("d", "n", "rank"), CASES)
@pytest.mark.parametrize("power", [0.0, 1.0, 3.0])
def test_the_update_is_algorithm_1(d, n, rank, power):
    """From the same sketch at each step; of all 30 of them one batch."""
    B = torch.zeros(d, rank - 1, dtype=torch.float64)
    befores, Ys, wanted = [], [], []
    for G in gradients(d, n, 30, power=power):
        befores.append(0.9**0.5 * B)
        Ys.append(0.1**0.5 * G)
        wanted.append(fd_update(befores[-1] @ befores[-1].T, Ys[-1] @ Ys[-1].T, rank))
        B, escaped = frequent_directions(befores[-1], Ys[-1])
        S, last = wanted[-1]
        # 3e-14 measured: the printed form squares, so its eigenvalues have that of the largest
        assert relative(B @ B.T, S) < 1e-12
        assert float(escaped) == pytest.approx(last, abs=1e-13 * float(S.norm()))
        gram = B.T @ B
        assert float((gram - torch.diag(gram.diagonal())).norm() / gram.norm()) < 1e-14  # orthogonal columns
        assert (gram.diagonal().diff() <= 0).all()
    if rank < d:  # at the dimension or above the l-th is 0, or does not exist
        assert any(last > 0 for _, last in wanted)
    batch, escaped = frequent_directions(torch.stack(befores), torch.stack(Ys))
    assert relative(batch @ batch.mT, torch.stack([S for S, _ in wanted])) < 1e-12
    assert torch.allclose(escaped, torch.tensor([last for _, last in wanted], dtype=torch.float64), atol=1e-12)


@pytest.mark.parametrize("scale", [1.0, 1e-30, 1e30])
@pytest.mark.parametrize(("d", "n", "rank"), CASES)
def test_the_sum_with_its_scale_is_the_papers(d, n, rank, scale):
    """float32, 100 steps without resynchronising; gradients of rank one and of zeros on the way."""
    side = initial_sketch(d, rank, torch.float32, torch.device("cpu"))
    side = {name: tensor.unsqueeze(0) for name, tensor in side.items()}
    plain = SketchedSum(d, rank, keep=0.99, take=0.01)
    for step, G in enumerate(gradients(d, n, 100)):
        G = G.float() * (0.0 if step % 10 == 0 else 1.0)
        if step % 10 == 5:
            G = G[:, :1].expand(d, n).contiguous()
        plain.add(G)
        side = observe(side, (G * scale).unsqueeze(0), keep=0.99, take=0.01)
    B, (factor, escaped) = side[""][0].double(), (side[name][0].double() for name in ("scale", "escaped"))
    assert torch.isfinite(B).all()
    S, rho = float(factor) / scale**2 * (B @ B.T), float(factor * escaped) / scale**2
    # 1.2e-5 measured: float32 roundings of a hundred updates
    assert relative(S + rho * torch.eye(d, dtype=torch.float64), plain.matrix()) < 5e-5
    if rank == d:  # ours keeps the d-th direction, so that nothing escapes; the sum is the same
        assert rho == 0.0
    else:
        assert relative(S, plain.S) < 5e-5


@pytest.mark.parametrize(("keep", "take"), [(0.9, 0.1), (0.999, 0.001), (1.0, 1.0)])
@pytest.mark.parametrize("power", [0.5, 1.0, 2.0])
def test_the_papers_guarantee(keep, take, power):
    """0 <= A - S <= rho I, and rho <= min over k < l of the sum of A's eigenvalues beyond k over l - k."""
    d, n, rank = 30, 5, 8
    side = {k: v.unsqueeze(0) for k, v in initial_sketch(d, rank, torch.float64, torch.device("cpu")).items()}
    A = torch.zeros(d, d, dtype=torch.float64)
    for G in gradients(d, n, 200, power=power):
        A = keep * A + take * G @ G.T
        side = observe(side, G.unsqueeze(0), keep=keep, take=take)
    scale, B = float(side["scale"]), side[""][0]
    rho = scale * float(side["escaped"])
    missing = torch.linalg.eigvalsh(A - scale * B @ B.T)
    size = float(torch.linalg.matrix_norm(A, 2))
    rounding = 1e-13 * size
    assert missing.min() > -rounding
    assert missing.max() < rho + rounding
    assert missing.max() > 1e-6 * size  # the sketch does leave something out
    tail = torch.linalg.eigvalsh(A).flip(0)
    assert rho <= min(float(tail[k:].sum()) / (rank - k) for k in range(rank)) + rounding


def test_small_directions_keep_the_digits_that_squaring_loses():
    """Singular values 1 and 1e-5 in float32: squared, the second is 1e-10 of the first and below the rounding."""
    generator = torch.Generator().manual_seed(0)
    U, V = (torch.linalg.qr(torch.randn(k, k, generator=generator, dtype=torch.float64))[0] for k in (20, 6))
    Y = (U[:, :2] @ torch.diag(torch.tensor([1.0, 1e-5], dtype=torch.float64)) @ V[:, :2].T).float()
    B, _ = frequent_directions(torch.zeros(20, 7), Y)
    lengths = B.double().norm(dim=0)
    assert float(lengths[1]) == pytest.approx(1e-5, rel=0.02)  # 2e-3 measured, of the rounding of Y itself
    assert float(abs(torch.dot(B[:, 1].double() / lengths[1], U[:, 1]))) > 0.999
    squared = torch.linalg.eigvalsh(Y @ Y.T).flip(0)
    assert abs(float(squared[1]) - 1e-10) > 1e-10


@pytest.mark.parametrize("exponent", [1 / 4, 1 / 2])
@pytest.mark.parametrize("eps", [1e-6, 1e-2])
@pytest.mark.parametrize(("d", "n", "rank"), CASES)
def test_the_root_is_that_of_the_whole_matrix(d, n, rank, eps, exponent):
    plain = SketchedSum(d, rank, keep=1.0, take=1.0)
    B, rho = torch.zeros(d, rank - 1, dtype=torch.float64), torch.zeros((), dtype=torch.float64)
    for G in gradients(d, n, 10):
        plain.add(G)
        B, escaped = frequent_directions(B, G)
        rho = rho + escaped
    plain.weight = 1.0
    wanted = plain.root(eps, exponent) @ G
    # 4e-13 and 1.1e-4 measured, the worst at full rank: in the longest directions two large terms nearly cancel
    assert relative(sketched_root(B, rho, G, eps=eps, exponent=exponent), wanted) < 1e-10
    assert relative(sketched_root(B.float(), rho, G.float(), eps=eps, exponent=exponent), wanted) < 5e-4


def test_the_root_of_nothing_is_the_identity_and_without_eps_a_pseudo_inverse():
    G = gradients(7, 3, 1)[0]
    nothing, B = torch.zeros(7, 2, dtype=torch.float64), torch.zeros(7, 2, dtype=torch.float64)
    rho = torch.zeros((), dtype=torch.float64)
    assert torch.equal(sketched_root(nothing, rho, G, eps=1e-6, exponent=1 / 4), G)
    B[1, 0] = 3.0
    got = sketched_root(B, rho, G, eps=0.0, exponent=1 / 2)
    assert torch.allclose(got[1], G[1] / 3)
    assert torch.equal(got[[0, 2, 3, 4, 5, 6]], torch.zeros(6, 3, dtype=torch.float64))


@pytest.mark.parametrize(("m", "n"), [(14, 5), (5, 14), (9, 9)])
@pytest.mark.parametrize("interval", [None, 2])
def test_sketchy_shampoo_is_algorithm_3_with_averages(m, n, interval):
    """Statistics at refresh steps (every third here), or at every second step whatever the refreshes."""
    weight = nn.Parameter(torch.zeros(m, n, dtype=torch.float64))
    optimizer = SketchyShampoo(
        [weight], 1.0, momentum=0.0, graft="none", b2=0.9, eps=1e-4, rank=4, statistics_interval=interval,
        refresh_interval=3, warm_refreshes=0,
    )  # fmt: skip
    left, right = (SketchedSum(size, 4, keep=0.9, take=1 - 0.9) for size in (m, n))
    for step, G in enumerate(gradients(m, n, 20, seed=1)):
        if step % (interval or 3) == 0:
            left.add(G)
            right.add(G.T)
        before = weight.detach().clone()
        weight.grad = G.clone()
        optimizer.step()
        # 7e-15 measured
        assert relative(before - weight.detach(), left.root(1e-4) @ G @ right.root(1e-4)) < 1e-12


@pytest.mark.parametrize(
    ("dtype", "rel", "values"),
    [
        (torch.float64, 1e-10, {"refresh_interval": 1}),  # 2e-12 measured
        (torch.float64, 1e-10, {"refresh_interval": 1, "block_size": 3, "nesterov": True}),
        (torch.float64, 1e-10, {"refresh_interval": 1, "graft": "adamw", "weight_decay": 0.1}),
        (torch.float32, 5e-3, {"refresh_interval": 1}),  # 4e-4 measured: Shampoo squares the gradient
    ],
)
def test_full_rank_is_shampoo(dtype, rel, values):
    """Whole steps, momentum, graft and decay included, and the statistics of each side."""
    ours, theirs = parameters(dtype), parameters(dtype)
    sketchy = SketchyShampoo(ours, 0.05, rank=36, statistics_interval=1, **values)
    shampoo = Shampoo(theirs, 0.05, statistics_interval=1, **values)
    run(sketchy, ours, 30)
    run(shampoo, theirs, 30)
    for p, q in zip(ours, theirs, strict=True):
        assert p.numel() == 0 or relative(p.detach(), q.detach().double()) < rel
        mine, other = sketchy.state[p], shampoo.state[q]
        for side in (key for key in other if key.startswith(("left.", "right.")) and key.count(".") == 1):
            B, scales = mine[side].double(), (mine[f"{side}.scale"], mine[f"{side}.escaped"])
            assert float(scales[1]) == 0.0
            average = scales[0] / mine[f"{side}.weight"] * (B @ B.T)
            wanted = other[f"{side}.scale"] / other[f"{side}.weight"] * other[side].double()
            assert relative(average, wanted) < rel


def directions(member, values, dtype, **settings):
    """P at each step, in float64."""
    weight = nn.Parameter(torch.zeros(values[0].shape, dtype=dtype))
    optimizer, moves = member([weight], 1.0, refresh_interval=1, momentum=0.0, graft="none", **settings), []
    for G in values:
        weight.data.zero_()
        weight.grad = G.to(dtype)
        optimizer.step()
        moves.append(-weight.detach().double())
    return moves


def test_in_float32_the_sketch_is_nearer_to_the_exact_root_than_shampoos_squares():
    """2e-4 against 7e-2 measured, at worst over 30 steps on a spectrum that decays as k^-4."""
    values = gradients(32, 20, 30, power=2.0)
    exact = directions(Shampoo, values, torch.float64)
    sketched = directions(SketchyShampoo, values, torch.float32)
    squared = directions(Shampoo, values, torch.float32)
    errors = [max(map(relative, moves, exact)) for moves in (sketched, squared)]
    assert errors[0] < 2e-3 < errors[1]


def mean_cosine(moves, others):
    return sum(float((a * b).sum() / a.norm() / b.norm()) for a, b in zip(moves, others, strict=True)) / len(others)


def test_a_rank_of_64_is_near_shampoo_on_a_networks_gradients():
    """The 16 x 288 layer of a network on the digits, steps 51 to 100; measured mean cosines 0.98 (rank 8: 0.89).

    Of the gradient itself with Shampoo's direction: 0.83.
    """
    values = [layers[2] for layers in network_gradients(100, seed=0)]
    exact = directions(Shampoo, values, torch.float64)[50:]
    sketched = [directions(SketchyShampoo, values, torch.float32, rank=rank)[50:] for rank in (8, 64)]
    cosines = [mean_cosine(moves, exact) for moves in (values[50:], *sketched)]
    assert cosines[0] + 0.02 < cosines[1] < 0.95 < cosines[2] < 0.9999


def side_bytes(state):
    return sum(t.numel() * t.element_size() for k, t in state.items() if k.startswith(("left.", "right.")))


def test_preconditioners_take_a_fraction_of_shampoos_memory():
    """Counted from the tensors of a state_dict; 512 x 128 at rank 8 is 4096 x 1024 at rank 64, eight times smaller."""
    counted = []
    for make in (SketchyShampoo, Shampoo):
        weight = nn.Parameter(torch.zeros(512, 128))
        optimizer = make([weight], 0.1, **({"rank": 8} if make is SketchyShampoo else {}))
        weight.grad = torch.ones(512, 128)
        optimizer.step()
        counted.append(side_bytes(optimizer.state_dict()["state"][0]))
    assert counted[0] == 4 * 7 * (512 + 128) + 6 * 8
    assert counted[0] < counted[1] / 100


def test_the_account_of_4096_by_1024_at_rank_64_is_below_a_sixteenth():
    """Without the tensors (the account of any tensors is tested in test_costs.py): 1.3 MB against 143 MB."""
    weight = torch.empty(4096, 1024, device="meta", requires_grad=True)
    ours, theirs = (
        account(make([weight], 0.1, block_size=4096), {weight: "weight"})[0].preconditioner_bytes
        for make in (SketchyShampoo, Shampoo)
    )
    assert ours == 4 * 63 * (4096 + 1024) + 6 * 8
    assert ours <= theirs / 16


@pytest.mark.slow  # Shampoo's eigh of a 4096 x 4096 matrix
def test_a_block_of_4096_by_1024_takes_a_sixteenth_at_rank_64():
    counted = []
    for make in (SketchyShampoo, Shampoo):
        weight = nn.Parameter(torch.zeros(4096, 1024))
        optimizer = make([weight], 0.1, block_size=4096)
        weight.grad = torch.randn(4096, 1024, generator=torch.Generator().manual_seed(0))
        optimizer.step()
        counted.append(side_bytes(optimizer.state_dict()["state"][0]))
    assert counted[0] <= counted[1] / 16


def test_a_later_statistics_interval_takes_over_without_a_break():
    params = parameters()[2:4]
    optimizer = SketchyShampoo(params, 0.05, rank=3, warm_refreshes=0, refresh_interval=100)
    run(optimizer, params, 3)
    before = optimizer.state[params[0]]["left.0"].clone()
    run(optimizer, params, 1, start=3)
    assert torch.equal(before, optimizer.state[params[0]]["left.0"])
    optimizer.param_groups[0]["statistics_interval"] = 1
    feed(params, 4)
    optimizer.step()
    assert not torch.equal(before, optimizer.state[params[0]]["left.0"])
