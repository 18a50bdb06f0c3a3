"""A small network, its data, and the optimizers that every framework trains it with."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from jorge_tune.optim import DecoupledSGD, Jorge, Shampoo, SketchyAdaGrad, SketchyShampoo

Made = tuple[type[torch.optim.Optimizer], dict[str, Any]]

# Refreshes on some steps alone, so that a resumed run must know which.
MEMBERS: dict[str, Made] = {
    "Jorge": (Jorge, {"lr": 0.05, "weight_decay": 1e-3, "refresh_interval": 3, "warm_refreshes": 2, "block_size": 5}),
    "Shampoo": (Shampoo, {"lr": 0.05, "refresh_interval": 3, "warm_refreshes": 2, "graft": "adamw"}),
    "SketchyShampoo": (SketchyShampoo, {"lr": 0.05, "rank": 3, "refresh_interval": 3, "warm_refreshes": 2}),
    "SketchyAdaGrad": (SketchyAdaGrad, {"lr": 0.05, "rank": 4, "momentum": 0.5}),
    "DecoupledSGD": (DecoupledSGD, {"lr": 0.05, "momentum": 0.9, "nesterov": True}),
}


def with_every_member(function: Callable[..., None]) -> Callable[..., None]:
    """Run a test with each optimizer, given as its class and its keywords."""
    return pytest.mark.parametrize(("optimizer_class", "kwargs"), MEMBERS.values(), ids=MEMBERS.keys())(function)


def network(seed: int = 0) -> nn.Sequential:
    """6 numbers to 3 scores."""
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))


def data(size: int = 32) -> TensorDataset:
    """Inputs and labels that can be learned."""
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(size, 6, generator=generator)
    return TensorDataset(inputs, inputs[:, :3].argmax(1))


def loss_of(model: nn.Module, inputs: Tensor, labels: Tensor) -> Tensor:
    return nn.functional.cross_entropy(model(inputs), labels)


def weights(model: nn.Module | Iterable[Tensor]) -> list[Tensor]:
    """The weights, copied."""
    params = model.parameters() if isinstance(model, nn.Module) else model
    return [param.detach().clone() for param in params]


def same(one: list[Tensor], other: list[Tensor]) -> bool:
    """Whether both are the same to the last bit."""
    return len(one) == len(other) and all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
