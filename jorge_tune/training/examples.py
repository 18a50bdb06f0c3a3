"""Labelled images that give out batches: held in memory as bytes, or decoded from files when asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from jorge_tune.errors import InputError
from jorge_tune.training.augment import CropBox, Integers, ShiftFlip, central_box, random_crop_box

_BROKEN_IMAGE_ERRORS = (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError)


@dataclass(frozen=True)
class Scaling:
    """From stored bytes to what a network sees: (x / top - mean) / std, per channel."""

    mean: tuple[float, ...]
    std: tuple[float, ...]
    top: float = 255.0

    def __call__(self, images: Tensor) -> Tensor:
        """Shape: (batch, channels, height, width) bytes -> the same shape, float32."""
        mean, std = (
            torch.tensor(values, dtype=torch.float32).mul_(self.top).view(1, -1, 1, 1).to(images.device)
            for values in (self.mean, self.std)
        )
        return images.to(torch.float32).sub_(mean).div_(std)


class Examples(Protocol):
    """A part of a data set. A batch is a pure function of the indices and, when it is augmented, of (seed, epoch)."""

    def __len__(self) -> int: ...

    def batch(self, indices: Integers, draw: tuple[int, int] | None) -> tuple[Tensor, Tensor]:
        """The images (float32, scaled) and labels of `indices`; augmented with draws of (seed, epoch) if given."""
        ...

    def to(self, device: torch.device) -> Examples:
        """The same examples, kept on `device` if they are kept in memory at all."""
        ...


@dataclass(frozen=True)
class ImagesInMemory:
    """Decoded images, one byte per value.

    Shape:
        images: (count, channels, height, width) uint8; labels: (count,) int64.
    """

    images: Tensor
    labels: Tensor
    scaling: Scaling
    augment: ShiftFlip | None

    def __len__(self) -> int:
        return len(self.labels)

    def batch(self, indices: Integers, draw: tuple[int, int] | None) -> tuple[Tensor, Tensor]:
        """See `Examples.batch`."""
        chosen = torch.from_numpy(indices).to(self.images.device)
        images = self.images[chosen]
        if draw is not None and self.augment is not None:
            seed, epoch = draw
            images = self.augment(images, seed, epoch, indices)
        return self.scaling(images), self.labels[chosen]

    def to(self, device: torch.device) -> ImagesInMemory:
        """The same images on `device`: an epoch then copies nothing from the host."""
        return ImagesInMemory(self.images.to(device), self.labels.to(device), self.scaling, self.augment)


@dataclass(frozen=True)
class ImageFiles:
    """Image files decoded when a batch asks for them, resized to `size` x `size`.

    With `augment` a random part is resized and flipped; otherwise the central 87.5 %.
    """

    paths: Sequence[Path]
    labels: Tensor
    scaling: Scaling
    size: int
    augment: bool

    def __len__(self) -> int:
        return len(self.paths)

    def batch(self, indices: Integers, draw: tuple[int, int] | None) -> tuple[Tensor, Tensor]:
        """See `Examples.batch`."""
        images = torch.stack([self._decode(int(index), draw) for index in indices])
        return self.scaling(images), self.labels[torch.from_numpy(indices)]

    def to(self, device: torch.device) -> ImageFiles:
        """These examples: files are decoded on the host."""
        return self

    def _decode(self, index: int, draw: tuple[int, int] | None) -> Tensor:
        def box_of(width: int, height: int) -> CropBox:
            if draw is not None and self.augment:
                return random_crop_box(width, height, *draw, index)
            return central_box(width, height, 0.875)

        return _read_image(self.paths[index], self.size, box_of)


def decode_all(paths: Sequence[Path], size: int) -> Tensor:
    """All images as bytes, each resized to `size` x `size` from its central square if it has another size.

    Shape:
        -> (len(paths), 3, size, size) uint8.

    Raises:
        InputError: a file is not a readable image.
    """
    images = torch.empty((len(paths), 3, size, size), dtype=torch.uint8)
    for position, path in enumerate(paths):
        images[position] = _read_image(path, size, lambda width, height: central_box(width, height, 1.0))
    return images


def image_size(path: Path) -> tuple[int, int]:
    """Width and height from the header alone.

    Raises:
        InputError: the file is not an image.
    """
    try:
        with Image.open(path) as image:
            return image.size
    except _BROKEN_IMAGE_ERRORS as error:
        raise _unreadable(path, error) from error


def _read_image(path: Path, size: int, box_of: _BoxOf) -> Tensor:
    try:
        with Image.open(path) as image:
            picture = image.convert("RGB")
    except _BROKEN_IMAGE_ERRORS as error:
        raise _unreadable(path, error) from error
    box = box_of(*picture.size)
    corners = (box.left, box.top, box.right, box.bottom)
    if picture.size != (size, size) or corners != (0, 0, size, size):
        picture = picture.resize((size, size), Image.Resampling.BILINEAR, box=corners)
    if box.flip:
        picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1)


class _BoxOf(Protocol):
    def __call__(self, width: int, height: int) -> CropBox: ...


def _unreadable(path: Path, error: BaseException) -> InputError:
    reason = str(error).replace(str(path), "").strip(" :'\"") or type(error).__name__
    return InputError(f"{path}: not a readable image ({reason}); repair or remove it")
