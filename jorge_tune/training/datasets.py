"""Data sets: opened by name, and divided into the parts of a run.

`load_splits` answers what is trained on, what selects the best state, and what is read once at the end. It opens a
source, which lists the parts that the data set comes with; it holds a fraction out of the training part where the
recipe asks for one, and keeps a subset of the rest.

`open_source` knows three kinds of sources: scikit-learn's digits, data sets of torchvision, and image directories
(ROOT/train/<class>/<image>, with test/ or val/ next to train/).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch

from jorge_tune.config.unknown_keys import suggestion
from jorge_tune.errors import InputError
from jorge_tune.hardware import usable_cores
from jorge_tune.image_listing import (
    ENDINGS,
    SMALL_SIDE,
    LeftOut,
    class_names,
    files_beside_classes,
    images_of_class,
    in_words,
    side_from,
)
from jorge_tune.recipe.schema import DataSection
from jorge_tune.training.data_summary import DataSummary, PartSummary
from jorge_tune.training.images import (
    Examples,
    ImageFiles,
    ImagesInMemory,
    Integers,
    Scaling,
    ShiftFlip,
    decode_all,
    image_size,
    read_headers,
)
from jorge_tune.training.own_data import OwnExamples, class_names_of, own_parts

PartName = Literal["validation", "test"]
_TORCHVISION = {  # class in torchvision.datasets, mean, std, shift in pixels, flip
    "cifar10": ("CIFAR10", (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616), 4, True),
    "cifar100": ("CIFAR100", (0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762), 4, True),
    "fashion_mnist": ("FashionMNIST", (0.2860,), (0.3530,), 2, True),
}
_DAMAGE_ERRORS = (RuntimeError, OSError, AssertionError, EOFError, LookupError, TypeError, ValueError)  # by torchvision
_DIGITS_MEAN, _DIGITS_STD, _DIGITS_TOP = 0.3053, 0.3760, 16.0
_DIGITS_SPLIT_SEED = 0  # the 60/20/20 split never changes
_VALIDATION_SEED = 1  # fixed: the held-out fraction is the same for every run and seed
_PART_NAMES = ("train", "val", "valid", "validation", "test")
_IMAGENET_MEAN, _IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_MEMORY_LIMIT_BYTES = 2 * 10**9
_HEADERS_CHECKED = 100_000  # of files too large to decode beforehand; a header takes 80 microseconds, over NFS more


@dataclass(frozen=True)
class Splits:
    """The parts of one run. `validation` is None where evaluation reads the test part; `test` where there is none."""

    classes: tuple[str, ...]
    train: Examples
    validation: Examples | None
    test: Examples | None
    summary: DataSummary

    @property
    def selecting(self) -> tuple[PartName, Examples]:
        """The part that evaluation reads after each epoch, and its name."""
        if self.validation is not None:
            return "validation", self.validation
        assert self.test is not None, "every source has a part beside train"
        return "test", self.test


def load_splits(data: DataSection, *, download: bool = False) -> Splits:
    """Read a data set and divide it as the recipe says.

    A fraction is held out of the training part, stratified, before `subset` picks from the rest. Every class keeps
    an image to train on.

    Raises:
        InputError: unknown data set, missing or unreadable files, or a division that cannot be made.
    """
    source = open_source(data, download=download)
    train = source.parts["train"]
    kept = np.arange(len(train.labels), dtype=np.int64)
    validation: Examples | None = None
    validation_name = _validation_name(data, source)
    if isinstance(validation_name, float):
        held_out = stratified_draw(train.labels, validation_name, _VALIDATION_SEED)
        if not len(held_out):
            raise InputError(f"data.validation: {data.validation} holds out no image: no class has two training images")
        kept = np.setdiff1d(kept, held_out)
        validation = train.choose(held_out, False)
    elif validation_name is not None:
        validation = _whole(source.parts[validation_name])

    available = len(kept)
    if data.subset is not None:
        kept = kept[_balanced_first(train.labels[kept], data.subset)]
    test_name = _test_name(source, validation_name)
    test = None if test_name is None else _whole(source.parts[test_name])
    chosen = train.choose(kept, True)

    names = {"train": "train", "validation": validation_name, "test": test_name}
    examples = {"train": chosen, "validation": validation, "test": test}
    summary = _summary(data, source, available, names, examples)
    return Splits(source.classes, chosen, validation, test, summary)


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


def open_source(data: DataSection, *, download: bool = False) -> Source:
    """Find a data set by its name.

    Raises:
        InputError: the name is unknown, or the files are missing or unreadable.
    """
    if data.augment not in ("standard", "none"):
        raise InputError(f"data.augment must be 'standard' or 'none', got {data.augment!r}")
    if data.factory is not None:
        return _open_own(data)
    assert data.name is not None, "checks.py asks for one of name and factory"
    if data.name == "imagefolder":
        return _open_image_directory(data)
    if data.args:
        raise InputError(f"data.args: {data.name} takes no arguments, got {', '.join(sorted(data.args))}")
    if data.name == "digits":
        return _open_digits(data)
    if data.name in _TORCHVISION:
        return _open_torchvision(data, download)
    names = ["digits", "imagefolder", *_TORCHVISION]
    hint = suggestion(data.name, names)
    raise InputError(f"data.name: unknown data set {data.name!r}{hint}; known: {', '.join(sorted(names))}")


def _open_own(data: DataSection) -> Source:
    """What a factory of the user's own makes; a validation part among them selects, unless the recipe says another."""
    made = own_parts(data)
    if len(made) == 1 and not isinstance(data.validation, float):
        raise InputError(
            f"task.data.factory: {data.factory} makes only a training part; let it make a validation part too, or set "
            "task.data.validation to a fraction"
        )
    parts = {name: Part(part.labels.numpy(), partial(_choose_own, part)) for name, part in made.items()}
    fixed = "validation" if "validation" in parts else None
    return Source(class_names_of(made), parts, fixed_validation=fixed)


