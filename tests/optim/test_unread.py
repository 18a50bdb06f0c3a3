"""Hyperparameters that nothing reads beside the others: said once, where another value than the default was given."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import nn

from jorge_tune.optim import DecoupledSGD, Jorge, Shampoo, SketchyShampoo
from jorge_tune.optim.argument_checks import UNREAD
from tests.optim.test_exam import feed, parameters, run

CASES = [
    (Jorge, {"graft": "adamw", "momentum": 0.5}, "momentum=0.5 has no effect with graft='adamw': set graft_betas"),
    (Shampoo, {"graft": "adamw", "momentum": 0.0}, "momentum=0.0 has no effect with graft='adamw'"),
    (SketchyShampoo, {"graft": "adamw", "dampening": 0.1}, "dampening=0.1 has no effect with graft='adamw'"),
    (Jorge, {"graft": "none", "dampening": 0.1}, "dampening=0.1 has no effect with graft='none'"),
    (DecoupledSGD, {"dampening": 0.1}, "dampening=0.1 has no effect with momentum=0.0"),
    (Jorge, {"graft_betas": (0.5, 0.9)}, r"graft_betas=\(0.5, 0.9\) has no effect with graft='sgd': set momentum"),
    (Jorge, {"graft": "none", "graft_betas": [0.5, 0.9]}, r"graft_betas=\[0.5, 0.9\] has no effect with graft='none'"),
    (Shampoo, {"graft_eps": 1e-6}, "graft_eps=1e-06 has no effect with graft='sgd'"),
    (Jorge, {"form": "congruence", "series_terms": 3}, "series_terms=3 has no effect with form='congruence'"),
    (Jorge, {"form": "half", "series_terms": 3}, "series_terms=3 has no effect with form='half'"),
    (Jorge, {"form": "series", "ridge": 0.1}, "ridge=0.1 has no effect with form='series'"),
    (Jorge, {"graft": "none", "length": "mixed"}, "length='mixed' has no effect with graft='none'"),
    (Jorge, {"graft": "adamw", "embeddings": "adam"}, "embeddings='adam' has no effect with graft='adamw'"),
    (Jorge, {"graft": "none", "embeddings": "adam"}, "embeddings='adam' has no effect with graft='none'"),
    (Shampoo, {"root_iterations": 5}, "root_iterations=5 has no effect with root='eigh'"),
]


def ends(member, values):
    """The weights after steps with one group, and with them what the state holds."""
    params = parameters()[2:6]
    run(member(params, lr=0.05, **values), params, 6)
    return [p.detach() for p in params]


@pytest.mark.parametrize(("member", "values", "message"), CASES)
def test_it_is_said_in_the_constructor_and_in_a_later_group(member, values, message):
    weight, late = nn.Parameter(torch.ones(2, 2)), nn.Parameter(torch.ones(2, 2))
    with pytest.warns(UserWarning, match=r"param_groups\[0\]: " + message) as said:
        member([weight], lr=0.1, **values)
    assert [record.filename for record in said] == [__file__]
    with pytest.warns(UserWarning, match=r"param_groups\[0\]: " + message):
        member([{"params": [weight], **values}], lr=0.1)
    optimizer = member([weight], lr=0.1)
    with pytest.warns(UserWarning, match=r"param_groups\[1\]: " + message) as said:
        optimizer.add_param_group({"params": [late], **values})
    run(optimizer, [weight, late], 2)  # and no more is said: a warning would be an error here
    assert len(said) == 1


@pytest.mark.filterwarnings("ignore:param_groups")
@pytest.mark.parametrize(("member", "values", "message"), CASES)
def test_what_is_said_is_true(member, values, message):
    (name,) = {message.split("=")[0]}
    without = {key: value for key, value in values.items() if key != name}
    assert all(torch.equal(p, q) for p, q in zip(ends(member, values), ends(member, without), strict=True))


def test_every_entry_of_the_table_is_among_the_cases():
    seen = {
        (entry.name, entry.beside, value)
        for (member, values, message), entry in itertools.product(CASES, UNREAD)
        for value in entry.values
        if message.startswith(f"{entry.name}=") and f"with {entry.beside}={value!r}" in message
    }
    seen |= {("dampening", "momentum", 0)}  # as 0.0 above
    assert {(e.name, e.beside, v) for e in UNREAD for v in e.values} - seen <= {("graft_eps", "graft", "none")}


@pytest.mark.parametrize(
    "values",
    [
        {"graft": "adamw"},
        {"graft": "adamw", "graft_betas": (0.8, 0.95)},
        {"graft": "adamw", "graft_betas": (0.8, 0.95), "momentum": 0.8},
        {"graft": "adamw", "graft_eps": 1e-6},
        {"momentum": 0.5, "dampening": 0.1},
        {"graft": "none", "momentum": 0.5},
        {"form": "congruence"},
        {"form": "series", "series_terms": 3},
        {"form": "half", "ridge": 0.0},
        {"graft": "adamw", "length": "mixed", "flatten": 5},
    ],
)
def test_nothing_is_said_of_what_is_read_or_left_at_its_default(values):
    params = parameters()[2:4]
    run(Jorge(params, 0.05, **values), params, 2)


def test_a_schedule_that_turns_a_momentum_nothing_reads_is_noticed_once():
    params = parameters()[2:4]
    optimizer = Jorge(params, 0.05, graft="adamw")
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.1, total_steps=10)
    feed(params, 0)
    with pytest.warns(UserWarning, match=r"momentum=0.95 has no effect with graft='adamw'") as said:
        optimizer.step()
    assert len(said) == 1
    for step in range(1, 5):
        schedule.step()
        feed(params, step)
        optimizer.step()
