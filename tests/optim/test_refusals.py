"""What every optimizer of the family refuses or skips, and that nothing else is touched by it."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from jorge_tune.optim import Jorge, Shampoo, SketchyAdaGrad, SketchyShampoo
from tests.optim.test_exam import CANDIDATES, exam, feed, parameters, run, snapshot


@exam
@pytest.mark.parametrize("masked", [False, True])
def test_non_finite_gradients_are_skipped_for_that_parameter_alone(make, masked):
    """By leaving it out, and by the mask that accelerators use; its clock goes on."""
    params, without = parameters()[2:4], parameters()[2:4]
    optimizer, reference = make(params, weight_decay=0.1), make(without, weight_decay=0.1)
    optimizer._masks = lambda device: masked
    for step in range(6):
        feed(params, step)
        feed(without, step)
        if step == 3:
            params[0].grad[0, 0] = float("nan")
            before, state = params[0].detach().clone(), copy.deepcopy(optimizer.state[params[0]])
        optimizer.step()
        reference.step()
        if step == 3:
            assert torch.equal(params[0], before)
            for key, old in state.items():
                assert torch.equal(optimizer.state[params[0]][key], old + 1 if key == "step" else old), key
    if optimizer.defaults["length"] == "tensor":  # mixed lengths depend on all gradients by definition
        assert torch.equal(params[1], without[1])
    assert not torch.equal(params[0], before)
    assert torch.isfinite(params[0]).all()
    assert optimizer.read_counters().skipped == 1


@exam
def test_masked_and_left_out_are_the_same_bitwise(make):
    """From the first step on, with a non-finite gradient now and then."""
    masked, left_out = parameters(), parameters()
    one, other = make(masked), make(left_out)
    one._masks = lambda device: True
    for step in range(8):
        for params, optimizer in ((masked, one), (left_out, other)):
            feed(params, step)
            params[step % 3 + 1].grad.view(-1)[0] = float("inf")
            optimizer.step()
    assert all(torch.equal(p, q) for p, q in zip(masked, left_out, strict=True))


@exam
def test_a_parameter_frozen_on_the_way_keeps_what_it_has(make):
    params = parameters()[2:5]
    optimizer = make(params)
    run(optimizer, params, 3)
    params[0].requires_grad_(False)  # its last gradient is still there, as after zero_grad(set_to_none=False)
    optimizer.step()
    params[0].grad = None
    before = params[0].detach().clone()
    run(optimizer, params[1:], 3, start=4)
    assert torch.equal(params[0], before)
    assert int(optimizer.state[params[0]]["step"]) == 4
    assert int(optimizer.state[params[1]]["step"]) == 7


@exam
def test_the_state_of_another_optimizer_is_refused(make):
    params = parameters()[2:4]
    optimizer = make(params)
    before = copy.deepcopy(optimizer.param_groups)
    with pytest.raises(ValueError, match="another optimizer's: its groups have no"):
        optimizer.load_state_dict(torch.optim.SGD(params, 0.1).state_dict())
    assert [g["lr"] for g in optimizer.param_groups] == [g["lr"] for g in before]


@exam
def test_a_changed_dtype_is_refused(make):
    weight = nn.Parameter(torch.ones(3, 2))
    optimizer = make([weight])
    run(optimizer, [weight], 1)
    weight.data = weight.data.double()
    weight.grad = torch.ones(3, 2, dtype=torch.float64)
    with pytest.raises(ValueError, match=r"the state is torch.float32, the gradient needs torch.float64"):
        optimizer.step()


def test_momentum_and_graft_may_change_on_the_way_but_not_the_blocks():
    params = parameters()[2:5]
    optimizer = Jorge(params, 0.05, momentum=0.0)
    run(optimizer, params, 2)
    optimizer.param_groups[0]["momentum"] = 0.9
    run(optimizer, params, 2, start=2)
    optimizer.param_groups[0]["graft"] = "adamw"
    run(optimizer, params, 2, start=4)
    assert all(torch.isfinite(p).all() for p in params)
    optimizer.param_groups[0]["block_size"] = 2
    feed(params, 6)
    with pytest.raises(ValueError, match="block_size and rank cannot change once there are preconditioners"):
        optimizer.step()


@exam
def test_non_finite_gradients_can_stop_the_run_before_anything_changes(make):
    params = parameters()[2:4]
    optimizer = make(params, nonfinite="raise")
    run(optimizer, params, 2)
    before, state = snapshot(params), copy.deepcopy(optimizer.state_dict())
    feed(params, 2)
    params[1].grad.view(-1)[0] = float("inf")
    with pytest.raises(FloatingPointError, match=r"param_groups\[0\], parameter of shape \(4, 3, 2\)"):
        optimizer.step()
    assert all(torch.equal(p, old) for p, old in zip(params, before, strict=True))
    for number, old in state["state"].items():
        assert all(torch.equal(old[k], v) for k, v in optimizer.state_dict()["state"][number].items())


@exam
def test_sparse_and_complex_are_refused_with_the_way_out(make):
    table = nn.Embedding(5, 3, sparse=True)
    optimizer = make(table.parameters())
    table(torch.tensor([1])).sum().backward()
    with pytest.raises(ValueError, match="sparse=False"):
        optimizer.step()
    with pytest.raises(ValueError, match="params must be real"):
        make([nn.Parameter(torch.ones(2, 2, dtype=torch.complex64))])


@exam
def test_bad_hyperparameters_name_the_rule(make):
    weight = nn.Parameter(torch.ones(2, 2))
    with pytest.raises(ValueError, match=r"lr must be >= 0, got -1"):
        make([weight], lr=-1)
    with pytest.raises(ValueError, match=r"momentum must be in \[0, 1\), got 1"):
        make([weight], momentum=1)
    with pytest.raises(ValueError, match=r"weight_decay must be >= 0, got -0.1"):
        make([weight], weight_decay=-0.1)
    with pytest.raises(TypeError, match="momentun"):
        make([weight], momentun=0.9)
    optimizer = make([weight])
    with pytest.raises(ValueError, match="nonfinite must be"):
        optimizer.add_param_group({"params": [nn.Parameter(torch.ones(1))], "nonfinite": "ignore"})
    assert len(optimizer.param_groups) == 1


JORGE_FAULTS = [
    ({"refresh_interval": 0}, "refresh_interval must be an int >= 1, got 0"),
    ({"refresh_interval": 2.5}, "refresh_interval must be an int >= 1, got 2.5"),
    ({"warm_refreshes": -1}, "warm_refreshes must be an int >= 0, got -1"),
    ({"block_size": 0}, "block_size must be an int >= 1 or None, got 0"),
    ({"eps": 0.0}, "eps must be > 0, got 0.0"),
    ({"eps_kind": "odd"}, "eps_kind must be 'relative' or 'absolute', got 'odd'"),
    ({"b2_floor": 1.0}, r"b2_floor must be in \[0, 1\), got 1.0"),
    ({"series_terms": 4}, "series_terms must be 1, 2 or 3, got 4"),
    ({"form": "newton"}, "form must be 'series', 'congruence' or 'half', got 'newton'"),
    ({"graft": "adam"}, "graft must be 'sgd', 'adamw' or 'none', got 'adam'"),
    ({"graft_betas": (0.9, 1.0)}, r"graft_betas must be two numbers in \[0, 1\), got"),
    ({"graft_eps": 0.0}, "graft_eps must be > 0, got 0.0"),
    ({"nesterov": True, "momentum": 0.0}, "nesterov must have momentum > 0, .* got momentum 0.0"),
    ({"nesterov": "yes"}, "nesterov must be True or False, got 'yes'"),
    ({"lr": "x"}, "lr must be a finite number, got 'x'"),
    ({"lr": float("inf")}, "lr must be a finite number, got inf"),
    ({"lr": 10**400}, "lr must be a finite number, got 1000"),
    ({"lr": torch.tensor(True)}, r"lr must be a tensor of one finite number, got tensor\(True\)"),
    ({"momentum": 10**400}, "momentum must be a finite number, got 1000"),
    ({"momentum": None}, "momentum must be a finite number, got None"),
    ({"graft_betas": 0.9}, "graft_betas must be two numbers"),
    ({"dampening": 1.5}, r"dampening must be in \[0, 1\], got 1.5"),
    ({"preset": "papers"}, "preset must be 'paper' or None, got 'papers'"),
]


@pytest.mark.parametrize(("values", "message"), JORGE_FAULTS)
def test_jorge_refuses(values, message):
    with pytest.raises(ValueError, match=message):
        Jorge([nn.Parameter(torch.ones(2, 2))], **{"lr": 0.1, **values})


def test_shampoo_refuses():
    weight = [nn.Parameter(torch.ones(2, 2))]
    for values, message in (
        ({"b2": 1.0}, "b2 must be"),
        ({"eps": 0}, "eps must be"),
        ({"statistics_interval": 0}, "statistics_interval must be"),
    ):
        with pytest.raises(ValueError, match=message):
            Shampoo(weight, lr=0.1, **values)


@pytest.mark.parametrize(
    ("member", "values", "message"),
    [
        (SketchyShampoo, {"rank": 1}, r"rank must be an int >= 2 \(rank - 1 directions are kept\), got 1"),
        (SketchyShampoo, {"rank": 2.0}, "rank must be an int >= 2 .*, got 2.0"),
        (SketchyShampoo, {"b2": 1.0}, r"b2 must be in \[0, 1\), got 1.0"),
        (SketchyShampoo, {"eps": 0.0}, "eps must be > 0, got 0.0"),
        (SketchyShampoo, {"statistics_interval": 0}, "statistics_interval must be an int >= 1 or None, got 0"),
        (SketchyAdaGrad, {"rank": True}, "rank must be an int >= 2 .*, got True"),
        (SketchyAdaGrad, {"eps": -1e-9}, "eps must be >= 0, got -1e-09"),
    ],
)
def test_the_sketches_refuse(member, values, message):
    with pytest.raises(ValueError, match=message):
        member([nn.Parameter(torch.ones(2, 2))], lr=0.1, **values)


@pytest.mark.parametrize("member", ["sketchy", "sketchy-adagrad"])
def test_loading_another_rank_is_refused(member):
    """Also where it is above the sides' sizes, so that the shapes are the same."""
    params = parameters()[2:4]
    for rank in (4, 1000):
        optimizer = CANDIDATES[member](params, rank=rank)
        run(optimizer, params, 2)
        other = CANDIDATES[member](params, rank=2000)
        with pytest.raises(ValueError, match=rf"made with rank \[{rank}\], this optimizer has \[2000\]"):
            other.load_state_dict(optimizer.state_dict())
        assert not other.state


