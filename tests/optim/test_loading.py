"""States on their way into every optimizer of the family: as torch's own, and checked before anything changes."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import nn

from jorge_tune.optim import DecoupledSGD, GeN, Jorge, Muon, Shampoo, SketchyAdaGrad, SketchyShampoo
from tests.optim.test_exam import CANDIDATES, exam, parameters, reload, run


def same_state(one, other):
    for p, q in zip(one.param_groups[0]["params"], other.param_groups[0]["params"], strict=True):
        assert one.state[p].keys() == other.state[q].keys()
        for key, value in one.state[p].items():
            assert value.dtype == other.state[q][key].dtype, key
            assert torch.equal(value, other.state[q][key]), key


@exam
@pytest.mark.parametrize("through", [lambda o: o, copy.deepcopy, lambda o: pickle.loads(pickle.dumps(o))])
def test_a_state_loads_any_number_of_times_also_into_copies(make, through):
    params = parameters()
    optimizer = make(params)
    run(optimizer, params, 3)
    state = reload(optimizer.state_dict())
    other = through(make(parameters()))
    other.defaults["added_by_a_wrapper"] = 1
    for _ in range(3):
        other.load_state_dict(state_dict=state)
    same_state(optimizer, other)
    twin = through(other)
    twin.load_state_dict(other.state_dict())
    same_state(optimizer, twin)
    weight = nn.Parameter(torch.ones(2, 2))
    twin.add_param_group({"params": [weight]})  # the group then holds what torch added to the defaults
    twin.load_state_dict(twin.state_dict())


@exam
def test_hooks_run_in_torchs_order_and_their_result_is_loaded(make):
    params = parameters()[2:5]
    optimizer = make(params)
    run(optimizer, params, 3)
    state, order = optimizer.state_dict(), []

    def changed(found, loaded):
        assert found is other
        order.append("second")
        groups = [{**group, "lr": 0.75} for group in loaded["param_groups"]]
        tensors = {
            n: {k: v if k == "step" else v * 0 + 7 for k, v in own.items()} for n, own in loaded["state"].items()
        }
        return {"state": tensors, "param_groups": groups}

    other = make(parameters()[2:5])
    other.register_load_state_dict_pre_hook(changed)
    other.register_load_state_dict_pre_hook(lambda found, loaded: order.append("first"), prepend=True)
    other.register_load_state_dict_post_hook(lambda found: order.append(float(found.param_groups[0]["lr"])))
    for _ in range(2):
        other.load_state_dict(state)
    assert order == ["first", "second", 0.75] * 2
    for own in other.state.values():
        assert all(bool((value == 7).all()) for key, value in own.items() if key != "step")
    assert optimizer.param_groups[0]["lr"] != 0.75


@exam
def test_a_hook_adapts_a_state_by_name_and_by_group(make):
    def named(params, order):
        return [(f"p{i}", params[i]) for i in order]

    def by_name(found, loaded):
        (theirs,), (ours,) = loaded["param_groups"], found.param_groups
        keys = dict(zip(theirs["param_names"], theirs["params"], strict=True))
        state = {i: loaded["state"][keys[name]] for i, name in enumerate(ours["param_names"])}
        group = {**theirs, "params": list(range(len(ours["params"]))), "param_names": ours["param_names"]}
        return {"state": state, "param_groups": [group]}

    first, second = parameters()[2:5], parameters()[2:5]
    optimizer = make(named(first, (0, 1, 2)))
    run(optimizer, first, 3)
    turned = make(named(second, (2, 0, 1)))
    turned.register_load_state_dict_pre_hook(by_name)
    turned.load_state_dict(optimizer.state_dict())
    for p, q in zip(first, second, strict=True):
        assert all(torch.equal(value, turned.state[q][key]) for key, value in optimizer.state[p].items())

    halves, whole = parameters()[2:5], parameters()[2:5]
    split = make([{"params": halves[:1]}, {"params": halves[1:]}])
    run(split, halves, 3)
    joined = make(whole)

    def one_group(found, loaded):
        return {**loaded, "param_groups": [{**loaded["param_groups"][0], "params": [0, 1, 2]}]}

    joined.register_load_state_dict_pre_hook(one_group)
    joined.load_state_dict(split.state_dict())
    assert all(int(joined.state[p]["step"]) == 3 for p in whole)


@exam
@pytest.mark.parametrize("step", [int, float, lambda s: torch.tensor(float(s)), lambda s: torch.tensor([int(s)])])
def test_a_step_that_is_a_plain_number_loads(make, step):
    straight, params, again = parameters(), parameters(), parameters()
    run(make(straight), straight, 5)
    optimizer = make(params)
    run(optimizer, params, 3)
    state = optimizer.state_dict()
    for own in state["state"].values():
        own["step"] = step(own["step"])
    for p, q in zip(params, again, strict=True):
        q.data.copy_(p.data)
    other = make(again)
    other.load_state_dict(state)
    run(other, again, 2, start=3)
    assert all(torch.equal(p, q) for p, q in zip(straight, again, strict=True))
    assert all(own["step"].dtype == torch.int64 for own in other.state.values())


LATER = {
    "jorge": {"b2_floor": 0.0, "form": "series", "maximize": False},
    "shampoo": {"root": "eigh", "maximize": False},
    "sketchy": {"statistics_interval": None, "maximize": False},
    "sketchy-adagrad": {"eps": 0.0, "maximize": False},
    "decoupled-sgd": {"maximize": False},
}


@pytest.mark.parametrize("member", LATER)
def test_hyperparameters_added_since_take_the_classs_default_with_one_warning(member):
    make, added = CANDIDATES[member], dict(LATER[member])
    if member == "sketchy":
        del added["statistics_interval"]  # it tells a sketch of Shampoo's from one of AdaGrad's
    params = parameters()
    optimizer = make([{"params": params[:3]}, {"params": params[3:]}])
    run(optimizer, params, 2)
    state = optimizer.state_dict()
    for group in state["param_groups"]:
        for name in added:
            del group[name]
    groups = [{"params": params[:3], "maximize": True}, {"params": params[3:]}]
    other = make(groups, maximize=True)
    with pytest.warns(UserWarning, match="the state was saved before .* had all of its hyperparameters: ") as said:
        other.load_state_dict(state)
    assert len(said) == 1
    assert all(name in str(said[0].message) for name in added)
    for group in other.param_groups:
        assert {name: group[name] for name in added} == added

    supplied = make(groups)
    supplied.register_load_state_dict_pre_hook(
        lambda found, loaded: {**loaded, "param_groups": [{**group, **added} for group in loaded["param_groups"]]}
    )
    supplied.load_state_dict(state)  # no warning, which would be an error here


ANEW = ("length", "flatten", "embeddings", "ridge")


@pytest.mark.parametrize("pickled", [False, True])
def test_a_state_of_before_our_forms_had_a_ridge_goes_on_with_one(pickled):
    """Congruence had no sign generators, and no member had lengths to choose, flattening or Adam's tables."""
    params, again = parameters()[2:5], parameters()[2:5]
    options = {"form": "congruence", "warm_refreshes": 2, "refresh_interval": 2}
    optimizer, other = Jorge(params, 0.05, **options), Jorge(again, 0.05, **options)
    run(optimizer, params, 3)
    for p, q in zip(params, again, strict=True):
        q.data.copy_(p)
    if pickled:
        for values in (optimizer.defaults, *optimizer.param_groups):
            for name in ANEW:
                del values[name]
        optimizer._names -= set(ANEW)
        for own in optimizer.state.values():
            for name in [name for name in own if name.endswith(".signs")]:
                del own[name]
        other = pickle.loads(pickle.dumps(optimizer))
        again = other.param_groups[0]["params"]
    else:
        state = optimizer.state_dict()
        for name in ANEW:
            del state["param_groups"][0][name]
        state["state"] = {
            number: {name: value for name, value in own.items() if not name.endswith(".signs")}
            for number, own in state["state"].items()
        }
        with pytest.warns(UserWarning, match="ridge=0.01") as said:
            other.load_state_dict(state)
        assert len(said) == 1
    run(other, again, 3, start=3)
    first = next(iter(again))
    assert other.state[first]["left.0.signs"].dtype == torch.int64
    assert "left.0.signs" in other.state_dict()["state"][0]
    assert all(torch.isfinite(p).all() for p in again)


