"""The account equals what is really allocated and what is really computed."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from jorge_tune.optim import DecoupledSGD, Jorge, Muon, Shampoo, SketchyAdaGrad, SketchyShampoo, param_groups
from jorge_tune.optim.costs import EXCLUDED, FROZEN, NOTHING, ONE_DIMENSIONAL, OTHER, TOO_LONG, account, total
from jorge_tune.optim.stacks import MAX_SIDE, BlockShape

FAMILY = {
    "jorge": lambda params: Jorge(params, 0.1),
    "jorge-adamw": lambda params: Jorge(params, 0.1, graft="adamw"),
    "jorge-no-graft": lambda params: Jorge(params, 0.1, graft="none"),
    "jorge-no-momentum": lambda params: Jorge(params, 0.1, momentum=0.0),
    "jorge-blocked": lambda params: Jorge(params, 0.1, block_size=4),
    "jorge-unblocked": lambda params: Jorge(params, 0.1, block_size=None),
    "jorge-paper": lambda params: Jorge(params, 0.1, preset="paper"),
    "jorge-half": lambda params: Jorge(params, 0.1, form="half"),
    "jorge-half-all": lambda params: Jorge(
        params, 0.1, form="half", length="mixed", flatten=5, embeddings="adam", block_size=4
    ),
    "muon": lambda params: Muon(params, 0.1, length="mixed"),
    "shampoo": lambda params: Shampoo(params, 0.1),
    "shampoo-adamw": lambda params: Shampoo(params, 0.1, graft="adamw", block_size=None),
    "shampoo-blocked": lambda params: Shampoo(params, 0.1, block_size=4),
    "sketchy": lambda params: SketchyShampoo(params, 0.1, rank=4),
    "sketchy-full-rank": lambda params: SketchyShampoo(params, 0.1, statistics_interval=2),
    "sketchy-blocked": lambda params: SketchyShampoo(params, 0.1, rank=2, block_size=5, graft="adamw"),
    "sketchy-adagrad": lambda params: SketchyAdaGrad(params, 0.1, rank=3),
    "decoupled-sgd": lambda params: DecoupledSGD(params, 0.1, momentum=0.9),
    "decoupled-sgd-plain": lambda params: DecoupledSGD(params, 0.1),
}
FOREIGN = {
    "sgd": lambda params: torch.optim.SGD(params, 0.1, momentum=0.9),
    "sgd-plain": lambda params: torch.optim.SGD(params, 0.1),
    "adamw": lambda params: torch.optim.AdamW(params, 0.1),
    "adamw-amsgrad": lambda params: torch.optim.AdamW(params, 0.1, amsgrad=True),
}
ALL = FAMILY | FOREIGN


class Net(nn.Module):
    """An embedding, a convolution, a norm, two linear layers that share a weight, and a frozen one."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(11, 6)
        self.convolution = nn.Conv2d(3, 6, 3)
        self.norm = nn.BatchNorm2d(6)
        self.first = nn.Linear(6, 6)
        self.second = nn.Linear(6, 6)
        self.second.weight = self.first.weight
        self.head = nn.Linear(6, 13)
        self.frozen = nn.Linear(6, 6).requires_grad_(False)
        self.empty = nn.Parameter(torch.empty(0, 6))
        self.scale = nn.Parameter(torch.ones(()))


def account_of(make, model, dtype=torch.float32, groups=True):
    """The account of the model's copy on the meta device, by name, and as a list."""
    with torch.device("meta"):
        copy = model().to(dtype)
    costs = account(make(groups_of(copy) if groups else copy.parameters()), names_of(copy))
    return {cost.name: cost for cost in costs}


def groups_of(model):
    return param_groups(model, lr=0.1, weight_decay=0.01, no_decay=["norm"])


def names_of(model):
    return {param: name for name, param in model.named_parameters()}


def allocated_bytes(optimizer):
    """Bytes of all distinct storages that the optimizer holds, however many tensors look at each."""
    tensors = [value for state in optimizer.state.values() for value in state.values()]
    for _, stacks in getattr(optimizer, "_stacks", {}).values():
        tensors += [tensor for stack in stacks for side in stack.sides.values() for tensor in side.values()]
    storages = {id(s): s for s in (tensor.untyped_storage() for tensor in tensors)}
    return sum({s.data_ptr(): s.nbytes() for s in storages.values()}.values())


