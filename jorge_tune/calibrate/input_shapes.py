"""What a recipe's batches look like and how many there will be, from the recipe and file names alone. No torch."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from jorge_tune.errors import InputError
from jorge_tune.recipe.checks import check_has_model, check_trainable
from jorge_tune.recipe.schedule import total_steps
from jorge_tune.recipe.schema import DataSection, Recipe

_KNOWN = {  # images of the training part, channels and side
    "digits": (1078, 1, 8),
    "cifar10": (50_000, 3, 32),
    "cifar100": (50_000, 3, 32),
    "fashion_mnist": (60_000, 1, 28),
}
_SIDES = {"cifar_resnet": 32, "inception_v3": 299}  # what these models are made for
_USUAL_SIDE = 224
_SMALL = 64  # an image directory's images up to this side are taken as they are (see training/directories.py)
_MOST_FILES = 200_000  # counting more would be noticed


class InputShape(NamedTuple):
    """One image of a batch; `assumed` says why where the recipe and the files do not tell."""

    channels: int
    height: int
    width: int
    assumed: str = ""

    def __str__(self) -> str:
        return f"{self.channels}x{self.height}x{self.width}"


def input_shape(recipe: Recipe) -> InputShape:
    """The shape of the recipe's images.

    Raises:
        InputError: a recipe without a task, or of a kind that cannot be calibrated.
    """
    data = trainable_data(recipe)
    if data.name in _KNOWN:
        _, channels, side = _KNOWN[data.name]
        return InputShape(channels, side, side)
    size = data.args.get("size")
    if isinstance(size, int):
        return InputShape(3, size, size)
    first = next(_images(Path(data.root).expanduser() / "train"), None)
    longest = None if first is None else _longest_side(first)
    if longest is not None:
        own = longest if longest <= _SMALL else _USUAL_SIDE
        return InputShape(3, own, own)
    assert recipe.task is not None
    assert recipe.task.model is not None
    side = _SIDES.get(recipe.task.model.name, _USUAL_SIDE)
    return InputShape(
        3, side, side, f"{data.root} is not there, so {side} pixels are assumed; task.data.args.size says"
    )


def trainable_data(recipe: Recipe) -> DataSection:
    """The recipe's data section.

    Raises:
        InputError: a recipe without a task, or of a kind that cannot be calibrated.
    """
    task = recipe.task
    if task is None:
        raise InputError(f"the recipe {recipe.name!r} has no task: there is no iteration to measure")
    check_trainable(recipe)
    check_has_model(recipe)
    if task.data is None or task.model is None:
        raise InputError(f"task: the recipe {recipe.name!r} names no model or no data, so there is nothing to measure")
    return task.data


def training_steps(recipe: Recipe) -> int | None:
    """Optimizer steps of the whole training; None where the size of the data is not known."""
    if recipe.steps is not None:
        return recipe.steps
    data = trainable_data(recipe)
    count = _training_images(data)
    if count is None:
        return None
    batches = count / recipe.batch_size
    return total_steps(recipe, max(1, math.floor(batches) if data.drop_last else math.ceil(batches)))


def _training_images(data: DataSection) -> int | None:
    if data.subset is not None:
        return data.subset
    if data.name in _KNOWN:
        count: int | None = _KNOWN[data.name][0]
    else:
        files = _images(Path(data.root).expanduser() / "train")
        counted = sum(1 for _ in itertools.islice(files, _MOST_FILES + 1))
        count = counted if 0 < counted <= _MOST_FILES else None
    if count is not None and isinstance(data.validation, float) and data.name != "digits":
        return round(count * (1 - data.validation))
    return count


def _images(folder: Path) -> Iterator[Path]:
    """Files of the class directories, class by class in order of name."""
    try:
        classes = sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
        for one in classes:
            yield from sorted(path for path in one.iterdir() if path.is_file() and not path.name.startswith("."))
    except OSError:
        return


def _longest_side(path: Path) -> int | None:
    """From the header; None where it is no image."""
    from PIL import Image  # only image directories pay for it

    try:
        with Image.open(path) as image:
            return max(image.size)
    except (OSError, ValueError, SyntaxError):
        return None
