"""The five small tasks of `races.py`: data in memory, a model, a loss and what is measured."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from jorge_tune.training.models import cifar_resnet, small_cnn


class Part(NamedTuple):
    """Inputs and what is wanted of them."""

    x: Tensor
    y: Tensor


@dataclass(frozen=True)
class Task:
    """What is trained: three disjoint parts, a model for a seed, a loss. `error` is what counts, less being better."""

    train: Part
    validation: Part
    test: Part
    make_model: Callable[[], nn.Module]
    loss: Callable[[Tensor, Tensor], Tensor]
    error: Callable[[Tensor, Tensor], float]
    batch_size: int
    epochs: int
    weight_decay: float
    unit: str
    augment: Callable[[Tensor, torch.Generator], Tensor] = lambda x, generator: x
    shortened: int | None = None  # steps of an epoch, where it is not a whole pass

    @property
    def steps_per_epoch(self) -> int:
        return self.shortened or len(self.train.x) // self.batch_size

    def batches(self, generator: torch.Generator) -> Iterator[Part]:
        """One epoch in a new order, the last incomplete batch left out."""
        order = torch.randperm(len(self.train.x), generator=generator)
        for k in range(self.steps_per_epoch):
            chosen = order[k * self.batch_size : (k + 1) * self.batch_size]
            yield Part(self.augment(self.train.x[chosen], generator), self.train.y[chosen])


def top1_error(outputs: Tensor, labels: Tensor) -> float:
    return float((outputs.argmax(-1) != labels).double().mean())


def split(x: Tensor, y: Tensor, shares: tuple[float, float], seed: int) -> tuple[Part, Part, Part]:
    """Training, validation and test parts, of a fixed seed that no run has."""
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))
    first, second = (round(share * len(x)) for share in (shares[0], sum(shares)))
    return tuple(Part(x[o], y[o]) for o in (order[:first], order[first:second], order[second:]))  # type: ignore[return-value]


def digits_cnn(data: Path) -> Task:
    """scikit-learn's digits with the recipe's plain CNN (no batch norm)."""
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    x = torch.tensor(images, dtype=torch.float32).view(-1, 1, 8, 8) / 16
    parts = split(x, torch.tensor(labels), (0.6, 0.2), seed=1000)
    return Task(
        *parts,
        make_model=lambda: small_cnn(width=24, batch_norm=False),
        loss=functional.cross_entropy,
        error=top1_error,
        batch_size=64,
        epochs=16,
        weight_decay=5e-4,
        unit="error",
    )


def digits_autoencoder(data: Path) -> Task:
    """A deep autoencoder of the digits, 64-96-48-24-6 and back: cross-entropy per image, summed over pixels."""
    from sklearn.datasets import load_digits

    images, _ = load_digits(return_X_y=True)
    x = torch.tensor(images, dtype=torch.float32) / 16
    parts = split(x, x, (0.6, 0.2), seed=1001)

    def model() -> nn.Module:
        sizes = (64, 96, 48, 24, 6)
        pairs = list(itertools.pairwise(sizes))
        pairs += [(b, a) for a, b in reversed(pairs)]
        layers: list[nn.Module] = []
        for a, b in pairs:
            layers += [nn.Linear(a, b), nn.Identity() if b in (6, 64) else nn.Tanh()]
        return nn.Sequential(*layers)

    def loss(outputs: Tensor, wanted: Tensor) -> Tensor:
        return functional.binary_cross_entropy_with_logits(outputs, wanted, reduction="none").sum(-1).mean()

    return Task(
        *parts,
        make_model=model,
        loss=loss,
        error=lambda outputs, wanted: float(loss(outputs, wanted)),
        batch_size=32,
        epochs=20,
        weight_decay=0.0,
        unit="nats per image",
    )


def tabular(data: Path) -> Task:
    """scikit-learn's make_classification: 6,000 rows, 30 columns of unlike scales, 10 classes; an MLP."""
    from sklearn.datasets import make_classification

    rows, labels = make_classification(
        6000, 30, n_informative=12, n_redundant=8, n_classes=10, n_clusters_per_class=3, flip_y=0.02, random_state=7
    )
    rows = rows * np.logspace(-1, 1, 30)  # unlike scales, which tables have
    rows = rows / np.abs(rows).mean()
    parts = split(torch.tensor(rows, dtype=torch.float32), torch.tensor(labels), (0.5, 0.2), seed=1002)

    def model() -> nn.Module:
        sizes = (30, 128, 96, 64)
        layers: list[nn.Module] = []
        for a, b in itertools.pairwise(sizes):
            layers += [nn.Linear(a, b), nn.ReLU()]
        return nn.Sequential(*layers, nn.Linear(64, 10))

    return Task(
        *parts,
        make_model=model,
        loss=functional.cross_entropy,
        error=top1_error,
        batch_size=64,
        epochs=12,
        weight_decay=5e-4,
        unit="error",
    )


