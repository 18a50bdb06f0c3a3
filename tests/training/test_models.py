from __future__ import annotations

from typing import Any

import pytest
import torch

from jorge_tune.training.models import OWN_MODELS, cifar_resnet, mlp, small_cnn


def _count(model: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize(
    ("name", "arguments", "shape", "least", "most"),
    [
        ("small_cnn", {}, (1, 8, 8), 20_000, 50_000),
        ("small_cnn", {"in_channels": 3, "num_classes": 7}, (3, 28, 28), 20_000, 50_000),
        ("mlp", {}, (1, 8, 8), 10_000, 30_000),
        ("mlp", {"in_features": 12, "hidden": [5], "num_classes": 3, "dropout": 0.5}, (3, 2, 2), 83, 83),
        ("cifar_resnet", {"depth": 8}, (3, 32, 32), 70_000, 90_000),
        ("cifar_resnet", {"depth": 20, "num_classes": 100}, (3, 32, 32), 260_000, 300_000),
        ("cifar_resnet", {"depth": 14, "width": 8, "in_channels": 1}, (1, 9, 9), 40_000, 50_000),
    ],
)
def test_models_map_images_to_scores(
    name: str, arguments: dict[str, Any], shape: tuple[int, ...], least: int, most: int
) -> None:
    model = OWN_MODELS[name](**arguments)
    scores = model(torch.randn(4, *shape))
    assert scores.shape == (4, arguments.get("num_classes", 10))
    scores.sum().backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in model.parameters())
    assert least <= _count(model) <= most


def test_the_resnet_of_depth_20_stays_below_0_3_million() -> None:
    assert _count(cifar_resnet(depth=20)) <= 300_000


@pytest.mark.parametrize("depth", [2, 9, 18, 21])
def test_depths_that_are_no_resnet_are_refused(depth: int) -> None:
    with pytest.raises(ValueError, match=rf"depth must be 6 n \+ 2 .*got {depth}"):
        cifar_resnet(depth=depth)


def test_networks_too_narrow_for_their_gradients_are_refused() -> None:
    with pytest.raises(ValueError, match="width must be at least 8, got 7"):
        cifar_resnet(width=7)


def test_own_models_listed() -> None:
    assert {"cifar_resnet": cifar_resnet, "mlp": mlp, "small_cnn": small_cnn} == OWN_MODELS
