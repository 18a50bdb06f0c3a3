"""Folders of images: ROOT/train/<class>/*.jpg, with test/ or val/ beside train/."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from jorge_tune.errors import InputError
from jorge_tune.recipe.schema import Data
from jorge_tune.training.augment import Integers, ShiftFlip
from jorge_tune.training.examples import (
    Examples,
    ImageFiles,
    ImagesInMemory,
    Scaling,
    decode_all,
    image_size,
    read_headers,
)
from jorge_tune.training.image_listing import (
    ENDINGS,
    LeftOut,
    class_names,
    files_beside_classes,
    images_of_class,
    in_words,
)

_PART_NAMES = ("train", "val", "valid", "validation", "test")
_IMAGENET_MEAN, _IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_SMALL_SIZE = 64  # images up to this size are shifted, not cropped and resized, and kept in memory
_LARGE_DEFAULT_SIZE = 224
_MEMORY_LIMIT_BYTES = 2 * 10**9
_HEADERS_CHECKED = 100_000  # of files too large to decode beforehand; a header takes 80 microseconds, over NFS more

StoredPart = tuple[Integers, Callable[[Integers, bool], Examples]]


class _Options(NamedTuple):
    """data.args of an image folder."""

    size: int | None
    scaling: Scaling


class ImageFolder(NamedTuple):
    """Classes and parts of a folder, and what was left out of each part."""

    classes: tuple[str, ...]
    parts: Mapping[str, StoredPart]
    left_out: Mapping[str, LeftOut]


def open_image_folder(data: Data) -> ImageFolder:
    """Classes and parts of a folder; images are read when a part is asked for its examples.

    All parts get the size that the first training image has, if nothing else is said.

    Raises:
        InputError: the folder, its train/ part, its classes or their images are missing, or data.args are wrong.
    """
    root = Path(data.root).expanduser()
    options = _read_options(data.args)
    if not (root / "train").is_dir():
        raise InputError(f"{root}: an image folder needs {root / 'train'}/<class>/<image>, which is not there")
    classes = tuple(class_names(root / "train"))
    if len(classes) < 2:
        found = "no class" if not classes else f"only the class {classes[0]!r}"
        raise InputError(f"{root / 'train'}: {found} found; one folder per class, at least two, is needed")

    parts: dict[str, StoredPart] = {}
    left_out: dict[str, LeftOut] = {}
    size = options.size
    for name in _PART_NAMES:  # train is the first
        if (root / name).is_dir():
            paths, labels, left_out[name] = _list_part(root / name, classes)
            size = size or _default_size(paths[0])
            choose = partial(_choose, paths, labels, options.scaling, size, data.augment == "standard")
            parts[name] = (labels, choose)
    if len(parts) == 1:
        raise InputError(f"{root}: an image folder needs test/ or val/ beside train/, and neither is there")
    return ImageFolder(classes, parts, left_out)


def _choose(
    paths: list[Path],
    labels: Integers,
    scaling: Scaling,
    size: int,
    standard: bool,
    indices: Integers,
    augment: bool,
) -> Examples:
    chosen = [paths[index] for index in indices]
    targets = torch.from_numpy(labels[indices])
    if size <= _SMALL_SIZE and len(chosen) * 3 * size**2 <= _MEMORY_LIMIT_BYTES:
        shift = ShiftFlip(size // 8, True) if standard and augment else None
        images, remarks = decode_all(chosen, size)
        return ImagesInMemory(images, targets, scaling, shift, remarks)
    stride = -(-len(chosen) // _HEADERS_CHECKED)  # spread evenly, so that every class is looked at
    remarks = read_headers(chosen[::stride])
    if stride > 1:
        remarks["header not read before the first epoch"] = len(chosen) - len(chosen[::stride])
    return ImageFiles(chosen, targets, scaling, size, standard and augment, remarks)


def _default_size(path: Path) -> int:
    """The images' own size where it is small, else the usual 224."""
    longest = max(image_size(path))
    return longest if longest <= _SMALL_SIZE else _LARGE_DEFAULT_SIZE


def _list_part(folder: Path, classes: tuple[str, ...]) -> tuple[list[Path], Integers, LeftOut]:
    strangers = [name for name in class_names(folder) if name not in classes]
    if strangers:
        raise InputError(f"{folder}: the class {strangers[0]!r} is not among those of train/")

    paths: list[Path] = []
    labels: list[int] = []
    left_out = files_beside_classes(folder)
    for label, name in enumerate(classes):
        if not (folder / name).is_dir():
            continue
        found, left_out_here = images_of_class(folder / name)
        left_out += left_out_here
        if not found and folder.name == "train":
            raise InputError(f"{folder / name}: no images found{_but(left_out_here)}")
        paths += found
        labels += [label] * len(found)

    if not paths:
        raise InputError(f"{folder}: no images found in the folders of its classes{_but(left_out)}")
    return paths, np.array(labels, dtype=np.int64), left_out


def _but(left_out: LeftOut) -> str:
    """The endings that count, and what is there instead."""
    instead = f"; left out: {in_words(left_out.items())}" if left_out else ""
    return f" ({', '.join(sorted(ENDINGS))}{instead})"


def _read_options(args: Mapping[str, Any]) -> _Options:
    known = ("mean", "size", "std")
    for key in args:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            hint = f" (did you mean {near[0]!r}?)" if near else ""
            raise InputError(f"data.args.{key}: unknown key{hint}; known: {', '.join(known)}")
    size = args.get("size")
    if size is not None and (isinstance(size, bool) or not isinstance(size, int) or not 4 <= size <= 4096):
        raise InputError(f"data.args.size must be a number of pixels from 4 to 4096, got {size!r}")
    mean = _three_numbers("mean", args.get("mean", _IMAGENET_MEAN))
    std = _three_numbers("std", args.get("std", _IMAGENET_STD))
    if min(std) <= 0:
        raise InputError(f"data.args.std must be positive, got {list(std)!r}")
    return _Options(size, Scaling(mean, std))


def _three_numbers(key: str, value: Any) -> tuple[float, ...]:
    numbers = isinstance(value, (list, tuple)) and len(value) == 3
    if not numbers or not all(isinstance(v, (int, float)) and not isinstance(v, bool) for v in value):
        raise InputError(f"data.args.{key} must be three numbers (red, green, blue in 0..1), got {value!r}")
    return tuple(float(v) for v in value)
