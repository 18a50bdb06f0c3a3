"""GeN against exact line minima, and against the plain optimizer that it must not disturb."""

from __future__ import annotations

import copy
import io
import random
import warnings

import numpy as np
import pytest
import torch
from torch import nn

from jorge_tune.optim import DecoupledSGD, GeN, Jorge, Shampoo, SketchyShampoo
from tests.gradients import decaying


class SignDescent(torch.optim.Optimizer):
    """A third party's: it moves `.data`, keeps a counter of its own and knows nothing of ours."""

    def __init__(self, params, lr):
        super().__init__(params, {"lr": lr})

    def step(self, closure=None):
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    self.state[p]["step"] = self.state[p].get("step", 0) + 1
                    p.data.add_(p.grad.sign(), alpha=-group["lr"])


OPTIMIZERS = {
    "sgd": lambda ps: torch.optim.SGD(ps, lr=0.05, momentum=0.9, weight_decay=1e-3),
    "adamw": lambda ps: torch.optim.AdamW(ps, lr=0.01),
    "muon": lambda ps: torch.optim.Muon([p for p in ps if p.ndim == 2], lr=0.02),
    "decoupled": lambda ps: DecoupledSGD(ps, lr=0.05, momentum=0.9, weight_decay=1e-2),
    "jorge": lambda ps: Jorge(ps, lr=0.05, warm_refreshes=2, refresh_interval=3),
    "shampoo": lambda ps: Shampoo(ps, lr=0.05, refresh_interval=3),
    "sketchy": lambda ps: SketchyShampoo(ps, lr=0.05, rank=3, refresh_interval=3),
    "third-party": lambda ps: SignDescent(ps, lr=0.01),
}
any_optimizer = pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS.keys())


def quadratic(seed, shape=(6, 4)):
    """A parameter, and 1/2 v'Hv - b'v + 3 of it as a vector, H positive definite with a decaying spectrum; float64."""
    size = shape[0] * shape[1]
    H = next(decaying(size, size, seed=seed))
    H = H @ H.T + 1e-3 * torch.eye(size, dtype=torch.float64)
    b = torch.randn(size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    weight = nn.Parameter(torch.randn(shape, generator=torch.Generator().manual_seed(seed + 1), dtype=torch.float64))

    def loss():
        v = weight.reshape(-1)
        return v @ H @ v / 2 - b @ v + 3

    return weight, loss, H, b


def advance(gen, closure, steps):
    for _ in range(steps):
        gen.zero_grad()
        loss = closure()
        loss.backward()
        gen.step(closure, loss)


@any_optimizer
@pytest.mark.parametrize("points", [3, 5])
def test_on_a_quadratic_the_rate_is_the_exact_minimiser(make, points):
    """lr* = lr G'd / d'Hd with d the step that the optimizer itself takes, momentum, grafting and decay included."""
    met = 0
    for seed in range(4):
        weight, closure, H, b = quadratic(seed)
        gen = GeN(make([weight]), interval=1, points=points, smoothing=0.5)
        for _ in range(4):
            before, scale = weight.detach().reshape(-1).clone(), gen.scale
            alone, optimizer = copy.deepcopy((weight, gen.optimizer))
            advance(gen, closure, 1)
            alone.grad = weight.grad
            optimizer.param_groups[0]["lr"] *= scale
            optimizer.step()
            D = before - alone.detach().reshape(-1)
            optimum = float((H @ before - b) @ D / (D @ H @ D))
            fit = gen.last_probe.fit
            assert fit.verdict == ("convex descent" if optimum > 0 else "ascent")
            if optimum > 0:
                met += 1
                # 1.7e-11 measured, from the rounding of the losses
                assert fit.optimum == pytest.approx(optimum, rel=1e-6)
                assert fit.curvature == pytest.approx(float(D @ H @ D), rel=1e-6)
                ratio = min(max(0.5 + 0.5 * fit.optimum, 0.5), 2.0)
                assert gen.scale == scale * ratio
                # Algorithm 1, line 8: the very step that was measured is rescaled
                assert torch.allclose(weight.detach().reshape(-1), before - ratio * D, rtol=0, atol=1e-13)
    assert met >= 8


def test_without_smoothing_the_step_ends_at_the_minimum():
    weight, closure, H, b = quadratic(0)
    gen = GeN(torch.optim.SGD([weight], lr=0.3), interval=1, smoothing=0.0, clamp=1e9)
    before = weight.detach().reshape(-1).clone()
    advance(gen, closure, 1)
    D = before - weight.detach().reshape(-1)
    slope = (H @ weight.detach().reshape(-1) - b) @ D
    assert abs(float(slope)) < 1e-9 * float((H @ before - b) @ D)  # 4e-16 measured


def images(count, seed):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, 3, 6, 6, generator=generator), torch.randint(0, 4, (count,), generator=generator)


