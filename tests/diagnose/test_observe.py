"""The observer against a literal replay in float64, on gradients of every kind; and it changes nothing."""

from __future__ import annotations

import itertools
import re

import pytest
import torch
from torch import nn

from jorge_tune.diagnose.diagnosis import NEWTON_CAPS
from jorge_tune.diagnose.observe import BlockChoice, PreconditionerObserver
from jorge_tune.errors import InputError
from jorge_tune.optim import Jorge
from tests import reference
from tests.gradients import decaying, network_gradients
from tests.reference import inverse_root, jorge_refresh

# Largest difference of a cosine or a relative error to the replay's, over all settings below: 9e-11.
REPLAY_ERROR = 1e-9


def run(gradients, every=1, choice=BlockChoice(), observed=True, **settings):  # noqa: B008
    """A Jorge on one parameter fed with gradients; the observer, the optimizer, and L, R before and after each step."""
    weight = nn.Parameter(torch.ones(gradients[0].shape))
    optimizer = Jorge([weight], 0.01, **{"refresh_interval": 1, **settings})
    observer = (
        PreconditionerObserver(optimizer, [("w", weight)], lambda step: step % every == 0, choice) if observed else None
    )
    sides = []
    for G in gradients:
        weight.grad = None if G is None else G.float()
        optimizer.step()
        kept = ("left.0", "right.0", "left.0.signs", "right.0.signs")
        state = optimizer.state[weight]
        sides.append({k: state[k].clone() if "signs" in k else state[k].double().clone() for k in kept if k in state})
    return observer, optimizer, sides


LITERAL = {"series": jorge_refresh, "congruence": reference.congruence_refresh, "half": reference.half_refresh}


def replay(gradients, sides, due, *, start, floor=0.0, form="series"):
    """Cosines and root errors of a 2-sided block, from L and R as the optimizer left them. `due(step)`: a refresh."""
    power = 0.5 if form == "half" else 0.25
    averages, shampoo, before = [None, None], [0.0, 0.0], [None, None]
    for step, (G, held) in enumerate(zip(gradients, sides, strict=True), start=1):
        after = [held["left.0"], held["right.0"]]
        signs = [held.get("left.0.signs"), held.get("right.0.signs")]
        G = G.float().double()
        for k, g in enumerate((G, G.T)):
            shampoo[k] = 0.999 * shampoo[k] + 0.001 * g @ g.T
            if not due(step):
                continue
            if form != "series":
                g = reference.with_ridge(g, signs[k], 1e-2)
            if averages[k] is None:
                scale = start(g)
                averages[k] = scale * torch.eye(len(g), dtype=torch.float64)
                before[k] = scale**-power * torch.eye(len(g), dtype=torch.float64)
            _, b2 = LITERAL[form](before[k], g, floor=floor)
            averages[k] = b2 * averages[k] + (1 - b2) * g @ g.T
            before[k] = after[k]
        roots = [inverse_root(A, power) for A in averages]
        rival = []
        for A in shampoo:
            corrected = A / (1 - 0.999**step)
            ridge = 1e-6 * corrected.trace() / len(A)
            rival.append(inverse_root(corrected + ridge * torch.eye(len(A), dtype=torch.float64)))
        P, E, S = after[0] @ G @ after[1], roots[0] @ G @ roots[1], rival[0] @ G @ rival[1]
        yield {
            "exact": angle(P, E),
            "shampoo": angle(P, S),
            "sgd": angle(P, G),
            "exact-sgd": angle(E, G),
            "errors": [float((L - A).norm() / A.norm()) for L, A in zip(after, roots, strict=True)],
        }


def angle(P, Q):
    return float((P * Q).sum() / (P.norm() * Q.norm()))


def assert_replayed(observer, wanted):
    readings = observer.blocks[0].readings
    assert len(readings) == len(wanted)
    for reading, literal in zip(readings, wanted, strict=True):
        found = {name: reading.cosines["jorge"][name] for name in ("exact", "shampoo", "sgd")}
        found["exact-sgd"] = reading.cosines["exact"]["sgd"]
        for name, value in found.items():
            assert value == pytest.approx(literal[name], abs=REPLAY_ERROR), (reading.step, name)
        errors = [side.root_error for side in reading.sides.values()]
        assert errors == pytest.approx(literal["errors"], rel=REPLAY_ERROR, abs=REPLAY_ERROR)


@pytest.mark.parametrize("form", ["series", "congruence", "half"])
@pytest.mark.parametrize("shape", [(12, 7), (5, 9), (1, 6)])
def test_it_equals_a_literal_replay(form, shape):
    gradients = list(itertools.islice(decaying(*shape, seed=1), 40))
    observer, _, sides = run(gradients, form=form)
    relative = lambda g: float((g @ g.T).norm())  # noqa: E731
    assert_replayed(observer, list(replay(gradients, sides, lambda step: True, start=relative, form=form)))