def test_generators_of_another_kind_are_refused():
    params = parameters()[2:4]
    optimizer = Jorge(params, 0.05, form="half")
    run(optimizer, params, 2)
    state = optimizer.state_dict()
    state["state"][0]["left.0.signs"] = state["state"][0]["left.0.signs"].float()
    with pytest.raises(ValueError, match=r"left.0.signs must be of int64, got torch.float32"):
        optimizer.load_state_dict(state)


def test_a_step_of_plain_sgd_is_not_taken_for_muons():
    params = parameters()[2:4]
    for one, other, message in (
        (DecoupledSGD(params, 0.1), Muon(params, 0.1), "flatten must be an int >= 1, got 0"),
        (Muon(params, 0.1), DecoupledSGD(params, 0.1), "flatten must be 0, since nothing is preconditioned, got 5"),
    ):
        with pytest.raises(ValueError, match=message):
            other.load_state_dict(one.state_dict())


MEMBERS = {
    "jorge": lambda params: Jorge(params, 0.1),
    "shampoo": lambda params: Shampoo(params, 0.1),
    "sketchy": lambda params: SketchyShampoo(params, 0.1, block_size=None),
    "sketchy-adagrad": lambda params: SketchyAdaGrad(params, 0.1),
    "decoupled-sgd": lambda params: DecoupledSGD(params, 0.1),
    "torch-sgd": lambda params: torch.optim.SGD(params, 0.1),
    "torch-adamw": lambda params: torch.optim.AdamW(params, 0.1),
}


