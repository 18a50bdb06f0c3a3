"""What an iteration of a bench computes: a model, the batches that it gets, and its loss."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from jorge_tune.calibration.input_shapes import InputShape, input_shape, needs_own_batches
from jorge_tune.errors import InputError
from jorge_tune.hardware import Scheduling, scheduling
from jorge_tune.recipe.schema import Recipe
from jorge_tune.recipe.user_imports import user_code
from jorge_tune.training.build import build_model
from jorge_tune.training.device import is_out_of_memory
from jorge_tune.training.loader import Batch, ImageBatch
from jorge_tune.training.tasks import Task, open_task

_POOL_BYTES, _LARGEST_POOL = 2**28, 8  # of batches that are kept on the device


@dataclass(frozen=True)
class Workload:
    """One model's iterations.

    Attributes:
        model: In training mode, on the device.
        batches: Endless.
        loss_of: The scalar of a batch; autocast is the bench's.
        read_scheduling: Seconds that the process has run, and has waited for a core; None where that says nothing.
    """

    model: nn.Module
    batches: Iterator[Batch]
    loss_of: Callable[[Batch], Tensor]
    read_scheduling: Callable[[], Scheduling | None] = scheduling


@contextmanager
def open_workload(recipe: Recipe, device: torch.device, *, real_data: bool = False) -> Iterator[Workload]:
    """A recipe's iterations; its loader ends with the context.

    Batches are synthetic, unless only the user's own code knows what they look like: then some of its batches are kept
    on the device. With `real_data` all come from the loader.

    Raises:
        InputError: the recipe cannot be built, or its model does not accept its input.
    """
    with user_code(recipe), contextlib.ExitStack() as stack:
        if not real_data and not needs_own_batches(recipe):
            model = build_model(recipe).to(device).train()
            pool = synthetic_batches(model, input_shape(recipe), recipe.batch_size, device)
            yield Workload(model, itertools.cycle(pool), lambda batch: _cross_entropy(model, batch))
            return

        task = stack.enter_context(contextlib.closing(open_task(recipe, device)))
        model = task.own_model or build_model(recipe)
        model = model.to(device).train()
        task.check_model(model)
        batches = loader_batches(task)
        if not real_data:
            batches = itertools.cycle(kept_batches(batches, len(task.train)))
        uses_processes = task.train.workers > 0  # which compete for the cores by design
        reading = _unknown if real_data and uses_processes else scheduling
        yield Workload(model, batches, lambda batch: task.training_loss(model, batch), reading)


def _cross_entropy(model: nn.Module, batch: ImageBatch) -> Tensor:
    return functional.cross_entropy(model(batch[0]), batch[1])


def loader_batches(task: Task) -> Iterator[Batch]:
    """The task's training batches, epoch after epoch, without an epoch's smaller last batch."""
    for epoch in itertools.count():
        first: Batch | None = None
        for batch in task.train.epoch(epoch):
            if first is None or not task.train.is_smaller(batch, first):
                yield batch
            first = batch if first is None else first


def kept_batches(batches: Iterator[Batch], available: int) -> list[Batch]:
    """Some of the batches, as many as fit into a pool on the device."""
    kept: list[Batch] = []
    spent = 0
    for batch in itertools.islice(batches, min(available, _LARGEST_POOL)):
        kept.append(batch)
        spent += _bytes_of(batch)
        if spent > _POOL_BYTES and len(kept) > 1:
            break
    return kept


def synthetic_batches(model: nn.Module, shape: InputShape, batch_size: int, device: torch.device) -> list[ImageBatch]:
    """Different batches of normal noise with random labels, on the device and in the layout of a loader's batches.

    Raises:
        InputError: the model does not accept such images, or gives no class scores.
    """
    classes = _class_count(model, shape, device)
    size = batch_size * shape.channels * shape.height * shape.width * 4
    number = min(max(_POOL_BYTES // size, 2), _LARGEST_POOL)
    layout = torch.channels_last if device.type == "cpu" else torch.preserve_format

    batches = []
    for _ in range(number):
        images = torch.randn(batch_size, shape.channels, shape.height, shape.width, device=device)
        labels = torch.randint(classes, (batch_size,), device=device)
        batches.append((images.contiguous(memory_format=layout), labels))
    return batches


def _class_count(model: nn.Module, shape: InputShape, device: torch.device) -> int:
    """The number of scores per image, found by running two images in evaluation mode.

    Raises:
        InputError: the model does not accept the images, or gives no class scores.
    """
    model.eval()
    try:
        with torch.no_grad():
            outputs = model(torch.randn(2, shape.channels, shape.height, shape.width, device=device))
    except (RuntimeError, ValueError, TypeError, AssertionError, IndexError) as error:
        if is_out_of_memory(error):
            raise
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        note = f" ({shape.assumed})" if shape.assumed else ""
        raise InputError(f"task.model: its forward fails on images of shape {shape}{note}: {reason}") from error
    finally:
        model.train()

    if not isinstance(outputs, Tensor) or outputs.ndim != 2:
        got = f"shape {tuple(outputs.shape)}" if isinstance(outputs, Tensor) else type(outputs).__name__
        raise InputError(f"task.model must give one score per class and image, got {got}")
    return outputs.shape[1]


def _bytes_of(batch: Batch) -> int:
    """The bytes of the tensors in tuples, lists and mappings."""
    if isinstance(batch, Tensor):
        return batch.numel() * batch.element_size()
    items = batch.values() if hasattr(batch, "values") else batch if isinstance(batch, (list, tuple)) else ()
    return sum(_bytes_of(item) for item in items)


def _unknown() -> None:
    """The scheduling is not known, or says nothing about other programs."""
