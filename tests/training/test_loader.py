from __future__ import annotations

import multiprocessing
from pathlib import Path

import pytest
import torch

from jorge_tune.errors import InputError
from jorge_tune.recipe.schema import DataSection
from jorge_tune.training.datasets import load_splits
from jorge_tune.training.loader import Batches
from tests.training.conftest import make_image_folder

_CPU = torch.device("cpu")
_FORK_WARNING = "ignore:.*multi-threaded.*fork:DeprecationWarning"  # Python 3.12, of torch's own loader


@pytest.mark.filterwarnings(_FORK_WARNING)
@pytest.mark.parametrize("size", [16, 80])
def test_workers_make_bitwise_the_same_batches(tmp_path: Path, size: int) -> None:
    root = make_image_folder(tmp_path / "images", size=size)
    train = load_splits(DataSection(name="imagefolder", root=str(root), args={"size": size})).train
    here = Batches(train, 6, _CPU, seed=3)
    there = Batches(train, 6, _CPU, seed=3, workers=2)
    torch.manual_seed(0)
    state = torch.get_rng_state()
    try:
        for epoch, start in ((0, 0), (1, 2), (0, 1)):
            ours, theirs = list(here.epoch(epoch, start)), list(there.epoch(epoch, start))
            assert len(ours) == len(theirs) == 4 - start
            for (images, labels), (others, other_labels) in zip(ours, theirs, strict=True):
                assert torch.equal(images, others)
                assert torch.equal(labels, other_labels)
    finally:
        there.close()
    assert torch.equal(state, torch.get_rng_state()), "the loader must not draw from the model's generator"
    assert not multiprocessing.active_children()


def test_every_sample_comes_once_per_epoch_in_another_order() -> None:
    train = load_splits(DataSection(name="digits", augment="none")).train
    batches = Batches(train, 100, _CPU, seed=0)
    assert len(batches) == 11
    epochs = [torch.cat([images for images, _ in batches.epoch(epoch)]).flatten(1) for epoch in (0, 1)]
    assert not torch.equal(*epochs)
    whole = train.batch(range_array(len(train)), None)[0].flatten(1)
    for images in epochs:
        assert torch.equal(torch.unique(images, dim=0), torch.unique(whole, dim=0))
        assert len(images) == 1078


def test_drop_last_leaves_out_the_short_batch() -> None:
    train = load_splits(DataSection(name="digits")).train
    sizes = [len(labels) for _, labels in Batches(train, 100, _CPU, seed=0, drop_last=True).epoch()]
    assert sizes == [100] * 10


@pytest.mark.filterwarnings(_FORK_WARNING)
@pytest.mark.parametrize("workers", [0, 1])
def test_an_image_that_breaks_later_is_named_without_a_traceback(tmp_path: Path, workers: int) -> None:
    root = make_image_folder(tmp_path / "images", size=80, count=3)
    train = load_splits(DataSection(name="imagefolder", root=str(root), args={"size": 80})).train
    (root / "train" / "cat" / "01.png").unlink()
    batches = Batches(train, 6, _CPU, seed=0, workers=workers)
    try:
        with pytest.raises(InputError, match=r"cat/01\.png: not a readable image") as caught:
            list(batches.epoch())
    finally:
        batches.close()
    assert "Traceback" not in str(caught.value)


def range_array(count: int) -> object:
    import numpy as np

    return np.arange(count)
