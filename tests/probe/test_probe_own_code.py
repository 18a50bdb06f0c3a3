"""The probe, the diagnosis and a snapshot on code of a user's own."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.nn import functional

from jorge_tune.diagnose.diagnose import DiagnosisSettings, diagnose
from jorge_tune.probe.probe import ProbeSettings, _rows_alike, probe
from jorge_tune.probe.probe_result import read_line
from jorge_tune.probe.probe_words import words
from jorge_tune.recipe.schema import JorgeSection
from jorge_tune.runs.stop_request import StopRequest
from jorge_tune.training.runner import set_up_training, train
from tests.own_code import MODULE, recipe_with_code
from tests.training.test_resume import _assert_same_run, _stopping

CPU = torch.device("cpu")
JORGE = JorgeSection(lr=0.05, refresh_interval=2, warm_refreshes=2)
SUMMED = (
    MODULE
    + """
class Summed(Task):
    def loss(self, outputs, batch):
        return F.cross_entropy(outputs, batch[1], reduction="sum")
"""
)


@pytest.mark.parametrize("task", ["Task", "Dicts"])
def test_a_loss_that_is_a_mean_is_read_sample_by_sample(tmp_path, task):
    with set_up_training(recipe_with_code(tmp_path, task), CPU, download=False) as (own, model, _):
        model.eval()
        batch = own.train.at(0, 0)
        x, y = batch if task == "Task" else (batch["x"], batch["y"])
        with torch.no_grad():
            each = own.sample_losses(model, batch)
            by_hand = functional.cross_entropy(model(x), y, reduction="none")
        assert torch.allclose(each, by_hand, rtol=1e-6)


def test_any_other_loss_is_read_for_the_batch(tmp_path):
    for name, code in (("Summed", SUMMED), ("Step", MODULE)):
        with set_up_training(recipe_with_code(tmp_path / name, name, code), CPU, download=False) as (own, model, _):
            batch = own.train.at(0, 0)
            model.eval()
            assert torch.equal(own.sample_losses(model, batch), own.training_loss(model, batch)[None])


def test_points_are_read_alike_where_a_batch_cannot_be_divided_at_one_of_them():
    whole, parts = torch.tensor([2.0]), torch.tensor([1.0, 3.0, 5.0])
    assert _rows_alike([[parts, parts], [parts, parts]]).shape == (6, 2)
    assert _rows_alike([[parts, parts], [whole, parts]]).tolist() == [[3.0, 2.0], [3.0, 3.0]]
    assert _rows_alike([[whole], [whole]]).shape == (1, 2)


def test_a_single_loss_has_a_fit_and_no_interval():
    line = read_line([-1.0, 0.0, 1.0], torch.tensor([[2.0, 1.0, 0.5]], dtype=torch.float64), batches=1)
    assert line.optimum is not None
    assert (line.samples, line.interval) == (1, None)


@pytest.mark.parametrize(("task", "samples"), [("Task", 8), ("Step", 1)])
def test_a_probe_reads_it_and_leaves_the_run_as_it_was(tmp_path, task, samples):
    recipe = recipe_with_code(tmp_path, task, optimizer=JORGE)
    train(recipe, tmp_path / "whole", log_every=4)
    stop = StopRequest()
    train(recipe, tmp_path / "probed", log_every=4, stop=stop, progress=_stopping(stop, "epoch", 5))
    probed = probe(recipe, ProbeSettings(at=(5, 7), batches=3), checkpoint=tmp_path / "probed")
    assert probed.outcome == "finished"
    for reading in probed.readings:
        assert (reading.own.samples, reading.fresh.samples) == (samples, 3 * samples)
        assert (reading.own.interval is None) or samples > 1
    if task == "Step":
        assert "the loss is known for whole batches only" in "\n".join(words(probed))
    train(recipe, tmp_path / "probed", log_every=4, resume=True)
    _assert_same_run(tmp_path / "whole", tmp_path / "probed")


def test_a_diagnosis_watches_it(tmp_path):
    found = diagnose(recipe_with_code(tmp_path, optimizer=JORGE), DiagnosisSettings(steps=4, every=2, refreshes=0))
    assert (found.outcome, found.steps) == ("finished", 4)
    assert [block.name for block in found.blocks] == ["0.weight", "4.weight"]
    own_net = '{kind: classification, model: {factory: "own_code:net"}, data: {name: digits}}'
    other = replace(recipe_with_code(tmp_path, own_net, optimizer=JORGE), batch_size=256)
    assert diagnose(other, DiagnosisSettings(steps=2, every=1, refreshes=0)).outcome == "finished"
