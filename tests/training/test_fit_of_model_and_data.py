"""Faults of a model and its data, found before the first step; and what a run says of its data."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from jorge_tune.errors import FaultyFileError, InputError
from jorge_tune.recipe.recipe_files import parse_recipe
from jorge_tune.recipe.schema import DataSection, ModelSection, Recipe
from jorge_tune.records import RunDirectory, of_kind, read_records
from jorge_tune.training import RunProgress, train
from jorge_tune.training import datasets as data
from jorge_tune.training.datasets import load_splits
from jorge_tune.training.loader import Batches
from jorge_tune.training.tasks import open_task
from tests.training.conftest import make_image_folder
from tests.training.small_recipes import digits_recipe, folder_recipe

_CPU = torch.device("cpu")
_FORK_WARNING = "ignore:.*multi-threaded.*fork:DeprecationWarning"  # Python 3.12, of torch's own loader


class _Narrow(nn.Module):
    """Normalises one value per channel over the batch, as large networks do with small images; draws noise."""

    def __init__(self, classes: int = 2) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.5), nn.BatchNorm1d(3), nn.Linear(3, classes)
        )

    def forward(self, images: Tensor) -> Tensor:
        scores: Tensor = self.layers(images)
        return scores


def _check(recipe: Recipe, model: nn.Module) -> None:
    task = open_task(recipe, _CPU)
    try:
        task.check_model(model)
    finally:
        task.close()


@pytest.mark.parametrize(
    ("images", "batch_size", "more", "message"),
    [
        (
            26,
            5,
            {},
            r"^batch_size: 5 leaves a single image of 26 .* \(Expected more than 1 value per channel .*drop_last",
        ),
        (
            26,
            25,
            {},
            r"^batch_size: 25 leaves a single image of 26 .* set task\.data\.drop_last to true, or another batch_size",
        ),
        (26, 5, {"subset": 11}, r"^batch_size: 5 leaves a single image of 11"),
        (26, 5, {"validation": 0.2}, r"^batch_size: 5 leaves a single image of 21"),
        (26, 1, {}, r"^batch_size: 1 is a single image, on which this model cannot train \(.*\); set it to 2 or more"),
        (26, 1, {"drop_last": True}, r"^batch_size: 1 is a single image"),
        (26, 5, {"drop_last": True}, None),
        (26, 6, {}, None),
        (26, 30, {}, None),
        (26, 5, {"subset": 12}, None),
    ],
)
def test_a_batch_of_one_that_the_model_cannot_learn_from_is_refused(
    tmp_path: Path, images: int, batch_size: int, more: dict[str, Any], message: str | None
) -> None:
    root = make_image_folder(tmp_path / "images", size=8, count=images // 2)
    recipe = replace(folder_recipe(root, **more), batch_size=batch_size)
    if message is None:
        _check(recipe, _Narrow())
    else:
        with pytest.raises(InputError, match=message):
            _check(recipe, _Narrow())


def test_a_batch_of_one_is_fine_for_a_model_that_can_learn_from_it(tmp_path: Path) -> None:
    root = make_image_folder(tmp_path / "images", size=8, count=3)
    recipe = replace(folder_recipe(root), batch_size=5)  # its batch norms see four pixels per channel
    result = train(recipe, tmp_path / "run")
    assert result.outcome == "finished"
    assert result.step == 2


def test_a_batch_of_one_writes_nothing(tmp_path: Path) -> None:
    root = make_image_folder(tmp_path / "images", size=8, count=3)
    model = ModelSection(name="resnet18", args={"num_classes": 2})
    recipe = folder_recipe(root)
    assert recipe.task is not None
    recipe = replace(recipe, batch_size=5, task=replace(recipe.task, model=model))
    with pytest.raises(InputError, match=r"batch_size: 5 leaves a single image of 6"):
        train(recipe, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("training", [True, False])
def test_looking_at_a_model_leaves_no_trace(tmp_path: Path, training: bool) -> None:
    root = make_image_folder(tmp_path / "images", size=8, count=3)
    model = _Narrow().train(training)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    torch.manual_seed(5)
    state = torch.get_rng_state()
    with pytest.raises(InputError, match="single image"):
        _check(replace(folder_recipe(root), batch_size=5), model)
    _check(replace(folder_recipe(root), batch_size=6), model)
    assert torch.equal(state, torch.get_rng_state())
    assert model.training is training
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_one_image_to_evaluate_on_is_no_batch_of_one_to_train_on(tmp_path: Path) -> None:
    root = make_image_folder(tmp_path / "images", size=8, count=3)
    for path in sorted((root / "test").rglob("*.png"))[1:]:
        path.unlink()
    _check(replace(folder_recipe(root), batch_size=6), _Narrow())


class _Auxiliary(_Narrow):
    """Gives a second output while it trains."""

    def forward(self, images: Tensor) -> Any:
        scores = super().forward(images)
        return (scores, scores) if self.training else scores


class _Fragile(_Narrow):
    """Fails while it trains."""

    def forward(self, images: Tensor) -> Tensor:
        if self.training:
            raise RuntimeError("kernel size can't be greater than actual input size\nand more")
        return super().forward(images)


class _Hungry(_Narrow):
    def forward(self, images: Tensor) -> Tensor:
        raise torch.OutOfMemoryError("no room")


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (_Narrow(3), r"returns \(3,\) per image, but the data has 2 classes; set task\.model\.args\.num_classes to 2"),
        (_Auxiliary(), r"in training mode the model returns tuple instead of one score per class and image"),
        (_Fragile(), r"does not accept images of shape \(3, 8, 8\) \(kernel size can't be greater .* size\)$"),
        (nn.Conv2d(1, 2, 1), r"does not accept images of shape \(3, 8, 8\) \(.*channels"),
        (nn.Conv2d(3, 2, 9), r"does not accept images of shape \(3, 8, 8\) \(.*[Kk]ernel size"),
    ],
)
def test_a_model_that_cannot_train_on_the_data_is_told_in_a_sentence(
    tmp_path: Path, model: nn.Module, message: str
) -> None:
    recipe = folder_recipe(make_image_folder(tmp_path / "images", size=8, count=3))
    with pytest.raises(InputError, match=r"^task\.model: .*the model ") as caught:
        _check(recipe, model)
    assert caught.match(message)


def test_a_lack_of_memory_is_not_taken_for_a_fault_of_the_model(tmp_path: Path) -> None:
    recipe = folder_recipe(make_image_folder(tmp_path / "images", size=8, count=3))
    with pytest.raises(torch.OutOfMemoryError):
        _check(recipe, _Hungry())


def _damaged_fashion_mnist(root: Path, images: int, labels: bytes) -> None:
    raw = root / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    for part in ("train", "t10k"):
        header = b"".join(size.to_bytes(4, "big") for size in (0x803, images, 28, 28))
        (raw / f"{part}-images-idx3-ubyte").write_bytes(header + bytes(images * 784))
        (raw / f"{part}-labels-idx1-ubyte").write_bytes(
            (0x801).to_bytes(4, "big") + len(labels).to_bytes(4, "big") + labels
        )


@pytest.mark.parametrize("labels", [bytes([*range(10), 10]), bytes(range(10))])
def test_labels_that_fit_no_class_or_image_are_damage(tmp_path: Path, labels: bytes) -> None:
    _damaged_fashion_mnist(tmp_path, 11, labels)
    with pytest.raises(
        InputError, match=rf"fashion_mnist is damaged: its train part has 11 images and {len(labels)} labels"
    ):
        load_splits(DataSection(name="fashion_mnist", root=str(tmp_path)))


def test_a_torn_file_of_a_data_set_is_damage(tmp_path: Path) -> None:
    _damaged_fashion_mnist(tmp_path, 10, bytes(range(10)))
    path = tmp_path / "FashionMNIST" / "raw" / "train-images-idx3-ubyte"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(InputError, match="fashion_mnist is missing or damaged"):
        load_splits(DataSection(name="fashion_mnist", root=str(tmp_path)))


# what a run says


def test_a_run_records_and_tells_what_it_found(tmp_path: Path) -> None:
    root = make_image_folder(tmp_path / "images", size=8, count=5)
    (root / "train" / "cat" / "a.gif").write_text("")
    moments: list[RunProgress] = []
    recipe = folder_recipe(root, validation=0.2, subset=6)
    folder = train(recipe, tmp_path / "run", progress=moments.append).folder
    start = read_records(folder.records)[0]
    assert start["data"] == {
        "name": "imagefolder",
        "shape": [3, 8, 8],
        "classes": 2,
        "parts": {
            "train": {"images": 6, "classes": 2, "of": 8},
            "validation": {"images": 2, "classes": 2},
            "test": {"images": 8, "classes": 2},
        },
        "left_out": {"train": {".gif": 1}},
    }
    line = "data: imagefolder, 2 classes, 3x8x8; train 6 of 8, validation 2, test 8 images; 1 file left out: .gif (1)"
    assert line in folder.log.read_text()
    assert [moment.data for moment in moments if moment.data] == [line]
    assert (moments[0].event, moments[0].data) == ("start", line)


def _resumed(recipe: Recipe, folder: RunDirectory) -> str:
    moments: list[RunProgress] = []
    assert train(recipe, folder.root, resume=True, progress=moments.append).outcome == "finished"
    return moments[0].data


def test_a_resumed_run_says_that_its_data_has_changed(tmp_path: Path) -> None:
    root = make_image_folder(tmp_path / "images", size=8, count=5)
    recipe = replace(folder_recipe(root), batch_size=4)
    folder = train(recipe, tmp_path / "run", max_steps=1).folder
    (root / "train" / "cat" / "00.png").unlink()
    line = _resumed(recipe, folder)
    assert line.endswith("; warning: the data has changed since the run began (it had train 10, test 8 images)")
    assert [r["data"]["parts"]["train"]["images"] for r in of_kind(read_records(folder.records), "start")] == [10, 9]


@pytest.mark.parametrize("held", ["", ',"data":{"name":"imagefolder"}', ',"data":{"parts":[1]}', ',"data":7'])
def test_records_without_a_word_on_the_data_or_with_odd_ones_do_not_hold_a_run_up(tmp_path: Path, held: str) -> None:
    recipe = digits_recipe()
    folder = train(recipe, tmp_path / "run", max_steps=3).folder
    first, *rest = folder.records.read_text().splitlines()
    before, _, _ = first.partition(',"data"')
    folder.records.write_text("\n".join([before + held + "}", *rest]) + "\n")
    line = _resumed(recipe, folder)
    assert ("the data has changed since the run began" in line) == ("{" in held)


def test_more_loader_workers_than_cores_are_warned_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data, "usable_cores", lambda: (0, 3))
    assert load_splits(DataSection(name="digits", workers=2)).summary.warnings == ()
    line = load_splits(DataSection(name="digits", workers=3)).summary.line()
    assert line.endswith("; warning: 3 loader workers share 2 CPU cores")


@pytest.mark.filterwarnings(_FORK_WARNING)
def test_torch_does_not_warn_of_loader_workers_as_well() -> None:
    workers = len(data.usable_cores()) + 1
    batches = Batches(load_splits(DataSection(name="digits")).train, 1000, _CPU, workers=workers)
    try:
        sizes = [len(labels) for _, labels in batches.epoch()]  # a warning would fail here
    finally:
        batches.close()
    assert sizes == [1000, 78]


def test_loader_workers_have_an_upper_bound_with_its_reason() -> None:
    text = (
        "{name: a, epochs: 1, batch_size: 8, optimizer: {name: sgd, lr: 0.1}, task: {kind: classification, "
        "model: {name: mlp}, data: {name: digits, workers: WORKERS}}}"
    )
    loaded = parse_recipe(text.replace("WORKERS", "128"), "a.yaml").recipe
    assert loaded.task is not None
    assert loaded.task.data is not None
    assert loaded.task.data.workers == 128
    with pytest.raises(
        FaultyFileError, match=r"task\.data\.workers: must be between 0 and 128 \(each is a process of its own"
    ):
        parse_recipe(text.replace("WORKERS", "129"), "a.yaml")
