"""What GeN does with bad input: refused with the rule, or the rate kept with the reason. Never a rate that is NaN."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from jorge_tune.optim import GeN
from tests.optim.test_gen import advance, assert_same, images, network, quadratic, seed_all, train


def sgd(model, **changes):
    return torch.optim.SGD(model.parameters(), **{"lr": 0.1, "momentum": 0.9, **changes})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"interval": 0}, "interval must be an int >= 1, got 0"),
        ({"interval": True}, "interval must be an int >= 1"),
        ({"smoothing": 1.5}, r"smoothing must be in \[0, 1\], got 1.5"),
        ({"smoothing": math.nan}, "smoothing must be"),
        ({"points": 4}, "points must be 3 or 5, got 4"),
        ({"smoothing": "0.9"}, r"smoothing must be in \[0, 1\], got '0.9'"),
        ({"clamp": 0.5}, "clamp must be >= 1, got 0.5"),
        ({"clamp": math.inf}, "clamp must be >= 1, got inf"),
        ({"initial_lr": "guess"}, "initial_lr must be 'given' or 'search', got 'guess'"),
    ],
)
def test_arguments_out_of_range(arguments, message):
    with pytest.raises(ValueError, match=message):
        GeN(sgd(network()), **arguments)


def test_what_is_wrapped_must_be_an_optimizer_with_rates():
    with pytest.raises(ValueError, match="optimizer must be a torch optimizer, got 'Sequential'"):
        GeN(network())
    with pytest.raises(ValueError, match="optimizer must be a torch optimizer, got 'GeN'"):
        GeN(GeN(sgd(network())))
    with pytest.raises(ValueError, match="optimizer must take its step without a closure, got 'LBFGS'"):
        GeN(torch.optim.LBFGS(network().parameters()))
    scheduled = sgd(network())
    torch.optim.lr_scheduler.ConstantLR(scheduled)  # which wraps the instance's step
    assert GeN(scheduled).rates == [pytest.approx(0.1 / 3)]
    rateless = sgd(network())
    del rateless.param_groups[0]["lr"]
    with pytest.raises(ValueError, match=r"param_groups\[0\]\['lr'\] must be a number, which GeN scales, got None"):
        GeN(rateless)
    with pytest.raises(ValueError, match="lr must be > 0 in a group for initial_lr='search'"):
        GeN(sgd(network(), lr=0.0), initial_lr="search")


def test_a_group_that_loses_its_rate_is_refused_before_the_step():
    model = network()
    gen = GeN(sgd(model), interval=1)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    del gen.param_groups[0]["lr"]
    with pytest.raises(ValueError, match="which GeN scales"):
        gen.step(lambda: 0.0)
    assert_same(before, dict(model.state_dict()))


@pytest.mark.parametrize(
    ("result", "message"),
    [
        (torch.ones(3), r"what loss_closure returns must be a scalar, got \(3,\)"),
        (torch.ones(()) + 0j, "what loss_closure returns must be real, got torch.complex64"),
        (None, "what loss_closure returns must be a number or a tensor with one element, got None"),
        ("2.3", "got '2.3'"),
    ],
)
def test_a_closure_without_a_scalar_is_refused_and_the_inner_step_stays(result, message):
    plain, probed = network(), network()
    train(plain, sgd(plain), 1)
    gen = GeN(sgd(probed), interval=1)
    x, y = images(16, 0)
    nn.functional.cross_entropy(probed(x), y).backward()
    with pytest.raises(ValueError, match=message):
        gen.step(lambda: result if probed(x).sum() else None)
    assert_same(plain.state_dict(), probed.state_dict())
    assert (gen.scale, gen.steps) == (1.0, 1)


@pytest.mark.parametrize("closure", [None, torch.tensor(2.3)])
def test_what_is_no_closure_is_refused_at_once_and_before_the_step(closure):
    model = network()
    gen = GeN(sgd(model), interval=8)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(ValueError, match=r"loss_closure must be a function of nothing, got '(NoneType|Tensor)'"):
        gen.step(closure)
    assert gen.steps == 0
    assert_same(before, dict(model.state_dict()))


def test_a_closure_that_calls_backward_is_told_what_it_is_for():
    plain, probed = network(), network()
    train(plain, sgd(plain), 1)
    gen = GeN(sgd(probed), interval=1)
    x, y = images(16, 0)

    def closure():
        loss = nn.functional.cross_entropy(probed(x), y)
        loss.backward()
        return loss

    closure()
    with pytest.raises(ValueError, match="loss_closure must compute the loss and no more: it is called without grad"):
        gen.step(closure)
    assert_same(plain.state_dict(), probed.state_dict())


def test_a_closure_that_fails_leaves_no_trace():
    plain, probed = network(dropout=0.5), network(dropout=0.5)
    optimizer, gen = sgd(plain), GeN(sgd(probed), interval=1)
    x, y = images(16, 0)
    calls = []

    def closure():
        calls.append(probed(x))
        if len(calls) == 2:
            raise RuntimeError("out of memory")
        return 1.0

    seed_all()
    nn.functional.cross_entropy(plain(x), y).backward()
    optimizer.step()
    expected = torch.rand(3)
    seed_all()
    nn.functional.cross_entropy(probed(x), y).backward()
    with pytest.raises(RuntimeError, match="out of memory"):
        gen.step(closure)
    assert torch.equal(torch.rand(3), expected)
    assert_same(plain.state_dict(), probed.state_dict())
    assert_same(optimizer.state_dict(), gen.optimizer.state_dict())
    assert nn.Module.__call__ is nn.Module._wrapped_call_impl  # nobody watches any more


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize(
    ("points", "where", "kept"),
    [(3, {1}, True), (3, {-1, 0, 1}, True), (5, {2}, False), (5, {-2, 2}, False), (5, {-1, 1, 2}, True)],
)
def test_points_that_are_not_finite_are_dropped(bad, points, where, kept):
    weight = nn.Parameter(torch.tensor(1.0, dtype=torch.float64))
    gen = GeN(torch.optim.SGD([weight], lr=0.1), interval=1, points=points)
    weight.grad = torch.ones_like(weight)

    def closure():
        x = round((1 - weight.item()) / 0.1)
        return bad if x in where else (weight.item() - 0.6) ** 2 / 2

    gen.step(closure)
    if kept:
        assert gen.scale == 1.0
        assert weight.item() == 0.9
        assert f"finite at {points - len(where)} of {points} points: the rate is kept" in gen.last_probe.note
    else:
        assert gen.last_probe.fit.optimum == pytest.approx(4.0)
        assert gen.scale == pytest.approx(0.9 + 0.1 * 4)


def test_a_step_that_is_not_finite_keeps_the_rate():
    model = network()
    gen = GeN(sgd(model), interval=1)
    x, y = images(16, 0)
    nn.functional.cross_entropy(model(x), y).backward()
    model[0].weight.grad.fill_(math.nan)
    gen.step(lambda: nn.functional.cross_entropy(model(x), y))
    assert gen.scale == 1.0
    assert "finite at 1 of 3 points" in gen.last_probe.note
    assert torch.isnan(model[0].weight).all()


@pytest.mark.parametrize("points", [3, 5])
def test_no_loss_whatever_makes_a_rate_that_is_not_a_number(points):
    values = [0.0, 1.0, -1.0, 1e308, -1e308, 5e-324, math.nan, math.inf, 3.0]
    generator = torch.Generator().manual_seed(0)
    weight = nn.Parameter(torch.ones(2, dtype=torch.float64))
    gen = GeN(torch.optim.SGD([weight], lr=0.1), interval=1, points=points)
    for _ in range(300):
        weight.grad = torch.ones_like(weight)
        gen.step(lambda: values[int(torch.randint(len(values), (), generator=generator))])
        assert 0 < gen.scale < math.inf
    assert torch.isfinite(weight).all()


def test_rate_zero_has_nothing_to_measure():
    weight, closure, *_ = quadratic(0)
    gen = GeN(torch.optim.SGD([weight], lr=0.0), interval=1)
    calls = []
    closure().backward()
    gen.step(lambda: calls.append(0) or 0.0)
    assert "lr is 0 in every group" in gen.last_probe.note
    assert not calls
    gen.param_groups[0]["lr"] = 0.1  # a warm-up from 0 goes on
    advance(gen, closure, 1)
    assert gen.last_probe.accepted


def test_gradients_of_zero_and_none_have_nothing_to_measure():
    weight = nn.Parameter(torch.ones(3))
    gen = GeN(torch.optim.SGD([weight], lr=0.1), interval=1)
    for grad in (None, torch.zeros(3)):
        weight.grad = grad
        gen.step(lambda: 1.0)
        assert "moved nothing" in gen.last_probe.note


class Meddler(torch.optim.SGD):
    """Moves a parameter that no group holds."""

    def __init__(self, params, other, how, **options):
        super().__init__(params, **options)
        self.other, self.how = other, how

    @torch.no_grad()
    def step(self, closure=None):
        super().step()
        (self.other.data if self.how == "data" else self.other).add_(0.01)


@pytest.mark.parametrize("how", ["data", "in place"])
def test_an_optimizer_that_moves_what_it_does_not_hold_keeps_its_rate(how):
    """Known from the second probe on: the first is what shows which modules the loss depends on."""
    model = network()
    gen = GeN(Meddler(list(model.parameters())[:-1], model[-1].bias, how, lr=0.1), interval=1)
    x, y = images(16, 0)

    def closure():
        return nn.functional.cross_entropy(model(x), y)

    nn.functional.cross_entropy(model(x), y).backward()
    gen.step(closure)
    scale = gen.scale
    with pytest.warns(UserWarning, match="changes parameters outside its groups: the rate is kept; put them into"):
        gen.step(closure)
    gen.step(closure)  # said once
    assert gen.scale == scale
    assert "outside its groups" in gen.last_probe.note


def test_parameters_outside_that_stay_are_no_fault():
    model = network()
    gen = GeN(torch.optim.SGD(list(model.parameters())[:-1], lr=0.1), interval=1)
    train(model, gen, 3)
    assert gen.scale != 1.0


def test_a_model_in_evaluation_mode_is_measured_as_it_is_and_said_to_be():
    model = network()
    x, y = images(16, 0)
    gen = GeN(sgd(model), interval=1)
    loss = nn.functional.cross_entropy(model(x), y)
    loss.backward()
    model.eval()
    told = "loss_closure calls a model in evaluation mode"
    with pytest.warns(UserWarning, match=told), pytest.warns(UserWarning, match="another batch, mode, precision"):
        gen.step(lambda: nn.functional.cross_entropy(model(x), y), loss)
    assert not model.training
    gen.step(lambda: nn.functional.cross_entropy(model(x), y))  # said once


def test_a_teacher_in_evaluation_mode_is_no_fault():
    model, teacher = network(), network(seed=1).eval()
    gen = GeN(sgd(model), interval=1)
    x, _ = images(16, 0)
    advance(gen, lambda: nn.functional.mse_loss(model(x), teacher(x)), 2)
    assert gen.last_probe.fit is not None


def test_batches_that_end_during_a_probe():
    plain, probed = network(), network()
    train(plain, sgd(plain), 1)
    gen = GeN(sgd(probed), interval=1)
    x, y = images(16, 0)
    batches = iter([(x, y)] * 2)

    def closure():
        images, labels = next(batches)
        return nn.functional.cross_entropy(probed(images), labels)

    nn.functional.cross_entropy(probed(x), y).backward()
    with pytest.warns(UserWarning, match="ran out of batches: the rate is kept"):
        gen.step(closure)
    assert_same(plain.state_dict(), probed.state_dict())
    assert gen.scale == 1.0


def test_batches_that_end_during_the_search_leave_the_given_rate():
    plain, probed = network(), network()
    train(plain, sgd(plain), 1)
    gen = GeN(sgd(probed), initial_lr="search")
    x, y = images(16, 0)
    batches = iter([(x, y)] * 4)
    nn.functional.cross_entropy(probed(x), y).backward()
    with pytest.warns(UserWarning, match="ran out of batches"):
        gen.step(lambda: nn.functional.cross_entropy(probed(next(batches)[0]), y))
    for p, q in zip(plain.parameters(), probed.parameters(), strict=True):
        assert torch.allclose(p, q, rtol=0, atol=1e-6)  # its line was of another rate: equal to rounding
    assert gen.rates == [0.1]


def test_a_search_in_vain_keeps_the_given_rate():
    weight = nn.Parameter(torch.zeros(3, dtype=torch.float64))
    gen = GeN(torch.optim.SGD([weight], lr=0.1), initial_lr="search")
    weight.grad = torch.ones_like(weight)
    with pytest.warns(UserWarning, match="no rate from 1e-06 to 100 lowers the loss"):
        gen.step(lambda: weight.abs().sum())
    assert gen.rates == [0.1]
    assert torch.allclose(weight, torch.full((3,), -0.1, dtype=torch.float64), rtol=1e-12)


def test_the_state_of_another_optimizer_is_refused():
    model = network()
    gen = GeN(sgd(model))
    with pytest.raises(ValueError, match="state_dict must be GeN's own"):
        gen.load_state_dict(gen.optimizer.state_dict())
    with pytest.raises(ValueError, match=r"state_dict\['gen'\] must be GeN's own, got \['scale'\]"):
        gen.load_state_dict({"optimizer": gen.optimizer.state_dict(), "gen": {"scale": 2.0}})
    assert gen.scale == 1.0
