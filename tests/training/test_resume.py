"""A run that was stopped and went on is bitwise the run that never stopped (on the CPU)."""

from __future__ import annotations

import shutil
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pytest
import torch

from jorge_tune.recipe.schema import (
    AdamWSection,
    Cosine,
    Gen,
    JorgeSection,
    Optimizer,
    Recipe,
    SGDSection,
    ShampooSection,
    SketchyAdaGradSection,
    SketchyShampooSection,
    Warmup,
)
from jorge_tune.records import RunDirectory, of_kind, read_records
from jorge_tune.runs.run_result import RunResult
from jorge_tune.runs.stop_request import StopRequest
from jorge_tune.training import RunProgress, train
from jorge_tune.training.checkpoint import Checkpoint, load_checkpoint
from tests.training.small_recipes import digits_recipe, folder_recipe

_FORK_WARNING = "ignore:.*multi-threaded.*fork:DeprecationWarning"  # Python 3.12, of torch's own loader


def _stopping(stop: StopRequest, event: str, step: int) -> Callable[[RunProgress], None]:
    def watch(progress: RunProgress) -> None:
        if progress.event == event and progress.step >= step:
            stop.ask("test")

    return watch


def _train_with_a_stop(recipe: Recipe, out: Path, event: str, step: int) -> RunResult:
    stop = StopRequest()
    stopped = train(recipe, out, log_every=4, stop=stop, progress=_stopping(stop, event, step))
    assert stopped.outcome == "interrupted"
    assert stopped.reason == "test"
    return train(recipe, out, log_every=4, resume=True)


def _state(out: Path) -> Checkpoint:
    checkpoint = load_checkpoint(RunDirectory(out).checkpoint)
    assert checkpoint is not None
    return checkpoint


def _assert_same(a: Any, b: Any, path: str = "") -> None:
    """Bitwise equality of nested state."""
    assert type(a) is type(b), path
    if isinstance(a, torch.Tensor):
        assert a.dtype == b.dtype, path
        assert torch.equal(a, b), path
    elif isinstance(a, dict):
        assert a.keys() == b.keys(), path
        for key in a:
            _assert_same(a[key], b[key], f"{path}.{key}")
    elif isinstance(a, (list, tuple)):
        assert len(a) == len(b), path
        for index, (left, right) in enumerate(zip(a, b, strict=True)):
            _assert_same(left, right, f"{path}[{index}]")
    else:
        assert a == b, path


def _measured(out: Path) -> list[tuple[Any, ...]]:
    """What the records say, without seconds."""
    told: list[tuple[Any, ...]] = []
    for record in read_records(RunDirectory(out).records):
        if record["kind"] == "evaluation":
            told.append((record["step"], record["epoch"], record["part"], record["metrics"]))
        elif record["kind"] == "step":
            told.append((record["step"], record["loss"], record["lr"], record["graft_ratio"]))
    return told


def _assert_same_run(whole: Path, resumed: Path) -> None:
    expected, found = _state(whole), _state(resumed)
    for field in ("position", "best", "model", "optimizer", "scheduler", "scaler", "cpu_rng"):
        _assert_same(getattr(expected, field), getattr(found, field), field)
    assert _measured(whole) == _measured(resumed)


@pytest.mark.parametrize(
    "optimizer",
    [
        SGDSection(lr=0.1, momentum=0.9, weight_decay=5e-4),
        SGDSection(lr=0.1, momentum=0.9, weight_decay=5e-3, decoupled=True),
        AdamWSection(lr=1e-3),
        JorgeSection(lr=0.1, refresh_interval=3, warm_refreshes=5),
        ShampooSection(lr=0.1, refresh_interval=3, warm_refreshes=5),
        SketchyShampooSection(lr=0.1, rank=6, refresh_interval=3, warm_refreshes=5),
        SketchyAdaGradSection(lr=0.01, rank=6),
    ],
    ids=["sgd", "decoupled", "adamw", "jorge", "shampoo", "sketchy", "sketchy_adagrad"],
)
@pytest.mark.parametrize(
    ("event", "step"), [("step", 4), ("step", 9), ("epoch", 9), ("step", 13), ("step", 18)], ids=str
)
def test_stopped_anywhere(tmp_path: Path, optimizer: Optimizer, event: str, step: int) -> None:
    recipe = digits_recipe(optimizer=optimizer)
    whole = train(recipe, tmp_path / "whole", log_every=4)
    resumed = _train_with_a_stop(recipe, tmp_path / "resumed", event, step)
    assert whole.outcome == resumed.outcome == "finished"
    assert whole.metrics == resumed.metrics
    assert whole.test_metrics == resumed.test_metrics
    _assert_same_run(tmp_path / "whole", tmp_path / "resumed")


@pytest.mark.parametrize("schedule", [Cosine(), Gen(base=Cosine(), interval=3)], ids=["plain", "gen"])
@pytest.mark.parametrize("per", ["step", "epoch"])
def test_stopped_within_the_warmup(tmp_path: Path, schedule: Cosine | Gen, per: Literal["step", "epoch"]) -> None:
    warm = Cosine(warmup=Warmup(epochs=1.5, start_factor=0.1, per=per))
    recipe = digits_recipe(schedule=replace(schedule, base=warm) if isinstance(schedule, Gen) else warm)
    train(recipe, tmp_path / "whole", log_every=4)
    _train_with_a_stop(recipe, tmp_path / "resumed", "step", 5)
    _assert_same_run(tmp_path / "whole", tmp_path / "resumed")


