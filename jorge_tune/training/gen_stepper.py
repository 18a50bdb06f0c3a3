"""What may take a run's steps instead of the optimizer: GeN, or a probe that observes the steps."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from jorge_tune.optim import GeN
from jorge_tune.optim.gen import Probe
from jorge_tune.recipe.schema import Gen, Recipe
from jorge_tune.training.build import build_gen
from jorge_tune.training.loader import Batch, TaskBatches


@dataclass(frozen=True)
class BatchLoss:
    """Computes the training loss of a batch again, under the weights of the moment.

    `place` is the batch's epoch and its number within it.
    """

    loss_of: Callable[[Batch], Tensor]
    batch: Batch
    place: tuple[int, int]

    def __call__(self) -> Tensor:
        """The loss."""
        return self.loss_of(self.batch)


class Stepper(Protocol):
    """Steps an optimizer exactly once, and may look at the loss along that step."""

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """The optimizer's groups."""

    @property
    def rates(self) -> list[float]:
        """The learning rates in force, by group."""

    def step(self, loss_closure: BatchLoss, loss: Tensor, /) -> None:
        """One step; `loss` is what the closure gives before it."""

    def state_dict(self) -> dict[str, Any]:
        """All that a resumed run needs of the optimizer and of this."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load what `state_dict` gave."""


class EarlierBatches:
    """GeN that reads the loss on batches before the step's own, from which the step was not computed.

    The first step, before which there are none, is read on its own batch.

    Args:
        gen: What steps.
        train: Where the batches come from, for a resumed run to have them again.
        count: How many, at least 1; they stay on the device.
    """

    def __init__(self, gen: GeN, train: TaskBatches, count: int) -> None:
        self.gen, self._train = gen, train
        self._kept: deque[tuple[tuple[int, int], Batch]] = deque(maxlen=count)

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """The optimizer's groups."""
        return self.gen.param_groups

    @property
    def rates(self) -> list[float]:
        """The learning rates in force, by group."""
        return self.gen.rates

    def step(self, loss_closure: BatchLoss, loss: Tensor) -> None:
        """One step; the training loss is not used, since it is of another batch."""
        batches = [batch for _, batch in self._kept] or [loss_closure.batch]
        self.gen.step(lambda: torch.stack([loss_closure.loss_of(batch) for batch in batches]).mean())
        self._kept.append((loss_closure.place, loss_closure.batch))

    def state_dict(self) -> dict[str, Any]:
        """GeN's, and where the last batches lie in the training."""
        return {**self.gen.state_dict(), "earlier": [list(place) for place, _ in self._kept]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load what `state_dict` gave, and make the last batches anew."""
        state = dict(state_dict)
        places = [(epoch, number) for epoch, number in state.pop("earlier")]
        self.gen.load_state_dict(state)
        self._kept.clear()
        self._kept.extend((place, self._train.at(*place)) for place in places)


def build_stepper(recipe: Recipe, optimizer: torch.optim.Optimizer, train: TaskBatches) -> GeN | EarlierBatches | None:
    """What takes the steps instead of the optimizer where the recipe's schedule is `gen`; else None."""
    gen = build_gen(recipe, optimizer)
    count = recipe.schedule.earlier_batches if isinstance(recipe.schedule, Gen) else 0
    return gen if gen is None or count == 0 else EarlierBatches(gen, train, count)


class RateLog:
    """The records of a stepper's rates. A probe is in one of them, though a loss scaler may leave out the next step."""

    def __init__(self, stepper: Stepper) -> None:
        self._gen = stepper.gen if isinstance(stepper, EarlierBatches) else stepper
        self._recorded: Probe | None = None

    def record(self, rates: list[float]) -> dict[str, object]:
        """The record of a step that was just made at these rates; where GeN probed, what it found and did."""
        record: dict[str, object] = {"lr": rates}
        probe = self._gen.last_probe if isinstance(self._gen, GeN) else None
        if probe is None or probe is self._recorded:
            return record
        self._recorded = probe
        fit = probe.fit
        return record | {
            "scale": probe.scale,
            "accepted": probe.accepted,
            "losses": probe.losses,
            "optimum": fit and fit.optimum,
            "noise_chance": fit and fit.noise_chance,
            "verdict": fit and fit.verdict,
            "note": probe.note,
        }