@pytest.mark.parametrize("member", ["jorge", "shampoo", "sketchy"])
def test_loading_other_shapes_or_blocks_is_refused(member):
    make = CANDIDATES[member]
    params = parameters()[2:4]
    optimizer = make(params)
    run(optimizer, params, 2)
    state = optimizer.state_dict()
    with pytest.raises(ValueError, match=r"block_size \[1024\], this optimizer has \[5\]"):
        make(params, block_size=5).load_state_dict(state)
    with pytest.raises(ValueError, match=r"state of parameter 0: .* has shape \(6, 4\), but \(4, 6\) is needed"):
        make([nn.Parameter(torch.ones(4, 6)), params[1]]).load_state_dict(state)
    with pytest.raises(ValueError, match="groups of"):
        make(params[:1]).load_state_dict(state)


def test_a_refused_step_leaves_other_groups_and_their_clocks_alone():
    """The first group has a gradient to skip, the second one that stops the step: the first must not have moved."""
    first, second = nn.Parameter(torch.ones(3, 2)), nn.Parameter(torch.ones(4, 3))
    optimizer = Jorge([{"params": [first]}, {"params": [second], "nonfinite": "raise"}], 0.05)
    run(optimizer, [first, second], 2)
    for fault in (torch.full((4, 3), float("nan")), torch.ones(4, 3).to_sparse()):
        before, skipped = copy.deepcopy(optimizer.state_dict()), optimizer.read_counters().skipped
        first.grad = torch.full((3, 2), float("inf"))
        second.grad = fault
        with pytest.raises((FloatingPointError, ValueError)):
            optimizer.step()
        assert optimizer.read_counters().skipped == skipped
        for number, old in before["state"].items():
            assert all(torch.equal(old[k], v) for k, v in optimizer.state_dict()["state"][number].items())