def _choose_own(part: OwnExamples, indices: Integers, augment: bool) -> Examples:
    return part.choose(indices)


def _open_digits(data: DataSection) -> Source:
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


def _open_torchvision(data: DataSection, download: bool) -> Source:
    import torchvision

    assert data.name is not None
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
                else "fetch it with `jorge-tune train --download`, or set data.root to the directory that has it"
            )
            raise InputError(f"{root}: {data.name} is missing or damaged; {way_out}") from error
        classes = tuple(stored.classes)
        if len(pictures) != len(labels) or not np.isin(labels, np.arange(len(classes))).all():
            raise InputError(
                f"{root}: {data.name} is damaged: its {name} part has {len(pictures)} images and {len(labels)} labels, "
                f"of which all must be from 0 to {len(classes) - 1}; remove it and fetch it again"
            )
        parts[name] = _part_in_memory(_channels_first(pictures), labels, Scaling(mean, std), shift)
    return Source(classes, parts)


def _open_image_directory(data: DataSection) -> Source:
    """Classes and parts of a directory; images are read when a part is asked for its examples.

    All parts get the size that the first training image has, if nothing else is said.

    Raises:
        InputError: the directory, its train/ part, its classes or their images are missing, or data.args are wrong.
    """
    root = Path(data.root).expanduser()
    options = _read_options(data.args)
    if not (root / "train").is_dir():
        raise InputError(f"{root}: must have {root / 'train'}/<class>/<image>, which is missing")
    classes = tuple(class_names(root / "train"))
    if len(classes) < 2:
        got = "none" if not classes else f"only {classes[0]!r}"
        raise InputError(f"{root / 'train'}: must have at least two classes, a directory each, got {got}")

    parts: dict[str, Part] = {}
    left_out: dict[str, LeftOut] = {}
    size = options.size
    for name in _PART_NAMES:  # train is the first
        if (root / name).is_dir():
            paths, labels, left_out[name] = _list_part(root / name, classes)
            size = size or side_from(max(image_size(paths[0])))
            choose = partial(_choose, paths, labels, options.scaling, size, data.augment == "standard")
            parts[name] = Part(labels, choose)
    if len(parts) == 1:
        raise InputError(f"{root}: must have test/ or val/ next to train/, and has neither")
    return Source(classes, parts, left_out=left_out)


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


def _summary(
    data: DataSection,
    source: Source,
    available: int,
    names: Mapping[str, float | str | None],
    examples: Mapping[str, Examples | None],
) -> DataSummary:
    parts: dict[str, PartSummary] = {}
    remarks: Counter[str] = Counter()
    for name, part in examples.items():
        if part is None:
            continue
        counts = np.bincount(part.labels.numpy(), minlength=len(source.classes))
        stored = names[name]
        parts[name] = PartSummary(
            images=len(part),
            available=available if name == "train" else len(part),
            classes=int((counts > 0).sum()),
            lacking=tuple(source.classes[label] for label in np.flatnonzero(counts == 0)),
            source=stored if isinstance(stored, str) and stored != name else None,
        )
        remarks.update(part.remarks)

    used = [*names.values(), "train"]
    unused = {name: len(part.labels) for name, part in source.parts.items() if name not in used}
    shape = next(part.shape for part in examples.values() if part is not None)
    return DataSummary(
        name=data.name or data.factory or "",
        shape=shape,
        classes=len(source.classes),
        parts=parts,
        left_out=source.left_out,
        unused=unused,
        remarks=remarks,
        warnings=_warnings(data),
    )


