"""Labelled images that give out batches, how they are augmented, and how a file becomes 8-bit RGB.

examples      held in memory as bytes (`ImagesInMemory`), or decoded from files when asked for (`ImageFiles`)
augmentation  every random choice is a pure function of (seed, epoch, image index), so batches are the same for any
              number of loader workers and after any resume
pixels        Pillow's own conversion clips what does not fit into 8 bits: of a 16-bit greyscale image it leaves white.
              Such images are scaled here; values for which there is no fixed scale are refused
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from jorge_tune.errors import InputError

Integers = npt.NDArray[np.int64]
_BROKEN_IMAGE_ERRORS = (OSError, SyntaxError, ValueError, EOFError)


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


class _BoxOf(Protocol):
    def __call__(self, width: int, height: int) -> CropBox: ...


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
    """An open image file; its faults become messages."""
    try:
        with Image.open(path) as image:
            yield image
    except Image.DecompressionBombError as error:
        raise InputError(f"{path}: too large to be read safely ({error}); make it smaller, or remove it") from error
    except _BROKEN_IMAGE_ERRORS as error:
        reason = str(error).replace(str(path), "").strip(" :'\"") or type(error).__name__
        raise InputError(f"{path}: not a readable image ({reason}); repair or remove it") from error


_ORDER_STREAM = 0  # one stream of draws for each purpose
_ROW_STREAM = 1
_COLUMN_STREAM = 2
_FLIP_STREAM = 3
_AREA_STREAM = 4
_RATIO_STREAM = 5


_SCALE_RANGE = (0.08, 1.0)  # part of the image that a resized crop keeps, as is usual for ImageNet
_LOG_RATIO_RANGE = (math.log(3 / 4), math.log(4 / 3))


def shuffled(seed: int, epoch: int, count: int) -> Integers:
    """The order in which an epoch visits its samples: a permutation of range(count)."""
    keys = _hash(seed, _ORDER_STREAM, epoch, np.arange(count, dtype=np.int64))
    return np.argsort(keys, kind="stable")


def uniform_draws(seed: int, epoch: int, indices: Integers, stream: int) -> npt.NDArray[np.float64]:
    """One number in [0, 1) per index: a hash of (seed, stream, epoch, index), so of no hidden state.

    Shape:
        indices: (count,) -> (count,).
    """
    bits = _hash(seed, stream, epoch, indices)
    return (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53


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


SIXTEEN_BITS = "16-bit scaled to 8 bits"
_CONVERTIBLE = frozenset(("1", "CMYK", "HSV", "L", "LA", "LAB", "P", "PA", "RGB", "RGBA", "RGBX", "YCbCr"))
_WITH_ALPHA = frozenset(("LA", "PA", "RGBA"))
_SIXTEEN_BITS_IN_MODE_I = ("PNG", "PPM")  # formats whose mode I is 0 to 65535, scaled so by Pillow where it was not
_TOO_WIDE = {"I": "signed or 32-bit integers", "F": "floating-point numbers"}
_TIFF_BITS, _TIFF_PHOTOMETRIC, _WHITE_IS_ZERO = 258, 262, 0
_DIM = 16  # of 256 levels
_EXIF_ORIENTATION, _UPRIGHT = 0x0112, (None, 0, 1)


def check_mode(image: Image.Image, path: Path) -> None:
    """Refuse an image that 8-bit RGB cannot hold; reads nothing but the header.

    Raises:
        InputError: its mode has no scale to 8 bits, or it has no pixels.
    """
    if 0 in image.size:
        raise InputError(f"{path}: the image has no pixels ({image.width}x{image.height}); repair or remove it")
    if image.mode in _CONVERTIBLE or is_sixteen_bit(image):
        return
    kind = _TOO_WIDE.get(image.mode, "values of another kind")
    raise InputError(
        f"{path}: the image holds {kind} (mode {image.mode!r}), which have no fixed scale to 8 bits; "
        "convert it to 8 or 16 bits per channel, or remove it"
    )


def to_rgb(image: Image.Image, path: Path) -> Image.Image:
    """The image in mode RGB. Of 16-bit values the upper byte is kept, as Pillow does with colour images of 16 bits.

    Raises:
        InputError: see `check_mode`.
    """
    check_mode(image, path)
    if not is_sixteen_bit(image):
        return image.convert("RGB")
    tags = getattr(image, "tag_v2", {})
    bits = tags.get(_TIFF_BITS, (16,))[0]  # Pillow hands out 12-bit values as they are
    grey = (np.asarray(image) >> (bits - 8)).astype(np.uint8)
    if tags.get(_TIFF_PHOTOMETRIC) == _WHITE_IS_ZERO:  # which Pillow respects up to 8 bits only
        grey = 255 - grey
    return Image.fromarray(grey).convert("RGB")


def remarks_of(image: Image.Image) -> Iterator[str]:
    """What the reading of this image leaves out, from its header."""
    if is_sixteen_bit(image):
        yield SIXTEEN_BITS
    if image.mode in _WITH_ALPHA or "transparency" in image.info:
        yield "transparency dropped"
    if image.format != "MPO" and getattr(image, "is_animated", False):  # MPO: a photo with its preview
        yield "first frame of several"
    if "exif" in image.info and image.getexif().get(_EXIF_ORIENTATION) not in _UPRIGHT:
        yield "EXIF orientation not applied"


def remarks_of_values(image: Image.Image, picture: Image.Image) -> Iterator[str]:
    """What `to_rgb` lost of the values of `image` in `picture`."""
    if is_sixteen_bit(image) and np.asarray(picture).max() < _DIM:
        yield f"16-bit with values below {_DIM * 256} of 65536, nearly black: scale them to the whole range"


def is_sixteen_bit(image: Image.Image) -> bool:
    """Whether the values are grey from 0 to 65535 (or, in a TIFF, to 4095)."""
    return image.mode.startswith("I;16") or (image.mode == "I" and image.format in _SIXTEEN_BITS_IN_MODE_I)
