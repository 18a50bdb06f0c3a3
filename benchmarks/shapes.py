"""Parameter shapes of real networks, and gradients of those shapes with a decaying spectrum. No weights are loaded."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

RANK = 64  # directions that carry a synthetic gradient, k-th with weight 1/k; the rest is noise of 1e-3


class Shape(NamedTuple):
    """A parameter's name and shape, and whether it is to be preconditioned (embeddings are not)."""

    name: str
    shape: tuple[int, ...]
    precondition: bool = True


def _torchvision(model: str) -> list[Shape]:
    import torchvision

    with torch.device("meta"):
        parameters = torchvision.models.get_model(model).named_parameters()
        return [Shape(name, tuple(parameter.shape)) for name, parameter in parameters]


def _gpt(layers: int, width: int, words: int, context: int) -> list[Shape]:
    """GPT-2's parameters, the output layer tied to the embedding, weights as (out, in)."""
    shapes = [Shape("wte", (words, width), False), Shape("wpe", (context, width), False)]
    matrices = {"attn.qkv": (3 * width, width), "attn.out": (width, width)}
    matrices |= {"mlp.up": (4 * width, width), "mlp.down": (width, 4 * width)}
    for layer in range(layers):
        for name, shape in matrices.items():
            shapes += [Shape(f"{layer}.{name}.weight", shape), Shape(f"{layer}.{name}.bias", shape[:1])]
        shapes += [Shape(f"{layer}.norm{k}.{part}", (width,)) for k in (1, 2) for part in ("weight", "bias")]
    return [*shapes, Shape("norm.weight", (width,)), Shape("norm.bias", (width,))]


def _toy() -> list[Shape]:
    convolutions = [Shape("conv1", (12, 3, 3, 3)), Shape("conv2", (24, 12, 3, 3)), Shape("conv3", (24, 24, 3, 3))]
    return [Shape("embedding", (40, 12), False), *convolutions, Shape("fc", (10, 24)), Shape("bias", (10,))]


MODELS = ("resnet18", "resnet50", "vit_b_16", "gpt12", "toy")


def shapes_of(model: str) -> list[Shape]:
    """Every parameter of one of `MODELS`, in the network's order."""
    if model == "gpt12":
        return _gpt(layers=12, width=768, words=50257, context=1024)
    return _toy() if model == "toy" else _torchvision(model)


def synthetic_gradient(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """U diag(1/k) V^T + 1e-3 noise for matrices (and collapsed convolutions), normal for vectors; float32."""
    if len(shape) < 2:
        return torch.randn(shape, generator=generator)
    m, n = shape[0], math.prod(shape[1:])
    rank = min(m, n, RANK)
    left, right = (torch.randn(side, rank, generator=generator) / math.sqrt(side) for side in (m, n))
    weights = 1 / torch.arange(1, rank + 1)
    noise = torch.randn(m, n, generator=generator) / math.sqrt(m * n)
    return ((left * weights) @ right.T + 1e-3 * noise).reshape(shape)