def _warnings(data: DataSection) -> tuple[str, ...]:
    cores = len(usable_cores())
    if data.workers <= cores:
        return ()
    return (f"warning: {data.workers} loader workers share {cores} CPU core{'s' if cores > 1 else ''}",)


def _validation_name(data: DataSection, source: Source) -> float | str | None:
    """A fraction of train, the name of a stored part, or None where evaluation reads the test part."""
    asked = data.validation
    held_out = [name for name in source.parts if name != "train"]
    if asked is None:
        return source.fixed_validation
    if isinstance(asked, str):
        if asked not in held_out:
            known = ", ".join(held_out)
            raise InputError(f"data.validation: {data.name or data.factory} has no part {asked!r}; it has {known}")
        return None if asked == "test" else asked
    if source.fixed_validation is not None:
        raise InputError(
            f"data.validation: {data.name or data.factory} comes with a fixed validation part, so a fraction ({asked}) "
            f"cannot be held out; leave data.validation out, or set it to {source.fixed_validation!r}"
        )
    return float(asked)


def _test_name(source: Source, validation_name: float | str | None) -> str | None:
    """`test` where there is one, else another held-out part that is not the validation part."""
    others = [name for name in source.parts if name not in ("train", validation_name)]
    return "test" if "test" in others else (others[0] if others else None)


def _whole(part: Part) -> Examples:
    return part.choose(np.arange(len(part.labels), dtype=np.int64), False)


def _balanced_first(labels: Integers, count: int) -> Integers:
    """The first `count` in file order, dealt to the classes in turn; indices ascending.

    Raises:
        InputError: there are fewer than `count`, or more classes.
    """
    classes = len(np.unique(labels))
    if count < classes:
        raise InputError(
            f"data.subset must be at least the number of classes ({classes}), so that each has an image, got {count}"
        )
    if count > len(labels):
        raise InputError(f"data.subset must be at most the number of training images ({len(labels)}), got {count}")
    rank_in_class = np.empty(len(labels), dtype=np.int64)
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        rank_in_class[members] = np.arange(len(members))
    return np.sort(np.lexsort((labels, rank_in_class))[:count])


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


def _list_part(directory: Path, classes: tuple[str, ...]) -> tuple[list[Path], Integers, LeftOut]:
    strangers = [name for name in class_names(directory) if name not in classes]
    if strangers:
        raise InputError(f"{directory}: the class {strangers[0]!r} is not among those of train/")

    paths: list[Path] = []
    labels: list[int] = []
    left_out = files_beside_classes(directory)
    for label, name in enumerate(classes):
        if not (directory / name).is_dir():
            continue
        images, left_out_here = images_of_class(directory / name)
        left_out += left_out_here
        if not images and directory.name == "train":
            raise InputError(f"{directory / name}: no images found{_but(left_out_here)}")
        paths += images
        labels += [label] * len(images)

    if not paths:
        raise InputError(f"{directory}: no images found in the directories of its classes{_but(left_out)}")
    return paths, np.array(labels, dtype=np.int64), left_out


def _but(left_out: LeftOut) -> str:
    """The endings that count, and what was found instead."""
    instead = f"; left out: {in_words(left_out.items())}" if left_out else ""
    return f" ({', '.join(sorted(ENDINGS))}{instead})"


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
    if size <= SMALL_SIDE and len(chosen) * 3 * size**2 <= _MEMORY_LIMIT_BYTES:
        shift = ShiftFlip(size // 8, True) if standard and augment else None
        images, remarks = decode_all(chosen, size)
        return ImagesInMemory(images, targets, scaling, shift, remarks)
    stride = -(-len(chosen) // _HEADERS_CHECKED)  # spread evenly, so that every class is looked at
    remarks = read_headers(chosen[::stride])
    if stride > 1:
        remarks["header not read before the first epoch"] = len(chosen) - len(chosen[::stride])
    return ImageFiles(chosen, targets, scaling, size, standard and augment, remarks)


class _Options(NamedTuple):
    """data.args of an image directory."""

    size: int | None
    scaling: Scaling


def _read_options(args: Mapping[str, Any]) -> _Options:
    known = ("mean", "size", "std")
    for key in args:
        if key not in known:
            raise InputError(f"data.args.{key}: unknown key{suggestion(key, known)}; known: {', '.join(known)}")
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
