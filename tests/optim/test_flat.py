"""Parameters that lie flat, as on a GPU, take the steps that lists of tensors take on the CPU."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from jorge_tune.optim import Jorge, Shampoo, param_groups
from jorge_tune.optim.flat import Layout, Member, cut
from jorge_tune.optim.stacks import collapse, partition
from tests.optim.test_exam import reload

SETTINGS = {
    "jorge": {},
    "blocked": {"block_size": 12, "warm_refreshes": 2, "refresh_interval": 3, "stagger": False},
    "adamw": {"graft": "adamw", "block_size": 12},
    "stronger": {"form": "half", "nesterov": True, "length": "mixed", "flatten": 3, "block_size": 12},
    "tables": {"embeddings": "adam", "length": "mixed"},
    "dampening": {"dampening": 0.3},
    "no-momentum": {"momentum": 0.0},
    "no-graft": {"graft": "none"},
    "maximize": {"maximize": True, "weight_decay": 0.0},
}
of_settings = pytest.mark.parametrize("values", SETTINGS.values(), ids=SETTINGS.keys())

# Largest relative distance of the weights after 8 steps, measured over SETTINGS: fewer roundings per step than torch
# makes give 1.7e-7; 4e-7 where norms are added up in another order as well (mixed lengths, channels last).
FEWER_ROUNDINGS = 1e-6


class Net(nn.Module):
    """Matrices that are cut evenly and with rests, twins, sizes that 64 divides and others, an embedding."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(20, 16)
        self.wide = nn.Conv2d(3, 16, 3)
        self.one = nn.Conv2d(16, 24, 1)
        self.twins = nn.ModuleList(nn.Linear(30, 12) for _ in range(2))
        self.odd = nn.Linear(7, 5)
        self.norm = nn.BatchNorm2d(16)


def groups_of(model):
    return param_groups(model, lr=0.05, weight_decay=1e-2, no_decay=["norm", "bias"])


def build(values, *, flat, exact=True, dtype=torch.float32, channels_last=False, member=Jorge):
    torch.manual_seed(0)
    model = Net().to(dtype)
    if channels_last:
        model = model.to(memory_format=torch.channels_last)
    optimizer = member(groups_of(model), **{"lr": 0.05, **values})
    optimizer._masks = lambda device: flat
    optimizer._is_exact = lambda device: exact
    return list(model.parameters()), optimizer


def feed(params, step, *, missing=False):
    """Gradients in the parameters' own order of memory; now and then none, and one that is not finite."""
    generator = torch.Generator().manual_seed(step)
    for number, p in enumerate(params):
        p.grad = torch.empty_like(p).copy_(torch.randn(p.shape, generator=generator))
        if missing and (number + step) % 4 == 0:
            p.grad = None
    if step % 3 == 2:
        params[1].grad = torch.full_like(params[1], float("nan"))


def run(params, optimizer, steps=8, start=0, *, missing=False):
    for step in range(start, start + steps):
        feed(params, step, missing=missing)
        optimizer.step()
    return params, optimizer


def distance(ours, theirs):
    both = [torch.cat([p.detach().double().flatten() for p in params]) for params in (ours, theirs)]
    return float((both[0] - both[1]).norm() / both[1].norm())


@of_settings
@pytest.mark.parametrize("missing", [False, True], ids=["all", "some missing"])
def test_flat_steps_are_those_of_lists(values, missing):
    listed, _ = run(*build(values, flat=False), missing=missing)
    exact, _ = run(*build(values, flat=True), missing=missing)
    fast, _ = run(*build(values, flat=True, exact=False), missing=missing)
    if values.get("length") == "mixed":  # lengths are added up in another order
        assert distance(exact, listed) < FEWER_ROUNDINGS
    else:
        assert all(torch.equal(p, q) for p, q in zip(exact, listed, strict=True))
    assert distance(fast, listed) < FEWER_ROUNDINGS
    assert not all(torch.equal(p, q) for p, q in zip(fast, listed, strict=True)) or not values.get("weight_decay", 1)


