"""A data set of the user's own for a classification: its parts, as the loader takes them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, TensorDataset

from jorge_tune.errors import InputError
from jorge_tune.recipe.schema import DataSection
from jorge_tune.training.factories import call_factory, in_words
from jorge_tune.training.images import Integers
from jorge_tune.training.random_stream import RandomStream

_ORDER = ("train", "validation", "test")
_FACTORY_SEED = 0  # fixed, as the split of every data set: the same for every run and seed


@dataclass(frozen=True)
class OwnTensors:
    """Images and labels that the user's code holds as two tensors.

    Shape:
        images: (count, ...); labels: (count,) int64.
    """

    images: Tensor
    labels: Tensor
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
        return self.images[chosen], self.labels[chosen]

    def choose(self, indices: Integers) -> OwnTensors:
        """Some of them."""
        kept = torch.from_numpy(indices)
        return replace(self, images=self.images[kept], labels=self.labels[kept])

    def to(self, device: torch.device) -> OwnTensors:
        """The same images on `device`."""
        return replace(self, images=self.images.to(device), labels=self.labels.to(device))


@dataclass(frozen=True)
class OwnItems:
    """Items of the user's data set, one by one. What an item draws follows from (seed, epoch, its number)."""

    items: Any
    indices: Integers
    labels: Tensor
    shape: tuple[int, ...]
    remarks: Mapping[str, int] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.indices)

    def batch(self, indices: Integers, draw: tuple[int, int] | None) -> tuple[Tensor, Tensor]:
        """See `Examples.batch`."""
        images = [self._image(int(index), draw or (0, 0)) for index in self.indices[indices]]
        return torch.stack(images), self.labels[torch.from_numpy(indices)]

    def choose(self, indices: Integers) -> OwnItems:
        """Some of them."""
        return replace(self, indices=self.indices[indices], labels=self.labels[torch.from_numpy(indices)])

    def to(self, device: torch.device) -> OwnItems:
        """These examples: items are made on the host."""
        return self

    def _image(self, index: int, draw: tuple[int, int]) -> Tensor:
        with in_words(f"task.data.factory: item {index}", InputError), RandomStream(*draw, index):
            image, _ = _pair(self.items[index], index)
        if tuple(image.shape) != self.shape:
            raise InputError(
                f"task.data.factory: item {index} has shape {tuple(image.shape)}, the first one {self.shape}; all "
                "images must have one shape"
            )
        return image


OwnExamples = OwnTensors | OwnItems


def own_parts(data: DataSection) -> dict[str, OwnExamples]:
    """The parts that the factory of a data section makes, by name; `train` is the first.

    Raises:
        InputError: the factory fails, or returns no parts of images and labels.
    """
    assert data.factory is not None
    offered = {"root": data.root, "augment": data.augment}
    made = call_factory(data.factory, data.args, "task.data", seed=_FACTORY_SEED, offered=offered)
    where = f"task.data.factory: {data.factory}"
    if isinstance(made, tuple) and 2 <= len(made) <= len(_ORDER):
        made = dict(zip(_ORDER, made, strict=False))
    if not isinstance(made, Mapping) or "train" not in made:
        raise InputError(
            f"{where}: must return a dict of parts (train, validation, test) or a tuple of them, got "
            f"{type(made).__name__}"
        )
    if unknown := [name for name in made if name not in _ORDER]:
        raise InputError(f"{where}: parts must be named {', '.join(_ORDER)}, got {unknown[0]!r}")
    return {name: _examples(made[name], f"{where}: {name}") for name in _ORDER if made.get(name) is not None}


def class_names_of(parts: Mapping[str, OwnExamples]) -> tuple[str, ...]:
    """The names of the classes, as the training data set says them, or as many numbers as the labels need."""
    named = getattr(getattr(parts["train"], "items", None), "classes", None)
    count = 1 + max(int(part.labels.max()) for part in parts.values())
    if isinstance(named, (list, tuple)) and len(named) >= count:
        return tuple(map(str, named))
    return tuple(map(str, range(count)))


def _examples(part: Any, where: str) -> OwnExamples:
    """One part: two tensors, or a data set of pairs.

    Raises:
        InputError: it is neither, it is empty, or its labels are no classes.
    """
    if isinstance(part, TensorDataset):
        part = part.tensors
    if isinstance(part, (tuple, list)) and len(part) == 2 and all(isinstance(item, Tensor) for item in part):
        images, labels = part
        if len(images) != len(labels):
            raise InputError(f"{where}: has {len(images)} images and {len(labels)} labels")
        return OwnTensors(images, _checked(labels, where))
    if not hasattr(part, "__getitem__") or not hasattr(part, "__len__") or isinstance(part, (str, Mapping)):
        raise InputError(
            f"{where}: must be a data set with __len__ and items (image, label), or a pair of tensors, got "
            f"{type(part).__name__}"
        )
    count = len(part)
    if not count:
        raise InputError(f"{where}: must have at least one item, got none")
    with in_words(f"{where}: item 0", InputError), RandomStream(0, 0, 0):
        image, _ = _pair(part[0], 0)
    return OwnItems(part, np.arange(count, dtype=np.int64), _labels(part, count, where), tuple(image.shape))


def _labels(part: Dataset[Any], count: int, where: str) -> Tensor:
    """The labels as the data set lists them, else those of its items, each of which is made once for that."""
    for name in ("targets", "labels"):
        listed = getattr(part, name, None)
        if listed is not None and len(listed) == count:
            return _checked(torch.as_tensor(np.asarray(listed)), where)
    with in_words(f"{where}: reading its labels", InputError), RandomStream(0, 0):
        labels = [_pair(part[index], index)[1] for index in range(count)]
    return _checked(torch.tensor(labels), where)


def _pair(item: Any, index: int) -> tuple[Tensor, Any]:
    """An item's image as a tensor, and its label.

    Raises:
        InputError: it is something else.
    """
    if isinstance(item, (tuple, list)) and len(item) == 2:
        image, label = item
        if isinstance(image, (Tensor, np.ndarray)):
            return torch.as_tensor(image), label
        got = f"({type(image).__name__}, {type(label).__name__})"
    else:
        got = type(item).__name__
    raise InputError(
        f"task.data.factory: item {index} must be a pair (image tensor, label), got {got}; let the data set make "
        "tensors of its images"
    )


def _checked(labels: Tensor, where: str) -> Tensor:
    if labels.ndim != 1 or labels.is_floating_point() or labels.dtype == torch.bool or not len(labels):
        raise InputError(f"{where}: labels must be whole numbers, one per image, got {tuple(labels.shape)}")
    if int(labels.min()) < 0:
        raise InputError(f"{where}: labels must be 0 or more, got {int(labels.min())}")
    return labels.long().cpu()