def cifar(data: Path) -> Task:
    """CIFAR-10 at 16x16: 5,000 images (500 of them for validation), 1,000 for the test; ResNet-8, flips and crops.

    `data` holds `train/<class>/*.jpg` and `test/<class>/*.jpg`.
    """
    from PIL import Image

    def read(part: str) -> Part:
        pixels, labels = [], []
        for label, folder in enumerate(sorted((data / part).iterdir())):
            for file in sorted(folder.iterdir()):
                pixels.append(np.asarray(Image.open(file).convert("RGB")))
                labels.append(label)
        x = torch.tensor(np.stack(pixels)).permute(0, 3, 1, 2).float() / 255
        mean, std = torch.tensor([0.4913, 0.4821, 0.4465]), torch.tensor([0.2452, 0.2428, 0.2606])
        x = functional.avg_pool2d((x - mean[:, None, None]) / std[:, None, None], 2)
        return Part(x, torch.tensor(labels))

    def augment(x: Tensor, generator: torch.Generator) -> Tensor:
        flip = torch.rand(len(x), generator=generator) < 0.5
        x = torch.where(flip[:, None, None, None], x.flip(-1), x)
        padded = functional.pad(x, (2, 2, 2, 2))
        rows, columns = torch.randint(0, 5, (2, len(x)), generator=generator).tolist()
        return torch.stack(
            [image[:, r : r + 16, c : c + 16] for image, r, c in zip(padded, rows, columns, strict=True)]
        )

    whole, test = read("train"), read("test")
    train, validation, _ = split(*whole, (0.9, 0.1), seed=1003)
    return Task(
        train,
        validation,
        test,
        make_model=lambda: cifar_resnet(depth=8, width=16),
        loss=functional.cross_entropy,
        error=top1_error,
        batch_size=64,
        epochs=6,
        weight_decay=5e-4,
        unit="error",
        augment=augment,
    )


class CharacterGPT(nn.Module):
    """Two pre-norm blocks of width 64 over a context of 64 characters."""

    def __init__(self, characters: int, width: int = 64, context: int = 64, layers: int = 2, heads: int = 4) -> None:
        super().__init__()
        self.tokens, self.positions = nn.Embedding(characters, width), nn.Embedding(context, width)
        self.blocks = nn.ModuleList(_Block(width, heads) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, characters, bias=False)
        for module in self.modules():
            if isinstance(module, (nn.Linear, nn.Embedding)):
                nn.init.normal_(module.weight, std=0.05)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.tokens(ids) + self.positions.weight[: ids.shape[1]]
        for block in self.blocks:
            x = block(x)
        logits: Tensor = self.head(self.norm(x))
        return logits.flatten(0, 1)


class _Block(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.first, self.second = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        batch, length, width = x.shape
        q, k, v = (
            t.view(batch, length, self.heads, -1).transpose(1, 2) for t in self.qkv(self.first(x)).split(width, -1)
        )
        attended = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(attended.transpose(1, 2).reshape(batch, length, width))
        result: Tensor = x + self.down(functional.gelu(self.up(self.second(x))))
        return result


def gpt(data: Path) -> Task:
    """Shakespeare by characters (`data` is the text file): nats per character, 8 epochs of 40 steps."""
    text = data.read_text()
    alphabet = {character: index for index, character in enumerate(sorted(set(text)))}
    ids = torch.tensor([alphabet[character] for character in text])
    cuts = [round(share * len(ids)) for share in (0.8, 0.9)]

    def windows(part: Tensor, number: int, seed: int) -> Part:
        starts = torch.randint(0, len(part) - 65, (number,), generator=torch.Generator().manual_seed(seed)).tolist()
        x = torch.stack([part[start : start + 64] for start in starts])
        y = torch.stack([part[start + 1 : start + 65] for start in starts])
        return Part(x, y)

    return Task(
        windows(ids[: cuts[0]], 8 * 40 * 24, seed=1004),
        windows(ids[cuts[0] : cuts[1]], 256, seed=1005),
        windows(ids[cuts[1] :], 512, seed=1006),
        make_model=lambda: CharacterGPT(len(alphabet)),
        loss=lambda outputs, wanted: functional.cross_entropy(outputs, wanted.flatten()),
        error=lambda outputs, wanted: float(functional.cross_entropy(outputs, wanted.flatten())),
        batch_size=24,
        epochs=8,
        weight_decay=0.0,
        unit="nats",
        shortened=40,
    )


TASKS: dict[str, Callable[[Path], Task]] = {
    "digits-cnn": digits_cnn,
    "autoencoder": digits_autoencoder,
    "tabular": tabular,
    "cifar": cifar,
    "gpt": gpt,
}
