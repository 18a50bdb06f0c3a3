"""The batches of a measurement: a few synthetic ones in turn, or the loader's, without end."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from jorge_tune.errors import InputError
from jorge_tune.measure.inputs import InputShape
from jorge_tune.training.loader import Batch
from jorge_tune.training.tasks import Task

_OUT_OF_MEMORY = (
    "can't allocate memory",
    "not enough memory",
    "out of memory",
    "ALLOC_FAILED",
)  # of host and libraries
_POOL_BYTES, _LARGEST_POOL = 2**28, 8


def synthetic_batches(model: nn.Module, shape: InputShape, batch_size: int, device: torch.device) -> list[Batch]:
    """Batches of normal noise and random labels, different from each other, on the device and laid out as a loader's.

    Raises:
        InputError: the model does not take such images, or gives no class scores.
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


def loader_batches(task: Task) -> Iterator[Batch]:
    """The task's training batches, epoch after epoch; a smaller last one is left out."""
    full: int | None = None
    epoch = 0
    while True:
        for batch in task.train.epoch(epoch):
            full = full or len(batch[1])
            if len(batch[1]) == full:
                yield batch
        epoch += 1


def is_out_of_memory(error: Exception) -> bool:
    """Whether an error of torch says that memory ran out, the device's or the host's."""
    return isinstance(error, torch.OutOfMemoryError) or any(words in str(error) for words in _OUT_OF_MEMORY)


def _class_count(model: nn.Module, shape: InputShape, device: torch.device) -> int:
    """Scores per image, by running two images in evaluation mode."""
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
        found = f"shape {tuple(outputs.shape)}" if isinstance(outputs, Tensor) else type(outputs).__name__
        raise InputError(f"task.model: must give one score per class and image, got {found}")
    return outputs.shape[1]