@pytest.mark.filterwarnings(_FORK_WARNING)
@pytest.mark.parametrize("workers", [0, 2])
def test_stopped_within_an_epoch_of_real_images_with_workers(cifar_folder: Path, tmp_path: Path, workers: int) -> None:
    whole = folder_recipe(cifar_folder, classes=10, validation=0.1)
    train(whole, tmp_path / "whole", log_every=4)
    recipe = folder_recipe(cifar_folder, classes=10, validation=0.1, workers=workers)
    _train_with_a_stop(recipe, tmp_path / "resumed", "step", 3)
    _assert_same_run(tmp_path / "whole", tmp_path / "resumed")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_stop_after_the_step_and_are_given_back(tmp_path: Path, number: signal.Signals) -> None:
    def send(progress: RunProgress) -> None:
        if progress.event == "step" and progress.step == 4:
            signal.raise_signal(number)

    before = signal.getsignal(number)
    recipe = digits_recipe()
    result = train(recipe, tmp_path / "run", progress=send)
    assert (result.outcome, result.reason, result.step) == ("interrupted", f"stopped by {number.name}", 4)
    assert signal.getsignal(number) is before
    assert _state(tmp_path / "run").position.step_in_epoch == 4


def test_a_second_ctrl_c_stops_at_once(tmp_path: Path) -> None:
    def send(progress: RunProgress) -> None:
        if progress.event == "step" and progress.step == 4:
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        train(digits_recipe(), tmp_path / "run", progress=send)
    assert train(digits_recipe(), tmp_path / "run", resume=True).outcome == "finished"


def test_stopped_while_evaluating(tmp_path: Path) -> None:
    """The epoch's steps are done, its evaluation is not; it is made up for."""
    recipe = digits_recipe()
    train(recipe, tmp_path / "whole", log_every=4)
    train(recipe, tmp_path / "resumed", log_every=4, max_steps=8)
    stop = StopRequest()
    result = train(
        recipe, tmp_path / "resumed", log_every=4, resume=True, stop=stop, progress=_stopping(stop, "step", 9)
    )
    assert result.outcome == "interrupted"
    assert _state(tmp_path / "resumed").position.closed is False
    train(recipe, tmp_path / "resumed", log_every=4, resume=True)
    extra = [told for told in _measured(tmp_path / "resumed") if told[0] != 8]
    assert extra == [told for told in _measured(tmp_path / "whole") if told[0] != 8]
    _assert_same(_state(tmp_path / "whole").model, _state(tmp_path / "resumed").model)


def test_a_kill_after_the_last_checkpoint_loses_only_what_followed_it(tmp_path: Path) -> None:
    recipe = digits_recipe(epochs=3)
    train(recipe, tmp_path / "whole", log_every=4)
    stop = StopRequest()
    train(recipe, tmp_path / "killed", log_every=4, stop=stop, progress=_stopping(stop, "epoch", 9))
    shutil.copytree(tmp_path / "killed" / "checkpoint", tmp_path / "kept")
    stop = StopRequest()
    train(recipe, tmp_path / "killed", log_every=4, resume=True, stop=stop, progress=_stopping(stop, "step", 15))
    shutil.rmtree(tmp_path / "killed" / "checkpoint")
    shutil.copytree(tmp_path / "kept", tmp_path / "killed" / "checkpoint")
    records = RunDirectory(tmp_path / "killed").records
    with records.open("ab") as file:
        file.write(b'{"kind":"step","step":16,"torn')
    train(recipe, tmp_path / "killed", log_every=4, resume=True)
    _assert_same_run(tmp_path / "whole", tmp_path / "killed")


def test_a_run_without_a_checkpoint_starts_again(tmp_path: Path) -> None:
    recipe = digits_recipe()
    train(recipe, tmp_path / "whole", log_every=4)
    train(recipe, tmp_path / "again", log_every=4, max_steps=5)
    shutil.rmtree(tmp_path / "again" / "checkpoint")
    train(recipe, tmp_path / "again", log_every=4, resume=True)
    _assert_same_run(tmp_path / "whole", tmp_path / "again")


def test_a_limit_in_steps_stops_and_goes_on(tmp_path: Path) -> None:
    recipe = digits_recipe(epochs=None, steps=14)
    whole = train(recipe, tmp_path / "whole", log_every=4)
    limited = train(recipe, tmp_path / "limited", log_every=4, max_steps=12)
    assert (limited.outcome, limited.step) == ("interrupted", 12)
    assert "stopped after 12 steps" in limited.reason
    assert limited.test_metrics == {}
    resumed = train(recipe, tmp_path / "limited", log_every=4, resume=True)
    assert (whole.step, resumed.step) == (14, 14)
    assert whole.metrics == resumed.metrics
    _assert_same(_state(tmp_path / "whole").model, _state(tmp_path / "limited").model)
    parts = [r["part"] for r in of_kind(read_records(RunDirectory(tmp_path / "whole").records), "evaluation")]
    assert parts == ["validation", "validation", "test"]
