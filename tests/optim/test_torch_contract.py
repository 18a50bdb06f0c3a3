"""What torch's users rely on and torch's generic tests do not ask: pickles, copies, closures, groups, precisions."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import nn

from tests.optim.torch_members import MEMBERS, Task, assert_same, of_all, train


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def through_a_pickle(value):
    return pickle.loads(pickle.dumps(value))


of_every_member = pytest.mark.parametrize("member", [info.optim_cls for info in MEMBERS], ids=lambda m: m.__name__)


@of_all
@pytest.mark.parametrize("copied", [through_a_pickle, copy.deepcopy], ids=["pickled", "deepcopied"])
def test_a_copy_goes_on_alike_and_loads_again_and_again(setting, copied):
    task = Task()
    optimizer = setting.make(task.params)
    train(optimizer, task, 3)
    twin, other = copied((task, optimizer))
    assert other.param_groups[0]["params"][0] is twin.weight
    saved, at = copy.deepcopy(optimizer.state_dict()), copy.deepcopy(task.params)
    train(optimizer, task, 3)
    train(other, twin, 3)
    assert_same(task.params, twin.params)
    for _ in range(3):
        other.load_state_dict(state_dict=saved)
        with torch.no_grad():
            for param, value in zip(twin.params, at, strict=True):
                param.copy_(value)
        train(other, twin, 3)
        assert_same(task.params, twin.params)
        assert_same(optimizer.state_dict(), other.state_dict())


@of_every_member
def test_parameters_in_no_order_are_refused(member):
    with pytest.raises(TypeError, match="ordered collections"):
        member([{"params": set(Task().params)}], lr=0.1)


@of_every_member
def test_a_closure_is_evaluated_once_with_gradients_and_its_loss_returned(member):
    task = Task()
    optimizer = member(task.params, lr=1e-3)
    losses = []

    def closure():
        assert torch.is_grad_enabled()
        losses.append(task.loss())
        return losses[-1]

    with torch.no_grad():
        assert optimizer.step(closure) is losses[0]
        assert not torch.is_grad_enabled()
    assert len(losses) == 1
    assert int(optimizer.state[task.weight]["step"]) == 1


@of_every_member
def test_a_groups_own_value_wins_and_a_default_fills_what_it_lacks(member):
    task, twins = Task(), Task()
    for param, twin in zip(task.params, twins.params, strict=True):
        twin.data.copy_(param.data)
    twins.input = task.input
    groups = [{"params": [task.weight], "lr": 2e-3}, {"params": [task.bias], "weight_decay": 0.0}]
    optimizer = member(groups, lr=1e-3, weight_decay=0.5)
    assert [(g["lr"], g["weight_decay"]) for g in optimizer.param_groups] == [(2e-3, 0.5), (1e-3, 0.0)]
    apart = [member([twins.weight], lr=2e-3, weight_decay=0.5), member([twins.bias], lr=1e-3)]
    for _ in range(4):
        train(optimizer, task, 1)
        twins.loss()
        for one in apart:
            one.step()
        assert_same(task.params, twins.params)


@of_every_member
def test_zero_grad_takes_gradients_away_or_fills_them_with_zeros(member):
    task = Task()
    optimizer = member(task.params, lr=1e-3)
    task.loss()
    optimizer.zero_grad(set_to_none=False)
    assert all(torch.equal(p.grad, torch.zeros_like(p)) for p in task.params)
    optimizer.zero_grad()
    assert all(p.grad is None for p in task.params)


@of_all
@pytest.mark.parametrize(
    ("dtype", "kept"),
    [
        (torch.float16, torch.float32),
        (torch.bfloat16, torch.float32),
        (torch.float32, torch.float32),
        (torch.float64, torch.float64),
    ],
    ids=str,
)
def test_the_state_has_the_precision_it_works_in_before_and_after_a_load(setting, dtype, kept):
    params = [nn.Parameter(torch.randn(4, 3, dtype=dtype)), nn.Parameter(torch.randn(4, dtype=dtype))]
    twins = [nn.Parameter(p.detach().clone()) for p in params]
    optimizer, other = setting.make(params), setting.make(twins)

    def step(which, values, seed):
        generator = torch.Generator().manual_seed(seed)
        for p in values:
            p.grad = torch.randn(p.shape, generator=generator).to(dtype)
        which.step()

    for seed in range(3):
        step(optimizer, params, seed)
    for state in optimizer.state.values():
        assert state["step"].dtype is torch.int64
        assert {value.dtype for key, value in state.items() if value.ndim and not key.endswith("signs")} <= {kept}
        assert {value.dtype for key, value in state.items() if key.endswith("signs")} <= {torch.int64}
        assert {value.dtype for key, value in state.items() if not value.ndim and key != "step"} <= {torch.float64}
    with torch.no_grad():
        for p, twin in zip(params, twins, strict=True):
            twin.copy_(p)
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    assert_same(other.state_dict(), optimizer.state_dict())
    for seed in range(3, 6):
        step(optimizer, params, seed)
        step(other, twins, seed)
    assert params[0].dtype is dtype
    assert_same(params, twins)