@pytest.mark.parametrize(
    ("settings", "start", "floor"),
    [
        ({"eps": 1e-3, "eps_kind": "absolute"}, lambda g: float(torch.tensor(1e-3**-0.25)) ** -4, 0.0),
        ({"b2_floor": 0.95}, lambda g: float((g @ g.T).norm()), 0.95),
    ],
)
def test_an_absolute_start_and_a_floor(settings, start, floor):
    gradients = list(itertools.islice(decaying(8, 6, seed=2), 25))
    observer, _, sides = run(gradients, **settings)
    assert_replayed(observer, list(replay(gradients, sides, lambda step: True, start=start, floor=floor)))
    assert all(refresh.b2 >= floor for side in observer.blocks[0].sides.values() for refresh in side.refreshes)


def test_the_newest_share_does_not_depend_on_eps_and_b2_does():
    gradients = list(itertools.islice(decaying(8, 6, seed=2), 25))
    ours, small = (run(gradients, eps=eps)[0].blocks[0].sides["left"].refreshes for eps in (1.0, 1e-6))
    for mine, other in zip(ours, small, strict=True):
        assert other.newest_share == pytest.approx(mine.newest_share, rel=1e-5)  # 6e-7 measured: L is float32
    assert ours[0].b2 == pytest.approx(0.5)
    assert small[0].b2 == pytest.approx(1 - 1e-6)


def test_the_shares_are_those_of_a_literal_sum():
    gradients = list(itertools.islice(decaying(8, 6, seed=2), 25))
    observer, _, sides = run(gradients)
    refreshes = observer.blocks[0].sides["left"].refreshes
    start = float((gradients[0].float().double() @ gradients[0].float().double().T).norm())
    contributions = [8 * start]  # to tr A: the start's, then each gradient's
    L = start**-0.25 * torch.eye(8, dtype=torch.float64)
    for G, after, refresh in zip(gradients, sides, refreshes, strict=True):
        G = G.float().double()
        _, b2 = jorge_refresh(L, G)
        contributions = [b2 * c for c in contributions] + [(1 - b2) * float((G * G).sum())]
        assert refresh.b2 == pytest.approx(b2, rel=1e-12)
        assert refresh.newest_share == pytest.approx(contributions[-1] / sum(contributions), rel=1e-9)
        L = after["left.0"]


def test_refreshes_are_seen_where_they_happen():
    gradients = list(itertools.islice(decaying(8, 6, seed=3), 24))
    observer, _, sides = run(gradients, refresh_interval=5, warm_refreshes=3, stagger=False)
    due = [1, 2, 3, 4, 9, 14, 19, 24]
    assert [[refresh.step for refresh in side.refreshes] for side in observer.blocks[0].sides.values()] == [due, due]
    start = lambda g: float((g @ g.T).norm())  # noqa: E731
    assert_replayed(observer, list(replay(gradients, sides, due.__contains__, start=start)))


def test_a_real_networks_gradients_convolutions_collapsed():
    layers = network_gradients(4, seed=0)
    for index in (0, 2):  # a convolution, a linear layer
        gradients = [step[index] for step in layers]
        observer, _, sides = run(gradients)
        flat = [g.reshape(len(g), -1) for g in gradients]
        start = lambda g: float((g @ g.T).norm())  # noqa: E731
        assert_replayed(observer, list(replay(flat, sides, lambda step: True, start=start)))


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_extreme_gradients_have_the_same_directions(scale):
    gradients = list(itertools.islice(decaying(8, 6, seed=4), 15))
    plain, extreme = (run([s * G for G in gradients])[0].blocks[0].readings for s in (1.0, scale))
    for a, b in zip(plain, extreme, strict=True):
        # 3e-8 and 2e-6 measured: float32 gradients of another size are rounded elsewhere, and L follows them.
        assert b.cosines["jorge"] == pytest.approx(a.cosines["jorge"], abs=1e-6)
        assert b.sides["left"].root_error == pytest.approx(a.sides["left"].root_error, rel=1e-4)


def test_newtons_iteration_nears_the_exact_root():
    gradients = list(itertools.islice(decaying(12, 8, seed=5), 60))
    for kind in ("newton", "shampoo-newton"):
        reading = run(gradients, every=60)[0].blocks[0].readings[0]
        own = reading.cosines["exact" if kind == "newton" else "shampoo"]
        cosines = [own[f"{kind}-{k}"] for k in NEWTON_CAPS]
        assert cosines == sorted(cosines)
    errors = list(reading.sides["left"].newton_errors.values())
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 1e-3


def test_rank_deficient_gradients_and_the_spectra_they_leave():
    base = next(decaying(20, 1, seed=6)) @ next(decaying(1, 9, seed=7))
    observer, _, _ = run([base] * 200, every=200)
    left = observer.blocks[0].readings[0].sides["left"]
    assert left.shampoo_intrinsic_dimension == pytest.approx(1, abs=1e-6)
    assert left.shampoo_mass == pytest.approx({1: 1, 4: 1, 16: 1})
    assert set(left.mass) == {1, 4, 16}
    assert left.condition > 2