def network(seed=0, dropout=0.0):
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Flatten(),
        nn.Dropout(dropout),
        nn.Linear(64, 8),
        nn.BatchNorm1d(8, momentum=None),
        nn.Linear(8, 4),
    )


def train(model, optimizer, steps, start=0, given=True):
    """Plain steps, or GeN's; a random number is drawn from every stream between two steps."""
    drawn = []
    for step in range(start, start + steps):
        x, y = images(16, step)

        def closure(x=x, y=y):
            return nn.functional.cross_entropy(model(x), y)

        optimizer.zero_grad()
        loss = closure()
        loss.backward()
        optimizer.step(closure, loss if given else None) if isinstance(optimizer, GeN) else optimizer.step()
        drawn.append((float(torch.rand(())), random.random(), float(np.random.rand()), float(loss.detach())))
    return drawn


def seed_all():
    torch.manual_seed(5)
    random.seed(5)
    np.random.seed(5)


def assert_same(a, b, place=""):
    assert type(a) is type(b), place
    if isinstance(a, torch.Tensor):
        assert torch.equal(a, b), place
    elif isinstance(a, dict):
        assert a.keys() == b.keys(), place
        for key in a:
            assert_same(a[key], b[key], f"{place}.{key}")
    elif isinstance(a, (list, tuple)):
        assert len(a) == len(b), place
        for left, right in zip(a, b, strict=True):
            assert_same(left, right, place)
    else:
        assert a == b, place


@any_optimizer
@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_a_probe_leaves_no_trace(make, dropout):
    """With smoothing 1 the rate never moves: weights, buffers, gradients, state and random streams are the plain run's,
    so the inner state advanced once per step."""
    plain, probed = network(dropout=dropout), network(dropout=dropout)
    optimizer, gen = make(list(plain.parameters())), GeN(make(list(probed.parameters())), interval=2, smoothing=1.0)
    seed_all()
    expected = train(plain, optimizer, 6)
    seed_all()
    assert train(probed, gen, 6) == expected
    assert (gen.last_probe.step, gen.scale) == (6, 1.0)
    assert_same(plain.state_dict(), probed.state_dict())
    assert_same(optimizer.state_dict(), gen.optimizer.state_dict())
    for p, q in zip(plain.parameters(), probed.parameters(), strict=True):
        assert torch.equal(p.grad, q.grad)


def test_a_rejected_fit_leaves_the_step_bitwise():
    plain, probed = network(), network()
    optimizer = torch.optim.SGD(plain.parameters(), lr=0.1, momentum=0.9)
    gen = GeN(torch.optim.SGD(probed.parameters(), lr=0.1, momentum=0.9), interval=1, points=5)
    train(plain, optimizer, 3)
    for step in range(3):
        x, y = images(16, step)
        gen.zero_grad()
        nn.functional.cross_entropy(probed(x), y).backward()
        gen.step(lambda: random.gauss(0, 1) if probed(x).sum() else 0.0)  # noqa: B023  (called at once)
        probed_again = gen.last_probe
        assert not probed_again.accepted
        assert "kept" in probed_again.note
    assert_same(plain.state_dict()["0.weight"], probed.state_dict()["0.weight"])
    assert_same(optimizer.state_dict(), gen.optimizer.state_dict())
    assert gen.scale == 1.0


def counting(closure, calls):
    def counted():
        calls.append(torch.is_grad_enabled())
        return closure()

    return counted


@pytest.mark.parametrize(
    ("points", "dropout", "given", "first", "later"),
    [
        (3, 0.0, True, 3, 2),  # the first probe also checks that the given loss is L(0)
        (5, 0.0, True, 5, 4),
        (3, 0.0, False, 3, 3),
        (3, 0.5, True, 3, 3),  # a loss under another mask is not L(0)
    ],
)
def test_how_often_the_closure_is_called(points, dropout, given, first, later):
    model = network(dropout=dropout)
    gen = GeN(torch.optim.SGD(model.parameters(), lr=0.05), interval=3, points=points)
    counts = []
    for step in range(9):
        x, y = images(16, step)
        calls = []

        def closure(x=x, y=y):
            return nn.functional.cross_entropy(model(x), y)

        loss = closure()
        gen.zero_grad()
        loss.backward()
        gen.step(counting(closure, calls), loss if given else None)
        assert not any(calls)  # without gradients
        counts.append(len(calls))
    assert counts == [0, 0, first, 0, 0, later, 0, 0, later]


