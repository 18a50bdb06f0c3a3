from __future__ import annotations

import getpass
import json
import math
import platform
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from jorge_tune.errors import InputError, RunDirectoryError, TrainingError
from jorge_tune.recipe.recipe_files import read_recipe
from jorge_tune.recipe.schema import DataSection, JorgeSection, ModelSection, Recipe, SGDSection, Target, TaskSection
from jorge_tune.records import RunDirectory, of_kind, outcome_of, read_records
from jorge_tune.training import RunProgress, train
from jorge_tune.training.checkpoint import load_checkpoint
from tests.small_disk import grow, small_disk
from tests.training.conftest import make_image_folder
from tests.training.small_recipes import digits_recipe, folder_recipe


def test_a_run_leaves_a_whole_folder(tmp_path: Path) -> None:
    recipe = digits_recipe(seed=3, optimizer=JorgeSection(lr=0.1))
    moments: list[RunProgress] = []
    result = train(recipe, tmp_path / "deep" / "run", log_every=6, progress=moments.append)
    folder = result.folder
    assert folder.root == tmp_path / "deep" / "run"
    assert read_recipe(folder.recipe) == recipe
    records = read_records(folder.records)
    assert [r["kind"] for r in records] == ["start", "step", "evaluation", "step", "step"] + ["evaluation"] * 2 + [
        "end"
    ]
    start, step = records[0], records[1]
    assert (start["step"], start["seed"], start["world_size"], start["resumed"]) == (0, 3, 1, False)
    assert (step["step"], step["epoch"]) == (6, 6 / 9)
    assert step["lr"] == [pytest.approx(0.1 * (1 + math.cos(math.pi * 5 / 18)) / 2)]
    assert 0 < step["forward_seconds"] < step["train_seconds"]
    assert 0 < step["optimizer_seconds"] < step["train_seconds"]
    assert step["graft_ratio"] > 0
    assert step["skipped"] == 0
    evaluations = list(of_kind(records, "evaluation"))
    assert [(e["part"], e["step"], e["epoch"]) for e in evaluations] == [
        ("validation", 9, 1.0),
        ("validation", 18, 2.0),
        ("test", 18, 2.0),
    ]
    assert result.metrics == evaluations[1]["metrics"]
    assert result.test_metrics == evaluations[2]["metrics"]
    assert result.metrics["top1"] * 359 == pytest.approx(round(result.metrics["top1"] * 359), abs=1e-9)
    assert result.outcome == outcome_of(records) == "finished"
    assert evaluations[1]["train_seconds"] == evaluations[2]["train_seconds"] == result.train_seconds
    assert folder.log.read_text().count("\n") == 6
    assert [m.event for m in moments].count("step") == 18
    assert moments[-1].metrics == result.test_metrics


def test_the_environment_names_no_host_and_no_user(tmp_path: Path) -> None:
    folder = train(digits_recipe(epochs=1), tmp_path / "run").folder
    environment = json.loads(folder.environment.read_text())
    assert environment["device"]
    assert environment["versions"]["torch"] == torch.__version__
    assert environment["threads"] == torch.get_num_threads()
    values = [str(value) for value in environment.values() if not isinstance(value, dict)]
    assert platform.node() not in values
    assert getpass.getuser() not in values
    assert not any("/" in value for value in values)


def test_the_same_seed_is_the_same_run_and_leaves_the_callers_random_state(tmp_path: Path) -> None:
    torch.manual_seed(11)
    before = torch.get_rng_state()
    first = train(digits_recipe(), tmp_path / "first")
    assert torch.equal(before, torch.get_rng_state())
    torch.manual_seed(12)
    second = train(digits_recipe(), tmp_path / "second")
    other = train(digits_recipe(seed=1), tmp_path / "other")
    assert first.metrics == second.metrics
    assert first.metrics != other.metrics


def test_without_validation_the_test_part_is_evaluated_each_epoch(cifar_folder: Path, tmp_path: Path) -> None:
    recipe = replace(folder_recipe(cifar_folder, classes=10), epochs=2)
    result = train(recipe, tmp_path / "run")
    parts = [(r["part"], r["epoch"]) for r in of_kind(read_records(result.folder.records), "evaluation")]
    assert parts == [("test", 1.0), ("test", 2.0)]
    assert (result.part, result.test_metrics) == ("test", {})
    assert set(result.metrics) == {"loss", "top1"}


def test_evaluation_every_few_epochs_and_at_the_end(tmp_path: Path) -> None:
    result = train(digits_recipe(epochs=5, data={"evaluate_every": 2}), tmp_path / "run")
    validation = of_kind(read_records(result.folder.records), "evaluation", "validation")
    assert [r["epoch"] for r in validation] == [2.0, 4.0, 5.0]