def test_what_cannot_be_read_is_said_and_nothing_is_dropped():
    G = list(itertools.islice(decaying(6, 4, seed=8), 6))
    zero, bad = torch.zeros(6, 4), torch.full((6, 4), torch.nan)
    observer, optimizer, _ = run([zero, None, bad, G[0], zero, bad, G[1], None], warm_refreshes=1, refresh_interval=100)
    missing = [reading.missing for reading in observer.blocks[0].readings]
    late = "no refresh had a gradient yet"
    none, not_finite, is_zero = (
        "the parameter has no gradient",
        "the gradient is not finite",
        "the gradient is zero",
    )
    assert missing == [is_zero, none, not_finite, late, is_zero, not_finite, late, none]
    observer, optimizer, _ = run([bad, G[0], zero, G[1]])
    assert [reading.missing for reading in observer.blocks[0].readings] == [not_finite, "", is_zero, ""]
    assert optimizer.read_counters().skipped == 1
    assert [refresh.step for refresh in observer.blocks[0].sides["left"].refreshes] == [2, 4]


def test_blocks_have_statistics_of_their_own():
    gradients = list(itertools.islice(decaying(10, 7, seed=9), 12))
    observer, _, _ = run(gradients, block_size=6, stagger=False)
    assert [(block.name, *block.block.shape[:2]) for block in observer.blocks] == [
        ("w[0]", 6, 6),
        ("w[1]", 6, 1),
        ("w[2]", 4, 6),
        ("w[3]", 4, 1),
    ]
    alone, _, _ = run([G[6:, :6].contiguous() for G in gradients])
    for mine, other in zip(observer.blocks[2].readings, alone.blocks[0].readings, strict=True):
        assert mine.cosines["jorge"] == pytest.approx(other.cosines["jorge"], abs=1e-6)


def test_leading_dimensions_of_one_are_passed_over_as_the_optimizer_does():
    gradients = list(itertools.islice(decaying(6, 4, seed=12), 4))
    flat, _, _ = run(gradients)
    deep, _, _ = run([G.reshape(1, 6, 2, 2) for G in gradients])
    for mine, other in zip(deep.blocks[0].readings, flat.blocks[0].readings, strict=True):
        assert mine.cosines["jorge"] == pytest.approx(other.cosines["jorge"], abs=1e-6)


def test_a_side_too_long_for_a_preconditioner_is_left_as_it_is():
    gradients = [torch.randn(3, 9000, generator=torch.Generator().manual_seed(0))]
    observer, _, sides = run(gradients, block_size=None, choice=BlockChoice(max_side=9000))
    reading = observer.blocks[0].readings[0]
    assert list(reading.sides) == ["left"]
    G = gradients[0].float().double()
    assert reading.cosines["jorge"]["sgd"] == pytest.approx(angle(sides[0]["left.0"] @ G, G), abs=REPLAY_ERROR)


@pytest.mark.parametrize("form", ["series", "congruence"])
def test_the_optimizer_is_bitwise_as_without_an_observer(form):
    G = list(itertools.islice(decaying(9, 14, seed=11), 30))
    G[7] = torch.full((9, 14), torch.inf)
    settings = {"form": form, "warm_refreshes": 4, "refresh_interval": 3, "block_size": 8}
    states = [run(G, observed=observed, **settings)[1].state_dict() for observed in (True, False)]
    assert states[0]["param_groups"] == states[1]["param_groups"]
    for (key, mine), (other, theirs) in zip(states[0]["state"][0].items(), states[1]["state"][0].items(), strict=True):
        assert key == other
        assert torch.equal(mine, theirs)


def test_a_parameter_without_gradients_gets_no_state_by_being_observed():
    used, idle = nn.Parameter(torch.ones(4, 3)), nn.Parameter(torch.ones(4, 3))
    optimizer = Jorge([used, idle], 0.1)
    with PreconditionerObserver(optimizer, [("used", used), ("idle", idle)], lambda step: True) as observer:
        used.grad = torch.ones(4, 3)
        optimizer.step()
    assert list(optimizer.state) == [used]
    assert observer.blocks[1].readings[0].missing == "the parameter has no gradient"
    optimizer.step()
    assert observer.steps == 1  # it no longer observes


def test_the_choice_of_blocks():
    model = nn.ModuleDict({"a": nn.Linear(6, 4), "b": nn.Linear(20, 4), "c": nn.Linear(6, 4)})
    model["c"].requires_grad_(False)
    optimizer = Jorge(model.parameters(), 0.1)

    def observed(named=None, **choice):
        named = list(model.named_parameters()) if named is None else named
        return PreconditionerObserver(optimizer, named, lambda step: True, BlockChoice(**choice))

    assert [block.name for block in observed().blocks] == ["a.weight", "b.weight"]
    assert observed().left_out == ["c.weight is frozen"]
    small = observed(max_side=6)
    assert [block.name for block in small.blocks] == ["a.weight"]
    assert small.left_out == ["b.weight (4 x 20) has a side above 6", "c.weight is frozen"]
    assert [b.name for b in observed(parameters=re.compile("^b")).blocks] == ["b.weight"]
    with pytest.raises(InputError, match=r"a preconditioned parameter, got 'nothing'; they are a\.weight; b\.weight$"):
        observed(parameters=re.compile("nothing"))
    with pytest.raises(InputError, match="left to observe: the model has none"):
        observed(named=[])
