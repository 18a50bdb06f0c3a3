"""What happens to a direction after its preconditioners: flattening, mixed lengths, Adam's direction for embeddings."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from jorge_tune.optim import DecoupledSGD, Jorge, Muon, Shampoo, SketchyShampoo, param_groups
from jorge_tune.optim.grafting import LengthTotals, flattened, mixed_lengths
from tests.optim.test_exam import feed, parameters, run
from tests.optim.test_laws import Identity


def quintic(G, steps=5):
    """Muon's iteration as published, in float64, on the matrix of first dimension against all others."""
    X = G.double().reshape(len(G), -1)
    tall = X.shape[0] > X.shape[1]
    X = (X.T if tall else X) / X.norm()
    for _ in range(steps):
        A = X @ X.T
        X = 3.4445 * X + (-4.7750 * A + 2.0315 * A @ A) @ X
    return (X.T if tall else X).reshape(G.shape)


# Largest relative error of float32 against float64 over the shapes below and 1 to 8 steps: 4.3e-6. The steep start (a
# factor of 3.4 a step) magnifies rounding.
F32_FLATTEN_ERROR = 2e-5


@pytest.mark.parametrize("steps", [1, 5, 8])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_flattening_is_muons_iteration(steps, dtype):
    generator = torch.Generator().manual_seed(0)
    shapes = [(6, 4), (4, 6), (6, 4), (5, 3, 2, 2), (4, 6), (3, 3), (1, 5)]
    directions = [torch.randn(shape, generator=generator).to(dtype) for shape in shapes]
    kept = [d.clone() for d in directions]
    for d, flat in zip(directions, flattened(directions, steps), strict=True):
        wanted = quintic(d, steps)
        bound = F32_FLATTEN_ERROR if dtype == torch.float32 else 1e-12
        assert flat.dtype == dtype
        assert flat.shape == d.shape
        assert float((flat.double() - wanted).norm() / wanted.norm()) < bound
    assert all(torch.equal(d, k) for d, k in zip(directions, kept, strict=True))


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_flattened_singular_values_are_near_one_whatever_the_scale(scale):
    U, _, V = torch.linalg.svd(torch.randn(12, 12, generator=torch.Generator().manual_seed(1)))
    direction = scale * (U * torch.logspace(0, -1.5, 12)) @ V
    (flat,) = flattened([direction], 5)
    values = torch.linalg.svdvals(flat)
    assert float(values.min()) > 0.6
    assert float(values.max()) < 1.3
    (zero,) = flattened([torch.zeros(3, 2)], 5)
    assert torch.equal(zero, torch.zeros(3, 2))


def test_muon_is_the_family_with_nothing_but_flattening():
    ours, theirs = parameters(), parameters()
    values = {"nesterov": True, "weight_decay": 0.1, "length": "mixed"}
    run(Muon(ours, 0.05, **values), ours, 10)
    run(Identity(theirs, 0.05, flatten=5, **values), theirs, 10)
    for p, q in zip(ours, theirs, strict=True):
        assert torch.allclose(p, q, rtol=2e-5, atol=1e-6)


def test_muons_direction_is_torchs():
    """torch's has a length of its own and products in bfloat16: cosine 0.99998 measured."""
    ours, theirs = nn.Parameter(torch.zeros(16, 24)), nn.Parameter(torch.zeros(16, 24))
    optimizer = Muon([ours], 0.05, momentum=0.9, nesterov=True)
    reference = torch.optim.Muon([theirs], 0.05, momentum=0.9, nesterov=False, weight_decay=0.0)
    generator = torch.Generator().manual_seed(0)
    ours.grad = torch.randn(16, 24, generator=generator)
    theirs.grad = ours.grad.clone()  # at the first step both directions are the gradient's
    optimizer.step()
    reference.step()
    cosine = float((ours * theirs).sum().detach() / (ours.norm() * theirs.norm()).detach())
    assert cosine > 0.999


@pytest.mark.parametrize("make", [Jorge, Shampoo, SketchyShampoo, Muon])
@pytest.mark.parametrize("flatten", [3, 5])
def test_a_flattened_step_keeps_the_grafted_length(make, flatten):
    ours, theirs = parameters(), parameters()
    optimizer, reference = make(ours, 0.05, flatten=flatten), torch.optim.SGD(theirs, 0.05, momentum=0.9)
    for step in range(6):
        feed(theirs, step)
        before = [(p.detach().clone(), q.detach().clone()) for p, q in zip(ours, theirs, strict=True)]
        for p, q in zip(ours, theirs, strict=True):
            p.grad = q.grad.clone()
        optimizer.step()
        reference.step()
        for (old, old_q), p, q in zip(before, ours, theirs, strict=True):
            length, wanted = float((p - old).detach().norm()), float((q - old_q).detach().norm())
            assert length == pytest.approx(wanted, rel=1e-4, abs=1e-7)


