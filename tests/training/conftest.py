from __future__ import annotations

import os
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

_REPOSITORY = Path(__file__).resolve().parents[2]
_KEPT_PER_CLASS = 12


@pytest.fixture(scope="session")
def cifar_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first images of each class of the real CIFAR-10, as an image directory."""
    data = Path(os.environ.get("JORGE_TUNE_TEST_DATA", _REPOSITORY.parent / "shared" / "data"))
    archive = data / "cifar10_jpeg_500x100.tar.xz"
    if not archive.is_file():
        pytest.skip(f"{archive} is not there; set JORGE_TUNE_TEST_DATA to the directory that has it")
    root = tmp_path_factory.mktemp("cifar10")
    with tarfile.open(archive) as tar:
        for member in tar:
            stem = Path(member.name).stem
            if member.isfile() and stem.isdigit() and int(stem) < _KEPT_PER_CLASS:
                tar.extract(member, root, filter="data")
    inner = next(root.rglob("train")).parent
    assert (inner / "test").is_dir()
    return inner


@pytest.fixture
def image_folder(tmp_path: Path) -> Path:
    """Two classes of noise, 10 training and 4 test images of 16x16 each."""
    return make_image_folder(tmp_path / "images", size=16)


def make_image_folder(root: Path, *, size: int, count: int = 10) -> Path:
    generator = np.random.default_rng(0)
    for part, images in (("train", count), ("test", 4)):
        for label in ("cat", "dog"):
            (root / part / label).mkdir(parents=True)
            for number in range(images):
                pixels = generator.integers(0, 256, (size, size, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(root / part / label / f"{number:02d}.png")
    return root
