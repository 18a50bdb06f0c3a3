from __future__ import annotations

import copy

import pytest
import torch

from jorge_tune.optim import Jorge
from tests.frameworks.small import data, loss_of, network, same, weights, with_every_member

timm = pytest.importorskip("timm", reason="timm is absent: pip install 'jorge-tune[test-frameworks]'")
optim = pytest.importorskip("timm.optim")


def train(model, optimizer, steps):
    inputs, labels = data().tensors
    for _ in range(steps):
        optimizer.zero_grad()
        loss_of(model, inputs, labels).backward()
        optimizer.step()


@with_every_member
def test_lookahead_saves_and_loads(optimizer_class, kwargs):
    model = network()
    optimizer = optim.Lookahead(optimizer_class(model.parameters(), **kwargs), k=3)
    train(model, optimizer, 4)
    state, at = copy.deepcopy(optimizer.state_dict()), copy.deepcopy(model.state_dict())
    train(model, optimizer, 4)
    end = weights(model)

    other = network(seed=1)
    wrapped = optim.Lookahead(optimizer_class(other.parameters(), **kwargs), k=3)
    for _ in range(2):
        other.load_state_dict(at)
        wrapped.load_state_dict(copy.deepcopy(state))
        train(other, wrapped, 4)
        assert same(weights(other), end)


def factory():
    """What `create_optimizer_v2` asks, with Jorge among timm's own: timm makes its shared one public nowhere."""
    registry = optim.OptimizerRegistry()
    registry.register(
        optim.OptimInfo(name="jorge", opt_class=Jorge, has_eps=False, has_momentum=True, defaults={"nesterov": True})
    )
    return registry.create_optimizer


def test_its_factory_makes_the_groups_that_it_makes_for_its_own():
    model = timm.create_model("test_vit", pretrained=False, num_classes=3)
    settings = {"lr": 0.05, "weight_decay": 0.1, "momentum": 0.8}
    ours, theirs = factory()(model, "jorge", **settings), optim.create_optimizer_v2(model, "sgd", **settings)
    assert type(ours) is Jorge
    assert len(ours.param_groups) == len(theirs.param_groups) == 2
    for group, twin in zip(ours.param_groups, theirs.param_groups, strict=True):
        assert [id(p) for p in group["params"]] == [id(p) for p in twin["params"]]
        shared = ("lr", "weight_decay", "momentum", "nesterov")
        assert {name: group[name] for name in shared} == {name: twin[name] for name in shared}


def test_its_layer_decay_trains_and_is_loaded():
    """Each layer has a group of its own, with an `lr_scale` that timm's schedulers read."""
    model = timm.create_model("test_vit", pretrained=False, num_classes=3)
    make = factory()
    settings = {"lr": 0.005, "weight_decay": 0.1, "layer_decay": 0.5, "layer_decay_min_scale": 0.0}
    optimizer = make(model, "jorge", **settings)
    scales = [group["lr_scale"] for group in optimizer.param_groups]
    assert len(set(scales)) > 2
    images = torch.randn(4, 3, *model.default_cfg["input_size"][1:])
    labels = torch.tensor([0, 1, 2, 0])
    before = loss_of(model, images, labels).item()
    for _ in range(3):
        optimizer.zero_grad()
        loss_of(model, images, labels).backward()
        optimizer.step()
    assert loss_of(model, images, labels).item() < before
    again = make(model, "jorge", **settings)
    again.load_state_dict(optimizer.state_dict())
    assert [group["lr_scale"] for group in again.param_groups] == scales
