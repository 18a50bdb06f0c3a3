"""What users of torch's optimizers are used to: rates as tensors, maximize, named and repeated parameters, switches."""

from __future__ import annotations

import copy
import inspect

import numpy as np
import pytest
import torch
from torch import nn

from jorge_tune.optim import DecoupledSGD, GeN, Jorge, Muon, Shampoo, SketchyAdaGrad, SketchyShampoo
from tests.optim.test_exam import CANDIDATES, UNSTAGGERED, exam, feed, parameters, reload, run, snapshot

MEMBERS = [Jorge, Shampoo, SketchyShampoo, SketchyAdaGrad, DecoupledSGD, Muon]
members = pytest.mark.parametrize("member", MEMBERS)


# The rate.


@exam
@pytest.mark.parametrize("shape", [(), (1,), (1, 1)])
def test_a_rate_in_a_tensor_is_the_number_in_it(make, shape):
    """Decay, grafting, a schedule that fills it in place, and a load."""
    plain, held = parameters(), parameters()
    rate = torch.full(shape, 0.03125)  # exact in float32
    one, other = make(plain, lr=0.03125, weight_decay=0.1), make(held, lr=rate, weight_decay=0.1)
    schedules = [torch.optim.lr_scheduler.LambdaLR(o, lambda step: 0.5**step) for o in (one, other)]
    for step in range(3):
        for params, optimizer in ((plain, one), (held, other)):
            feed(params, step)
            optimizer.step()
        for schedule in schedules:
            schedule.step()
    assert all(torch.equal(p, q) for p, q in zip(plain, held, strict=True))
    assert isinstance(other.param_groups[0]["lr"], torch.Tensor)
    again = [nn.Parameter(p.detach().clone()) for p in held]
    loaded = make(again, lr=torch.ones(shape))
    loaded.load_state_dict(reload(other.state_dict()))
    for params, optimizer in ((plain, one), (again, loaded)):
        feed(params, 3)
        optimizer.step()
    assert all(torch.equal(p, q) for p, q in zip(plain, again, strict=True))


@members
@pytest.mark.parametrize(
    ("lr", "rule"),
    [
        (torch.tensor([0.1, 0.2]), "be a tensor of one finite number"),
        (torch.tensor([]), "be a tensor of one finite number"),
        (torch.tensor(float("nan")), "be a tensor of one finite number"),
        (torch.tensor(float("inf")), "be a tensor of one finite number"),
        (torch.tensor(0.1 + 0.1j), "be a tensor of one finite number"),
        (torch.tensor([-0.1]), "be >= 0"),
        (np.float32("nan"), "be a finite number"),
        (np.array([0.1, 0.2]), "be a finite number"),
        ("0.1", "be a finite number"),
        (True, "be a finite number"),
    ],
)
def test_no_rate_is_refused_from_the_start_and_in_a_later_group(member, lr, rule):
    weight, late = nn.Parameter(torch.ones(2, 2)), nn.Parameter(torch.ones(2, 2))
    with pytest.raises(ValueError, match=f"lr must {rule}, got"):
        member([weight], lr=lr)
    with pytest.raises(ValueError, match=f"lr must {rule}, got"):
        member([{"params": [weight], "lr": lr}])
    optimizer = member([weight], lr=0.1)
    with pytest.raises(ValueError, match=f"lr must {rule}, got"):
        optimizer.add_param_group({"params": [late], "lr": lr})
    assert len(optimizer.param_groups) == 1


@members
def test_the_rate_may_be_left_out_where_every_group_has_one(member):
    params = [nn.Parameter(torch.ones(3, 2)) for _ in range(3)]
    groups = [{"params": [params[0]], "lr": 0.1}, {"params": [params[1]], "lr": 0.0}]
    optimizer = copy.deepcopy(member(groups))
    run(optimizer, [p for g in optimizer.param_groups for p in g["params"]], 2)
    assert [g["lr"] for g in optimizer.param_groups] == [0.1, 0.0]
    assert torch.equal(optimizer.param_groups[1]["params"][0], torch.ones(3, 2))
    for _ in range(2):
        optimizer.load_state_dict(optimizer.state_dict())
    for target in (optimizer, member([{"params": [params[0]], "lr": 0.1}, {"params": [params[1]], "lr": 0.2}])):
        with pytest.raises(
            ValueError, match=rf"param_groups\[2\] must have an lr: give it one, or give {member.__name__}"
        ):
            target.add_param_group({"params": [params[2]]})
        assert len(target.param_groups) == 2
    with pytest.raises(ValueError, match=r"param_groups\[1\] must have an lr"):
        member([{"params": [params[0]], "lr": 0.1}, {"params": [params[1]]}])
    with pytest.raises(ValueError, match=r"param_groups\[0\] must have an lr"):
        member(params)


