from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from jorge_tune.training.images import ShiftFlip, central_box, random_crop_box, shuffled, uniform_draws

_SEEDS = st.integers(0, 2**63 - 1)


@given(seed=_SEEDS, epoch=st.integers(0, 10**6), indices=st.lists(st.integers(0, 10**9), min_size=1, max_size=20))
@settings(max_examples=50, deadline=None)
def test_a_draw_depends_on_its_own_index_only(seed: int, epoch: int, indices: list[int]) -> None:
    together = uniform_draws(seed, epoch, np.array(indices), stream=1)
    alone = [uniform_draws(seed, epoch, np.array([index]), stream=1)[0] for index in indices]
    assert together.tolist() == alone
    assert ((together >= 0) & (together < 1)).all()


def test_draws_are_uniform_and_streams_are_unrelated() -> None:
    draws = [uniform_draws(seed, epoch, np.arange(20_000), s) for seed in (0, 1) for epoch in (0, 1) for s in (1, 2)]
    for draw in draws:
        counts, _ = np.histogram(draw, bins=20, range=(0, 1))
        # 1,000 expected per bin with standard deviation 31; five of them is not left by chance
        assert np.abs(counts - 1000).max() < 160
    correlations = np.corrcoef(draws) - np.eye(len(draws))
    assert np.abs(correlations).max() < 0.05


def test_the_order_is_a_permutation_that_changes_with_seed_and_epoch() -> None:
    orders = [shuffled(seed, epoch, 100) for seed in (0, 1) for epoch in (0, 1)]
    for order in orders:
        assert sorted(order) == list(range(100))
    assert len({tuple(order) for order in orders}) == 4
    assert shuffled(1, 1, 100).tolist() == orders[3].tolist()


def test_a_shifted_image_is_a_window_of_the_padded_one() -> None:
    images = torch.randint(1, 255, (64, 3, 6, 5), dtype=torch.uint8)
    shifted = ShiftFlip(pad=2, flip=False)(images, 0, 3, np.arange(64))
    padded = torch.nn.functional.pad(images, (2, 2, 2, 2))
    seen = set()
    for image, original in zip(shifted, padded, strict=True):
        found = [
            (top, left)
            for top in range(5)
            for left in range(5)
            if torch.equal(image, original[:, top : top + 6, left : left + 5])
        ]
        assert len(found) == 1
        seen |= set(found)
    assert len(seen) > 15  # of 25 positions


def test_a_flip_turns_about_half_of_the_images() -> None:
    images = torch.randint(0, 255, (400, 1, 2, 3), dtype=torch.uint8)
    out = ShiftFlip(pad=0, flip=True)(images, 5, 0, np.arange(400))
    turned = [torch.equal(a, b.flip(2)) and not torch.equal(a, b) for a, b in zip(out, images, strict=True)]
    kept = [torch.equal(a, b) for a, b in zip(out, images, strict=True)]
    assert all(a or b for a, b in zip(turned, kept, strict=True))
    assert 150 < sum(turned) < 250


def test_augmentation_of_a_sample_does_not_depend_on_its_batch() -> None:
    images = torch.randint(0, 255, (10, 3, 8, 8), dtype=torch.uint8)
    augment = ShiftFlip(pad=1, flip=True)
    whole = augment(images, 7, 2, np.arange(10))
    part = augment(images[[8, 3]], 7, 2, np.array([8, 3]))
    assert torch.equal(part, whole[[8, 3]])


@pytest.mark.parametrize(("width", "height"), [(640, 480), (30, 400), (1, 1)])
def test_a_random_crop_stays_inside(width: int, height: int) -> None:
    boxes = [random_crop_box(width, height, 0, 0, index) for index in range(200)]
    for box in boxes:
        assert 0 <= box.left < box.right <= width
        assert 0 <= box.top < box.bottom <= height
    assert {box.flip for box in boxes} == {True, False}


def test_the_central_box_is_a_square_in_the_middle() -> None:
    box = central_box(100, 60, 0.5)
    assert (box.left, box.top, box.right, box.bottom, box.flip) == (35, 15, 65, 45, False)