@pytest.mark.parametrize("values", [{}, SETTINGS["stronger"]], ids=["jorge", "stronger"])
def test_another_order_of_memory_gives_the_same_steps(values):
    listed, _ = run(*build(values, flat=False))
    turned, optimizer = run(*build(values, flat=True, channels_last=True))
    assert distance(turned, listed) < FEWER_ROUNDINGS
    convolution = turned[1]
    assert not convolution.is_contiguous()
    assert optimizer.state[convolution]["momentum"].stride() == convolution.stride()


@pytest.mark.parametrize("exact", [True, False])
def test_weights_with_gaps_in_memory_and_gradients_in_another_order(exact):
    ends = []
    for gaps in (False, True):
        generator = torch.Generator().manual_seed(0)
        values = torch.randn(16, 12, generator=generator)
        room = torch.zeros(16, 24)
        room[:, ::2] = values
        weight = nn.Parameter(room[:, ::2] if gaps else values)
        optimizer = Jorge([weight], lr=0.1, weight_decay=1e-2)
        optimizer._masks, optimizer._is_exact = (lambda device: True), (lambda device, exact=exact: exact)
        for _ in range(3):
            grad = torch.randn(16, 12, generator=generator)
            weight.grad = grad.T.contiguous().T if gaps else grad
            optimizer.step()
        ends.append(weight.detach().clone())
    assert distance([ends[1]], [ends[0]]) < FEWER_ROUNDINGS


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
@of_settings
def test_every_dtype_is_stepped_in_state_precision(values, dtype):
    listed, _ = run(*build(values, flat=False, dtype=dtype), 5)
    flat, _ = run(*build(values, flat=True, exact=False, dtype=dtype), 5)
    # A weight of less precision may round the other way: one spacing of the weights, here at most 1/2 of 8e-3.
    assert distance(flat, listed) < {torch.float64: 1e-13}.get(dtype, torch.finfo(dtype).eps / 2)


def test_a_state_moves_between_lists_and_rows_and_may_be_replaced_by_hand():
    straight, _ = run(*build({}, flat=False), 9)
    params, listed = run(*build({}, flat=False), 3)
    flat = Jorge(copy.deepcopy(listed.param_groups), lr=0.05)
    flat._masks = lambda device: True
    state = reload(listed.state_dict())
    twins = {id(p): q for g, h in zip(listed.param_groups, flat.param_groups, strict=True)
             for p, q in zip(g["params"], h["params"], strict=True)}  # fmt: skip
    params = [twins[id(p)] for p in params]
    flat.load_state_dict(state)
    run(params, flat, 3, start=3)
    for own in flat.state.values():  # as a tool that averages states might
        for key in list(own):
            own[key] = own[key].clone()
    run(params, flat, 2, start=6)
    back = Jorge(flat.param_groups, lr=0.05)
    back.load_state_dict(reload(flat.state_dict()))
    run(params, back, 1, start=8)
    assert all(torch.equal(p, q) for p, q in zip(params, straight, strict=True))


def test_what_a_schedule_changes_moves_no_state():
    params, optimizer = run(*build({}, flat=True), 2)
    (before,) = optimizer._bundles.values()
    for step in range(2, 5):
        for group in optimizer.param_groups:
            group["momentum"] -= 0.1
            group["lr"] *= 0.5
            group["weight_decay"] *= 2
        run(params, optimizer, 1, start=step)
    (after,) = optimizer._bundles.values()
    assert after is before
    optimizer.param_groups[0]["refresh_interval"] = 3  # the slots are other ones
    run(params, optimizer, 1, start=5)
    assert before not in optimizer._bundles.values()


