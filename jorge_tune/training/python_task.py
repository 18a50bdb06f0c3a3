"""What a factory of kind `python` returns: a model, its batches and its loss. The one protocol to remember."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

import torch
from torch import Tensor, nn

from jorge_tune.errors import InputError
from jorge_tune.recipe.schema import Recipe
from jorge_tune.recipe.user_imports import user_code
from jorge_tune.training.factories import call_factory


class PythonTask:
    """A training task of your own, for recipes of kind `python`; inherit from it, or have the same attributes.

    A recipe names a class or function that returns such an object, and its arguments:

    ```yaml
    task: {kind: python, factory: "my_module:make_task", args: {width: 64}}
    ```

    The factory is called with `args`, and gets `batch_size`, `seed` and `device` where it has parameters of that name.
    torch's, numpy's and Python's random numbers are seeded before the call, so initial weights follow from the seed.

    Needed are `model`, `train_batches`, `validation_batches` and `loss`. All else has a default.

    Attributes:
        model: What is trained. It is moved to the device for you.
        train_batches: Batches of one epoch, with a length, that can be read again and again, such as a DataLoader.
            Before each epoch torch's, numpy's and Python's random numbers, and every `generator` of the loader and its
            samplers, are seeded from seed and epoch, and `set_epoch(epoch)` is called where there is one. So a resumed
            run sees the batches that an uninterrupted one sees. They have random numbers of their own: what the model
            draws changes no batch. An iterator (with `__next__`) is read on from epoch to epoch, and from its beginning
            after a resume, which a run says.
        validation_batches: Batches that select the best state; read after each epoch, seeded as epoch 0.
        test_batches: Batches that are read once, after the last epoch.
        higher_is_better: Whether higher values of a metric are better, where its name does not tell it. The recipe has
            a field of this name, which `compare` and `study` read without importing your code; the two must agree.

    Example:
        >>> class Line(PythonTask):
        ...     def __init__(self, batch_size: int = 8) -> None:
        ...         self.model = nn.Linear(1, 1)
        ...         x = torch.linspace(-1, 1, 64)[:, None]
        ...         data = torch.utils.data.TensorDataset(x, 3 * x + 1)
        ...         self.train_batches = torch.utils.data.DataLoader(data, batch_size, shuffle=True)
        ...         self.validation_batches = torch.utils.data.DataLoader(data, batch_size)
        ...
        ...     def loss(self, outputs, batch):
        ...         return nn.functional.mse_loss(outputs, batch[1])
        ...
        ...     def metrics(self, outputs, batch):
        ...         return {"mae": (outputs - batch[1]).abs().mean()}
    """

    model: nn.Module
    train_batches: Iterable[Any]
    validation_batches: Iterable[Any]
    test_batches: Iterable[Any] | None = None
    higher_is_better: Mapping[str, bool] = {}

    def loss(self, outputs: Any, batch: Any) -> Tensor:
        """The scalar that training minimises: the mean over the samples of the batch.

        Args:
            outputs: What `outputs` returned.
            batch: A batch on the device.
        """
        raise NotImplementedError

    def outputs(self, model: nn.Module, batch: Any) -> Any:
        """What the model makes of a batch; unless you define it, `model(batch[0])`."""
        return model(batch[0])

    def metrics(self, outputs: Any, batch: Any) -> Mapping[str, Any]:
        """Values by name, by which a model is judged; the names are the same for every batch.

        A number (or a tensor of one) is a mean over the batch: batches are averaged by their numbers of samples. A pair
        `(total, count)` is a sum: the metric is the sum of all totals over the sum of all counts. The loss is measured
        as the first kind, unless `loss` is among the names. Nothing is read from the device before the last batch.
        """
        return {}

    def move(self, batch: Any, device: torch.device) -> Any:
        """The batch on the device; unless you define it, every tensor in tuples, lists and mappings is moved."""
        return moved(batch, device)

    def samples(self, batch: Any) -> int | None:
        """How many samples a batch has; unless you define it, the length of its first tensor."""
        return first_length(batch)


_REQUIRED: Final = ("model", "train_batches", "validation_batches")

# A task may also define `training_step(model, batch) -> loss`, instead of `outputs` and `loss`, for a step that is not
# one forward pass and one loss. It then serves for evaluation too, unless the task has a `loss`.


def moved(batch: Any, device: torch.device) -> Any:
    """A batch with every tensor in it on the device; what has a method `to` of its own is moved as a whole."""
    if isinstance(batch, Mapping) and not hasattr(batch, "to"):
        items = {key: moved(value, device) for key, value in batch.items()}
        return items if type(batch) is dict else type(batch)(items)  # type: ignore[call-arg]
    if isinstance(batch, tuple) and hasattr(batch, "_fields"):
        return type(batch)(*(moved(item, device) for item in batch))
    if isinstance(batch, (list, tuple)):
        return type(batch)(moved(item, device) for item in batch)
    if isinstance(batch, Tensor):
        return batch.to(device, non_blocking=True)
    return batch.to(device) if hasattr(batch, "to") else batch


def first_length(batch: Any) -> int | None:
    """The length of the first tensor in a batch that has one; None where there is none."""
    if isinstance(batch, Tensor):
        return len(batch) if batch.ndim else None
    items: Iterable[Any] = ()
    if isinstance(batch, Mapping):
        items = batch.values()
    elif isinstance(batch, (list, tuple)):
        items = batch
    return next((length for item in items if (length := first_length(item)) is not None), None)


def make_task(recipe: Recipe, device: torch.device) -> PythonTask:
    """What the factory of a python task returns.

    Raises:
        InputError: it fails, or what it returns is no task.
    """
    section = recipe.task
    assert section is not None
    assert section.factory is not None
    offered = {"batch_size": recipe.batch_size, "seed": recipe.seed, "device": device}
    with user_code(recipe):
        task: PythonTask = call_factory(section.factory, section.args, "task", seed=recipe.seed, offered=offered)
    where = f"task.factory: {section.factory}"
    missing = [name for name in _REQUIRED if getattr(task, name, None) is None]
    if missing:
        raise InputError(
            f"{where}: must return a task with {', '.join(_REQUIRED)} and loss, got "
            f"{type(task).__name__} without {', '.join(missing)}"
        )
    if not isinstance(task.model, nn.Module):
        raise InputError(f"{where}: model must be a torch module, got {type(task.model).__name__}")
    check_has_parameters(task.model, where)
    return task


def check_has_parameters(model: nn.Module, where: str) -> None:
    """Refuse a model that no optimizer can change.

    Raises:
        InputError: it has no parameters, or all of them are frozen.
    """
    if not any(param.requires_grad for param in model.parameters()):
        state = "all of them are frozen" if any(True for _ in model.parameters()) else "it has none"
        raise InputError(f"{where}: the model must have parameters to train, and {state}")
