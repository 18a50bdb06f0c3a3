"""A task of the user's own, kind `python`: the loop's view of what their factory returns, checked before it trains."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from jorge_tune.errors import InputError, TrainingError
from jorge_tune.recipe.metrics import is_lower_better, usual_metric
from jorge_tune.recipe.schema import Recipe
from jorge_tune.recipe.user_code import source_digest
from jorge_tune.training.data_summary import OwnTaskSummary, RunSummary
from jorge_tune.training.datasets import PartName
from jorge_tune.training.factories import in_words
from jorge_tune.training.loader import Batch, TaskBatches
from jorge_tune.training.python_task import PythonTask, make_task
from jorge_tune.training.random_stream import RandomStream
from jorge_tune.training.tasks.own_meter import OwnMeter, named_values
from jorge_tune.training.user_batches import UserBatches

_ALIKE = 1e-4  # relative; between a batch's loss and the mean of its samples' losses, in the precision of training


class OwnTask:
    """What a recipe's factory returned, on a device.

    Raises:
        InputError: the factory fails, or returns something that is no task.
    """

    def __init__(self, recipe: Recipe, device: torch.device) -> None:
        assert recipe.task is not None
        assert recipe.task.factory is not None
        self._recipe, self._device, self._factory = recipe, device, recipe.task.factory
        self._task = task = make_task(recipe, device)
        self._outputs: Callable[[nn.Module, Any], Any] = _method(task, "outputs")
        self._metrics: Callable[[Any, Any], Mapping[str, Any]] = _method(task, "metrics")
        self._move: Callable[[Any, torch.device], Any] = _method(task, "move")
        self._training_step: Callable[[nn.Module, Any], Tensor] | None = getattr(task, "training_step", None)
        self._loss: Callable[[Any, Any], Tensor] | None = _own_method(task, "loss")
        if self._loss is None and self._training_step is None:
            raise InputError(f"task.factory: {self._factory}: the task has no loss(outputs, batch)")

        self.own_model: nn.Module | None = task.model
        self.train: TaskBatches = self._batches("train_batches")
        self.selecting: tuple[PartName, TaskBatches] = ("validation", self._batches("validation_batches"))
        has_test = getattr(task, "test_batches", None) is not None
        self.final_test: TaskBatches | None = self._batches("test_batches") if has_test else None
        self.main_metric = usual_metric(recipe)
        self.metrics: tuple[str, ...] = ("loss",)
        self.summary: RunSummary = self._summarise(task.model)

    def training_loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """See `Task`.

        Raises:
            TrainingError: the user's code failed, or its loss is no scalar.
        """
        if self._training_step is not None:
            with in_words("training_step"):
                return _scalar(self._training_step(model, batch), "training_step")
        return self._loss_of(self._forward(model, batch), batch)

    def sample_losses(self, model: nn.Module, batch: Batch) -> Tensor:
        """See `Task`. A loss that is the mean over samples is taken sample by sample; any other for the batch."""
        if self._training_step is not None:
            return self.training_loss(model, batch)[None]
        outputs = self._forward(model, batch)
        whole = self._loss_of(outputs, batch)[None]
        count = self._samples(batch)
        if count is None or count < 2:
            return whole
        try:
            losses = [self._loss_of(_sample(outputs, i, count), _sample(batch, i, count)) for i in range(count)]
        except Exception:  # outputs or batch cannot be divided into samples
            return whole
        each = torch.stack(losses)
        is_mean = torch.allclose(each.double().mean(), whole.double(), rtol=_ALIKE, atol=0.0)
        return each if is_mean else whole

    def outputs(self, model: nn.Module, batch: Batch) -> Any:
        """What a meter takes of a batch: the loss, and the outputs where there are metrics."""
        if self._loss is None:
            loss = self.training_loss(model, batch)
            return loss, self._forward(model, batch) if self._has_metrics else None
        outputs = self._forward(model, batch)
        return self._loss_of(outputs, batch), outputs

    def meter(self) -> OwnMeter:
        """A fresh meter."""
        return OwnMeter(self._measured, self._samples, self._device)

    def check_model(self, model: nn.Module) -> None:
        """Take the first batches through the model, a training and a validation step without their consequences.

        Nothing changes in the model's parameters and buffers, nor in any random state.

        Raises:
            InputError: the model does not take them, or loss or metrics are not as they must be.
        """
        parts = [(self.train, True), (self.selecting[1], False)]
        for batches, is_training in parts:
            assert isinstance(batches, UserBatches)
            try:
                with self._untouched(model):
                    batch = batches.first()
                    model.train(is_training)
                    self._try(model, batch, is_training=is_training)
            except TrainingError as error:
                raise InputError(f"task.factory: {self._factory}: {error}") from error
            if is_training:
                self._warn_of_size(batch)
        self._check_metrics()

    def close(self) -> None:
        """See `Task`."""
        for batches in (self.train, self.selecting[1], self.final_test):
            if batches is not None:
                batches.close()

    @property
    def _has_metrics(self) -> bool:
        return _own_method(self._task, "metrics") is not None

    def _forward(self, model: nn.Module, batch: Batch) -> Any:
        with in_words("outputs"):
            return self._outputs(model, batch)

    def _loss_of(self, outputs: Any, batch: Batch) -> Tensor:
        assert self._loss is not None
        with in_words("loss"):
            return _scalar(self._loss(outputs, batch), "loss")

    def _measured(self, result: tuple[Tensor, Any], batch: Batch) -> dict[str, Any]:
        """All metrics of a batch, the loss among them."""
        loss, outputs = result
        if not self._has_metrics:
            return {"loss": loss.detach()}
        with in_words("metrics"):
            return {"loss": loss.detach()} | named_values(self._metrics(outputs, batch))

    def _samples(self, batch: Batch) -> int | None:
        count: int | None = _method(self._task, "samples")(batch)
        return count

    def _batches(self, name: str) -> UserBatches:
        return UserBatches(
            getattr(self._task, name),
            name,
            lambda batch: self._move(batch, self._device),
            self._samples,
            seed=self._recipe.seed,
            batch_size=self._recipe.batch_size,
        )

    def _try(self, model: nn.Module, batch: Batch, *, is_training: bool) -> None:
        if is_training:
            loss = self.training_loss(model, batch)
            if not loss.requires_grad:
                raise InputError(
                    f"task.factory: {self._factory}: the loss does not depend on the model's parameters; is it "
                    "computed under no_grad, or detached?"
                )
            return
        with torch.no_grad():
            meter = self.meter()
            meter.update(self.outputs(model, batch), batch)
            self.metrics = tuple(meter.compute())

    def _check_metrics(self) -> None:
        """Compare what the task measures with what the recipe says of it.

        Raises:
            InputError: they do not agree.
        """
        if self.main_metric not in self.metrics:
            known = ", ".join(self.metrics)
            raise InputError(f"target.metric: {self.main_metric!r} is not measured by this task; it measures {known}")
        stated: Mapping[str, bool] = getattr(self._task, "higher_is_better", None) or {}
        for metric, is_higher in stated.items():
            if is_higher == is_lower_better(metric, self._recipe):
                raise InputError(
                    f"task.higher_is_better: the task says {str(bool(is_higher)).lower()} for {metric}, the recipe "
                    f"says otherwise; write `higher_is_better: {{{metric}: {str(bool(is_higher)).lower()}}}` under "
                    "task, where compare and study read it without importing your code"
                )

    def _warn_of_size(self, batch: Batch) -> None:
        size, stated = self._samples(batch), self._recipe.batch_size
        if size is not None and size != stated and isinstance(self.summary, OwnTaskSummary):
            self._warn(
                f"warning: the first batch has {size} samples, and the recipe's batch_size is {stated}; the factory "
                "gets batch_size where it has a parameter of that name"
            )

    def _warn(self, text: str) -> None:
        assert isinstance(self.summary, OwnTaskSummary)
        self.summary = OwnTaskSummary(**vars(self.summary) | {"warnings": (*self.summary.warnings, text)})

    def _summarise(self, model: nn.Module) -> OwnTaskSummary:
        parts = {"train": self.train, "validation": self.selecting[1], "test": self.final_test}
        warnings: tuple[str, ...] = ()
        if isinstance(self.train, UserBatches) and self.train.remembers_draws:
            reason = "are an iterator" if self.train.is_stateful else "come from persistent workers"
            warnings = (
                f"warning: train_batches {reason}, so a run that is resumed does not see what an uninterrupted one "
                "sees",
            )
        return OwnTaskSummary(
            factory=self._factory,
            batches={name: len(batches) for name, batches in parts.items() if batches is not None},
            parameters=sum(param.numel() for param in model.parameters()),
            code=source_digest(self._recipe),
            warnings=warnings,
        )

    @contextlib.contextmanager
    def _untouched(self, model: nn.Module) -> Iterator[None]:
        """Put the model's buffers, its mode and all random states back."""
        modes = [(module, module.training) for module in model.modules()]
        buffers = [(buffer, buffer.detach().clone()) for buffer in model.buffers()]
        devices = [self._device] if self._device.type == "cuda" else []
        try:
            with torch.random.fork_rng(devices=devices), RandomStream(self._recipe.seed):
                yield
        finally:
            for module, mode in modes:
                module.training = mode
            with torch.no_grad():
                for buffer, kept in buffers:
                    buffer.copy_(kept)