@pytest.mark.parametrize("saved", MEMBERS)
@pytest.mark.parametrize("loaded", [name for name in MEMBERS if not name.startswith("torch")])
@pytest.mark.parametrize("steps", [0, 2])
def test_another_members_state_is_refused_before_the_first_step_too(saved, loaded, steps):
    if saved == loaded:
        pytest.skip("its own")
    params = parameters()[2:4]
    optimizer = MEMBERS[saved](params)
    run(optimizer, params, steps)
    other = MEMBERS[loaded](params)
    before = copy.deepcopy(other.state_dict())
    with pytest.raises(ValueError, match="the state is another optimizer's: its groups have"):
        other.load_state_dict(optimizer.state_dict())
    assert other.state_dict() == before


def spoil_group(name, value):
    return lambda state: state["param_groups"][0].update({name: value})


def spoil_state(name, value):
    return lambda state: state["state"][0].update({name: value})


FAULTS = {
    "not a dict": (lambda state: state.clear(), "state_dict must be an optimizer's, with 'state' and 'param_groups'"),
    "groups": (lambda state: state.update(param_groups=3), r"state_dict\['param_groups'\] must be a list of groups"),
    "no list": (spoil_group("params", 3), r"must be a list of groups with a list of 'params'"),
    "states": (lambda state: state.update(state=3), r"state_dict\['state'\] must be a dict, got 3"),
    "no lr": (lambda state: state["param_groups"][0].pop("lr"), r"param_groups\[0\] must have an lr, got \["),
    "lr": (spoil_group("lr", float("nan")), r"the state's param_groups\[0\]: lr must be a finite number, got nan"),
    "momentum": (spoil_group("momentum", 1.5), r"the state's param_groups\[0\]: momentum must be in \[0, 1\), got 1.5"),
    "text": (spoil_group("weight_decay", "x"), "weight_decay must be a finite number, got 'x'"),
    "step": (spoil_state("step", 1.5), "state of parameter 0: step must be a whole number >= 0, got 1.5"),
    "negative": (spoil_state("step", torch.tensor(-1)), "step must be a whole number >= 0"),
    "endless": (spoil_state("step", 2**63), "step must be a whole number >= 0, got 9223372036854775808"),
    "no step": (lambda state: state["state"][0].pop("step"), r"state of parameter 0 must have a step, got \['graft"),
    "vast": (spoil_group("weight_decay", 10**400), "weight_decay must be a finite number, got 1000"),
    "no tensor": (spoil_state("graft.momentum", 3), "graft.momentum must be a tensor, got 3"),
    "shape": (spoil_state("graft.momentum", torch.ones(2)), r"graft.momentum has shape \(2,\), but \(6, 4\) is needed"),
    "foreign": (spoil_state("left.9", torch.ones(2, 2)), "left.9 belongs to a block that shape"),
    "flat": (lambda state: state["state"].update({0: 3}), "state of parameter 0 must be a dict, got 3"),
}


