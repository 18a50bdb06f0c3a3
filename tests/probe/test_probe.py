"""The probe: what it reads is the loss along the run's own step, and the run does not notice."""

from __future__ import annotations

import contextlib
import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional

from jorge_tune.errors import InputError
from jorge_tune.probe.probe import Prober, ProbeSettings, probe
from jorge_tune.probe.probe_result import ProbeResult
from jorge_tune.recipe.schema import (
    AdamWSection,
    Cosine,
    Gen,
    JorgeSection,
    ModelSection,
    Optimizer,
    Recipe,
    SGDSection,
    Warmup,
)
from jorge_tune.records import RunDirectory
from jorge_tune.runs.stop_request import StopRequest
from jorge_tune.training import train
from jorge_tune.training.checkpoint import Checkpoint, load_checkpoint
from jorge_tune.training.snapshot import open_snapshot
from tests.training.conftest import make_image_folder
from tests.training.small_recipes import digits_recipe, folder_recipe
from tests.training.test_resume import _assert_same, _assert_same_run

NORMED = ModelSection(name="small_cnn", args={"width": 4})


def _checkpoint(folder: Path) -> Checkpoint:
    found = load_checkpoint(RunDirectory(folder).checkpoint)
    assert found is not None
    return found


def _fingerprint(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.mark.parametrize("model", [None, NORMED], ids=["dropout", "batch_norm"])
@pytest.mark.parametrize(
    "optimizer",
    [
        SGDSection(lr=0.1, momentum=0.9),
        AdamWSection(lr=1e-3),
        JorgeSection(lr=0.1, refresh_interval=3, warm_refreshes=5),
    ],
    ids=["sgd", "adamw", "jorge"],
)
def test_a_walk_with_readings_is_the_run_without(
    tmp_path: Path, optimizer: Optimizer, model: ModelSection | None
) -> None:
    """Weights, buffers, optimizer and random state after 12 steps, read at five of them, are those that `train` has."""
    recipe = digits_recipe(optimizer=optimizer, model=model)
    train(recipe, tmp_path / "run", max_steps=12)
    expected = _checkpoint(tmp_path / "run")
    reads = []
    with open_snapshot(recipe) as snapshot:

        def read(step: int, lr: float, loss: Any, line: Any, around: Any, moved: bool) -> None:
            for x in (-1.0, 2.0):
                line.go_to(x)
                loss()
                around.renew()
            reads.append(step)

        snapshot.walk(12, lambda inner: Prober(inner, (0, 1, 8, 9, 11), 0, read))
        _assert_same(expected.model, snapshot.model.state_dict())
        _assert_same(expected.optimizer, snapshot.optimizer.state_dict())
        assert torch.equal(expected.cpu_rng, torch.get_rng_state())
    assert reads == [0, 1, 8, 9, 11]


@pytest.mark.parametrize(
    "schedule",
    [Cosine(unit="step"), Gen(interval=2), Gen(interval=2, earlier_batches=2)],
    ids=["cosine", "gen", "earlier_batches"],
)
def test_a_probed_run_goes_on_bitwise(tmp_path: Path, schedule: Cosine | Gen) -> None:
    recipe = digits_recipe(model=NORMED, schedule=schedule)
    train(recipe, tmp_path / "whole", log_every=4)
    train(recipe, tmp_path / "probed", log_every=4, max_steps=6)
    before = _fingerprint(tmp_path / "probed")
    torch.manual_seed(3)
    state = torch.get_rng_state()
    probed = probe(recipe, ProbeSettings(at=(2, 6, 9), batches=2), checkpoint=tmp_path / "probed")
    assert torch.equal(state, torch.get_rng_state())
    assert _fingerprint(tmp_path / "probed") == before
    assert [reading.step for reading in probed.readings] == [6, 9]
    assert probed.notes == ("left out: step 2; the checkpoint stands at step 6",)
    train(recipe, tmp_path / "probed", log_every=4, resume=True)
    _assert_same(_checkpoint(tmp_path / "whole").model, _checkpoint(tmp_path / "probed").model)
    _assert_same(_checkpoint(tmp_path / "whole").optimizer, _checkpoint(tmp_path / "probed").optimizer)


def test_what_is_read_is_the_loss_along_the_step() -> None:
    """Against a loop of this test's own: the first step of SGD, the parameters put to w - x D by hand."""
    recipe = digits_recipe(
        model=ModelSection(name="mlp", args={"hidden": [16]}), optimizer=SGDSection(lr=0.1, weight_decay=0.1)
    )
    reading = probe(recipe, ProbeSettings(at=(0,), batches=3)).readings[0]
    with open_snapshot(recipe) as snapshot:
        model, task = snapshot.model, snapshot.task
        first = next(iter(task.train.epoch(0)))
        functional.cross_entropy(model(first[0]), first[1]).backward()
        start = [p.detach().clone() for p in model.parameters()]
        steps = [0.1 * (p.grad + 0.1 * p.detach()) for p in model.parameters() if p.grad is not None]
        with contextlib.closing(task.train.epoch(3)) as batches:  # of two epochs, the third is never trained on
            fresh = [batch for _, batch in zip(range(3), batches, strict=False)]

        def mean_loss(x: float, data: list[Any]) -> float:
            with torch.no_grad():
                for p, w, D in zip(model.parameters(), start, steps, strict=True):
                    p.copy_(w - x * D)
                return sum(float(functional.cross_entropy(model(a), b)) for a, b in data) / len(data)

        for line, data in ((reading.own, [first]), (reading.fresh, fresh)):
            assert line is not None
            assert line.multipliers == (-2, -1, 0, 1, 2)
            # 1.1e-7 measured: sums of float32 losses in another order
            assert line.losses == pytest.approx([mean_loss(x, data) for x in line.multipliers], rel=1e-6)
    assert reading.lr == 0.1
    assert reading.own is not None
    assert reading.fresh is not None
    assert (reading.own.samples, reading.own.batches) == (128, 1)
    assert (reading.fresh.samples, reading.fresh.batches) == (384, 3)


def test_the_warm_up_and_a_rate_of_zero_are_marked() -> None:
    warmup = Warmup(steps=4, start_factor=0.0)
    recipe = digits_recipe(schedule=Cosine(unit="step", warmup=warmup))
    readings = probe(recipe, ProbeSettings(at=(0, 3, 4), batches=1)).readings
    assert [reading.warming for reading in readings] == [True, True, False]
    assert readings[0].missing == "lr is 0, so there is no step"
    assert readings[0].own is None
    assert readings[1].own is not None


def test_rates_are_those_in_force_and_the_schedule_is_the_recipes() -> None:
    recipe = digits_recipe(schedule=Gen(interval=2, smoothing=0.0, base=Cosine(unit="step")))
    probed = probe(recipe, ProbeSettings(at=(0, 10), batches=1))
    assert [step for step, _ in probed.walked] == list(range(11))
    assert probed.schedule[0] == (0, 0.1)
    assert probed.schedule[-1][0] == 17
    assert probed.readings[1].lr == probed.walked[10][1] != dict(probed.schedule)[10]


def test_fewer_batches_than_asked_for_and_steps_beyond_the_end_are_said() -> None:
    probed = probe(digits_recipe(), ProbeSettings(at=(0, 17, 18, 100), batches=50))
    assert probed.notes == (
        "left out: step 18, 100; the last step of the training is 17",
        "50 fresh batches were asked for, but an epoch has only 8",
    )
    assert [reading.step for reading in probed.readings] == [0, 17]


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_loader_processes_do_not_matter(tmp_path: Path) -> None:
    images = make_image_folder(tmp_path, size=16, count=40)
    recipes = [folder_recipe(images, workers=workers) for workers in (0, 1)]
    found = [probe(recipe, ProbeSettings(at=(1, 3), batches=2)) for recipe in recipes]
    assert found[0] == found[1]


def test_the_same_probe_twice_is_the_same() -> None:
    assert probe(digits_recipe(), ProbeSettings(at=(3,))) == probe(digits_recipe(), ProbeSettings(at=(3,)))


def test_divergence_and_interruption_are_outcomes() -> None:
    wild = digits_recipe(optimizer=SGDSection(lr=1e30, momentum=0.9))
    diverged = probe(wild, ProbeSettings(at=(0, 12), batches=1))
    assert diverged.outcome == "diverged"
    assert len(diverged.readings) <= 2
    stop = StopRequest()
    stop.ask("test")
    stopped = probe(digits_recipe(), ProbeSettings(at=(12,)), stop=stop)
    assert (stopped.outcome, stopped.readings) == ("interrupted", ())


def _refused(
    recipe: Recipe, message: str, settings: ProbeSettings | None = None, checkpoint: Path | None = None
) -> None:
    with pytest.raises(InputError, match=message):
        probe(recipe, settings or ProbeSettings(), checkpoint=checkpoint)


def test_refusals(tmp_path: Path) -> None:
    recipe = digits_recipe()
    _refused(recipe, "points must be 3 or 5, got 4", ProbeSettings(points=4))
    _refused(recipe, "batches must be 1 or more, got 0", ProbeSettings(batches=0))
    _refused(recipe, r"at must name steps from 0 to 17, the last one, got \[18\]", ProbeSettings(at=(18,)))
    _refused(recipe, "run directory", checkpoint=tmp_path)
    train(recipe, tmp_path / "run")
    _refused(recipe, "has ended after its 18 steps: there is no step ahead", checkpoint=tmp_path / "run")
    other = replace(recipe, batch_size=64)
    _refused(other, r"holds another run \(batch_size is 128 there, 64 here\)", checkpoint=tmp_path / "run")
    for name in ("last.pt", "previous.pt"):
        (tmp_path / "run" / "checkpoint" / name).unlink()
    _refused(recipe, "the run has no checkpoint yet", checkpoint=tmp_path / "run")


def test_it_travels_as_json() -> None:
    import json

    probed: ProbeResult = probe(digits_recipe(), ProbeSettings(at=(3,), batches=1))
    data = json.loads(json.dumps(probed.to_json()))
    assert data["readings"][0]["own"]["fit"]["verdict"] == "convex descent"
    assert set(data["suggestion"]) == {"direction", "reason", "rests_on", "left_out"}


def test_resumed_runs_helper_is_still_the_whole_comparison(tmp_path: Path) -> None:
    """A probe from the recipe's start leaves nothing behind that a run of it would notice."""
    recipe = digits_recipe()
    train(recipe, tmp_path / "before", log_every=4)
    probe(recipe, ProbeSettings(at=(0, 5), batches=1))
    train(recipe, tmp_path / "after", log_every=4)
    _assert_same_run(tmp_path / "before", tmp_path / "after")


def test_every_point_of_a_batch_has_the_same_dropout() -> None:
    """Along a step of no length to speak of the loss does not move; another mask would move it by a tenth."""
    reading = probe(digits_recipe(optimizer=SGDSection(lr=1e-9)), ProbeSettings(at=(4,), batches=3)).readings[0]
    for line in (reading.own, reading.fresh):
        assert line is not None
        assert max(line.losses) - min(line.losses) < 1e-8  # 6e-10 measured
