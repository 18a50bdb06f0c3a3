from __future__ import annotations

from typing import NamedTuple

import pytest
import torch
from torch import nn

from jorge_tune.optim import Jorge, param_groups


class Rule(NamedTuple):
    pattern: str
    lr_scale: float = 1.0
    weight_decay_scale: float = 1.0


def model():
    return nn.ModuleDict(
        {
            "table": nn.Embedding(10, 4),
            "linear": nn.Linear(4, 3),
            "norm": nn.LayerNorm(3),
            "batch": nn.BatchNorm1d(3),
            "scale": nn.ParameterList([nn.Parameter(torch.ones(3))]),
        }
    )


def decays(groups, net):
    names = {p: name for name, p in net.named_parameters()}
    return {names[p]: g["weight_decay"] for g in groups for p in g["params"]}


@pytest.mark.parametrize(
    ("no_decay", "free"),
    [
        ([], set()),
        (["norm"], {"norm.weight", "norm.bias", "batch.weight", "batch.bias"}),
        (["bias"], {"linear.bias", "norm.bias", "batch.bias"}),
        (["one_dimensional"], {"linear.bias", "norm.weight", "norm.bias", "batch.weight", "batch.bias", "scale.0"}),
    ],
)
def test_exemptions(no_decay, free):
    net = model()
    found = decays(param_groups(net, lr=0.1, weight_decay=0.5, no_decay=no_decay), net)
    assert {name for name, decay in found.items() if decay == 0} == free
    assert set(found) == {name for name, _ in net.named_parameters()}


def test_rules_scale_and_the_first_match_holds():
    net = model()
    rules = [Rule(r"^linear\.weight$", 0.1, 2.0), Rule("linear", 10.0)]
    groups = param_groups(net, lr=0.1, weight_decay=0.5, groups=rules)
    by_param = {p: g for g in groups for p in g["params"]}
    assert by_param[net["linear"].weight]["lr"] == pytest.approx(0.01)
    assert by_param[net["linear"].weight]["weight_decay"] == 1.0
    assert by_param[net["linear"].bias]["lr"] == 1.0
    with pytest.raises(ValueError, match="no parameter's name matches 'linaer'"):
        param_groups(net, lr=0.1, weight_decay=0.5, groups=[Rule("linaer")])
    with pytest.raises(ValueError, match="no_decay must be of norm, bias, one_dimensional, got 'norms'"):
        param_groups(net, lr=0.1, weight_decay=0.5, no_decay=["norms"])


def test_embeddings_are_not_preconditioned_and_shared_weights_count_once():
    net = model()
    net["head"] = nn.Linear(4, 10, bias=False)
    net["head"].weight = net["table"].weight
    groups = param_groups(net, lr=0.1, weight_decay=0.0)
    marked = {p: g["precondition"] for g in groups for p in g["params"]}
    assert marked[net["table"].weight] is False
    assert marked[net["linear"].weight] is True
    assert sum(len(g["params"]) for g in groups) == len(list(net.parameters()))
    optimizer = Jorge(groups, lr=0.1)
    for p in net.parameters():
        p.grad = torch.ones_like(p)
    optimizer.step()
    assert "left.0" not in optimizer.state[net["table"].weight]
    assert "left.0" in optimizer.state[net["linear"].weight]
