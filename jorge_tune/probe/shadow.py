"""The shadow probe: what another optimizer would do at each point of a run that goes on as it is.

A `Shadow` follows a training step by step. It hands the run's own gradients to the recipe's optimizer, which keeps
preconditioners and momenta on copies of the weights. Every so often it remembers the weights w, the step s that the
run made from there, and the step j that the recipe's optimizer would have made, scaled to the length of s. Then it
reads the loss at w, w + a s and w + a j on the batches that come next, which neither step has seen.

Weights, gradients, buffers, random streams and the run's optimizer are bitwise the same with a shadow as without.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from jorge_tune.errors import InputError, first_line
from jorge_tune.optim import KroneckerOptimizer
from jorge_tune.optim.gen_line import ProbeState, read_loss
from jorge_tune.probe.shadow_result import Decrease, ShadowReading, ShadowResult
from jorge_tune.recipe.recipe_files import read_recipe
from jorge_tune.recipe.schema import Recipe
from jorge_tune.training.build import build_optimizer

LossClosure = Callable[[], Tensor | float]


class Shadow:
    """Rides along in a run and measures how far a recipe's optimizer would have gone, without touching the run.

    Call `step` once per training step, after `backward` and before `optimizer.step()`. With a GradScaler, call
    `scaler.unscale_(optimizer)` first.

    Args:
        optimizer: The run's own optimizer.
        recipe: A recipe, or the path of one; its optimizer is what rides along. Usually what `bootstrap` wrote.
        model: The model that the optimizer trains; its names and modules say which parameters get which settings.
        every: Steps between two readings, at least 1. A reading begins at step `every`, `2 * every`, ...
        batches: How many of the following batches a reading uses, from 1 to `every`.
        lengths: Multiples of the step's own length at which the loss is read; 1 must be among them.

    Raises:
        InputError: a faulty recipe, an unresolved `refresh_interval: auto`, settings out of their range, or an
            optimizer whose parameters are not the model's.

    Example:
        >>> shadow = jorge_tune.Shadow(optimizer, "jorge.yaml", model)  # doctest: +SKIP
        >>> for images, labels in loader:  # doctest: +SKIP
        ...     optimizer.zero_grad()
        ...     loss_of(images, labels).backward()
        ...     shadow.step(lambda: loss_of(images, labels))
        ...     optimizer.step()
        >>> print(shadow.result().sentence())  # doctest: +SKIP
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        recipe: Recipe | str | Path,
        model: nn.Module,
        *,
        every: int = 100,
        batches: int = 4,
        lengths: tuple[float, ...] = (1.0, 4.0),
    ) -> None:
        _check_settings(every, batches, lengths)
        self._recipe = recipe if isinstance(recipe, Recipe) else read_recipe(recipe)
        self._optimizer = optimizer
        self._every, self._batches, self._lengths = every, batches, tuple(map(float, lengths))

        self._model = _unwrapped(model)
        self._params, self._twins, twin_model = _twins_of(optimizer, self._model)
        self._twin_of = dict(zip(self._params, self._twins, strict=True))
        self._twin_optimizer = build_optimizer(self._recipe.optimizer, twin_model)

        self._steps = 0
        self._excursion: _Excursion | None = None
        self._readings: list[ShadowReading] = []

    @torch.no_grad()
    def step(self, loss: LossClosure) -> None:
        """Follow one training step; call it after `backward` and before `optimizer.step()`.

        Args:
            loss: Computes the training loss of the present batch and no more; called without gradients, and only
                while a reading is under way.

        Raises:
            ValueError: what `loss` returns is no scalar.
        """
        self._steps += 1
        if self._excursion is not None:
            self._read(self._excursion, loss)
        starts = self._excursion is None and self._steps % self._every == 0
        before = [p.clone() for p in self._params] if starts else []
        self._follow()
        if starts:
            proposed = torch._foreach_sub(self._twins, before)
            gradients = {p: p.grad.clone() for p in self._params if p.grad is not None}
            lr = float(self._optimizer.param_groups[0]["lr"])
            self._excursion = _Excursion(self._steps, lr, before, list(proposed), gradients)

    def result(self) -> ShadowResult:
        """What was read so far; a reading that is under way is left out."""
        return ShadowResult(
            recipe=self._recipe.name,
            proposed=self._recipe.optimizer.name,
            stepped=type(self._optimizer).__name__,
            steps=self._steps,
            every=self._every,
            readings=tuple(self._readings),
        )

    def _follow(self) -> None:
        """The recipe's optimizer steps from the run's weights, with the run's gradients."""
        torch._foreach_copy_(self._twins, self._params)
        for param, twin in self._twin_of.items():
            twin.grad = param.grad
        self._twin_optimizer.step()
        for twin in self._twins:
            twin.grad = None

    def _read(self, excursion: _Excursion, loss: LossClosure) -> None:
        """Read the losses of the present batch, and finish the reading with the last of its batches."""
        if not excursion.own:
            missing = self._begin(excursion)
            if missing:
                self._readings.append(ShadowReading(excursion.step, excursion.lr, 0, float("nan"), missing=missing))
                self._excursion = None
                return

        excursion.losses.append(self._losses_along(excursion, loss))
        if len(excursion.losses) == self._batches:
            self._readings.append(excursion.reading(self._lengths))
            self._excursion = None

    def _begin(self, excursion: _Excursion) -> str:
        """Take the run's own step and the noise of the directions; why there is no reading, if there is none."""
        own = torch._foreach_sub(self._params, excursion.before)
        own_length, proposed_length = _length(own), _length(excursion.proposed)
        if not own_length:
            return "the run's optimizer moved nothing"
        if not (proposed_length and proposed_length < float("inf")):
            return f"{self._recipe.optimizer.name} moved nothing"
        excursion.own = list(own)
        torch._foreach_mul_(excursion.proposed, own_length / proposed_length)
        excursion.step_cosine = _cosine(excursion.own, excursion.proposed)
        self._compare_gradients(excursion)
        return ""

    def _compare_gradients(self, excursion: _Excursion) -> None:
        """Cosines between the gradients of this batch and the one before, as they are and preconditioned alike."""
        optimizer = self._twin_optimizer
        if not isinstance(optimizer, KroneckerOptimizer):
            return
        earlier = {self._twin_of[p]: g for p, g in excursion.gradients.items()}
        now = {self._twin_of[p]: p.grad for p in excursion.gradients if p.grad is not None}
        directions = [optimizer.preconditioned(gradients) for gradients in (earlier, now)]
        shared = [twin for twin in directions[0] if twin in directions[1]]
        if shared:
            excursion.gradient_cosine = _cosine([earlier[t] for t in shared], [now[t] for t in shared])
            grafted = [[_scaled(d[t], g[t]) for t in shared] for d, g in zip(directions, (earlier, now), strict=True)]
            excursion.direction_cosine = _cosine(*grafted)

    def _losses_along(self, excursion: _Excursion, loss: LossClosure) -> list[float]:
        """The losses of the present batch at w, then at w + a s and w + a j for each length a."""
        steps = [(length, step) for length in self._lengths for step in (excursion.own, excursion.proposed)]
        kept = [p.clone() for p in self._params]
        devices = {p.device for p in self._params}
        losses = []
        try:
            with ProbeState(devices, known=[self._model]) as surroundings:
                for length, step in [(0.0, excursion.own), *steps]:
                    moved = torch._foreach_add(excursion.before, step, alpha=length)
                    torch._foreach_copy_(self._params, list(moved))
                    losses.append(read_loss(loss(), "what the loss function returns").value)
                    surroundings.renew()
        finally:
            torch._foreach_copy_(self._params, kept)
        return losses


