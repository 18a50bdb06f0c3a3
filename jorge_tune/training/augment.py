"""Random choices as pure functions of (seed, epoch, sample index), and the augmentations made of them.

A draw depends on nothing else, so batches are the same for any number of loader workers and after any resume.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

Integers = npt.NDArray[np.int64]

_ORDER_STREAM = 0  # one stream of draws for each purpose
_ROW_STREAM = 1
_COLUMN_STREAM = 2
_FLIP_STREAM = 3
_AREA_STREAM = 4
_RATIO_STREAM = 5

_SCALE_RANGE = (0.08, 1.0)  # part of the image that a resized crop keeps, as is usual for ImageNet
_LOG_RATIO_RANGE = (math.log(3 / 4), math.log(4 / 3))


def uniform_draws(seed: int, epoch: int, indices: Integers, stream: int) -> npt.NDArray[np.float64]:
    """One number in [0, 1) per index: a hash of (seed, stream, epoch, index), so of no hidden state.

    Shape:
        indices: (count,) -> (count,).
    """
    bits = _hash(seed, stream, epoch, indices)
    return (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53


def shuffled(seed: int, epoch: int, count: int) -> Integers:
    """The order in which an epoch visits its samples: a permutation of range(count)."""
    keys = _hash(seed, _ORDER_STREAM, epoch, np.arange(count, dtype=np.int64))
    return np.argsort(keys, kind="stable")


@dataclass(frozen=True)
class ShiftFlip:
    """Shift by up to `pad` pixels, the border filled with zeros, then flip left to right in half of the cases."""

    pad: int
    flip: bool

    def __call__(self, images: Tensor, seed: int, epoch: int, indices: Integers) -> Tensor:
        """Augment a batch.

        Shape:
            images: (batch, channels, height, width), indices: (batch,) -> the images' shape.
        """
        if self.pad:
            positions = 2 * self.pad + 1
            top = _as_tensor(uniform_draws(seed, epoch, indices, _ROW_STREAM) * positions, images)
            left = _as_tensor(uniform_draws(seed, epoch, indices, _COLUMN_STREAM) * positions, images)
            _, _, height, width = images.shape
            padded = functional.pad(images, (self.pad,) * 4)
            windows = padded.unfold(2, height, 1).unfold(3, width, 1)
            images = windows[torch.arange(len(images), device=images.device), :, top, left]
        if self.flip:
            turned = _as_tensor(uniform_draws(seed, epoch, indices, _FLIP_STREAM) * 2, images).bool()
            images = torch.where(turned[:, None, None, None], images.flip(3), images)
        return images


@dataclass(frozen=True)
class CropBox:
    """A rectangle of an image in pixels, and whether it is flipped left to right."""

    left: float
    top: float
    right: float
    bottom: float
    flip: bool


def random_crop_box(width: int, height: int, seed: int, epoch: int, index: int) -> CropBox:
    """A random part of an image: 8 to 100 % of its area, ratio 3/4 to 4/3, flipped in half of the cases."""
    area, ratio, row, column, flip = (
        float(uniform_draws(seed, epoch, np.array([index], dtype=np.int64), stream)[0])
        for stream in (_AREA_STREAM, _RATIO_STREAM, _ROW_STREAM, _COLUMN_STREAM, _FLIP_STREAM)
    )
    low, high = _SCALE_RANGE
    target_area = (low + (high - low) * area) * width * height
    log_low, log_high = _LOG_RATIO_RANGE
    aspect = math.exp(log_low + (log_high - log_low) * ratio)
    box_width = min(width, max(1, round(math.sqrt(target_area * aspect))))
    box_height = min(height, max(1, round(math.sqrt(target_area / aspect))))
    left = math.floor(column * (width - box_width + 1))
    top = math.floor(row * (height - box_height + 1))
    return CropBox(left, top, left + box_width, top + box_height, flip >= 0.5)


def central_box(width: int, height: int, fraction: float) -> CropBox:
    """The centred square of `fraction` of the shorter side."""
    side = fraction * min(width, height)
    left, top = (width - side) / 2, (height - side) / 2
    return CropBox(left, top, left + side, top + side, flip=False)


def _as_tensor(draws: npt.NDArray[np.float64], like: Tensor) -> Tensor:
    return torch.from_numpy(draws.astype(np.int64)).to(like.device)


def _hash(seed: int, stream: int, epoch: int, indices: Integers) -> npt.NDArray[np.uint64]:
    """64 well-mixed bits per index (the finaliser of SplitMix64, applied after absorbing each word)."""
    words = [np.array([word & 0xFFFF_FFFF_FFFF_FFFF], dtype=np.uint64) for word in (seed, stream, epoch)]
    state = np.zeros(1, dtype=np.uint64)
    for word in [*words, indices.astype(np.uint64)]:
        state = _mix(state + word + np.uint64(0x9E3779B97F4A7C15))
    return state


def _mix(bits: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return bits ^ (bits >> np.uint64(31))
