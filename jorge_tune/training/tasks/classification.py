"""Classification of images: cross entropy, top-1 accuracy."""

from __future__ import annotations

import copy
import math
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchmetrics.classification import MulticlassAccuracy

from jorge_tune.errors import InputError, first_line
from jorge_tune.recipe.schema import ModelSection, Recipe
from jorge_tune.recipe.user_code import names_own_task, source_digest
from jorge_tune.recipe.user_imports import user_code
from jorge_tune.training.data_summary import RunSummary
from jorge_tune.training.datasets import PartName, load_splits
from jorge_tune.training.images import Examples
from jorge_tune.training.loader import Batches, ImageBatch
from jorge_tune.training.models import MLP_FEATURES

_MANY_CLASSES = 20  # from here on top5 says something that top1 does not


class Classification:
    """Images and labels of one recipe."""

    own_model: nn.Module | None = None

    def __init__(self, recipe: Recipe, device: torch.device, *, download: bool = False) -> None:
        assert recipe.task is not None
        data = recipe.task.data
        if data is None:
            raise InputError(f"task.data: the recipe {recipe.name!r} names no data, so it cannot be trained")
        self._device, self._data, self._batch_size = device, data, recipe.batch_size
        self._model = recipe.task.model
        with user_code(recipe):
            splits = load_splits(data, download=download)
        self.classes, self._training_images = splits.classes, len(splits.train)
        code = source_digest(recipe) if names_own_task(recipe) else None
        self.summary: RunSummary = replace(splits.summary, code=code)
        top_names = ("top1", "top5") if len(splits.classes) >= _MANY_CLASSES else ("top1",)
        self.metrics = ("loss", *top_names)
        self.main_metric = recipe.target.metric if recipe.target else "top1"
        if self.main_metric not in self.metrics:
            known = ", ".join(self.metrics)
            raise InputError(f"target.metric: {self.main_metric!r} is not measured by this task; it measures {known}")
        self.train = Batches(
            splits.train,
            recipe.batch_size,
            device,
            seed=recipe.seed,
            drop_last=data.drop_last,
            workers=data.workers,
        )
        if not len(self.train):
            raise InputError(
                f"batch_size: {recipe.batch_size} is more than the {len(splits.train)} training images, "
                "and drop_last leaves no batch"
            )
        name, examples = splits.selecting
        self.selecting: tuple[PartName, Batches] = (name, self._read_in_order(examples))
        apart = splits.test is not None and splits.test is not examples
        self.final_test = self._read_in_order(splits.test) if apart and splits.test is not None else None

    def training_loss(self, model: nn.Module, batch: ImageBatch) -> Tensor:
        """Mean cross entropy of the batch."""
        return functional.cross_entropy(model(batch[0]), batch[1])

    def sample_losses(self, model: nn.Module, batch: ImageBatch) -> Tensor:
        """See `Task`."""
        return functional.cross_entropy(model(batch[0]), batch[1], reduction="none")

    def outputs(self, model: nn.Module, batch: ImageBatch) -> Tensor:
        """The scores."""
        scores: Tensor = model(batch[0])
        return scores

    def meter(self) -> ClassificationMeter:
        """A fresh meter."""
        return ClassificationMeter(self.metrics, len(self.classes), self._device)

    def check_model(self, model: nn.Module) -> None:
        """Run the model on two images as evaluation does, and a copy of it as the smallest training batch does.

        Nothing changes in the model, nor in torch's random state.

        Raises:
            InputError: it fails, or returns another number of outputs than there are classes.
        """
        images, _ = next(self.selecting[1].epoch())
        pair = images[[0, -1]]  # two, also where there is one image
        was_training = model.training
        model.eval()
        try:
            outputs = self._outputs(model, pair)
        finally:
            model.train(was_training)
        count = len(self.classes)
        if not isinstance(outputs, Tensor) or outputs.ndim != 2 or outputs.shape[1] != count:
            shape = tuple(outputs.shape[1:]) if isinstance(outputs, Tensor) else type(outputs).__name__
            raise InputError(
                f"task.model: the model returns {shape} per image, but the data has {count} classes; "
                f"set task.model.args.num_classes to {count}"
            )

        learner = copy.deepcopy(model).train()
        learned = self._outputs(learner, pair)
        if not isinstance(learned, Tensor) or learned.shape != outputs.shape:
            raise InputError(
                f"task.model: in training mode the model returns {type(learned).__name__} instead of one score per "
                "class and image; if its arguments ask for auxiliary outputs, leave those out"
            )
        if self.train.smallest == 1:
            self._check_single_image(learner, images[:1])

    def _check_single_image(self, learner: nn.Module, image: Tensor) -> None:
        """Refuse a batch of one image where the model, normalising over the batch, cannot train on it."""
        try:
            self._outputs(learner, image)
        except InputError as error:
            size, count = self.train.batch_size, self._training_images
            if size == 1:
                cause, way_out = "is a single image", "set it to 2 or more"
            else:
                cause = f"leaves a single image of {count} for the last batch of an epoch"
                way_out = "set task.data.drop_last to true, or another batch_size"
            reason = first_line(error.__cause__ or error)
            raise InputError(
                f"batch_size: {size} {cause}, on which this model cannot train ({reason}); {way_out}"
            ) from error

    def _outputs(self, model: nn.Module, images: Tensor) -> object:
        """What the model returns; torch's random state stays as it was."""
        devices = [self._device] if self._device.type == "cuda" else []
        try:
            with torch.random.fork_rng(devices=devices), torch.no_grad():
                return model(images)
        except torch.OutOfMemoryError:
            raise
        except (RuntimeError, ValueError, TypeError, AssertionError, LookupError) as error:
            shape = tuple(images.shape[1:])
            raise InputError(
                f"task.model: the model does not accept images of shape {shape} ({first_line(error)})"
                f"{_inputs_to_set(self._model, shape)}"
            ) from error

    def close(self) -> None:
        """End the loader's processes."""
        for batches in (self.train, self.selecting[1], self.final_test):
            if batches is not None:
                batches.close()

    def _read_in_order(self, examples: Examples) -> Batches:
        return Batches(examples, self._batch_size, self._device, workers=self._data.workers)


