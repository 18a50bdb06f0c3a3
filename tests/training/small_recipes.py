"""Recipes that train in well under a second."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from jorge_tune.recipe.schema import Cosine, DataSection, ModelSection, Recipe, SGDSection, TaskSection


def digits_recipe(*, model: ModelSection | None = None, data: dict[str, Any] | None = None, **changes: Any) -> Recipe:
    """SGD on digits, two epochs of nine steps, with dropout so that torch's random state matters."""
    model = model or ModelSection(name="mlp", args={"hidden": [16], "dropout": 0.2})
    recipe = Recipe(
        name="small",
        task=TaskSection(kind="classification", model=model, data=DataSection(name="digits", **(data or {}))),
        optimizer=SGDSection(lr=0.1, momentum=0.9, weight_decay=5e-4),
        schedule=Cosine(unit="step"),
        epochs=2,
        batch_size=128,
    )
    return replace(recipe, **changes)


def folder_recipe(root: object, **data: Any) -> Recipe:
    """A tiny CIFAR ResNet on an image directory, one epoch.

    Of width 8, not 4: below 8 channels oneDNN 3.12 writes beyond its memory in the weights' gradient of a 1x1
    convolution of stride 2 in channels-last layout (seen on a CPU with AVX2 and without AVX-512).
    """
    return replace(
        digits_recipe(epochs=1, batch_size=16),
        task=TaskSection(
            kind="classification",
            model=ModelSection(
                name="cifar_resnet", args={"depth": 8, "width": 8, "num_classes": data.pop("classes", 2)}
            ),
            data=DataSection(name="imagefolder", root=str(root), **data),
        ),
    )
