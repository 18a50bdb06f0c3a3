"""Data sets by name: digits, the data sets of torchvision, folders of images.

A source lists the parts that it comes with and their labels; `data.py` decides what is held out of which.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from jorge_tune.errors import InputError
from jorge_tune.recipe.schema import Data
from jorge_tune.training.augment import Integers, ShiftFlip
from jorge_tune.training.examples import Examples, ImagesInMemory, Scaling
from jorge_tune.training.folders import open_image_folder

_TORCHVISION = {  # class in torchvision.datasets, mean, std, shift in pixels, flip
    "cifar10": ("CIFAR10", (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616), 4, True),
    "cifar100": ("CIFAR100", (0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762), 4, True),
    "fashion_mnist": ("FashionMNIST", (0.2860,), (0.3530,), 2, True),
}
_DAMAGE_ERRORS = (RuntimeError, OSError, AssertionError, EOFError, LookupError, TypeError, ValueError)  # by torchvision
_DIGITS_MEAN, _DIGITS_STD, _DIGITS_TOP = 0.3053, 0.3760, 16.0
_DIGITS_SPLIT_SEED = 0  # the 60/20/20 split never changes


@dataclass(frozen=True)
class Part:
    """One part as stored: its labels in file order, and how to make examples of a choice of them."""

    labels: Integers
    choose: Callable[[Integers, bool], Examples]  # indices into the part, whether to augment


@dataclass(frozen=True)
class Source:
    """A data set as it comes: parts by name, `train` among them. `fixed_validation` is a part made for selecting."""

    classes: tuple[str, ...]
    parts: Mapping[str, Part]
    fixed_validation: str | None = None
    left_out: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    """Files of each part that are not read, by the reason."""


def open_source(data: Data, *, download: bool = False) -> Source:
    """Find a data set by its name.

    Raises:
        InputError: the name is unknown, or the files are missing or unreadable.
    """
    if data.augment not in ("standard", "none"):
        raise InputError(f"data.augment must be 'standard' or 'none', got {data.augment!r}")
    if data.name == "imagefolder":
        folder = open_image_folder(data)
        parts = {name: Part(labels, choose) for name, (labels, choose) in folder.parts.items()}
        return Source(folder.classes, parts, left_out=folder.left_out)
    if data.args:
        raise InputError(f"data.args: {data.name} takes no arguments, got {', '.join(sorted(data.args))}")
    if data.name == "digits":
        return _open_digits(data)
    if data.name in _TORCHVISION:
        return _open_torchvision(data, download)
    names = ["digits", "imagefolder", *_TORCHVISION]
    near = difflib.get_close_matches(data.name, names, n=1)
    hint = f" (did you mean {near[0]!r}?)" if near else ""
    raise InputError(f"data.name: unknown data set {data.name!r}{hint}; known: {', '.join(sorted(names))}")


def _open_digits(data: Data) -> Source:
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    pictures = images.reshape(-1, 1, 8, 8).astype(np.uint8)
    held_out = stratified_draw(labels, 0.4, _DIGITS_SPLIT_SEED)
    of_held_out = stratified_draw(labels[held_out], 0.5, _DIGITS_SPLIT_SEED)
    indices = {
        "train": np.setdiff1d(np.arange(len(labels)), held_out),
        "validation": np.setdiff1d(held_out, held_out[of_held_out]),
        "test": held_out[of_held_out],
    }
    scaling = Scaling((_DIGITS_MEAN,), (_DIGITS_STD,), _DIGITS_TOP)
    shift = ShiftFlip(1, False) if data.augment == "standard" else None
    parts = {
        name: _part_in_memory(pictures[chosen], labels[chosen], scaling, shift) for name, chosen in indices.items()
    }
    return Source(tuple("0123456789"), parts, fixed_validation="validation")


def _open_torchvision(data: Data, download: bool) -> Source:
    import torchvision

    class_name, mean, std, pad, flip = _TORCHVISION[data.name]
    root = Path(data.root).expanduser()
    shift = ShiftFlip(pad, flip) if data.augment == "standard" else None
    parts = {}
    classes: tuple[str, ...] = ()
    for name in ("train", "test"):
        try:
            stored = getattr(torchvision.datasets, class_name)(root, train=name == "train", download=download)
            pictures, labels = np.asarray(stored.data), np.asarray(stored.targets)
        except _DAMAGE_ERRORS as error:
            way_out = (
                f"the download failed ({error})"
                if download
                else "fetch it with `jorge-tune train --download`, or set data.root to the folder that has it"
            )
            raise InputError(f"{root}: {data.name} is not there or damaged; {way_out}") from error
        classes = tuple(stored.classes)
        if len(pictures) != len(labels) or not np.isin(labels, np.arange(len(classes))).all():
            raise InputError(
                f"{root}: {data.name} is damaged: its {name} part has {len(pictures)} images and {len(labels)} labels, "
                f"of which all must be from 0 to {len(classes) - 1}; remove it and fetch it again"
            )
        parts[name] = _part_in_memory(_channels_first(pictures), labels, Scaling(mean, std), shift)
    return Source(classes, parts)


def _part_in_memory(
    pictures: np.ndarray[Any, Any], labels: np.ndarray[Any, Any], scaling: Scaling, shift: ShiftFlip | None
) -> Part:
    labels = labels.astype(np.int64)
    return Part(labels, partial(_choose_in_memory, pictures, labels, scaling, shift))


def _choose_in_memory(
    pictures: np.ndarray[Any, Any],
    labels: Integers,
    scaling: Scaling,
    shift: ShiftFlip | None,
    indices: Integers,
    augment: bool,
) -> Examples:
    images = torch.from_numpy(np.ascontiguousarray(pictures[indices]))
    return ImagesInMemory(images, torch.from_numpy(labels[indices]), scaling, shift if augment else None)


def _channels_first(pictures: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Shape: (count, height, width[, channels]) -> (count, channels, height, width)."""
    return pictures[:, None] if pictures.ndim == 3 else pictures.transpose(0, 3, 1, 2)


def stratified_draw(labels: Integers, fraction: float, seed: int) -> Integers:
    """Indices, ascending, of `fraction` of every class, rounded so that the whole is right.

    At least one of each class is drawn and at least one stays, so of a class of one image nothing is drawn.

    Shape:
        labels: (count,) -> (about fraction * count,).
    """
    generator = np.random.Generator(np.random.Philox(seed))
    classes, counts = np.unique(labels, return_counts=True)
    exact = counts * fraction
    sizes = np.maximum(1, np.floor(exact)).astype(np.int64)
    missing = max(0, round(float(exact.sum())) - int(sizes.sum()))
    sizes[np.argsort(-(exact - np.floor(exact)), kind="stable")[:missing]] += 1
    sizes = np.minimum(sizes, counts - 1)
    drawn = [
        generator.permutation(np.flatnonzero(labels == label))[:size]
        for label, size in zip(classes, sizes, strict=True)
    ]
    return np.sort(np.concatenate(drawn))