def test_numpys_scalars_are_numbers_and_become_plain_ones():
    values = {
        "lr": np.float32(0.5),
        "momentum": np.float64(0.5),
        "weight_decay": np.float16(0.25),
        "eps": np.longdouble(0.5),
        "refresh_interval": np.int64(3),
        "warm_refreshes": np.uint8(2),
        "block_size": np.int32(4),
        "series_terms": np.int16(1),
        "nesterov": np.True_,
        "dampening": np.array(0.0),
    }
    given, plainly = parameters(), parameters()
    optimizer = Jorge(given, **values)
    other = Jorge(plainly, **{**{k: v.item() for k, v in values.items()}, "eps": 0.5})
    run(optimizer, given, 5)
    run(other, plainly, 5)
    assert all(torch.equal(p, q) for p, q in zip(given, plainly, strict=True))
    kinds = {type(v) for g in reload(optimizer.state_dict())["param_groups"] for v in g.values()}
    assert kinds <= {int, float, bool, str, tuple, list}
    pair = Jorge(parameters(), 0.1, graft="adamw", graft_betas=[np.float32(0.5), np.float64(0.75)])
    assert [type(beta) for beta in pair.param_groups[0]["graft_betas"]] == [float, float]
    with pytest.raises(ValueError, match=r"refresh_interval must be an int >= 1, got 2\.0"):
        Jorge(parameters(), 0.1, refresh_interval=np.float64(2.0))
    for group in optimizer.param_groups:
        group["lr"] = np.float32(0.25)  # as a schedule of the user's own may
    run(optimizer, given, 1)


@pytest.mark.parametrize("rate", [torch.tensor(0.0625), torch.tensor([[0.0625]]), np.float32(0.0625)])
def test_gen_scales_rates_of_any_kind(rate):
    ends = []
    for lr in (0.0625, rate):
        torch.manual_seed(0)
        model, x = nn.Linear(4, 1), torch.randn(8, 4)
        inner = Jorge(model.parameters(), lr)
        gen = GeN(inner, interval=np.int64(1), smoothing=np.float32(0.5), clamp=np.float64(2))
        for _ in range(5):
            gen.zero_grad()
            loss = (model(x) ** 2).mean()
            loss.backward()
            gen.step(lambda model=model, x=x: (model(x) ** 2).mean(), loss)
        assert type(gen.scale) is float
        assert gen.scale != 1
        assert type(inner.param_groups[0]["lr"]) is (float if isinstance(rate, np.float32) else type(lr))
        ends.append((gen.rates, model.weight.detach().clone()))
    assert ends[0][0] == ends[1][0]
    assert torch.equal(ends[0][1], ends[1][1])


def test_gen_refuses_a_rate_of_two():
    optimizer = Jorge(nn.Linear(2, 2).parameters(), 0.1)
    optimizer.param_groups[0]["lr"] = torch.tensor([0.1, 0.2])
    with pytest.raises(ValueError, match=r"param_groups\[0\]\['lr'\] must be a number, which GeN scales"):
        GeN(optimizer)


# maximize.


@exam
@pytest.mark.parametrize("scale", [1.0, 1e-30, 1e30])
def test_maximize_turns_the_gradients_sign_and_nothing_else(make, scale):
    down, up, group = parameters(), parameters(), parameters()
    values = {"weight_decay": 0.1} if scale < 1 else {}
    pairs = [
        (down, make(down, **values), 1),
        (up, make(up, maximize=True, **values), -1),
        (group, make([{"params": group, "maximize": True}], **values), -1),
    ]
    for step in range(6):
        feed(down, step)
        gradients = [p.grad * scale for p in down]
        for params, optimizer, sign in pairs:
            for p, gradient in zip(params, gradients, strict=True):
                p.grad = sign * gradient
            kept = [p.grad.clone() for p in params]
            optimizer.step()
            assert all(torch.equal(p.grad, k) for p, k in zip(params, kept, strict=True))
    assert all(torch.equal(p, q) and torch.equal(p, r) for p, q, r in zip(down, up, group, strict=True))
    assert pairs[1][1].defaults["maximize"] is True
    assert pairs[2][1].defaults["maximize"] is False
    assert pairs[2][1].state_dict()["param_groups"][0]["maximize"] is True


