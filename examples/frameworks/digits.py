"""What all examples here share: scikit-learn's digits as rows of 64 numbers, a small network, and its accuracy."""

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import Subset, TensorDataset


def parts() -> tuple[Subset, Subset]:
    """A training and a validation part."""
    pixels, labels = load_digits(return_X_y=True)
    data = TensorDataset(torch.tensor(pixels, dtype=torch.float32) / 16, torch.tensor(labels))
    order = torch.randperm(len(data), generator=torch.Generator().manual_seed(0)).tolist()
    return Subset(data, order[:1280]), Subset(data, order[1280:])


def network() -> nn.Sequential:
    """64 numbers to 10 scores."""
    return nn.Sequential(nn.Linear(64, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Linear(64, 10))


@torch.no_grad()
def top1(model: nn.Module, part: Subset) -> float:
    """The share of a part that the model names right."""
    model.eval()
    images, labels = (torch.stack(column) for column in zip(*part, strict=True))
    return (model(images).argmax(1) == labels).float().mean().item()
