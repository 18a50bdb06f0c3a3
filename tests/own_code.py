"""Code of a user's own, as tests write it next to a recipe: tasks, a network and a data set, all small."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from jorge_tune.recipe.recipe_files import load
from jorge_tune.recipe.schema import Recipe

MODULE = '''
import random

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset, TensorDataset


def rows(count=56, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(count, 6, generator=generator)
    return x, x[:, :3].argmax(1)


class Noisy(Dataset):
    """Draws from all three global generators for every item."""

    def __init__(self, x, y):
        self.x, self.y = x, y

    def __len__(self):
        return len(self.x)

    def __getitem__(self, index):
        noise = torch.randn(6) + float(np.random.randn()) + random.gauss(0, 1)
        return self.x[index] + 0.1 * noise, self.y[index]


def loaders(batch_size, workers=0, **more):
    x, y = rows()
    train = DataLoader(Noisy(x[:40], y[:40]), batch_size, shuffle=True, num_workers=workers, **more)
    return train, DataLoader(TensorDataset(x[40:], y[40:]), batch_size)


class Task:
    """Classification of rows; dropout and batch norm, so that random state and buffers matter."""

    def __init__(self, batch_size, width=8, workers=0, **more):
        self.model = nn.Sequential(
            nn.Linear(6, width), nn.BatchNorm1d(width), nn.ReLU(), nn.Dropout(0.2), nn.Linear(width, 3)
        )
        self.train_batches, self.validation_batches = loaders(batch_size, workers, **more)

    def loss(self, outputs, batch):
        return F.cross_entropy(outputs, batch[1])

    def metrics(self, outputs, batch):
        right = outputs.argmax(1) == batch[1]
        return {"accuracy": right.float().mean(), "right": (right.sum(), len(right))}


class Dicts(Task):
    """Batches that are dicts, outputs of another form, and a test part."""

    def __init__(self, batch_size):
        super().__init__(batch_size)
        x, y = rows()
        items = [{"x": a, "y": b} for a, b in zip(x, y)]
        self.train_batches = DataLoader(items[:40], batch_size, shuffle=True, generator=torch.Generator())
        self.validation_batches = DataLoader(items[40:], batch_size)
        self.test_batches = DataLoader(items[48:], 8)

    def outputs(self, model, batch):
        return {"scores": model(batch["x"])}

    def loss(self, outputs, batch):
        return F.cross_entropy(outputs["scores"], batch["y"])

    def metrics(self, outputs, batch):
        return {}


class Step(Task):
    """A step that is not one forward pass and one loss; no loss of its own."""

    loss = None

    def training_step(self, model, batch):
        x, y = batch
        return F.cross_entropy(model(x), y) + 0.1 * F.cross_entropy(model(x.flip(0)), y.flip(0))


class Stream:
    """An iterator: it goes on and cannot start anew."""

    def __init__(self, batch_size):
        self.x, self.y = rows()
        self.size, self.drawn = batch_size, 0

    def __len__(self):
        return 5

    def __iter__(self):
        return self

    def __next__(self):
        chosen = [(self.drawn * self.size + k) % 40 for k in range(self.size)]
        self.drawn += 1
        return self.x[chosen], self.y[chosen]


class Streaming(Task):
    def __init__(self, batch_size):
        super().__init__(batch_size)
        self.train_batches = Stream(batch_size)


def net(width=8, num_classes=10):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, width), nn.ReLU(), nn.Linear(width, num_classes))


def images(count=60):
    generator = torch.Generator().manual_seed(0)
    pictures = torch.randn(count, 1, 8, 8, generator=generator)
    return pictures, torch.arange(count) % 10


def make_data(count=60):
    pictures, labels = images(count)
    return {
        "train": TensorDataset(pictures[:40], labels[:40]),
        "validation": (pictures[40:50], labels[40:50]),
        "test": Items(pictures[50:], labels[50:]),
    }


class Items(Dataset):
    """Images that are augmented with all three global generators."""

    classes = list("abcdefghij")

    def __init__(self, pictures, labels):
        self.pictures, self.targets = pictures, labels.tolist()

    def __len__(self):
        return len(self.targets)

    def __getitem__(self, index):
        noise = torch.randn(1, 8, 8) + float(np.random.randn()) + random.gauss(0, 1)
        return self.pictures[index] + 0.1 * noise, self.targets[index]


def make_items(count=60):
    pictures, labels = images(count)
    return Items(pictures[:50], labels[:50]), Items(pictures[50:], labels[50:])
'''

RECIPE = """
name: own
task: {task}
optimizer: {{name: sgd, lr: 0.05, momentum: 0.9, weight_decay: 1.0e-3}}
schedule: {{name: cosine, unit: step}}
epochs: 2
batch_size: 8
"""


def write_recipe_with_code(
    folder: Path, task: str = '{kind: python, factory: "own_code:Task"}', code: str = MODULE
) -> Path:
    """A recipe file next to own_code.py, which holds `code`."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "own_code.py").write_text(code)
    path = folder / "own.yaml"
    path.write_text(RECIPE.format(task=task))
    return path


def recipe_with_code(folder: Path, task: str = "Task", code: str = MODULE, **changes: Any) -> Recipe:
    """The recipe of a task: the name of one in `MODULE`, or a whole section."""
    section = task if task.startswith("{") else f'{{kind: python, factory: "own_code:{task}"}}'
    return replace(load(write_recipe_with_code(folder, section, code)).recipe, **changes)
