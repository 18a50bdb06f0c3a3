from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from jorge_tune.errors import InputError
from jorge_tune.recipe.schema import DataSection
from jorge_tune.training.datasets import load_splits
from jorge_tune.training.images import ImageFiles, ImagesInMemory
from tests.training.conftest import make_image_folder


def _labels(examples: object) -> list[int]:
    assert isinstance(examples, (ImagesInMemory, ImageFiles))
    return examples.labels.tolist()


def test_digits_are_divided_60_20_20_for_good() -> None:
    splits = load_splits(DataSection(name="digits"))
    assert splits.validation is not None
    assert splits.test is not None
    parts = (splits.train, splits.validation, splits.test)
    assert [len(part) for part in parts] == [1078, 359, 360]
    for part in parts:  # stratified: every digit is a tenth of all, to within one image
        counts = np.bincount(_labels(part))
        assert np.abs(counts - len(part) / 10).max() <= 4
    images = torch.cat([part.batch(np.arange(len(part)), None)[0] for part in parts])
    assert len(torch.unique(images.flatten(1), dim=0)) == 1797  # no image in two parts
    assert images.mean() == pytest.approx(0, abs=0.01)
    assert images.std() == pytest.approx(1, abs=0.01)
    assert splits.selecting == ("validation", splits.validation)


def test_digits_know_no_fraction_but_their_parts_by_name() -> None:
    with pytest.raises(InputError, match="digits comes with a fixed validation part"):
        load_splits(DataSection(name="digits", validation=0.1))
    on_test = load_splits(DataSection(name="digits", validation="test"))
    assert on_test.selecting == ("test", on_test.test)


def test_cifar_images_are_held_in_memory(cifar_folder: Path) -> None:
    splits = load_splits(DataSection(name="imagefolder", root=str(cifar_folder)))
    assert splits.classes[:2] == ("airplane", "automobile")
    assert isinstance(splits.train, ImagesInMemory)
    assert splits.train.images.shape == (120, 3, 32, 32)
    assert splits.validation is None
    assert splits.selecting == ("test", splits.test)
    with Image.open(cifar_folder / "train" / "bird" / "0003.jpg") as image:
        expected = torch.from_numpy(np.array(image)).permute(2, 0, 1)
    assert torch.equal(splits.train.images[2 * 12 + 3], expected)


def test_a_fraction_is_stratified_fixed_and_apart_from_training(cifar_folder: Path) -> None:
    data = DataSection(name="imagefolder", root=str(cifar_folder), validation=0.25)
    first, second = load_splits(data), load_splits(data)
    assert first.validation is not None
    assert np.bincount(_labels(first.validation)).tolist() == [3] * 10
    assert np.bincount(_labels(first.train)).tolist() == [9] * 10
    assert isinstance(first.validation, ImagesInMemory)
    assert isinstance(second.validation, ImagesInMemory)
    assert isinstance(first.train, ImagesInMemory)
    assert torch.equal(first.validation.images, second.validation.images)
    together = torch.cat([first.validation.images, first.train.images]).flatten(1)
    assert len(torch.unique(together, dim=0)) == 120
    assert first.test is not None


def test_a_subset_is_balanced_and_first_in_file_order(cifar_folder: Path) -> None:
    whole = load_splits(DataSection(name="imagefolder", root=str(cifar_folder))).train
    part = load_splits(DataSection(name="imagefolder", root=str(cifar_folder), subset=23)).train
    assert isinstance(whole, ImagesInMemory)
    assert isinstance(part, ImagesInMemory)
    assert np.bincount(_labels(part)).tolist() == [3, 3, 3, 2, 2, 2, 2, 2, 2, 2]
    expected = [12 * label + rank for label in range(10) for rank in range(3 if label < 3 else 2)]
    assert torch.equal(part.images, whole.images[expected])
    with pytest.raises(InputError, match=r"data\.subset must be at most .* \(120\), got 121"):
        load_splits(DataSection(name="imagefolder", root=str(cifar_folder), subset=121))


def test_a_named_part_serves_as_validation(image_folder: Path) -> None:
    (image_folder / "test").rename(image_folder / "val")
    data = DataSection(name="imagefolder", root=str(image_folder), validation="val")
    splits = load_splits(data)
    assert splits.selecting == ("validation", splits.validation)
    assert splits.test is None
    assert load_splits(DataSection(name="imagefolder", root=str(image_folder))).selecting[0] == "test"
    with pytest.raises(InputError, match="has no part 'holdout'; it has val"):
        load_splits(DataSection(name="imagefolder", root=str(image_folder), validation="holdout"))


def test_large_images_are_decoded_when_asked_for(tmp_path: Path) -> None:
    root = make_image_folder(tmp_path / "large", size=100, count=3)
    splits = load_splits(DataSection(name="imagefolder", root=str(root), args={"size": 80}))
    assert isinstance(splits.train, ImageFiles)
    plain, labels = splits.train.batch(np.array([0, 5]), None)
    assert plain.shape == (2, 3, 80, 80)
    assert labels.tolist() == [0, 1]
    drawn = [splits.train.batch(np.array([0, 5]), (0, epoch))[0] for epoch in (0, 1, 0)]
    assert torch.equal(drawn[0], drawn[2])
    assert not torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], plain)


