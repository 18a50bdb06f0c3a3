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
    precondition: bool = True


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


def test_a_rule_leaves_parameters_without_preconditioners_and_no_rule_gives_embeddings_one():
    net = model()
    rules = [Rule(r"^linear\.weight$", precondition=False), Rule("table", lr_scale=0.1, precondition=True)]
    groups = param_groups(net, lr=0.1, weight_decay=0.5, groups=rules)
    by_param = {p: g for g in groups for p in g["params"]}
    assert not by_param[net["linear"].weight]["precondition"]
    assert by_param[net["linear"].bias]["precondition"]
    assert by_param[net["linear"].weight]["lr"] == by_param[net["linear"].bias]["lr"] == 0.1
    assert not by_param[net["table"].weight]["precondition"]
    assert by_param[net["table"].weight]["lr"] == pytest.approx(0.01)


class Table(nn.Module):
    """A table of a kind, tied or parametrised, with an output layer of its own beside it."""

    def __init__(self, kind):
        super().__init__()
        self.head = nn.Linear(4, 30, bias=False)  # registered first
        self.table = nn.EmbeddingBag(30, 4) if "bag" in kind else nn.Embedding(30, 4)
        if "tied" in kind:
            self.head.weight = self.table.weight
        if "normed" in kind:
            nn.utils.parametrizations.weight_norm(self.table)
        if "old norm" in kind:
            nn.utils.weight_norm(self.table)
        if "low rank" in kind:
            nn.utils.parametrize.register_parametrization(self.table, "weight", LowRank())

    def forward(self, indices):
        rows = self.table(indices)
        return self.head(rows if rows.dim() == 2 else rows.mean(1))


class LowRank(nn.Module):
    """An update of few directions, as adapters add it."""

    def __init__(self):
        super().__init__()
        self.down = nn.Parameter(torch.ones(30, 2))
        self.up = nn.Parameter(torch.ones(2, 4))

    def forward(self, weight):
        return weight + self.down @ self.up


@pytest.mark.filterwarnings("ignore:.*weight_norm.* is deprecated:FutureWarning")
@pytest.mark.parametrize("kind", ["plain", "bag", "tied", "bag, tied", "normed", "bag, normed", "old norm", "low rank"])
def test_tables_of_every_kind_are_not_preconditioned(kind):
    net = Table(kind)
    groups = param_groups(net, lr=0.1, weight_decay=0.0)
    marked = {p: g["precondition"] for g in groups for p in g["params"]}
    assert set(marked) == set(net.parameters())
    outside = {name for name, p in net.named_parameters() if marked[p]}
    assert outside == (set() if "tied" in kind else {"head.weight"})
    optimizer = Jorge(groups, lr=0.1)
    net(torch.arange(6).reshape(2, 3)).pow(2).mean().backward()
    optimizer.step()
    kept = sum(v.numel() for p, own in optimizer.state.items() if not marked[p] for k, v in own.items() if k != "step")
    assert kept == sum(p.numel() for p, precondition in marked.items() if not precondition)


def test_a_parametrised_bias_is_a_bias():
    net = nn.Linear(4, 3)
    nn.utils.parametrize.register_parametrization(net, "bias", nn.Tanh())
    found = decays(param_groups(net, lr=0.1, weight_decay=0.5, no_decay=["bias"]), net)
    assert found == {"weight": 0.5, "parametrizations.bias.original": 0.0}


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
