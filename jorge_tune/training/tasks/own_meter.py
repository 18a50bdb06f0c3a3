"""Metrics of a task of the user's own: what they may be, and how batches are averaged."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from numbers import Real
from typing import Any

import torch
from torch import Tensor

from jorge_tune.errors import InputError
from jorge_tune.training.loader import Batch


class OwnMeter:
    """Means of a task's values over a part, weighted as `PythonTask.metrics` says; sums stay on the device."""

    def __init__(
        self,
        measure: Callable[[Any, Batch], Mapping[str, Any]],
        samples: Callable[[Batch], int | None],
        device: torch.device,
    ) -> None:
        self._measure, self._samples, self._device = measure, samples, device
        self._totals: dict[str, Tensor] = {}
        self._counts: dict[str, Tensor] = {}

    def update(self, outputs: Any, batch: Batch) -> None:
        """Add one batch.

        Raises:
            InputError: its metrics have other names than those of the batches before.
        """
        values = self._measure(outputs, batch)
        if self._totals and values.keys() != self._totals.keys():
            raise InputError(
                f"metrics: must have the same names for every batch, got {', '.join(values)} after "
                f"{', '.join(self._totals)}"
            )
        size = self._samples(batch) or 1
        for name, value in values.items():
            total, count = value if isinstance(value, tuple) else (value * size, size)
            self._add(self._totals, name, total)
            self._add(self._counts, name, count)

    def compute(self) -> dict[str, float]:
        """All metrics; the device is read here alone."""
        return {name: float(total / self._counts[name]) for name, total in self._totals.items()}

    def _add(self, sums: dict[str, Tensor], name: str, value: Any) -> None:
        number = torch.as_tensor(value, dtype=torch.float64, device=self._device).detach().reshape(())
        sums[name] = sums[name] + number if name in sums else number


def named_values(values: Any) -> dict[str, Any]:
    """A batch's metrics by name, each a number, a tensor of one, or a pair of these.

    Raises:
        InputError: they are something else.
    """
    if not isinstance(values, Mapping):
        raise InputError(f"metrics: must return a dict of values by name, got {type(values).__name__}")
    for name, value in values.items():
        if not isinstance(name, str) or not name or not name.isprintable():
            raise InputError(f"metrics: names must be texts, got {name!r}")
        items = value if isinstance(value, tuple) else (value,)
        if len(items) > 2 or not all(_is_number(item) for item in items):
            raise InputError(
                f"metrics: {name} must be a number, a tensor of one, or a pair (total, count), got {_described(value)}"
            )
    return dict(values)


def _is_number(value: Any) -> bool:
    return value.numel() == 1 if isinstance(value, Tensor) else isinstance(value, Real)


def _described(value: Any) -> str:
    return f"a tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
