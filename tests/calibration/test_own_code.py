"""The bench on code of a user's own: a python task, a network, a data set, and a model inside a loop of theirs."""

from __future__ import annotations

import copy
import itertools
import random

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from jorge_tune.calibration import own_loop
from jorge_tune.calibration.bench import open_bench
from jorge_tune.calibration.cache import facts_of, fingerprint_of
from jorge_tune.calibration.calibrate_recipe import (
    CalibrationRequest,
    calibrate_recipe,
    measured_elsewhere,
    with_interval,
)
from jorge_tune.calibration.calibration_words import as_data, notes, part_table
from jorge_tune.calibration.measure import Effort
from jorge_tune.calibration.own_loop import calibrate, untouched
from jorge_tune.calibration.workload import kept_batches, open_workload
from jorge_tune.errors import InputError
from jorge_tune.recipe.schema import JorgeSection, SGDSection
from tests.calibration.scripted_bench import ScriptedBench, noisy
from tests.own_code import MODULE, recipe_with_code
from tests.training.small_recipes import digits_recipe

CPU = torch.device("cpu")
JORGE = JorgeSection(lr=0.1, weight_decay=1e-3)
OWN_NET = '{kind: classification, model: {factory: "own_code:net"}, data: {name: digits}}'
OWN_DATA = '{kind: classification, model: {name: mlp, args: {hidden: [8]}}, data: {factory: "own_code:make_data"}}'
QUICK = Effort(measure_seconds=0.3, verify_seconds=0.2)


@pytest.mark.parametrize("task", ["Task", "Dicts", "Step", OWN_NET, OWN_DATA])
def test_an_iteration_is_the_tasks_own_and_leaves_the_weights(tmp_path, task):
    with open_bench(recipe_with_code(tmp_path, task, optimizer=JORGE), CPU) as bench:
        weights = copy.deepcopy(list(bench._model.parameters()))
        bench.burst("refreshing", 2)
        bench.schedule(3)
        bench.burst("scheduled", 3)
        for before, after in zip(weights, bench._model.parameters(), strict=True):
            assert torch.equal(before, after)


def test_batches_are_the_tasks_own_full_and_differ(tmp_path):
    recipe = recipe_with_code(tmp_path, optimizer=JORGE, batch_size=12)  # of 40 rows: 3 full batches and a rest
    with open_workload(recipe, CPU) as workload:
        batches = list(itertools.islice(workload.batches, 6))
        assert [len(batch[1]) for batch in batches] == [12] * 6
        assert not torch.equal(batches[0][0], batches[1][0])
        assert batches[0] is batches[4]  # kept: as many as an epoch has
        with torch.random.fork_rng():
            torch.manual_seed(0)
            loss = workload.loss_of(batches[0])
            torch.manual_seed(0)
            by_hand = functional.cross_entropy(workload.model(batches[0][0]), batches[0][1])
        assert torch.equal(loss, by_hand)
    with open_workload(recipe, CPU, real_data=True) as workload:
        read = list(itertools.islice(workload.batches, 4))
        assert [len(batch[1]) for batch in read] == [12] * 4
        assert not torch.equal(read[0][0], read[3][0])


def test_a_pool_ends_where_its_bytes_do(monkeypatch):
    batches = [torch.zeros(1000) for _ in range(20)]
    assert len(kept_batches(iter(batches), 20)) == 8
    assert len(kept_batches(iter(batches), 3)) == 3
    monkeypatch.setattr("jorge_tune.calibration.workload._POOL_BYTES", 9000)
    assert len(kept_batches(iter([{"x": batch} for batch in batches]), 20)) == 3


def test_the_fingerprint_follows_the_code_and_not_the_seed(tmp_path):
    recipe = recipe_with_code(tmp_path, optimizer=JORGE)
    facts = facts_of(recipe, "cpu")
    assert facts["model"] == {"factory": "own_code:Task", "args": {}}
    assert (facts["input"], facts["data"]) == ("batches of own_code:Task", "kept")
    changed = recipe_with_code(tmp_path, optimizer=JORGE, code=MODULE + "\nx = 1\n")
    assert fingerprint_of(facts_of(changed, "cpu")) != fingerprint_of(facts)
    assert "code" not in facts_of(digits_recipe(optimizer=JORGE), "cpu")