def test_scaling_follows_the_arguments(image_folder: Path) -> None:
    arguments = {"mean": [0.5, 0.25, 0.0], "std": [0.5, 0.25, 1.0], "size": 8}
    data = DataSection(name="imagefolder", root=str(image_folder), augment="none", args=arguments)
    train = load_splits(data).train
    assert isinstance(train, ImagesInMemory)
    images, _ = train.batch(np.array([0]), (0, 0))
    raw = train.images[:1].float() / 255
    assert images.shape == (1, 3, 8, 8)
    expected = torch.stack([(raw[:, 0] - 0.5) / 0.5, (raw[:, 1] - 0.25) / 0.25, raw[:, 2]], dim=1)
    torch.testing.assert_close(images, expected)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": "cifar11"}, r"data\.name: unknown data set 'cifar11' \(did you mean 'cifar1"),
        ({"name": "nothing_like_it"}, r"unknown data set 'nothing_like_it'; known: cifar10, cifar100, digits"),
        ({"name": "digits", "args": {"size": 8}}, r"data\.args: digits takes no arguments, got size"),
        ({"augment": "strong"}, r"data\.augment must be 'standard' or 'none', got 'strong'"),
        ({"root": "no/such/folder"}, r"no/such/folder: must have .*train"),
        ({"args": {"sise": 8}}, r"data\.args\.sise: unknown key \(did you mean 'size'\?\)"),
        ({"args": {"size": True}}, r"data\.args\.size must be a number of pixels"),
        ({"args": {"mean": [0.5]}}, r"data\.args\.mean must be three numbers"),
        ({"args": {"std": [1, 0, 1]}}, r"data\.args\.std must be positive"),
    ],
)
def test_wrong_data_sections_are_refused(image_folder: Path, change: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_splits(DataSection(**{"name": "imagefolder", "root": str(image_folder), **change}))


def _no_classes(root: Path) -> None:
    (root / "train" / "cat").rename(root / "a")
    (root / "train" / "dog").rename(root / "b")


def _no_images(root: Path) -> None:
    for path in (root / "train" / "cat").iterdir():
        path.unlink()


def _no_held_out(root: Path) -> None:
    (root / "test").rename(root / "elsewhere")


def _stranger(root: Path) -> None:
    (root / "test" / "horse").mkdir()


def _unreadable(root: Path) -> None:
    (root / "train" / "dog" / "03.png").write_text("not an image")


def _torn(root: Path) -> None:
    path = root / "train" / "dog" / "04.png"
    path.write_bytes(path.read_bytes()[:100])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_no_classes, r"train: must have at least two classes.*got none"),
        (_no_images, r"cat: no images found"),
        (_no_held_out, r"must have test/ or val/ next to train/"),
        (_stranger, r"test: the class 'horse' is not among those of train/"),
        (_unreadable, r"dog/03\.png: not a readable image \(.*\); repair or remove it"),
        (_torn, r"dog/04\.png: not a readable image"),
    ],
)
def test_damaged_image_folders_are_refused(image_folder: Path, damage: Any, message: str) -> None:
    damage(image_folder)
    with pytest.raises(InputError, match=message):
        load_splits(DataSection(name="imagefolder", root=str(image_folder)))


@pytest.mark.parametrize("name", ["cifar10", "cifar100", "fashion_mnist"])
def test_nothing_is_downloaded_unasked(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match=rf"{name} is missing or damaged; .*train --download"):
        load_splits(DataSection(name=name, root=str(tmp_path / "data")))
    assert not list(tmp_path.rglob("*.*"))


def test_fashion_mnist_is_read_from_its_files(tmp_path: Path) -> None:
    raw = tmp_path / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    generator = np.random.default_rng(0)
    for part, count in (("train", 30), ("t10k", 20)):
        pixels = generator.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        labels = np.arange(count, dtype=np.uint8) % 10
        header = b"".join(size.to_bytes(4, "big") for size in (0x803, count, 28, 28))
        (raw / f"{part}-images-idx3-ubyte").write_bytes(header + pixels.tobytes())
        label_header = (0x801).to_bytes(4, "big") + count.to_bytes(4, "big")
        (raw / f"{part}-labels-idx1-ubyte").write_bytes(label_header + labels.tobytes())
    splits = load_splits(DataSection(name="fashion_mnist", root=str(tmp_path), validation=1 / 3, subset=10))
    assert splits.classes[0] == "T-shirt/top"
    assert splits.validation is not None
    assert splits.test is not None
    assert [len(splits.train), len(splits.validation), len(splits.test)] == [10, 10, 20]
    assert _labels(splits.test) == [*range(10), *range(10)]
    images, _ = splits.test.batch(np.array([19]), None)
    torch.testing.assert_close(images[0, 0], (torch.from_numpy(pixels[19]) / 255 - 0.2860) / 0.3530)