class MixedReference:
    """Lengths from the definition: means of ||S_i|| over all steps, N their root sum of squares."""

    def __init__(self, params, momentum):
        self.buffers = [torch.zeros_like(p, dtype=torch.float64) for p in params]
        self.means, self.step, self.momentum = [0.0] * len(params), 0, momentum

    def lengths(self, grads, nesterov):
        self.step += 1
        for i, grad in enumerate(grads):
            self.buffers[i] = self.momentum * self.buffers[i] + grad.double()
            S = grad.double() + self.momentum * self.buffers[i] if nesterov else self.buffers[i]
            self.means[i] += (float(S.norm()) - self.means[i]) / self.step
        total = sum(mean**2 for mean in self.means) ** 0.5
        entries = sum(grad.numel() for grad in grads)
        return [
            (mean * total * (grad.numel() / entries) ** 0.5) ** 0.5
            for mean, grad in zip(self.means, grads, strict=True)
        ]


@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("make", [Jorge, Shampoo, SketchyShampoo, Muon])
def test_mixed_lengths_are_those_of_the_definition(make, nesterov):
    """Over two groups of unlike rates: the sums go over all preconditioned tensors of the optimizer."""
    params = parameters()[2:6]
    groups = [{"params": params[:2], "lr": 0.02}, {"params": params[2:], "lr": 0.05}]
    bias = nn.Parameter(torch.ones(7))
    groups.append({"params": [bias], "lr": 0.1})
    optimizer = make(groups, lr=0.1, nesterov=nesterov, length="mixed")
    reference = MixedReference(params, 0.9)
    sgd = torch.optim.SGD([twin := nn.Parameter(torch.ones(7))], 0.1, momentum=0.9, nesterov=nesterov)
    for step in range(8):
        feed([*params, bias], step)
        twin.grad = bias.grad.clone()
        before = [p.detach().clone() for p in params]
        optimizer.step()
        sgd.step()
        wanted = reference.lengths([p.grad for p in params], nesterov)
        for p, old, length, lr in zip(params, before, wanted, (0.02, 0.02, 0.05, 0.05), strict=True):
            assert float((p - old).detach().norm()) == pytest.approx(lr * length, rel=1e-4)
    assert torch.equal(bias, twin)  # what is not preconditioned takes SGD's step, whatever the others do


def test_lengths_that_are_even_already_stay():
    sizes = torch.tensor([4.0, 9.0, 100.0], dtype=torch.float64)
    means = 0.3 * sizes.sqrt()
    totals = LengthTotals((means**2).sum(), sizes.sum())
    assert torch.allclose(mixed_lengths(means, sizes, totals), means, rtol=1e-14)
    skewed = means * torch.tensor([4.0, 1.0, 0.25])
    mixed = mixed_lengths(skewed, sizes, LengthTotals((skewed**2).sum(), sizes.sum()))
    even = mixed / sizes.sqrt()
    assert float(even.max() / even.min()) == pytest.approx(4.0)  # the root of a spread of 16


def test_only_lengths_per_tensor_make_identity_preconditioners_sgd():
    """The law of `test_laws.py` fails for mixed lengths, as it must."""
    ours, mixed = parameters(), parameters()
    run(Identity(ours, 0.05), ours, 5)
    run(Identity(mixed, 0.05, length="mixed"), mixed, 5)
    assert not torch.allclose(ours[2], mixed[2], rtol=1e-2)


def test_a_gradient_that_is_left_out_leaves_the_others_mixed_lengths_alone():
    """As if the parameter were not there in that step: the same on the CPU, where it is left out, and by a mask."""
    for masked in (False, True):
        params, fewer = parameters()[2:5], parameters()[2:5]
        optimizer, other = (Jorge(p, 0.05, length="mixed") for p in (params, fewer))
        optimizer._masks = lambda device, masked=masked: masked
        for step in range(3):
            feed(params, step)
            for p, q in zip(params, fewer, strict=True):
                q.grad = p.grad.clone()
            if step == 2:
                params[0].grad[0, 0], fewer[0].grad = torch.nan, None
            optimizer.step()
            other.step()
        assert all(torch.equal(p, q) for p, q in zip(params[1:], fewer[1:], strict=True))