def test_a_clock_that_is_set_by_hand_is_read():
    params, optimizer = run(*build({"warm_refreshes": 0, "refresh_interval": 100, "stagger": False}, flat=True), 3)
    before = optimizer.state[params[3]]["left.0"].clone()
    for own in optimizer.state.values():
        own["step"].fill_(100)
    run(params, optimizer, 1, start=3)
    assert int(optimizer.state[params[3]]["step"]) == 101
    assert not torch.equal(optimizer.state[params[3]]["left.0"], before)


def test_shampoos_statistics_are_masked():
    listed, _ = run(*build({"refresh_interval": 2, "warm_refreshes": 1}, flat=False, member=Shampoo))
    flat, _ = run(*build({"refresh_interval": 2, "warm_refreshes": 1, "stagger": False}, flat=True, member=Shampoo))
    unstaggered, _ = run(
        *build({"refresh_interval": 2, "warm_refreshes": 1, "stagger": False}, flat=False, member=Shampoo)
    )
    assert all(torch.equal(p, q) for p, q in zip(flat, unstaggered, strict=True))
    assert not all(torch.equal(p, q) for p, q in zip(listed, unstaggered, strict=True))


def test_slots_go_by_stack():
    params = [nn.Parameter(torch.ones(6, 4)) for _ in range(4)] + [nn.Parameter(torch.ones(5, 4)) for _ in range(3)]
    optimizer = Jorge(params, lr=0.1, refresh_interval=2)
    optimizer._masks = lambda device: True
    for p in params:
        p.grad = torch.ones_like(p)
    optimizer.step()
    (bundle,) = optimizer._bundles.values()
    slots = [{entry.slot for entry in flat.stack.entries} for flat in bundle.stacks]
    assert sorted(slots, key=min) == [{0}, {1}]


@given(
    shapes=st.lists(st.tuples(st.integers(1, 40), st.integers(1, 40)), min_size=1, max_size=4),
    copies=st.integers(1, 3),
    block_size=st.one_of(st.none(), st.integers(1, 20)),
)
@settings(max_examples=150, deadline=None)
def test_pieces_are_the_blocks_each_once(shapes, copies, block_size):
    params = [torch.empty(shape) for shape in shapes for _ in range(copies)]
    members = [Member(p, 0, collapse(p.shape), partition(p.shape, block_size), 0) for p in params]
    layout = Layout(members, torch.device("cpu"))
    rows = layout.empty((0, 3), torch.float32)
    for number, zone in enumerate(rows):
        zone.copy_(torch.arange(zone.numel()).view_as(zone) + 1000 * number)
    pieces = layout.pieces(rows, (0, 3))
    seen = []
    for kind in layout.classes:
        matrices = kind.matrices(rows[kind.zone])
        for piece in cut(kind):
            blocks = piece.of(matrices)
            assert len(blocks) == len(piece.rows)
            for block, (place, number) in zip(blocks, piece.rows, strict=True):
                member = layout.members[place]
                assert torch.equal(block, member.blocks[number].view(pieces[place].view(member.param.shape)))
                seen.append((place, number))
    assert sorted(seen) == [(place, n) for place, m in enumerate(layout.members) for n in range(len(m.blocks))]


def test_what_lies_at_one_distance_is_one_batch():
    def batches(shape, copies, block_size):
        params = [torch.empty(shape) for _ in range(copies)]
        members = [Member(p, 0, collapse(p.shape), partition(p.shape, block_size), 0) for p in params]
        (kind,) = Layout(members, torch.device("cpu")).classes
        return [len(piece.rows) for piece in cut(kind)]

    assert batches((8, 4), 5, None) == [5]
    assert batches((8, 4), 5, 4) == [10]  # cut across its rows: the halves lie one after the other
    assert batches((4, 8), 1, 4) == [2]
    assert batches((4, 12), 2, 4) == [3, 3]  # two matrices, each with three blocks side by side
    assert batches((4, 10), 3, 4) == [3, 3, 3]