@pytest.mark.parametrize("values", [{"momentum": 0.9}, {"momentum": 0.9, "nesterov": True}, {"momentum": 0.0}])
def test_maximizing_sgd_is_torchs_bitwise(values):
    ours, theirs = parameters(), parameters()
    run(DecoupledSGD(ours, 0.05, maximize=True, **values), ours, 10)
    run(torch.optim.SGD(theirs, 0.05, maximize=True, **values), theirs, 10)
    assert all(torch.equal(p, q) for p, q in zip(ours, theirs, strict=True))


@members
def test_maximize_is_a_flag(member):
    with pytest.raises(ValueError, match="maximize must be True or False, got 1"):
        member([nn.Parameter(torch.ones(2, 2))], lr=0.1, maximize=1)


# A parameter that is named twice.


def twice(make, params, **values):
    with pytest.warns(UserWarning, match="a parameter group with duplicate parameters"):
        return make([*params, params[0]], **values)


@exam
def test_a_parameter_twice_in_a_group_has_two_steps_as_in_torch(make):
    params, steps = parameters()[2:5], parameters()[2:5]
    optimizer, single = twice(make, params, **UNSTAGGERED[make]), make(steps, **UNSTAGGERED[make])
    for step in range(6):
        feed(params, step)
        optimizer.step()
        for p, q in zip(params, steps, strict=True):
            q.grad = p.grad.clone()
        single.step()
        for q in steps[1:]:
            q.grad = None
        single.step()
    assert all(torch.allclose(p, q, rtol=1e-5, atol=1e-7) for p, q in zip(params, steps, strict=True))
    assert int(optimizer.state[params[0]]["step"]) == 12
    again = twice(make, params, **UNSTAGGERED[make])
    again.load_state_dict(reload(optimizer.state_dict()))
    assert int(again.state[params[0]]["step"]) == 12


def test_sgd_with_a_parameter_twice_is_torchs_bitwise():
    ours, theirs = parameters(), parameters()
    run(twice(DecoupledSGD, ours, lr=0.05), ours, 10)
    run(twice(torch.optim.SGD, theirs, lr=0.05, foreach=False), theirs, 10)
    assert all(torch.equal(p, q) for p, q in zip(ours, theirs, strict=True))


@exam
def test_a_parameter_in_two_groups_is_refused_as_in_torch(make):
    weight = nn.Parameter(torch.ones(3, 2))
    with pytest.raises(ValueError, match="some parameters appear in more than one parameter group"):
        make([{"params": [weight]}, {"params": [weight]}])


# torch's switches.


@members
@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("foreach", "it always works on lists of tensors"),
        ("fused", "its step is not one kernel"),
        ("differentiable", r"use torch.optim.SGD\(differentiable=True\)"),
        ("capturable", "capture only forward and backward"),
    ],
)
def test_torchs_switches_are_answered_with_what_to_do(member, name, advice):
    weight = nn.Parameter(torch.ones(2, 2))
    with pytest.raises(TypeError, match=f"{member.__name__} takes no {name}: .*{advice}"):
        member([weight], lr=0.1, **{name: True})
    with pytest.raises(TypeError, match=f"takes no {name}"):
        member([weight], lr=0.1, **{name: False})
    with pytest.raises(ValueError, match=f"a group must not have {name}=True: .*{advice}"):
        member([{"params": [weight], name: True}], lr=0.1)
    with pytest.raises(TypeError, match="unexpected keyword argument 'forech'"):
        member([weight], lr=0.1, forech=True)
    assert list(inspect.signature(member).parameters)[:2] == ["params", "lr"]


@exam
def test_named_parameters_keep_their_names(make):
    params = parameters()[2:4]
    optimizer = make([("first", params[0]), ("second", params[1])])
    before = snapshot(params)
    run(optimizer, params, 2)
    assert optimizer.state_dict()["param_groups"][0]["param_names"] == ["first", "second"]
    assert all(not torch.equal(p, old) for p, old in zip(params, before, strict=True))


def test_the_exam_has_every_member():
    assert {type(make(parameters()[2:3])) for make in CANDIDATES.values()} == set(MEMBERS)
