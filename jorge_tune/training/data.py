"""What is trained on, what is selected on, what is read once: the parts of a data set as a recipe asks for them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from jorge_tune.errors import InputError
from jorge_tune.hardware import usable_cores
from jorge_tune.recipe.schema import Data
from jorge_tune.training.augment import Integers
from jorge_tune.training.data_summary import DataSummary, PartSummary
from jorge_tune.training.examples import Examples
from jorge_tune.training.sources import Part, Source, open_source, stratified_draw

PartName = Literal["validation", "test"]

_VALIDATION_SEED = 1  # fixed: the held-out fraction is the same for every run and seed


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


def load_splits(data: Data, *, download: bool = False) -> Splits:
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
            raise InputError(f"data.validation: {data.validation} holds nothing out: no class has two training images")
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


def _summary(
    data: Data,
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
        name=data.name,
        shape=shape,
        classes=len(source.classes),
        parts=parts,
        left_out=source.left_out,
        unused=unused,
        remarks=remarks,
        warnings=_warnings(data),
    )


def _warnings(data: Data) -> tuple[str, ...]:
    cores = len(usable_cores())
    if data.workers <= cores:
        return ()
    return (f"warning: {data.workers} loader workers share {cores} CPU core{'s' if cores > 1 else ''}",)


def _validation_name(data: Data, source: Source) -> float | str | None:
    """A fraction of train, the name of a stored part, or None where evaluation reads the test part."""
    asked = data.validation
    held_out = [name for name in source.parts if name != "train"]
    if asked is None:
        return source.fixed_validation
    if isinstance(asked, str):
        if asked not in held_out:
            raise InputError(f"data.validation: {data.name} has no part {asked!r}; it has {', '.join(held_out)}")
        return None if asked == "test" else asked
    if source.fixed_validation is not None:
        raise InputError(
            f"data.validation: {data.name} comes with a fixed validation part, so a fraction ({asked}) "
            f"cannot be held out; leave data.validation away or name {source.fixed_validation!r}"
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
        raise InputError(f"data.subset: {count} images asked for, but only {len(labels)} can be trained on")
    rank_in_class = np.empty(len(labels), dtype=np.int64)
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        rank_in_class[members] = np.arange(len(members))
    return np.sort(np.lexsort((labels, rank_in_class))[:count])
