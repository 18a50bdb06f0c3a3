"""What may take a run's steps in the optimizer's stead: GeN, or a probe that looks on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor

from jorge_tune.optim import GeN
from jorge_tune.training.loader import Batch


@dataclass(frozen=True)
class BatchLoss:
    """Computes the training loss of a batch again, under the weights of the moment."""

    loss_of: Callable[[Batch], Tensor]
    batch: Batch

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


def rate_record(stepper: Stepper, rates: list[float]) -> dict[str, object]:
    """The record of a step that was just made at these rates; where GeN probed, what it found and did."""
    record: dict[str, object] = {"lr": rates}
    probe = stepper.last_probe if isinstance(stepper, GeN) else None
    if probe is None or not isinstance(stepper, GeN) or probe.step != stepper.steps:
        return record
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
