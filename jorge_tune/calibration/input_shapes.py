"""What a recipe's batches look like and how many there will be, from the recipe and the image files alone. No torch."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from jorge_tune.errors import InputError
from jorge_tune.image_listing import class_names, images_of_class, side_from
from jorge_tune.recipe.checks import check_has_model, check_trainable
from jorge_tune.recipe.schedule import total_steps
from jorge_tune.recipe.schema import DataSection, Recipe

_KNOWN = {  # number of training images, channels, side
    "digits": (1078, 1, 8),
    "cifar10": (50_000, 3, 32),
    "cifar100": (50_000, 3, 32),
    "fashion_mnist": (60_000, 1, 28),
}
_SIDES = {"cifar_resnet": 32, "inception_v3": 299}  # what these models were designed for
_USUAL_SIDE = 224
_MOST_FILES = 200_000  # counting more takes long enough to be noticed


OWN_BATCHES = "batches"  # how words for batches begin of which no shape is known


class InputShape(NamedTuple):
    """The shape of one image. `assumed` gives the reason if neither the recipe nor the files say it."""

    channels: int
    height: int
    width: int
    assumed: str = ""

    def __str__(self) -> str:
        return f"{self.channels}x{self.height}x{self.width}"


def input_shape(recipe: Recipe) -> InputShape:
    """The shape of the recipe's images.

    Raises:
        InputError: the recipe has no task, or its kind of task cannot be calibrated.
    """
    data = trainable_data(recipe)
    if data.name in _KNOWN:
        _, channels, side = _KNOWN[data.name]
        return InputShape(channels, side, side)

    size = data.args.get("size")
    if isinstance(size, int):
        return InputShape(3, size, size)

    first = next((images[0] for images in _images_by_class(data) if images), None)
    longest = None if first is None else _longest_side(first)
    if longest is not None:
        own = side_from(longest)
        return InputShape(3, own, own)

    assert recipe.task is not None
    assert recipe.task.model is not None
    side = _SIDES.get(recipe.task.model.name or "", _USUAL_SIDE)
    assumed = f"no image can be read below {_train_part(data)}: {side} pixels are assumed; set task.data.args.size"
    return InputShape(3, side, side, assumed)


def needs_own_batches(recipe: Recipe) -> bool:
    """Whether only code of the user's own knows what a batch looks like."""
    task = recipe.task
    return task is not None and (task.kind == "python" or (task.data is not None and task.data.factory is not None))


def input_in_words(recipe: Recipe) -> str:
    """What the batches of a calibration hold: the shape of an image, or whose batches they are.

    Raises:
        InputError: the recipe has no task, or its kind of task cannot be calibrated.
    """
    if not needs_own_batches(recipe):
        return str(input_shape(recipe))
    check_trainable(recipe)
    check_has_model(recipe)
    assert recipe.task is not None
    return f"{OWN_BATCHES} of {recipe.task.factory or (recipe.task.data and recipe.task.data.factory)}"


def training_steps(recipe: Recipe) -> int | None:
    """The optimizer steps of the whole training; None if the number of images is not known."""
    if recipe.steps is not None:
        return recipe.steps
    if needs_own_batches(recipe):
        return None

    data = trainable_data(recipe)
    count = _training_images(data)
    if count is None:
        return None
    batches = count / recipe.batch_size
    return total_steps(recipe, max(1, math.floor(batches) if data.drop_last else math.ceil(batches)))


def trainable_data(recipe: Recipe) -> DataSection:
    """The recipe's data section.

    Raises:
        InputError: the recipe has no task, or its kind of task cannot be calibrated.
    """
    task = recipe.task
    if task is None:
        raise InputError(f"recipe {recipe.name}: has no task, so there is no iteration to measure; add one")
    check_trainable(recipe)
    check_has_model(recipe)
    if task.data is None or task.model is None:
        missing = "model" if task.model is None else "data"
        raise InputError(f"recipe {recipe.name}: task.{missing} is missing, so there is nothing to measure; add it")
    return task.data


def _training_images(data: DataSection) -> int | None:
    """The number of images that are trained on; None if it is not known."""
    if data.subset is not None:
        return data.subset

    if data.name in _KNOWN:
        count = _KNOWN[data.name][0]
    else:
        count = 0
        for images in _images_by_class(data):
            count += len(images)
            if count > _MOST_FILES:
                return None
        if count == 0:
            return None

    if isinstance(data.validation, float) and data.name != "digits":  # digits has a fixed validation part
        return count - round(count * data.validation)
    return count


def _images_by_class(data: DataSection) -> Iterator[list[Path]]:
    """The image files of each class, as training lists them; what cannot be read ends the list."""
    folder = _train_part(data)
    try:
        for name in class_names(folder):
            yield images_of_class(folder / name)[0]
    except InputError:
        return  # training reports it; a calibration on synthetic batches does not need the files


def _train_part(data: DataSection) -> Path:
    return Path(data.root).expanduser() / "train"


def _longest_side(path: Path) -> int | None:
    """The longest side according to the file's header; None if the file is not an image."""
    from PIL import Image  # only image directories need it

    try:
        with Image.open(path) as image:
            return max(image.size)
    except (OSError, ValueError, SyntaxError):
        return None
