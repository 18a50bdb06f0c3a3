"""A network of the user's own on a shipped data set, a data set of theirs under a shipped network, and both."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from jorge_tune.errors import InputError
from jorge_tune.recipe.recipe_files import override
from jorge_tune.records import RunDirectory, of_kind, read_records
from jorge_tune.training import train
from jorge_tune.training.build import build_model
from jorge_tune.training.memory_plan import plan_recipe
from jorge_tune.training.runner import set_up_training
from tests.own_code import MODULE, recipe_with_code
from tests.training.test_resume import _assert_same_run, _train_with_a_stop

CPU = torch.device("cpu")
OWN_NET = '{kind: classification, model: {factory: "own_code:net"}, data: {name: digits}}'
OWN_DATA = '{kind: classification, model: {name: mlp, args: {hidden: [8]}}, data: {factory: "own_code:make_data"}}'
OWN_BOTH = """{kind: classification, model: {factory: "own_code:net", args: {width: 4}},
  data: {factory: "own_code:make_items", validation: 0.2}}"""


@pytest.mark.parametrize(("task", "size"), [(OWN_NET, 256), (OWN_DATA, 16), (OWN_BOTH, 16)])
def test_they_train_and_a_stopped_run_ends_as_an_uninterrupted_one(tmp_path, task, size):
    recipe = recipe_with_code(tmp_path, task, batch_size=size)
    if task is OWN_BOTH:  # whose two parts are train and validation
        recipe = override(recipe, ["task.data.validation=null"])
    whole = train(recipe, tmp_path / "whole", log_every=4)
    assert whole.outcome == "finished"
    _train_with_a_stop(recipe, tmp_path / "resumed", "step", 2)
    _assert_same_run(tmp_path / "whole", tmp_path / "resumed")
    [start, *_] = of_kind(read_records(RunDirectory(tmp_path / "whole").records), "start")
    assert len(start["data"]["code"]) == 16


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_what_an_item_draws_is_the_same_for_any_number_of_loader_processes(tmp_path):
    recipe = override(recipe_with_code(tmp_path, OWN_BOTH, batch_size=16), ["task.data.validation=null"])
    batches = []
    for workers in (0, 1):
        with set_up_training(override(recipe, [f"task.data.workers={workers}"]), CPU, download=False) as (task, _, _):
            batches.append([torch.cat([images for images, _ in task.train.epoch(epoch)]) for epoch in (0, 1)])
    assert torch.equal(batches[0][0], batches[1][0])
    assert torch.equal(batches[0][1], batches[1][1])
    assert not torch.equal(batches[0][0].sort(0).values, batches[0][1].sort(0).values)


def test_parts_fractions_and_subsets_are_those_of_the_recipe(tmp_path):
    with set_up_training(recipe_with_code(tmp_path, OWN_DATA), CPU, download=False) as (task, _, _):
        summary = task.summary
        assert {name: part.images for name, part in summary.parts.items()} == {
            "train": 40,
            "validation": 10,
            "test": 10,
        }
        assert (summary.classes, summary.shape) == (10, (1, 8, 8))
        assert task.classes == tuple("0123456789")
    code = MODULE + "\ndef alone():\n    return {'train': make_items()[0]}\n"
    section = OWN_DATA.replace("make_data", "alone")
    recipe = recipe_with_code(tmp_path, section, code)
    with pytest.raises(InputError, match="own_code:alone makes only a training part; let it make a validation part"):
        train(recipe, tmp_path / "run")
    held_out = override(recipe, ["task.data.validation=0.2", "task.data.subset=20"])
    with set_up_training(held_out, CPU, download=False) as (task, _, _):
        assert {name: part.images for name, part in task.summary.parts.items()} == {"train": 20, "validation": 10}
        assert task.classes == tuple("abcdefghij")
        chosen = np.concatenate([labels.numpy() for _, labels in task.train.epoch()])
        assert (np.bincount(chosen) == 2).all()


def test_weights_of_a_factory_follow_from_the_seed(tmp_path):
    recipe = recipe_with_code(tmp_path, OWN_NET)
    first, again, other = (
        torch.cat([param.detach().flatten() for param in build_model(replace(recipe, seed=seed)).parameters()])
        for seed in (0, 0, 1)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize(
    ("change", "code", "said"),
    [
        (
            'model: {factory: "own_code:nett"}',
            "",
            r"task.model.factory: own_code has no 'nett' \(did you mean 'net'\?\)",
        ),
        ('model: {factory: "own_code:net", args: {depth: 3}}', "", "task.model.args: own_code:net: got an unexpected"),
        ('model: {factory: "own_code:rows"}', "", "own_code:rows must return a torch module, got tuple"),
        (
            'model: {factory: "own_code:net", args: {num_classes: 3}}',
            "",
            r"the model returns \(3,\) per image, but the",
        ),
        (
            'model: {factory: "own_code:bad"}',
            "def bad():\n    return nn.ReLU()",
            "parameters to train, and it has none",
        ),
        ('data: {factory: "own_code:bad"}', "def bad():\n    return 3", "must return a dict of parts .* got int"),
        (
            'data: {factory: "own_code:bad"}',
            "def bad():\n    return {'train': 3, 'test': 3}",
            "train: must be a data set",
        ),
        (
            'data: {factory: "own_code:bad"}',
            "def bad():\n    return {'train': [], 'test': []}",
            "train: must have at least",
        ),
        (
            'data: {factory: "own_code:bad"}',
            "def bad():\n    return {'train': [1], 'tset': []}",
            "parts must be named tra",
        ),
        (
            'data: {factory: "own_code:bad"}',
            "def bad():\n    return [('a.png', 1)], [('a.png', 1)]",
            r"item 0 must be a pair \(image tensor, label\), got \(str, int\); let the data set make tensors of its im",
        ),
        (
            'data: {factory: "own_code:bad"}',
            "def bad():\n    return [(torch.zeros(64), 9), (torch.zeros(3), 1)], [(torch.zeros(64), 1)]",
            r"item 1 has shape \(3,\), the first one \(64,\); all images must have one shape",
        ),
        (
            'data: {factory: "own_code:bad"}',
            "def bad():\n    return (torch.zeros(3, 2), torch.zeros(3)), (torch.zeros(3, 2), torch.zeros(3))",
            "train: labels must be whole numbers, one per image",
        ),
    ],
)
def test_what_is_wrong_with_them_is_one_sentence(tmp_path, change, code, said):
    section = OWN_NET if change.startswith("model") else OWN_DATA
    key = change.partition(":")[0]
    old = 'model: {factory: "own_code:net"}' if key == "model" else 'data: {factory: "own_code:make_data"}'
    recipe = recipe_with_code(tmp_path, section.replace(old, change), f"{MODULE}\n{code}\n")
    with pytest.raises(InputError, match=said) as caught:
        train(recipe, tmp_path / "run")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("task", [OWN_NET, '{kind: python, factory: "own_code:Task", args: {width: 16}}'])
def test_a_plan_of_own_code_needs_no_more_than_its_factory(tmp_path, task):
    recipe = override(recipe_with_code(tmp_path, task), ["optimizer={name: jorge, lr: 0.1}"])
    plan = plan_recipe(recipe)
    sides = 64 * 8 + 8 + 8 * 10 + 10 if task is OWN_NET else 6 * 16 + 16 + 2 * 16 + 16 * 3 + 3
    assert plan.total.parameter_bytes == 4 * sides