def tables():
    torch.manual_seed(0)
    model = nn.ModuleDict({"table": nn.Embedding(9, 4), "linear": nn.Linear(4, 9)})
    return model, lambda: model["linear"](model["table"](torch.tensor([0, 1, 1, 5]))).square().mean()


@pytest.mark.parametrize("nesterov", [False, True])
def test_embeddings_take_adams_direction_at_sgds_length(nesterov):
    model, loss = tables()
    optimizer = Jorge(param_groups(model, lr=0.05, weight_decay=0.0), embeddings="adam", nesterov=nesterov)
    table = model["table"].weight
    adam = torch.optim.Adam([twin := nn.Parameter(table.detach().clone())], 1.0, betas=(0.9, 0.999))
    sgd = torch.optim.SGD([other := nn.Parameter(table.detach().clone())], 0.05, momentum=0.9, nesterov=nesterov)
    for _ in range(5):
        optimizer.zero_grad()
        loss().backward()
        twin.grad, other.grad = table.grad.clone(), table.grad.clone()
        before = [p.detach().clone() for p in (table, twin, other)]
        for each in (optimizer, adam, sgd):
            each.step()
        moved, direction, length = (p.detach() - old for p, old in zip((table, twin, other), before, strict=True))
        assert float(moved.norm()) == pytest.approx(float(length.norm()), rel=1e-4)
        assert float((moved * direction).sum() / moved.norm() / direction.norm()) > 1 - 1e-5
    assert {"graft.momentum", "graft.first_moment", "graft.second_moment"} <= optimizer.state[table].keys()
    assert "graft.first_moment" not in optimizer.state[model["linear"].bias]


def test_embeddings_are_sgds_by_default_and_biases_always():
    model, loss = tables()
    twin, twin_loss = tables()
    groups = param_groups(model, lr=0.05, weight_decay=0.0)
    optimizer, sgd = Jorge(groups), torch.optim.SGD(twin.parameters(), 0.05, momentum=0.9)
    loss().backward()
    twin_loss().backward()
    optimizer.step()
    sgd.step()
    assert torch.equal(model["table"].weight, twin["table"].weight)
    assert torch.equal(model["linear"].bias, twin["linear"].bias)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_run_with_every_piece_resumes_bitwise(dtype):
    def fresh():
        model, loss = tables()
        model.to(dtype)
        groups = param_groups(model, lr=0.05, weight_decay=0.1)
        options = {"form": "half", "nesterov": True, "length": "mixed", "flatten": 5, "embeddings": "adam"}
        return model, loss, Jorge(groups, warm_refreshes=3, refresh_interval=2, **options)

    def advance(loss, optimizer, steps):
        for _ in range(steps):
            optimizer.zero_grad()
            loss().backward()
            optimizer.step()

    straight, loss, optimizer = fresh()
    advance(loss, optimizer, 10)
    half, half_loss, first = fresh()
    advance(half_loss, first, 6)
    again, again_loss, second = fresh()
    again.load_state_dict(half.state_dict())
    second.load_state_dict(first.state_dict())
    advance(again_loss, second, 4)
    assert all(torch.equal(p, q) for p, q in zip(straight.parameters(), again.parameters(), strict=True))


def test_values_out_of_range_are_refused():
    weight = nn.Parameter(torch.ones(2, 2))
    for values, message in (
        ({"length": "even"}, "length must be 'tensor' or 'mixed', got 'even'"),
        ({"flatten": -1}, "flatten must be an int >= 0, got -1"),
        ({"flatten": True}, "flatten must be an int >= 0, got True"),
        ({"embeddings": "sgd"}, "embeddings must be 'grafted' or 'adam', got 'sgd'"),
        ({"form": "third"}, "form must be 'series', 'congruence' or 'half', got 'third'"),
        ({"ridge": -1e-3, "form": "half"}, "ridge must be >= 0, got -0.001"),
        ({"ridge": float("inf")}, "ridge must be a finite number"),
    ):
        with pytest.raises(ValueError, match=message):
            Jorge([weight], 0.1, **values)
    with pytest.raises(ValueError, match="flatten must be an int >= 1, got 0"):
        Muon([weight], 0.1, flatten=0)
    with pytest.raises(TypeError):
        DecoupledSGD([weight], 0.1, flatten=5)