@dataclass
class _Excursion:
    """A reading under way: where it started, both steps, and the losses of each fresh batch so far."""

    step: int
    lr: float
    before: list[Tensor]
    proposed: list[Tensor]
    gradients: dict[Tensor, Tensor]
    own: list[Tensor] = field(default_factory=list)
    losses: list[list[float]] = field(default_factory=list)
    gradient_cosine: float | None = None
    direction_cosine: float | None = None
    step_cosine: float | None = None

    def reading(self, lengths: tuple[float, ...]) -> ShadowReading:
        """The means over the fresh batches."""
        table = torch.tensor(self.losses, dtype=torch.float64)
        cosines: dict[str, Any] = {
            "gradient_cosine": self.gradient_cosine,
            "direction_cosine": self.direction_cosine,
            "step_cosine": self.step_cosine,
        }
        loss, batches = float(table[:, 0].mean()), len(table)
        if not bool(torch.isfinite(table).all()):
            return ShadowReading(self.step, self.lr, batches, loss, **cosines, missing="a loss is not finite")
        lowered = table[:, :1] - table[:, 1:]
        decreases = tuple(
            Decrease(length, float(run.mean()), float(recipe.mean()), int((recipe > run).sum()))
            for length, run, recipe in zip(lengths, lowered[:, 0::2].T, lowered[:, 1::2].T, strict=True)
        )
        return ShadowReading(self.step, self.lr, batches, loss, decreases, **cosines)


