"""`schedule: gen` in a recipe: GeN steps the run, its rates are recorded, and a stopped run goes on bitwise."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from jorge_tune.recipe.schedule import lr_factor
from jorge_tune.recipe.schema import (
    AdamWSection,
    Cosine,
    Gen,
    JorgeSection,
    Linear,
    ModelSection,
    Optimizer,
    Recipe,
    SGDSection,
    Warmup,
)
from jorge_tune.records import Record, RunDirectory, of_kind, read_records
from jorge_tune.runs.stop_request import StopRequest
from jorge_tune.training import train
from jorge_tune.training.checkpoint import load_checkpoint
from jorge_tune.training.gen_stepper import BatchLoss, EarlierBatches, RateLog, build_stepper
from jorge_tune.training.snapshot import open_snapshot
from tests.training.conftest import make_image_folder
from tests.training.small_recipes import digits_recipe, folder_recipe
from tests.training.test_resume import _assert_same, _assert_same_run, _stopping

NORMED = ModelSection(name="small_cnn", args={"width": 4})


def gen_recipe(optimizer: Optimizer | None = None, *, gen: dict[str, Any] | None = None, **changes: Any) -> Recipe:
    """Two epochs of nine steps, a probe at every second."""
    schedule = Gen(**{"interval": 2, "base": Cosine(unit="step", warmup=Warmup(steps=3)), **(gen or {})})
    optimizer = optimizer or SGDSection(lr=0.1, momentum=0.9, weight_decay=5e-4)
    return digits_recipe(optimizer=optimizer, schedule=schedule, **changes)


def rates(folder: Path) -> list[Record]:
    return list(of_kind(read_records(RunDirectory(folder).records), "rate"))


OPTIMIZERS = {
    "sgd": SGDSection(lr=0.1, momentum=0.9, weight_decay=5e-4),
    "adamw": AdamWSection(lr=1e-3),
    "jorge": JorgeSection(lr=0.1, refresh_interval=3, warm_refreshes=5),
}


@pytest.mark.parametrize("optimizer", OPTIMIZERS.values(), ids=OPTIMIZERS.keys())
def test_every_step_records_the_rate_it_was_made_at(tmp_path: Path, optimizer: Optimizer) -> None:
    recipe = gen_recipe(optimizer, model=NORMED)
    assert train(recipe, tmp_path / "run", log_every=4).outcome == "finished"
    factor, scale = lr_factor(recipe, 9), 1.0
    found = rates(tmp_path / "run")
    assert [record["step"] for record in found] == list(range(1, 19))
    for record in found:
        step = record["step"]
        if step % 2:
            assert "scale" not in record
        elif record["accepted"]:
            wanted = 0.9 + 0.1 * record["optimum"]
            assert record["scale"] == pytest.approx(scale * min(wanted, 2.0))
            assert record["verdict"] == "convex descent"
            assert sorted(record["losses"]) == ["-1", "0", "1"]
        scale = record.get("scale", scale)
        assert record["lr"] == [pytest.approx(optimizer.lr * factor(step - 1) * scale)]
    assert scale != 1.0
    logged = {r["step"]: r["lr"] for r in of_kind(read_records(RunDirectory(tmp_path / "run").records), "step")}
    assert logged == {r["step"]: r["lr"] for r in found if r["step"] in logged}


@pytest.mark.parametrize("model", [None, NORMED], ids=["dropout", "batch_norm"])
def test_with_a_rate_that_never_moves_the_run_is_the_plain_one(tmp_path: Path, model: ModelSection | None) -> None:
    recipe = gen_recipe(gen={"smoothing": 1.0, "interval": 1}, model=model)
    train(recipe, tmp_path / "gen", log_every=4)
    assert isinstance(recipe.schedule, Gen)
    train(replace(recipe, schedule=recipe.schedule.base), tmp_path / "plain", log_every=4)
    gen, plain = (load_checkpoint(RunDirectory(tmp_path / name).checkpoint) for name in ("gen", "plain"))
    assert gen is not None
    assert plain is not None
    _assert_same(gen.model, plain.model)
    _assert_same(gen.optimizer["optimizer"], plain.optimizer)
    assert torch.equal(gen.cpu_rng, plain.cpu_rng)
    assert gen.best == plain.best


@pytest.mark.parametrize("optimizer", OPTIMIZERS.values(), ids=OPTIMIZERS.keys())
@pytest.mark.parametrize("step", [1, 4, 9, 13])
def test_stopped_anywhere(tmp_path: Path, optimizer: Optimizer, step: int) -> None:
    gen = {"initial_lr": "search" if step == 13 else "given", "points": 5 if step == 4 else 3}
    gen["earlier_batches"] = {1: 2, 9: 1, 13: 4}.get(step, 0)
    recipe = gen_recipe(optimizer, gen=gen, model=NORMED if step > 4 else None)
    train(recipe, tmp_path / "whole", log_every=4)
    stop = StopRequest()
    train(recipe, tmp_path / "resumed", log_every=4, stop=stop, progress=_stopping(stop, "step", step))
    train(recipe, tmp_path / "resumed", log_every=4, resume=True)
    _assert_same_run(tmp_path / "whole", tmp_path / "resumed")
    assert [_without_time(r) for r in rates(tmp_path / "whole")] == [
        _without_time(r) for r in rates(tmp_path / "resumed")
    ]


def _without_time(record: Record) -> Record:
    return {key: value for key, value in record.items() if key != "train_seconds"}


def test_a_search_and_a_decay_to_zero(tmp_path: Path) -> None:
    recipe = gen_recipe(
        SGDSection(lr=1e-5), gen={"initial_lr": "search", "base": Linear(unit="step")}, precision="bf16"
    )
    train(recipe, tmp_path / "run")
    first, *_, last = rates(tmp_path / "run")
    assert first["lr"][0] > 1e-3
    assert "as the first rate" in first["note"]
    assert last["lr"][0] < first["lr"][0] * last["scale"] / first["scale"] / 17


def test_the_loss_is_read_on_the_batches_before_the_steps_own(tmp_path: Path) -> None:
    """Against a loop by hand: two steps of SGD, the second probed on the first's batch."""
    recipe = digits_recipe(
        model=ModelSection(name="mlp", args={"hidden": [16]}),
        optimizer=SGDSection(lr=0.1),
        schedule=Gen(interval=2, earlier_batches=3),
    )
    train(recipe, tmp_path / "run", max_steps=2)
    found = rates(tmp_path / "run")[1]["losses"]
    with open_snapshot(recipe) as snapshot:
        model, task = snapshot.model, snapshot.task
        batches = [task.train.at(0, index) for index in range(2)]

        def loss_of(batch: Any) -> torch.Tensor:
            return task.training_loss(model, batch)

        for batch in batches:
            model.zero_grad()
            loss_of(batch).backward()
            grads = [(p, p.grad) for p in model.parameters() if p.grad is not None]
            before = float(loss_of(batches[0]).detach())
            with torch.no_grad():
                for p, grad in grads:
                    p -= 0.1 * grad
        assert found["0"] == pytest.approx(before, rel=1e-6)
        assert found["1"] == pytest.approx(float(loss_of(batches[0]).detach()), rel=1e-6)