def test_all_points_see_the_same_random_numbers():
    model = network()
    gen = GeN(torch.optim.SGD(model.parameters(), lr=0.05), interval=1, points=5)
    seen = []

    def closure():
        seen.append((float(torch.rand(())), random.random(), float(np.random.rand())))
        return nn.functional.cross_entropy(model(x), y)

    x, y = images(16, 0)
    nn.functional.cross_entropy(model(x), y).backward()
    seed_all()
    expected = float(torch.rand(())), random.random(), float(np.random.rand())
    seed_all()
    gen.step(closure)
    assert seen == [expected] * 5
    assert (float(torch.rand(())), random.random(), float(np.random.rand())) == expected


def test_a_given_loss_that_is_not_the_closures_is_told_and_not_used():
    """Such as the last micro-batch's, scaled by the number of them."""
    weight, closure, H, b = quadratic(0)
    gen = GeN(torch.optim.SGD([weight], lr=0.05), interval=1)
    for step in range(3):
        weight.grad = None
        before = weight.detach().reshape(-1).clone()
        loss = closure()
        loss.backward()
        D = 0.05 * gen.scale * weight.grad.reshape(-1)
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            gen.step(closure, loss / 4)
        assert len(told) == (step == 0)
        assert all("is not what loss_closure gives" in str(warning.message) for warning in told)
        optimum = float((H @ before - b) @ D / (D @ H @ D))
        assert gen.last_probe.fit.optimum == pytest.approx(optimum, rel=1e-6)


@pytest.mark.parametrize("how", ["wrapped", "in place"])
def test_a_compiled_model_is_not_compiled_again_and_its_buffers_stay(how):
    plain, probed = network()[:6], network()[:6]  # the last statistics, a plain mean, do not compile
    train(plain, torch.optim.SGD(plain.parameters(), lr=0.1), 6)
    torch._dynamo.reset()
    counters = torch._dynamo.utils.counters
    counters.clear()
    if how == "wrapped":
        compiled = torch.compile(probed, backend="eager", fullgraph=True)
    else:
        probed.compile(backend="eager", fullgraph=True)
        compiled = probed
    gen = GeN(torch.optim.SGD(probed.parameters(), lr=0.1), interval=1, smoothing=1.0)
    train(compiled, gen, 6)
    assert gen.last_probe.accepted
    assert_same(plain.state_dict(), probed.state_dict())
    assert counters["stats"]["unique_graphs"] == 2  # with gradients and without


def test_modules_that_were_seen_are_known_when_nobody_watches_any_more(monkeypatch):
    monkeypatch.setattr("jorge_tune.optim.gen._WATCHED_PROBES", 2)
    plain, probed = network(), network()
    train(plain, torch.optim.SGD(plain.parameters(), lr=0.1), 5)
    gen = GeN(torch.optim.SGD(probed.parameters(), lr=0.1), interval=1, smoothing=1.0)
    train(probed, gen, 4)
    watched = []
    monkeypatch.setattr("jorge_tune.optim.gen_line.watch_calls", watched.append)
    train(probed, gen, 1, start=4)
    assert not watched
    assert_same(plain.state_dict(), probed.state_dict())


def test_two_copies_of_the_parameters_during_a_probe_and_none_between():
    import gc

    shape = (37, 41)  # of nothing else
    weight = nn.Parameter(torch.randn(shape))

    def living():
        gc.collect()
        found = [o for o in gc.get_objects() if type(o) in (torch.Tensor, nn.Parameter) and o.shape == shape]
        return len({o.untyped_storage().data_ptr() for o in found})

    counts = []

    def closure():
        if not torch.is_grad_enabled():
            counts.append(living())
        return (weight**2).sum()

    gen = GeN(torch.optim.SGD([weight], lr=0.1, momentum=0.9), interval=2)
    advance(gen, closure, 1)
    between = living()  # the parameter, its gradient and its momentum
    advance(gen, closure, 1)
    assert between == 3
    assert counts == [5] * 3
    assert living() == 3