def _check_settings(every: int, batches: int, lengths: tuple[float, ...]) -> None:
    if every < 1:
        raise InputError(f"every must be 1 or more, got {every!r}")
    if not 1 <= batches <= every:
        raise InputError(f"batches must be from 1 to every ({every}), got {batches!r}")
    if 1.0 not in lengths or any(not 0 < length < float("inf") for length in lengths):
        raise InputError(f"lengths must be positive and hold 1, got {lengths!r}")


def _unwrapped(model: nn.Module) -> nn.Module:
    """The user's own module inside `torch.compile`'s and DistributedDataParallel's."""
    while True:
        inner = getattr(model, "_orig_mod", None)
        if inner is None and isinstance(model, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
            inner = model.module
        if not isinstance(inner, nn.Module):
            return model
        model = inner


def _twins_of(optimizer: torch.optim.Optimizer, model: nn.Module) -> tuple[list[Tensor], list[Tensor], nn.Module]:
    """The parameters that the optimizer steps, their copies, and the copied model that holds these."""
    stepped = {id(p) for group in optimizer.param_groups for p in group["params"]}
    held = {id(p) for p in model.parameters()}
    if not stepped:
        raise InputError("optimizer: has no parameters, so there is nothing to follow")
    if stepped - held:
        raise InputError(
            f"optimizer: steps {len(stepped - held)} parameters that the model does not hold; "
            "give the model whose parameters it trains"
        )
    try:
        twin_model = copy.deepcopy(model)
    except Exception as error:  # whatever a module's own copy raises
        raise InputError(f"model: cannot be copied ({first_line(error)}), and a shadow needs a copy") from error

    params: list[Tensor] = []
    twins: list[Tensor] = []
    for param, twin in zip(model.parameters(), twin_model.parameters(), strict=True):
        twin.grad = None
        twin.requires_grad_(id(param) in stepped and param.requires_grad)
        if id(param) in stepped:
            params.append(param)
            twins.append(twin)
    return params, twins, twin_model


def _length(tensors: list[Tensor] | tuple[Tensor, ...]) -> float:
    norms = [norm.double().cpu() for norm in torch._foreach_norm(tensors)]
    return float(torch.stack(norms).norm())


def _cosine(first: list[Tensor], second: list[Tensor]) -> float | None:
    products = [(a.flatten().double() @ b.flatten().double()).cpu() for a, b in zip(first, second, strict=True)]
    lengths = _length(first) * _length(second)
    return float(torch.stack(products).sum()) / lengths if lengths else None


def _scaled(direction: Tensor, gradient: Tensor) -> Tensor:
    """A direction at the gradient's length, as grafting makes it; zero stays zero."""
    length = direction.norm()
    return torch.where(length > 0, direction * (gradient.norm() / length), 0.0)
