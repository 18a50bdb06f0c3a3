"""Labelled images that give out batches: held in memory as bytes, or decoded from files when asked for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from jorge_tune.errors import InputError
from jorge_tune.training.augment import CropBox, Integers, ShiftFlip, central_box, random_crop_box
from jorge_tune.training.pixels import SIXTEEN_BITS, check_mode, is_sixteen_bit, remarks_of, remarks_of_values, to_rgb

_BROKEN_IMAGE_ERRORS = (OSError, SyntaxError, ValueError, EOFError)


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

    @property
    def labels(self) -> Tensor:
        """(count,) int64, on the host until `to` moves them."""
        ...

    @property
    def shape(self) -> tuple[int, ...]:
        """Channels, height and width of every image."""
        ...

    @property
    def remarks(self) -> Mapping[str, int]:
        """What reading the images leaves out of them, and of how many."""
        ...

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
    remarks: Mapping[str, int] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def shape(self) -> tuple[int, ...]:
        """See `Examples.shape`."""
        return tuple(self.images.shape[1:])

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
        return replace(self, images=self.images.to(device), labels=self.labels.to(device))


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
    remarks: Mapping[str, int] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.paths)

    @property
    def shape(self) -> tuple[int, ...]:
        """See `Examples.shape`."""
        return 3, self.size, self.size

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


def decode_all(paths: Sequence[Path], size: int) -> tuple[Tensor, Counter[str]]:
    """All images as bytes, each resized to `size` x `size` from its central square if it has another size.

    Shape:
        -> (len(paths), 3, size, size) uint8, and the remarks on them.

    Raises:
        InputError: a file is not a readable image, or one that 8-bit RGB cannot hold.
    """
    images = torch.empty((len(paths), 3, size, size), dtype=torch.uint8)
    remarks: Counter[str] = Counter()
    for position, path in enumerate(paths):
        with _opened(path) as image:
            remarks.update(remarks_of(image))
            if image.size != (size, size):
                remarks[f"resized to {size}x{size}"] += 1
            picture = to_rgb(image, path)
            remarks.update(remarks_of_values(image, picture))
        images[position] = _fitted(picture, size, central_box(*picture.size, 1.0))
    return images, remarks


def read_headers(paths: Sequence[Path]) -> Counter[str]:
    """Look at the headers of images that are decoded later: the remarks on them.

    Raises:
        InputError: a file is not an image, or one that 8-bit RGB cannot hold.
    """
    remarks: Counter[str] = Counter()
    for path in paths:
        with _opened(path) as image:
            check_mode(image, path)
            first_of_its_kind = is_sixteen_bit(image) and not remarks[SIXTEEN_BITS]
            remarks.update(remarks_of(image))
            if first_of_its_kind:  # a look at its values, which the header does not tell
                remarks.update(remarks_of_values(image, to_rgb(image, path)))
    return remarks


def image_size(path: Path) -> tuple[int, int]:
    """Width and height from the header alone.

    Raises:
        InputError: the file is not an image.
    """
    with _opened(path) as image:
        return image.size


def _read_image(path: Path, size: int, box_of: _BoxOf) -> Tensor:
    with _opened(path) as image:
        picture = to_rgb(image, path)
    return _fitted(picture, size, box_of(*picture.size))


def _fitted(picture: Image.Image, size: int, box: CropBox) -> Tensor:
    """The box of a picture at its size, as bytes."""
    corners = (box.left, box.top, box.right, box.bottom)
    if picture.size != (size, size) or corners != (0, 0, size, size):
        picture = picture.resize((size, size), Image.Resampling.BILINEAR, box=corners)
    if box.flip:
        picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1)


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    """An image file whose faults are told in words, while it is open."""
    try:
        with Image.open(path) as image:
            yield image
    except Image.DecompressionBombError as error:
        raise InputError(f"{path}: too large to be read safely ({error}); make it smaller, or remove it") from error
    except _BROKEN_IMAGE_ERRORS as error:
        reason = str(error).replace(str(path), "").strip(" :'\"") or type(error).__name__
        raise InputError(f"{path}: not a readable image ({reason}); repair or remove it") from error


class _BoxOf(Protocol):
    def __call__(self, width: int, height: int) -> CropBox: ...