def test_a_step_that_a_loss_scaler_left_out(tmp_path: Path) -> None:
    """Its batch is not among the earlier ones, before and after a resumption, and no probe is recorded twice."""
    recipe = gen_recipe(gen={"interval": 1, "earlier_batches": 3}, model=NORMED)
    with open_snapshot(recipe) as snapshot:
        stepper, train_part = snapshot.stepper, snapshot.task.train
        assert isinstance(stepper, EarlierBatches)
        log = RateLog(stepper)

        def loss_of(batch: Any) -> torch.Tensor:
            return snapshot.task.training_loss(snapshot.model, batch)

        for place in ((0, 6), (0, 8), (1, 0)):  # not (0, 7)
            batch = train_part.at(*place)
            loss = loss_of(batch)
            loss.backward()  # type: ignore[no-untyped-call]
            stepper.step(BatchLoss(loss_of, batch, place), loss.detach())
            assert "accepted" in log.record(stepper.rates)
            assert log.record(stepper.rates) == {"lr": stepper.rates}
        resumed = build_stepper(recipe, snapshot.optimizer, train_part)
        assert isinstance(resumed, EarlierBatches)
        resumed.load_state_dict(stepper.state_dict())
        assert resumed.state_dict()["earlier"] == [[0, 6], [0, 8], [1, 0]]
        for one, other in zip(stepper._kept, resumed._kept, strict=True):
            assert torch.equal(one[1][0], other[1][0])


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_one_batch_alone_is_that_of_the_epoch(tmp_path: Path, workers: int) -> None:
    images = make_image_folder(tmp_path, size=16, count=20)
    recipe = folder_recipe(images, workers=workers)
    with open_snapshot(recipe) as snapshot:
        train_part = snapshot.task.train
        for epoch in range(2):
            for index, batch in enumerate(train_part.epoch(epoch)):
                alone = train_part.at(epoch, index)
                assert torch.equal(alone[0], batch[0])
                assert torch.equal(alone[1], batch[1])