@pytest.mark.parametrize("precision", ["tf32", "bf16", "fp16"])
def test_other_precisions_train(tmp_path: Path, precision: Any) -> None:
    plain = ModelSection(name="mlp", args={"hidden": [64]})
    result = train(digits_recipe(model=plain, precision=precision, epochs=3), tmp_path / "run")
    assert result.outcome == "finished"
    assert result.metrics["top1"] > 0.5
    checkpoint = load_checkpoint(result.folder.checkpoint)
    assert checkpoint is not None
    assert checkpoint.model["1.weight"].dtype == torch.float32


def test_divergence_is_an_outcome_with_its_step_and_the_last_good_checkpoint(tmp_path: Path) -> None:
    plain = ModelSection(name="mlp", args={"hidden": [16]})
    recipe = digits_recipe(model=plain, optimizer=SGDSection(lr=1e30), epochs=3)
    result = train(recipe, tmp_path / "run", log_every=4)
    assert result.outcome == "diverged"
    assert "first not finite at step 2" in result.reason or "first not finite at step 3" in result.reason
    assert "no checkpoint was written before" in result.reason
    assert result.step == 4  # noticed at the first reading after it
    assert load_checkpoint(result.folder.checkpoint) is None
    assert train(recipe, tmp_path / "run", resume=True) == result


def test_a_late_divergence_keeps_the_checkpoint_before_it(tmp_path: Path) -> None:
    from jorge_tune.recipe.schema import Step

    plain = ModelSection(name="mlp", args={"hidden": [16]})
    explode = Step(milestones=(2,), gamma=1e32)
    recipe = digits_recipe(model=plain, optimizer=SGDSection(lr=0.01), schedule=explode, epochs=4)
    result = train(recipe, tmp_path / "run", log_every=1000)
    assert result.outcome == "diverged"
    assert "the last good checkpoint is from step 18" in result.reason
    checkpoint = load_checkpoint(result.folder.checkpoint)
    assert checkpoint is not None
    assert checkpoint.position.step == 18
    assert all(torch.isfinite(value).all() for value in checkpoint.model.values())


def test_a_finished_run_is_read_and_not_trained_again(tmp_path: Path) -> None:
    recipe = digits_recipe(target=Target(metric="loss", value=0.1))
    first = train(recipe, tmp_path / "run")
    stamp = first.folder.records.stat().st_mtime_ns
    moved = replace(recipe, task=replace(recipe.task, data=replace(recipe.task.data, workers=4)))  # type: ignore
    assert train(moved, tmp_path / "run", resume=True) == first
    assert first.folder.records.stat().st_mtime_ns == stamp
    assert first.best is not None
    assert first.best.metric == "loss"


def test_folders_that_hold_something_else_are_refused(tmp_path: Path) -> None:
    recipe = digits_recipe(epochs=1)
    train(recipe, tmp_path / "run")
    with pytest.raises(
        RunDirectoryError, match=r"already holds this run, which is finished; pass --resume, or .*--out"
    ):
        train(recipe, tmp_path / "run")
    for resume in (False, True):
        with pytest.raises(RunDirectoryError, match=r"another run \(seed is 0 there, 1 here\); choose another --out"):
            train(replace(recipe, seed=1), tmp_path / "run", resume=resume)
    with pytest.raises(RunDirectoryError, match=r"optimizer\.lr is 0\.1 there, 0\.2 here"):
        train(replace(recipe, optimizer=SGDSection(lr=0.2, momentum=0.9, weight_decay=5e-4)), tmp_path / "run")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("years of work")
    with pytest.raises(RunDirectoryError, match="is not empty and holds no run"):
        train(recipe, tmp_path / "full", resume=True)
    (tmp_path / "file").write_text("")
    with pytest.raises(RunDirectoryError, match="is a file; a run directory is expected"):
        train(recipe, tmp_path / "file")


