"""What of a directory of images counts, how its files are read, and how it is divided."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image

from jorge_tune.errors import InputError
from jorge_tune.recipe.schema import DataSection
from jorge_tune.training.datasets import Splits, load_splits
from jorge_tune.training.images import ImageFiles, ImagesInMemory
from tests.training.conftest import make_image_folder

_RAMP = np.linspace(0, 65535, 1024).reshape(32, 32)


def _load(root: Path, **data: Any) -> Splits:
    return load_splits(DataSection(name="imagefolder", root=str(root), **data))


def _save(path: Path, *, size: int = 16, form: str | None = None, seed: int = 1) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path, form)


# what counts


@pytest.mark.parametrize(
    "hidden", [".ipynb_checkpoints/a.png", "deep/.cache/b/a.png", "__MACOSX/a.png", "@eaDir/a.png", "._a.png"]
)
def test_what_is_hidden_anywhere_below_a_class_does_not_count(image_folder: Path, hidden: str) -> None:
    _save(image_folder / "train" / "cat" / hidden)
    _save(image_folder / "test" / "dog" / hidden)
    _save(image_folder / "train" / "__MACOSX" / "cat" / "a.png")
    splits = _load(image_folder)
    assert splits.classes == ("cat", "dog")
    assert len(splits.train) == 20
    assert splits.summary.left_out == {"train": {"hidden": 2}, "test": {"hidden": 1}}
    assert splits.summary.line().endswith("; 3 files left out: hidden (3)")


def test_a_linked_folder_counts_as_torchvision_counts_it(image_folder: Path, tmp_path: Path) -> None:
    for number in range(3):
        _save(tmp_path / "elsewhere" / "deep" / f"{number}.JPG")
    (image_folder / "train" / "cat" / "more").symlink_to(tmp_path / "elsewhere")
    (image_folder / "train" / "dog" / "one.png").symlink_to(tmp_path / "elsewhere" / "deep" / "0.JPG")
    (image_folder / "test" / "dog").rename(tmp_path / "dogs")
    (image_folder / "test" / "dog").symlink_to(tmp_path / "dogs")
    splits = _load(image_folder)
    expected = torchvision.datasets.ImageFolder(str(image_folder / "train"))
    assert splits.train.labels.tolist() == expected.targets == [0] * 13 + [1] * 11
    assert splits.test is not None
    assert splits.test.labels.tolist() == [0] * 4 + [1] * 4
    assert splits.summary.left_out == {"train": {}, "test": {}}


@pytest.mark.parametrize("target", [".", "..", "../..", "deep/.."])
def test_a_link_to_a_folder_above_it_is_not_followed(image_folder: Path, target: str) -> None:
    _save(image_folder / "train" / "cat" / "deep" / "a.png")
    (image_folder / "train" / "cat" / "loop").symlink_to(target)
    splits = _load(image_folder)
    assert len(splits.train) == 21
    assert splits.summary.left_out["train"] == {"link to a directory above it": 1}


def test_folders_that_link_to_each_other_end_in_words(image_folder: Path) -> None:
    cat = image_folder / "train" / "cat"
    for name in "abcdefgh":
        (cat / name).mkdir()
        for other in "abcdefgh":
            (cat / name / other).symlink_to(cat / other)
    with pytest.raises(InputError, match=r"cat: links between .* more than 1000 paths"):
        _load(image_folder)


def test_what_is_no_file_or_no_image_is_counted_with_its_reason(image_folder: Path) -> None:
    cat = image_folder / "train" / "cat"
    (cat / "gone.png").symlink_to(cat / "nowhere.png")
    (cat / "circle").symlink_to("circle")
    os.mkfifo(cat / "pipe.png")
    for number in range(3):
        _save(cat / f"{number}.GIF", form="GIF")
    _save(cat / "a.jfif", form="JPEG")
    for name in ("README", "odd.\x1b[31m"):
        (cat / name).write_text("")
    (image_folder / "train" / "labels.csv").write_text("")
    splits = _load(image_folder)
    assert len(splits.train) == 20
    assert splits.summary.left_out["train"] == {
        ".gif": 3,
        ".jfif": 1,
        "broken link": 2,
        "no ending": 1,
        "not a regular file": 1,
        "odd ending": 1,
        "outside a class directory": 1,
    }
    line = splits.summary.line()
    assert "; 10 files left out: .gif (3), broken link (2), .jfif (1), " in line
    assert line.endswith("others (1)")
    assert line.isprintable()


def test_a_class_without_images_is_named_with_what_lies_there_instead(image_folder: Path) -> None:
    _save(image_folder / "train" / "horse" / "a.gif", form="GIF")
    with pytest.raises(InputError, match=r"horse: no images found \(\.bmp, .*; left out: \.gif \(1\)\)"):
        _load(image_folder)


def test_a_folder_that_cannot_be_read_is_not_passed_over(image_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scandir = os.scandir

    def deny(folder: Any) -> Any:
        if Path(folder).name == "deep":
            raise PermissionError(13, "Permission denied")
        return scandir(folder)

    (image_folder / "train" / "cat" / "deep").mkdir()
    monkeypatch.setattr(os, "scandir", deny)  # the tests may run as root, who may read all
    with pytest.raises(InputError, match=r"deep: the directory cannot be read \(Permission denied\)"):
        _load(image_folder)


def test_classes_have_the_numbers_of_the_training_part_in_every_part(image_folder: Path) -> None:
    (image_folder / "train" / "bird").mkdir()
    _save(image_folder / "train" / "bird" / "0.png")
    for path in (image_folder / "test" / "cat").iterdir():
        path.unlink()
    splits = _load(image_folder)
    assert splits.test is not None
    assert splits.classes == ("bird", "cat", "dog")
    assert splits.test.labels.tolist() == [2] * 4
    assert splits.summary.parts["test"].lacking == ("bird", "cat")
    assert splits.summary.line().endswith("; test has no image of bird; cat")


def test_all_parts_get_the_size_of_the_first_training_image(tmp_path: Path) -> None:
    root = make_image_folder(tmp_path / "images", size=20)
    for path in (root / "test").rglob("*.png"):
        _save(path, size=90)
    splits = _load(root)
    assert splits.test is not None
    assert splits.train.shape == splits.test.shape == (3, 20, 20)
    assert splits.summary.remarks == {"resized to 20x20": 8}


def test_a_part_that_is_not_used_is_named(image_folder: Path) -> None:
    _save(image_folder / "val" / "cat" / "0.png")
    assert _load(image_folder).summary.line().endswith("; val (1 image) not used")
    summary = _load(image_folder, validation="val").summary
    assert summary.unused == {}
    assert "train 20, validation (val/) 1, test 8 images" in summary.line()


# how files are read


def _big_endian(path: Path) -> None:
    header = b"MM\0*\0\0\0\x08\0\x08"
    entries = ((256, 32), (257, 32), (258, 16), (259, 1), (262, 1), (273, 122), (278, 32), (279, 2048))
    directory = b"".join(
        tag.to_bytes(2, "big") + b"\0\4\0\0\0\1" + value.to_bytes(4, "big")
        if tag in (273, 279)
        else tag.to_bytes(2, "big") + b"\0\3\0\0\0\1" + value.to_bytes(2, "big") + b"\0\0"
        for tag, value in entries
    )
    content = header + directory + b"\0\0\0\0"
    path.write_bytes(content.ljust(122, b"\0") + _RAMP.astype(">u2").tobytes())


def _pgm(top: int) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        values = (_RAMP * top / 65535).astype(">u2")
        path.write_bytes(b"P5\n32 32\n%d\n" % top + values.tobytes())

    return write


def _sixteen_bits(path: Path) -> None:
    Image.fromarray(_RAMP.astype(np.uint16)).save(path)


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("a.png", _sixteen_bits),
        ("a.tif", _sixteen_bits),
        ("b.tif", _big_endian),
        ("a.pgm", _pgm(65535)),
        ("b.pgm", _pgm(1023)),
    ],
)
@pytest.mark.parametrize("size", [32, 80])
def test_sixteen_bit_grey_keeps_its_levels(tmp_path: Path, name: str, write: Callable[[Path], None], size: int) -> None:
    root = make_image_folder(tmp_path / "images", size=32, count=1)
    (root / "train" / "cat" / "00.png").unlink()
    write(root / "train" / "cat" / name)
    splits = _load(root, augment="none", args={"size": size, "mean": [0, 0, 0], "std": [1, 1, 1]})
    assert isinstance(splits.train, ImagesInMemory if size == 32 else ImageFiles)
    image = splits.train.batch(np.array([0]), None)[0][0] * 255
    assert splits.summary.remarks["16-bit scaled to 8 bits"] == 1
    assert torch.equal(image[0], image[1])
    if size == 32:
        expected = torch.from_numpy((_RAMP / 256).astype(np.int64)).float()
        assert (image[0] - expected).abs().max() <= 1
        assert len(torch.unique(image[0])) == 256
    else:  # the centre, enlarged
        assert image.min() == pytest.approx(2 / 32 * 256, abs=4)
        assert image.max() == pytest.approx(30 / 32 * 256, abs=4)


def test_sixteen_bit_grey_whose_white_is_zero_is_turned_round(image_folder: Path) -> None:
    path = image_folder / "train" / "cat" / "00.tif"
    Image.fromarray(_RAMP.astype(np.uint16)).save(path, tiffinfo={262: 0})
    with Image.open(path) as image:
        assert image.tag_v2[262] == 0  # type: ignore[attr-defined]
    (image_folder / "train" / "cat" / "00.png").unlink()
    train = _load(image_folder, args={"size": 32}).train
    assert isinstance(train, ImagesInMemory)
    assert train.images[0, 0, 0, 0] == 255
    assert train.images[0, 0, -1, -1] == 0


@pytest.mark.parametrize("size", [16, 80])
def test_sixteen_bit_grey_that_is_nearly_black_is_said(image_folder: Path, size: int) -> None:
    Image.fromarray((_RAMP / 16).astype(np.uint16)).save(image_folder / "train" / "cat" / "00.png")
    remarks = _load(image_folder, args={"size": size}).summary.remarks
    assert remarks["16-bit with values below 4096 of 65536, nearly black: scale them to the whole range"] == 1


@pytest.mark.parametrize(
    ("values", "name", "words"),
    [
        (_RAMP.astype(np.int32), "a.tif", r"signed or 32-bit integers \(mode 'I'\)"),
        ((_RAMP / 65535).astype(np.float32), "a.tif", r"floating-point numbers \(mode 'F'\)"),
        ((_RAMP / 65535).astype(np.float32), "a.pgm", r"floating-point numbers \(mode 'F'\)"),
    ],
)
@pytest.mark.parametrize("size", [16, 80])
@pytest.mark.parametrize("part", ["train", "test"])
def test_wider_values_are_refused_by_file_and_mode(
    image_folder: Path, values: Any, name: str, words: str, size: int, part: str
) -> None:
    path = image_folder / part / "cat" / name
    if path.suffix == ".pgm":
        path.write_bytes(b"Pf\n32 32\n-1.0\n" + values.astype("<f4").tobytes())
    else:
        Image.fromarray(values).save(path)
    message = rf"cat/{name}: the image holds {words}, which have no fixed scale to 8 bits; convert it to 8 or 16 bits"
    with pytest.raises(InputError, match=message):
        _load(image_folder, args={"size": size})


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "YCbCr", "LAB"])
def test_other_modes_are_read_as_torchvision_reads_them(image_folder: Path, mode: str) -> None:
    path = image_folder / "train" / "cat" / "00.tif"
    with Image.open(image_folder / "train" / "cat" / "00.png") as image:
        image.convert(mode).save(path)
    (image_folder / "train" / "cat" / "00.png").unlink()
    train = _load(image_folder).train
    expected, _ = torchvision.datasets.ImageFolder(str(image_folder / "train"))[0]
    assert isinstance(train, ImagesInMemory)
    assert torch.equal(train.images[0], torch.from_numpy(np.array(expected)).permute(2, 0, 1))


@pytest.mark.parametrize("size", [16, 80])
def test_what_reading_leaves_out_of_images_is_counted(image_folder: Path, size: int) -> None:
    cat = image_folder / "train" / "cat"
    with Image.open(cat / "00.png") as image:
        image.convert("RGBA").save(cat / "00.png")
        image.quantize(8).save(cat / "01.png", transparency=0)
        exif = Image.Exif()
        exif[0x0112] = 6
        image.save(cat / "02.jpg", exif=exif)
        exif[0x0112] = 1
        image.save(cat / "03.jpg", exif=exif)
        image.save(cat / "04.webp", save_all=True, append_images=[Image.new("RGB", image.size)])
    remarks = _load(image_folder, args={"size": size}).summary.remarks
    assert remarks == {
        "EXIF orientation not applied": 1,
        "first frame of several": 1,
        "transparency dropped": 2,
    }


@pytest.mark.parametrize("size", [16, 80])
def test_an_image_that_cannot_be_held_is_refused_before_training(
    image_folder: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    Image.new("RGB", (50, 50)).save(image_folder / "test" / "dog" / "a.png")
    with pytest.raises(
        InputError, match=r"dog/a\.png: too large to be read safely \(.*2500 pixels.*\); make it smaller"
    ):
        _load(image_folder, args={"size": size})


# how they are divided


def test_a_class_of_one_image_stays_in_training(image_folder: Path) -> None:
    _save(image_folder / "train" / "horse" / "0.png")
    splits = _load(image_folder, validation=0.2)
    assert splits.validation is not None
    assert np.bincount(splits.train.labels).tolist() == [8, 8, 1]
    assert np.bincount(splits.validation.labels, minlength=3).tolist() == [2, 2, 0]
    assert "; validation has no image of horse" in splits.summary.line()


@pytest.mark.parametrize("fraction", [0.001, 0.3, 0.5, 0.9, 0.999])
def test_every_class_keeps_an_image_to_train_on_and_gives_one_where_it_has_two(tmp_path: Path, fraction: float) -> None:
    root = make_image_folder(tmp_path / "images", size=8, count=2)
    for number in range(7):
        _save(root / "train" / "horse" / f"{number}.png", size=8)
    splits = _load(root, validation=fraction)
    assert splits.validation is not None
    assert np.bincount(splits.train.labels).min() >= 1
    assert np.bincount(splits.validation.labels, minlength=3).min() >= 1
    assert len(splits.train) + len(splits.validation) == 11


def test_a_fraction_of_classes_of_one_image_is_refused(tmp_path: Path) -> None:
    root = make_image_folder(tmp_path / "images", size=8, count=1)
    with pytest.raises(InputError, match=r"data\.validation: 0\.5 holds out no image: no class has two"):
        _load(root, validation=0.5)


def test_a_subset_has_an_image_of_every_class(image_folder: Path) -> None:
    assert sorted(_load(image_folder, subset=2).train.labels.tolist()) == [0, 1]
    with pytest.raises(InputError, match=r"data\.subset must be at least the number of classes \(2\), .* got 1"):
        _load(image_folder, subset=1)
    with pytest.raises(InputError, match=r"data\.subset must be at least the number of classes \(10\)"):
        load_splits(DataSection(name="digits", subset=9))