def test_a_float_that_was_a_tensor_is_as_coarse_as_the_tensor():
    """`item()` makes a float64 of a float32 loss; its rounding must not be taken for curvature."""
    seen = []
    for read in (lambda loss: loss, lambda loss: loss.item()):
        torch.manual_seed(0)
        model, (x, y) = network(), images(64, 0)
        gen = GeN(torch.optim.SGD(model.parameters(), lr=1e-6), interval=1)
        for _ in range(12):
            gen.zero_grad()
            nn.functional.cross_entropy(model(x), y).backward()
            gen.step(lambda: read(nn.functional.cross_entropy(model(x), y)))  # noqa: B023  (called at once)
            seen.append(gen.scale)
    assert seen[:12] == seen[12:]
    assert seen[-1] > 50


class RateSetter(torch.optim.SGD):
    """Halves its own rate at each step, as hypergradient descent and others set theirs."""

    def step(self, closure=None):
        super().step(closure)
        for group in self.param_groups:
            group["lr"] = group["lr"] / 2


def test_a_rate_that_the_optimizer_sets_itself_is_kept():
    weight, closure, *_ = quadratic(1)
    gen = GeN(RateSetter([weight], lr=0.1), interval=1)
    for step in range(1, 5):
        advance(gen, closure, 1)
        assert gen.param_groups[0]["lr"] == pytest.approx(0.1 / 2**step)
    assert gen.scale != 1.0


@pytest.mark.parametrize("loss_dtype", [torch.float32, torch.bfloat16])
def test_a_small_rate_catches_up_and_a_coarse_loss_says_so(loss_dtype):
    """At lr 1e-6 the curvature is lost in float32's rounding and the slope nearly so: the rate grows all the same."""
    torch.manual_seed(0)
    model, (x, y) = network(), images(64, 0)
    gen = GeN(torch.optim.SGD(model.parameters(), lr=1e-6), interval=1)
    advance(gen, lambda: nn.functional.cross_entropy(model(x), y).to(loss_dtype), 12)
    if loss_dtype == torch.bfloat16:
        assert gen.scale == 1.0
        assert gen.last_probe.fit.verdict == "noise"
    else:
        assert gen.scale > 50  # 117 measured, by the clamp of 2 at each of the last five probes


def test_the_closure_may_average_over_batches_and_gradients_may_accumulate():
    model = network()
    batches = [images(8, seed) for seed in range(4)]
    gen = GeN(torch.optim.SGD(model.parameters(), lr=0.05), interval=1)

    def loss_of(batch):
        return nn.functional.cross_entropy(model(batch[0]), batch[1]) / len(batches)

    whole = 0.0
    for batch in batches:
        loss = loss_of(batch)
        loss.backward()
        whole += loss.detach()
    statistics = {name: buffer.clone() for name, buffer in model.named_buffers()}
    gen.step(lambda: sum(loss_of(batch) for batch in batches), whole)
    assert gen.last_probe.accepted
    assert_same(statistics, dict(model.named_buffers()))