def step(optimizer, without=()):
    for group in optimizer.param_groups:
        for param in group["params"]:
            wanted = param.requires_grad and not any(param is other for other in without)
            param.grad = torch.full_like(param, 0.1) if wanted else None
    optimizer.step()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("make", ALL.values(), ids=ALL.keys())
def test_state_bytes_are_those_allocated(make, dtype):
    model = Net().to(dtype)
    optimizer = make(groups_of(model))
    assert allocated_bytes(optimizer) == 0
    for _ in range(2):
        step(optimizer)
        planned = total(list(account_of(make, Net, dtype).values()))
        assert planned.state_bytes == allocated_bytes(optimizer)
    assert planned.parameter_bytes == sum(p.nbytes for p in model.parameters())


@pytest.mark.parametrize("make", ALL.values(), ids=ALL.keys())
def test_each_parameters_bytes_are_those_of_its_own_state(make):
    model = Net()
    optimizer = make(groups_of(model))
    step(optimizer)
    costs = account_of(make, Net)
    assert set(costs) == set(names_of(model).values())
    for param, name in names_of(model).items():
        sizes = {key: value.nbytes for key, value in optimizer.state.get(param, {}).items()}
        cost = costs[name]
        assert cost.state_bytes == sum(sizes.values()), name
        assert cost.step_bytes == sizes.get("step", 0)
        assert cost.graft_bytes == sum(n for key, n in sizes.items() if key.startswith("graft."))
        assert cost.preconditioner_bytes == sum(n for key, n in sizes.items() if key.startswith(("left.", "right.")))


@pytest.mark.parametrize("make", FAMILY.values(), ids=FAMILY.keys())
def test_bytes_stay_after_a_load_and_a_new_timetable(make):
    model = Net()
    optimizer = make(groups_of(model))
    step(optimizer)
    before = allocated_bytes(optimizer)
    again = make(groups_of(model))
    again.load_state_dict(optimizer.state_dict())
    step(again)
    assert allocated_bytes(again) == before
    for group in again.param_groups:
        group["refresh_interval"] = 3  # a new timetable: the stacks are built anew
    step(again)
    assert allocated_bytes(again) == before


def test_a_parameter_that_never_has_a_gradient_lacks_its_momenta_only():
    """Its rows in the stacks are allocated with those of its fellows, which is why it is counted."""
    params = [nn.Parameter(torch.ones(6, 4)) for _ in range(2)]
    optimizer = Jorge(params, 0.1)
    step(optimizer, without=params[1:])
    first, second = account(optimizer, dict(zip(params, "ab", strict=True)))
    assert first == second.__class__(**{**vars(second), "name": "a"})
    lacking = second.momentum_bytes + second.graft_bytes + second.step_bytes
    assert allocated_bytes(optimizer) == first.state_bytes + second.state_bytes - lacking


def test_blocks_and_reasons():
    costs = account_of(FAMILY["jorge-blocked"], Net)
    assert costs["head.weight"].blocks == tuple(BlockShape(r, c) for r in (4, 4, 4, 1) for c in (4, 2))
    assert costs["convolution.weight"].blocks == tuple(BlockShape(r, c) for r in (4, 2) for c in [4] * 6 + [3])
    assert {name: cost.reason for name, cost in costs.items() if cost.reason is not None} == {
        "embedding.weight": EXCLUDED,
        "convolution.bias": ONE_DIMENSIONAL,
        "norm.weight": ONE_DIMENSIONAL,
        "norm.bias": ONE_DIMENSIONAL,
        "first.bias": ONE_DIMENSIONAL,
        "second.bias": ONE_DIMENSIONAL,
        "head.bias": ONE_DIMENSIONAL,
        "frozen.weight": FROZEN,
        "frozen.bias": FROZEN,
        "empty": NOTHING,
        "scale": ONE_DIMENSIONAL,
    }
    assert all((cost.reason is None) == bool(cost.blocks) for cost in costs.values())
    assert {c.reason for c in account_of(FOREIGN["adamw"], Net).values()} == {OTHER, FROZEN}
    assert {c.reason for c in account_of(FAMILY["decoupled-sgd"], Net).values()} == {EXCLUDED, FROZEN}