def test_a_calibration_is_answered_from_the_cache_until_the_code_changes(tmp_path, monkeypatch):
    recipe = recipe_with_code(tmp_path / "code", optimizer=JORGE)
    request = CalibrationRequest(device="cpu", cache=tmp_path / "cache", effort=QUICK, overhead=10.0)
    found = calibrate_recipe(recipe, request)
    assert found.choice.outcome in ("interval", "unstable")
    assert found.training_steps is None
    assert any("batch 8, batches of own_code:Task, fp32" in note for note in notes(found))
    assert [row[0] for row in part_table(found).rows][:3] == ["forward", "backward", "optimizer"]
    assert as_data(found)["input"] == "batches of own_code:Task"
    if found.choice.outcome == "interval":  # an unstable one is kept nowhere
        monkeypatch.setattr("jorge_tune.recipe.user_imports.importlib.import_module", None)
        again = calibrate_recipe(recipe, request)
        assert again.from_cache
        assert again.choice == found.choice
        assert measured_elsewhere(with_interval(recipe, found), "cpu") is None
        (tmp_path / "code" / "own_code.py").write_text(MODULE + "\nx = 1\n")
        warning = measured_elsewhere(with_interval(recipe, found), "cpu")
        assert warning is not None
        assert "was measured under other conditions" in warning


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 3))

    def forward(self, x):
        return self.layers(x)


def batches(count=3):
    generator = torch.Generator().manual_seed(0)
    return [(torch.randn(16, 6, generator=generator), torch.arange(16) % 3) for _ in range(count)]


def loss_of(model, batch):
    random.random(), np.random.rand()
    return functional.cross_entropy(model(batch[0]), batch[1])


def test_a_model_in_a_loop_is_measured_and_left_as_it_was():
    recipe = digits_recipe(optimizer=SGDSection(lr=0.1, momentum=0.9), task=None)
    torch.manual_seed(3)
    model = Net()
    loss_of(model, batches()[0]).backward()
    model.layers[2].eval()
    gradients = [param.grad for param in model.parameters()]
    copies = [gradient.clone() for gradient in gradients]
    state = copy.deepcopy(model.state_dict())
    states = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()

    found = calibrate(recipe, model, loss_of, *batches(), overhead=10.0, effort=QUICK)

    assert found.choice.outcome in ("interval", "unstable")
    assert found.recipe.optimizer.name == "jorge"
    assert found.recipe.batch_size == 16
    assert len(found.measurements.rounds) > 5
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, state[name]), name
    for param, gradient, copied in zip(model.parameters(), gradients, copies, strict=True):
        assert param.grad is gradient
        assert torch.equal(gradient, copied)
    assert model.training
    assert not model.layers[2].training
    assert torch.equal(torch.get_rng_state(), states[0])
    assert (np.random.get_state()[1] == states[1]).all()
    assert random.getstate() == states[2]
    assert any("batch 16, batches of the caller" in note for note in notes(found))


def test_the_decision_is_that_of_the_command(tmp_path, monkeypatch):
    """The same scripted timings lead to the same choice, and to the same figures."""
    command = calibrate_recipe
    monkeypatch.setattr("jorge_tune.calibration.bench.open_bench", None)

    class Scripted(ScriptedBench):
        def __init__(self, *_):
            super().__init__(disturbance=noisy(0.005))
            self.memory, self.device = {}, "scripted"

        def start(self):
            pass

    monkeypatch.setattr(own_loop, "TrainingBench", Scripted)
    mine = calibrate(digits_recipe(optimizer=JORGE), Net(), loss_of, *batches())

    from contextlib import contextmanager

    @contextmanager
    def open_scripted(*_, **__):
        yield Scripted()

    monkeypatch.setattr("jorge_tune.calibration.bench.open_bench", open_scripted)
    theirs = command(digits_recipe(optimizer=JORGE), CalibrationRequest(device="cpu", cache=tmp_path))
    assert mine.choice == theirs.choice
    assert mine.measurements == theirs.measurements
    assert mine.choice.interval is not None


def test_what_spoils_the_weights_is_put_back_too():
    """A gradient that is not finite makes NaN of a weight even at rate 0."""
    model = Net()
    state = copy.deepcopy(model.state_dict())

    def spoil():
        with untouched(model, CPU, 0), torch.no_grad():
            for tensor in (*model.parameters(), model.layers[1].running_mean):
                tensor.fill_(float("nan"))
            raise RuntimeError("broke")

    with pytest.raises(RuntimeError, match="broke"):
        spoil()
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, state[name]), name


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"batches": []}, "batches: give at least one batch after the loss"),
        ({"model": nn.ReLU()}, "model: the model must have parameters to train, and it has none"),
        (
            {"loss": lambda model, batch: model(batch[0])},
            r"loss: must return a scalar tensor .* got a tensor of shape \(16",
        ),
        ({"loss": lambda model, batch: 1.0}, "loss: must return a scalar tensor to go backward from, got float"),
        ({"loss": lambda model, batch: torch.tensor(1.0)}, "got one that does not depend on the model's parameters"),
        ({"overhead": 0.0}, "overhead must be greater than 0, got 0.0"),
    ],
)
def test_bad_input_is_one_sentence(change, said):
    given = {"model": Net(), "loss": loss_of, "batches": batches(), "overhead": 0.1} | change
    with pytest.raises(InputError, match=said):
        calibrate(
            digits_recipe(optimizer=JORGE), given["model"], given["loss"], *given["batches"], overhead=given["overhead"]
        )