def test_within_autocast_no_stale_cast_of_a_weight_is_used():
    model = nn.Linear(20, 5)
    x, y = torch.randn(30, 20), torch.randint(0, 5, (30,))
    gen = GeN(torch.optim.SGD(model.parameters(), lr=5.0), interval=1)
    with torch.autocast("cpu", dtype=torch.bfloat16):  # the whole step, though only the forward should be
        loss = nn.functional.cross_entropy(model(x), y)
        loss.backward()
        gen.step(lambda: nn.functional.cross_entropy(model(x), y), loss)
        values = list(gen.last_probe.losses.values())
        assert len(set(values)) == 3
        after = model(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(after, model(x))


def test_schedulers_keep_their_own_values():
    """A chainable schedule multiplies the lr that it finds: s left in the group would compound."""
    weight, closure, *_ = quadratic(1)
    gen = GeN(torch.optim.SGD([weight], lr=0.1), interval=1)
    scheduler = torch.optim.lr_scheduler.ExponentialLR(gen.optimizer, 0.5)
    for step in range(5):
        assert gen.param_groups[0]["lr"] == 0.1 * 0.5**step
        assert gen.rates == [pytest.approx(0.1 * 0.5**step * gen.scale)]
        advance(gen, closure, 1)
        scheduler.step()
    assert gen.scale != 1.0


def test_groups_keep_their_ratio():
    model = network()
    groups = [
        {"params": model[0].parameters(), "lr": 0.2},
        {"params": model[5:].parameters(), "lr": torch.tensor(0.02)},
    ]
    gen = GeN(torch.optim.SGD(groups), interval=1)
    train(model, gen, 3)
    assert gen.scale != 1.0
    assert gen.rates == [pytest.approx(0.2 * gen.scale), pytest.approx(0.02 * gen.scale)]
    assert [float(group["lr"]) for group in gen.param_groups] == [0.2, pytest.approx(0.02)]


def through_a_file(state):
    buffer = io.BytesIO()
    torch.save(state, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=True)


@any_optimizer
@pytest.mark.parametrize("at", [1, 4, 5])
def test_resumed_equals_uninterrupted_bitwise(make, at):
    whole, stopped, resumed = network(), network(), network(seed=1)
    gens = [GeN(make(list(m.parameters())), interval=2, points=5) for m in (whole, stopped, resumed)]
    train(whole, gens[0], 9)
    train(stopped, gens[1], at)
    resumed.load_state_dict(through_a_file(stopped.state_dict()))
    gens[2].load_state_dict(through_a_file(gens[1].state_dict()))
    train(resumed, gens[2], 9 - at, start=at)
    assert gens[0].scale != 1.0
    assert gens[2].scale == gens[0].scale
    assert_same(whole.state_dict(), resumed.state_dict())
    assert_same(gens[0].state_dict(), gens[2].state_dict())


def test_a_resumed_run_does_not_check_the_given_loss_again():
    """Else its L(0) could differ from the uninterrupted run's in the last digit."""
    model, again = network(), network()
    gen = GeN(torch.optim.SGD(model.parameters(), lr=0.05), interval=1)
    train(model, gen, 2)
    again.load_state_dict(model.state_dict())
    resumed = GeN(torch.optim.SGD(again.parameters(), lr=0.05), interval=1)
    resumed.load_state_dict(through_a_file(gen.state_dict()))
    x, y = images(16, 2)
    calls = []
    loss = nn.functional.cross_entropy(again(x), y)
    loss.backward()
    resumed.step(counting(lambda: nn.functional.cross_entropy(again(x), y), calls), loss)
    assert len(calls) == 2


@pytest.mark.parametrize("given", [1e-6, 1e-2, 30.0])
@any_optimizer
def test_the_search_finds_the_rate_whatever_was_given(make, given):
    weight, closure, H, b = quadratic(2)
    alone, optimizer = quadratic(2)[0], make([weight])
    optimizer.param_groups[0]["lr"] = given
    gen = GeN(optimizer, interval=1000, initial_lr="search")
    before = weight.detach().reshape(-1).clone()
    advance(gen, closure, 1)
    unit = make([alone])
    unit.param_groups[0]["lr"] = 1.0
    alone.grad = weight.grad
    unit.step()
    d = before - alone.detach().reshape(-1)
    best = float((H @ before - b) @ d / (d @ H @ d))
    # exact but where the grid's neighbour is nearer in loss: the parabola moves half the way to it at most
    assert best / 3.2 < gen.rates[0] < best * 3.2
    moved = before - weight.detach().reshape(-1)
    assert torch.allclose(moved, gen.rates[0] * d, rtol=1e-6, atol=1e-12)
    advance(gen, closure, 3)
    assert gen.last_probe.step == 1  # once


def test_the_search_finds_the_full_rate_behind_a_warm_up():
    rates = []
    for factor in (1.0, 0.01):
        weight, closure, *_ = quadratic(3)
        optimizer = torch.optim.SGD([weight], lr=0.5)
        torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step, factor=factor: factor)
        gen = GeN(optimizer, initial_lr="search")
        advance(gen, closure, 1)
        rates.append(gen.scale * 0.5)
        assert gen.rates[0] == pytest.approx(rates[-1] * factor)
    assert rates[0] == pytest.approx(rates[1])


def test_the_search_waits_for_a_rate_above_zero():
    weight, closure, *_ = quadratic(3)
    optimizer = torch.optim.SGD([weight], lr=0.5)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: float(step > 0))
    gen = GeN(optimizer, initial_lr="search", interval=1000)
    advance(gen, closure, 1)
    assert gen.last_probe is None
    scheduler.step()
    advance(gen, closure, 1)
    assert gen.last_probe.accepted