@pytest.mark.parametrize(
    ("recipe", "arguments", "message"),
    [
        (digits_recipe(task=None), {}, r"names no model"),
        (
            digits_recipe(task=TaskSection(kind="command", command=("sh",))),
            {},
            r"task\.kind: this needs a model, and a command keeps its own",
        ),
        (
            digits_recipe(
                task=TaskSection(
                    kind="segmentation", model=ModelSection(name="deeplabv3"), data=DataSection(name="coco")
                )
            ),
            {},
            r"cannot train a segmentation task",
        ),
        (
            digits_recipe(model=ModelSection(name="small_cmn")),
            {},
            r"unknown model 'small_cmn'; did you mean 'small_cnn'",
        ),
        (digits_recipe(model=ModelSection(name="mlp", args={"num_classes": 7})), {}, r"has 10 classes; set .* to 10"),
        (digits_recipe(model=ModelSection(name="cifar_resnet")), {}, r"does not accept images of shape \(1, 8, 8\)"),
        (
            digits_recipe(model=ModelSection(name="mlp", args={"in_features": 100})),
            {},
            r"does not accept images of shape \(1, 8, 8\) .*; set task\.model\.args\.in_features to 64$",
        ),
        (digits_recipe(target=Target(metric="map", value=1)), {}, r"target\.metric: 'map' is not measured"),
        (digits_recipe(batch_size=2000, data={"drop_last": True}), {}, r"batch_size: 2000 is more than the 1078"),
        (digits_recipe(optimizer=JorgeSection(lr=0.1, refresh_interval="auto")), {}, r"calibrate-freq RECIPE --write"),
        (digits_recipe(), {"device": "abacus"}, r"device: 'abacus' cannot be used here"),
        (digits_recipe(), {"device": "meta"}, r"device: 'meta' holds no data"),
        (digits_recipe(), {"max_steps": 0}, r"must be 1 or more"),
    ],
)
def test_bad_input_writes_nothing(tmp_path: Path, recipe: Recipe, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        train(recipe, tmp_path / "run", **arguments)
    assert not list(tmp_path.iterdir())


def test_an_unreadable_image_writes_nothing(image_folder: Path, tmp_path: Path) -> None:
    (image_folder / "test" / "dog" / "02.png").write_bytes(b"")
    with pytest.raises(InputError, match=r"dog/02\.png: not a readable image"):
        train(folder_recipe(image_folder, classes=2), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_run_that_breaks_off_says_so_in_its_folder(tmp_path: Path) -> None:
    root = make_image_folder(tmp_path / "images", size=80)
    recipe = folder_recipe(root, args={"size": 80})

    def remove_an_image(progress: RunProgress) -> None:
        if progress.event == "start":
            (root / "train" / "cat" / "07.png").unlink()

    with pytest.raises(InputError, match=r"cat/07\.png: not a readable image"):
        train(recipe, tmp_path / "run", progress=remove_an_image)
    end = read_records(RunDirectory(tmp_path / "run").records)[-1]
    assert (end["kind"], end["outcome"]) == ("end", "failed")
    assert "07.png" in end["reason"]


def test_a_crash_is_recorded_and_told_in_one_line(tmp_path: Path) -> None:
    def break_down(progress: RunProgress) -> None:
        if progress.step == 2:
            raise MemoryError("no room\nfor more")

    with pytest.raises(TrainingError, match=r"run: the run broke off after step 2: MemoryError: no room$"):
        train(digits_recipe(), tmp_path / "run", progress=break_down)
    assert outcome_of(read_records(RunDirectory(tmp_path / "run").records)) == "failed"
    assert train(digits_recipe(), tmp_path / "run", resume=True).outcome == "finished"


def test_two_processes_cannot_train_in_one_folder(tmp_path: Path) -> None:
    recipe = digits_recipe()
    train(recipe, tmp_path / "run", max_steps=3)
    lock = (tmp_path / "run" / "log.txt").open("a")
    with lock:
        fcntl = pytest.importorskip("fcntl", reason="file locks of this kind are POSIX")
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(RunDirectoryError, match="another process is training in it"):
            train(recipe, tmp_path / "run", resume=True)
    assert train(recipe, tmp_path / "run", resume=True).outcome == "finished"


def test_a_checkpoint_that_finds_no_room_is_a_full_disk_and_the_run_goes_on_when_there_is_some(tmp_path: Path) -> None:
    recipe = digits_recipe(model=ModelSection(name="mlp", args={"hidden": [4096]}))
    with small_disk(tmp_path / "small") as disk:
        folder = RunDirectory(disk / "run")
        with pytest.raises(TrainingError) as caught:
            train(recipe, folder.root)
        assert str(caught.value) == (
            f"{folder.root}: the disk is full (No space left on device); free some space and start again: "
            "a run resumes from its checkpoint (train: --resume)"
        )
        assert list(folder.checkpoint.iterdir()) == []
        assert read_records(folder.records)[-1]["reason"] == "OSError: [Errno 28] No space left on device"
        grow(disk, "20m")
        assert train(recipe, folder.root, resume=True).outcome == "finished"