def test_sides_longer_than_the_longest():
    with torch.device("meta"):
        params = [nn.Parameter(torch.empty(MAX_SIDE + 1, n)) for n in (2, MAX_SIDE, MAX_SIDE + 1)]
    one, two, none = account(Jorge(params, 0.1, block_size=None), dict(zip(params, "abc", strict=True)))
    assert one.blocks == (BlockShape(MAX_SIDE + 1, 2, False, True),)
    assert (one.preconditioner_bytes, one.apply_flops) == (2 * 2 * 4, 2 * 2 * 2 * (MAX_SIDE + 1))
    assert two.preconditioner_bytes == 4 * MAX_SIDE**2
    assert (none.blocks, none.reason, none.preconditioner_bytes, none.momentum_bytes) == ((), TOO_LONG, 0, 0)


def counted_flops(optimizer):
    with FlopCounterMode(display=False) as counter:
        step(optimizer)
    return counter.get_total_flops()


@pytest.mark.parametrize(
    "options",
    [
        {"form": "series"},
        {"form": "congruence"},
        {"form": "congruence", "ridge": 0.0},
        {"form": "half"},
        {"form": "half", "ridge": 0.0, "flatten": 3},
    ],
    ids=str,
)
@pytest.mark.parametrize("block_size", [None, 4])
def test_jorges_operations_are_those_that_torch_counts(options, block_size):
    """torch counts matrix products alone, and so do the formulas. Both routes are taken: tall, wide and square."""
    params = [nn.Parameter(torch.ones(shape)) for shape in ((12, 2), (3, 11), (6, 6), (5, 2, 3), (7,))]
    optimizer = Jorge(
        params, 0.1, **options, block_size=block_size, refresh_interval=7, warm_refreshes=1, stagger=False
    )
    planned = total(account(optimizer, dict(zip(params, "abcde", strict=True))))
    assert counted_flops(optimizer) == planned.refresh_flops + planned.apply_flops
    assert counted_flops(optimizer) == planned.refresh_flops + planned.apply_flops  # step 2 = warm_refreshes + 1
    assert [counted_flops(optimizer) for _ in range(6)] == [planned.apply_flops] * 6
    assert planned.flops_per_step == pytest.approx(planned.apply_flops + planned.refresh_flops / 7)


def test_shampoos_statistics_are_those_that_torch_counts():
    params = [nn.Parameter(torch.ones(shape)) for shape in ((12, 2), (3, 11))]
    optimizer = Shampoo(params, 0.1, refresh_interval=100, warm_refreshes=0, stagger=False, statistics_interval=3)
    planned = total(account(optimizer, dict(zip(params, "ab", strict=True))))
    step(optimizer)
    expected = [0, 0, planned.statistics_flops] * 3  # steps 2 and 3 without, 4 with, ...
    assert [counted_flops(optimizer) - planned.apply_flops for _ in range(9)] == expected
    assert planned.statistics_flops > 0
    each = planned.apply_flops + planned.refresh_flops / 100 + planned.statistics_flops / 3
    assert planned.flops_per_step == pytest.approx(each)


@pytest.mark.parametrize("interval", [None, 3])
def test_sketchys_statistics_are_part_of_a_refresh_unless_they_have_an_interval(interval):
    param = nn.Parameter(torch.ones(12, 7))
    (cost,) = account(SketchyShampoo([param], 0.1, refresh_interval=5, statistics_interval=interval), {param: "w"})
    spent = cost.refresh_flops if interval is None else cost.statistics_flops
    assert cost.refresh_flops + cost.statistics_flops == spent > 0
    assert cost.flops_per_step == pytest.approx(cost.apply_flops + spent / (interval or 5))


def test_an_optimizer_that_is_not_of_the_family_must_be_on_the_meta_device():
    model = nn.Linear(2, 2)
    with pytest.raises(ValueError, match="parameters of AdamW must be on the meta device"):
        account(torch.optim.AdamW(model.parameters()), names_of(model))


def test_a_meta_step_leaves_no_gradient():
    with torch.device("meta"):
        model = Net()
    account(torch.optim.SGD(model.parameters(), 0.1), names_of(model))
    assert all(param.grad is None for param in model.parameters())