def _method(task: object, name: str) -> Callable[..., Any]:
    """A method of the task, or the default of `PythonTask` for what is no subclass."""
    own = getattr(task, name, None)
    if own is None:
        return getattr(PythonTask, name).__get__(task)  # type: ignore[no-any-return]
    return own  # type: ignore[no-any-return]


def _own_method(task: object, name: str) -> Callable[..., Any] | None:
    """A method that the task defines itself; None where it has `PythonTask`'s or none."""
    own: Callable[..., Any] | None = getattr(task, name, None)
    return None if own is None or getattr(own, "__func__", None) is getattr(PythonTask, name) else own


def _scalar(loss: Any, name: str) -> Tensor:
    """The loss itself.

    Raises:
        InputError: it is no tensor of a single value.
    """
    if isinstance(loss, Tensor) and loss.ndim == 0:
        return loss
    got = f"a tensor of shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else f"{type(loss).__name__}"
    way_out = "; return its mean" if isinstance(loss, Tensor) else ""
    raise InputError(f"{name}: must return a scalar tensor, got {got}{way_out}")


def _sample(whole: Any, index: int, count: int) -> Any:
    """One sample of a batch, or of outputs, as a batch of one.

    Raises:
        ValueError: something in it has another length.
    """
    if isinstance(whole, Tensor):
        if not whole.ndim or len(whole) != count:
            raise ValueError("not one entry per sample")
        return whole[index : index + 1]
    if isinstance(whole, Mapping):
        return type(whole)({key: _sample(item, index, count) for key, item in whole.items()})  # type: ignore[call-arg]
    if isinstance(whole, tuple) and hasattr(whole, "_fields"):
        return type(whole)(*(_sample(item, index, count) for item in whole))
    if isinstance(whole, (list, tuple)):
        return type(whole)(_sample(item, index, count) for item in whole)
    raise ValueError("no samples in it")
