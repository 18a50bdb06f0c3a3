"""From an image file as Pillow opens it to 8-bit RGB, and what that leaves out.

Pillow's own conversion clips what does not fit into 8 bits: of a 16-bit greyscale image it leaves white. Such images
are scaled here; values for which there is no such scale are refused.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from jorge_tune.errors import InputError

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
    """What `to_rgb` left of the values of `image` in `picture`."""
    if is_sixteen_bit(image) and np.asarray(picture).max() < _DIM:
        yield f"16-bit with values below {_DIM * 256} of 65536, nearly black: scale them to the whole range"


def is_sixteen_bit(image: Image.Image) -> bool:
    """Whether the values are grey from 0 to 65535 (or, in a TIFF, to 4095)."""
    return image.mode.startswith("I;16") or (image.mode == "I" and image.format in _SIXTEEN_BITS_IN_MODE_I)