def _inputs_to_set(model: ModelSection | None, shape: tuple[int, ...]) -> str:
    """The way out for our own `mlp`, which must know the number of values of an image; empty for other models."""
    values = math.prod(shape)
    if model is None or model.name != "mlp" or model.args.get("in_features", MLP_FEATURES) == values:
        return ""
    return f"; set task.model.args.in_features to {values}"


class ClassificationMeter:
    """Mean loss over the samples, top-1 and, with many classes, top-5 accuracy.

    The loss is summed by hand: torchmetrics leaves NaN out of its means, and here NaN must show. Its accuracies are
    float32, in which 0.9 is less than 0.9 in a recipe; the exact quotient is restored from the count of samples.
    """

    def __init__(self, metrics: tuple[str, ...], num_classes: int, device: torch.device) -> None:
        self._accuracies = {
            name: MulticlassAccuracy(
                num_classes, top_k=int(name.removeprefix("top")), average="micro", validate_args=False
            ).to(device)
            for name in metrics
            if name != "loss"
        }
        self._loss_sum = torch.zeros((), dtype=torch.float64, device=device)
        self._count = 0

    def update(self, outputs: Tensor, batch: ImageBatch) -> None:
        """Shape: outputs (batch, num_classes)."""
        labels = batch[1]
        self._loss_sum += functional.cross_entropy(outputs.float(), labels, reduction="sum")
        self._count += len(labels)
        for accuracy in self._accuracies.values():
            accuracy.update(outputs.float(), labels)

    def compute(self) -> dict[str, float]:
        """`loss`, `top1` and perhaps `top5`."""
        counts = {name: round(float(a.compute()) * self._count) for name, a in self._accuracies.items()}
        values = {name: count / self._count for name, count in counts.items()}
        return {"loss": float(self._loss_sum) / self._count, **values}
