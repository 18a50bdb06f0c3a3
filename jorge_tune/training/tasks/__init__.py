"""Kinds of task: what a batch is, what its loss is, and by which metrics a model is judged."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor, nn

from jorge_tune.errors import InputError
from jorge_tune.recipe.checks import check_has_model, check_trainable
from jorge_tune.recipe.schema import Recipe
from jorge_tune.training.data_summary import RunSummary
from jorge_tune.training.datasets import PartName
from jorge_tune.training.loader import Batch, TaskBatches


class Meter(Protocol):
    """Gathers one evaluation on the device; nothing is read from it before `compute`."""

    def update(self, outputs: Any, batch: Batch) -> None:
        """Add one batch."""
        ...

    def compute(self) -> dict[str, float]:
        """All metrics, `loss` among them."""
        ...


class Task(Protocol):
    """Data, loss and metrics of one recipe."""

    summary: RunSummary
    """What the run found in the data."""

    @property
    def own_model(self) -> nn.Module | None:
        """The model that the task brings, on the CPU; None where the recipe names it."""
        ...

    @property
    def train(self) -> TaskBatches:
        """The training part."""
        ...

    @property
    def selecting(self) -> tuple[PartName, TaskBatches]:
        """The part evaluated after each epoch."""
        ...

    @property
    def final_test(self) -> TaskBatches | None:
        """The test part that is read once, after the last epoch; None where there is no such part."""
        ...

    @property
    def main_metric(self) -> str:
        """The metric that says which state is best."""
        ...

    @property
    def metrics(self) -> tuple[str, ...]:
        """Names of all metrics."""
        ...

    def training_loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """The scalar that training minimises."""
        ...

    def sample_losses(self, model: nn.Module, batch: Batch) -> Tensor:
        """The training loss of each sample of a batch that is forwarded whole; of the batch, where samples have none.

        Shape:
            -> (samples,), or (1,).
        """
        ...

    def outputs(self, model: nn.Module, batch: Batch) -> Any:
        """What a meter takes of a batch."""
        ...

    def meter(self) -> Meter:
        """A fresh meter."""
        ...

    def check_model(self, model: nn.Module) -> None:
        """Raise InputError if the model does not fit the data, or their batches; leaves no trace in it."""
        ...

    def close(self) -> None:
        """End the loader's processes."""
        ...


def open_task(recipe: Recipe, device: torch.device, *, download: bool = False) -> Task:
    """The task of a recipe, its data read.

    Raises:
        InputError: a recipe without a task or of a kind that cannot be trained, or data that are not there.
    """
    if recipe.task is None:
        raise InputError(f"the recipe {recipe.name!r} has no task: it can be bootstrapped, but not trained")
    check_trainable(recipe)
    if recipe.task.kind == "python":
        from jorge_tune.training.tasks.own_task import OwnTask

        return OwnTask(recipe, device)
    check_has_model(recipe)
    from jorge_tune.training.tasks.classification import Classification

    return Classification(recipe, device, download=download)
