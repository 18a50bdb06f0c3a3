"""What a study optimises: one number per run, its direction, and the worst there is."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from jorge_tune.recipe.metrics import is_lower_better

Kind = Literal["best", "final", "time-to-target", "epochs-to-target"]
Direction = Literal["minimize", "maximize"]


@dataclass(frozen=True, kw_only=True)
class Objective:
    """The best or final value of a metric, or the training seconds or epochs until it reaches `target`.

    A trial's value is the median over its seeds. A run that diverged or missed the target counts as `worst`.
    """

    kind: Kind
    metric: str
    target: float | None = None

    @property
    def needs_target(self) -> bool:
        """Whether the value is a way to a target (seconds or epochs) rather than a value of the metric."""
        return self.kind in ("time-to-target", "epochs-to-target")

    @property
    def lower_is_better(self) -> bool:
        """Times, epochs and losses are minimised; scores are maximised."""
        return self.needs_target or is_lower_better(self.metric)

    @property
    def direction(self) -> Direction:
        """The same in Optuna's words."""
        return "minimize" if self.lower_is_better else "maximize"

    @property
    def worst(self) -> float:
        """The direction's infinity, which stands for a divergence or a miss."""
        return math.inf if self.lower_is_better else -math.inf

    def __str__(self) -> str:
        if self.needs_target:
            unit = "training seconds" if self.kind == "time-to-target" else "epochs"
            return f"fewest {unit} until {self.metric} reaches {self.target:g}"
        return f"{self.kind} {self.metric} ({'lower' if self.direction == 'minimize' else 'higher'} is better)"