@pytest.mark.parametrize("member", ["jorge", "shampoo", "sketchy-adagrad", "decoupled-sgd"])
@pytest.mark.parametrize(("spoil", "message"), FAULTS.values(), ids=FAULTS.keys())
@pytest.mark.parametrize("by_hook", [False, True])
def test_a_refused_state_changes_nothing(member, spoil, message, by_hook):
    params = parameters()[2:4]
    optimizer = CANDIDATES[member](params)
    run(optimizer, params, 2)
    state = copy.deepcopy(optimizer.state_dict())
    before, seen = copy.deepcopy(optimizer.state_dict()), []
    optimizer.register_load_state_dict_post_hook(lambda found: seen.append(found))
    if by_hook:
        optimizer.register_load_state_dict_pre_hook(lambda found, loaded: spoil(loaded) and None)
    else:
        spoil(state)
    with pytest.raises(ValueError, match=message):
        optimizer.load_state_dict(state)
    after = optimizer.state_dict()
    assert after["param_groups"] == before["param_groups"]
    for number, own in before["state"].items():
        assert all(torch.equal(value, after["state"][number][key]) for key, value in own.items())
    assert not seen
    assert len(optimizer._optimizer_load_state_dict_pre_hooks) == by_hook


@pytest.mark.parametrize(("member", "name"), [("shampoo", "left.0.root"), ("sketchy", "right.0.weight")])
def test_half_a_preconditioner_is_refused(member, name):
    params = parameters()[2:4]
    optimizer = CANDIDATES[member](params)
    run(optimizer, params, 2)
    state = optimizer.state_dict()
    del state["state"][0][name]
    with pytest.raises(ValueError, match=f"state of parameter 0: {name} is missing"):
        optimizer.load_state_dict(state)


def test_a_rate_that_a_schedule_left_a_rounding_below_zero_loads():
    params = parameters()[2:4]
    optimizer = Jorge(params, 0.1)
    optimizer.param_groups[0]["lr"] = -1e-19
    optimizer.load_state_dict(optimizer.state_dict())
    assert optimizer.param_groups[0]["lr"] == -1e-19


@pytest.mark.parametrize("member", ["jorge", "sketchy-adagrad", "decoupled-sgd"])
@pytest.mark.parametrize("through", [copy.deepcopy, lambda gen: pickle.loads(pickle.dumps(gen))])
def test_gen_is_copied_and_loads_any_number_of_times(member, through):
    model = nn.Linear(4, 3)
    gen = GeN(CANDIDATES[member](model.parameters()), interval=1)
    x = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))
    for _ in range(3):
        gen.zero_grad()
        (model(x) ** 2).mean().backward()
        gen.step(lambda: (model(x) ** 2).mean())
    state, other = gen.state_dict(), through(gen)
    for _ in range(2):
        other.load_state_dict(state_dict=state)
    assert (other.scale, other.steps) == (gen.scale, gen.steps)
    twin_model, twin = copy.deepcopy((model, gen))
    for one, own in ((gen, model), (twin, twin_model)):
        one.zero_grad()
        (own(x) ** 2).mean().backward()
        one.step(lambda own=own: (own(x) ** 2).mean())
    assert twin.scale == gen.scale
    assert torch.equal(twin_model.weight, model.weight)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("scale", float("nan"), r"\['scale'\] must be a finite number > 0, got nan"),
        ("scale", 10**400, r"\['scale'\] must be a finite number > 0, got 1000"),
        (3, 4, r"\['gen'\] must be GeN's own, got \['3', 'scale', 'searching'"),
        ("steps", -1, r"\['steps'\] must be an int >= 0, got -1"),
        ("searching", 1, r"\['searching'\] must be True or False, got 1"),
        ("trusts", "yes", r"\['trusts'\] must be True, False or None, got 'yes'"),
    ],
)
def test_a_state_of_gen_that_it_could_not_have_saved_is_refused(name, value, message):
    gen = GeN(torch.optim.SGD(nn.Linear(2, 2).parameters(), lr=0.1))
    state = gen.state_dict()
    state["gen"][name] = value
    state["optimizer"]["param_groups"][0]["lr"] = 7.0
    with pytest.raises(ValueError, match=message):
        gen.load_state_dict(state)
    assert gen.param_groups[0]["lr"] == 0.1
