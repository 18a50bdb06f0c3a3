"""The schema of study files, field by field; `study_file.py` reads them and makes plans of them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from jorge_tune.config.ranges import FILE_NAME, SEED, Count, Positive, Rule, Text, Whole, at_least, one_of
from jorge_tune.recipe.metrics import is_lower_better

SamplerName = Literal["tpe", "gp", "cmaes", "random", "grid", "qmc"]
PrunerName = Literal["median", "hyperband", "asha", "wilcoxon", "none"]


def share_of(value: float | str) -> float | None:
    """`10%`, `0.1` or 0.1 as a fraction between 0 and 1000 %; None for anything else, and for 1 or more without a %."""
    text = str(value).strip()
    try:
        fraction = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        return None
    return fraction if 0 < fraction <= 10 and (fraction < 1 or text.endswith("%")) else None


_SHARE = Rule("greater than 0 and at most 1000%, written as 10% or 0.1", lambda value: share_of(value) is not None)
STUDY_NAME = Rule(
    "1 to 100 letters, digits, '.', '_' or '-', the first a letter or digit, not ending in .sgd or .confirm "
    "(those are its companion studies)",
    lambda value: FILE_NAME.holds(value) and not value.lower().endswith((".sgd", ".confirm")),
)
_SEEDS = Rule("one seed or more, none of them twice", lambda value: 0 < len(value) == len(set(value)))


@dataclass(frozen=True, kw_only=True)
class ParameterSection:
    """How one field of the recipe is searched: as a `factor` of its bootstrapped value, or among `choices`."""

    factor: tuple[Positive, Positive] | None = None
    steps: Annotated[int, at_least(2)] | None = None  # points of a factor on a grid
    choices: tuple[Any, ...] | None = None


@dataclass(frozen=True, kw_only=True)
class ObjectiveSection:
    """What is optimised. Unset `metric` and `target` are those of the recipe's target, else the task's usual ones."""

    kind: Kind = "best"
    metric: Text | None = None
    target: float | None = None


@dataclass(frozen=True, kw_only=True)
class ConstraintSection:
    """The maximum step-time overhead over the baseline."""

    overhead: Annotated[float, _SHARE] | Annotated[str, _SHARE] = 0.1


@dataclass(frozen=True, kw_only=True)
class StudyFile:
    """One study file.

    `recipe` and `baseline` are each a file in the same directory, a path, or the name of a shipped recipe. Unset,
    `constraint` is 10 % if a step can be calibrated, and `trials` is 40, or the number of points of the grid.
    """

    version: Annotated[int, one_of(1)] = 1
    name: Annotated[str, STUDY_NAME]
    recipe: Text
    baseline: Text | None = None
    space: Mapping[str, ParameterSection]
    objective: Kind | ObjectiveSection = ObjectiveSection()
    sampler: SamplerName = "tpe"
    sampler_seed: Annotated[int, SEED] = 0
    pruner: PrunerName = "median"
    trials: Count | None = None
    hours: Positive | None = None
    seeds: Annotated[tuple[Annotated[int, SEED], ...], _SEEDS] = (0,)
    confirm_seeds: Whole = 6
    constraint: Literal["none"] | ConstraintSection | None = None
    device: Text = "auto"
    threads: Count | None = None


Kind = Literal["best", "final", "time-to-target", "epochs-to-target"]
Direction = Literal["minimize", "maximize"]


@dataclass(frozen=True, kw_only=True)
class Objective:
    """The best or final value of a metric, or the training seconds or epochs until it reaches `target`.

    `higher_is_better` is what the recipe says of the metric; None: its name tells it.

    A trial's value is the median over its seeds. A run that diverged or did not reach the target counts as `worst`.
    """

    kind: Kind
    metric: str
    target: float | None = None
    higher_is_better: bool | None = None

    @property
    def needs_target(self) -> bool:
        """Whether the value is the time or the epochs to a target, and not a value of the metric."""
        return self.kind in ("time-to-target", "epochs-to-target")

    @property
    def lower_is_better(self) -> bool:
        """Times, epochs and losses are minimised; scores are maximised."""
        return self.needs_target or self.is_metric_lower_better

    @property
    def is_metric_lower_better(self) -> bool:
        """Whether lower values of the metric itself are better."""
        return is_lower_better(self.metric) if self.higher_is_better is None else not self.higher_is_better

    @property
    def direction(self) -> Direction:
        """The direction in Optuna's words."""
        return "minimize" if self.lower_is_better else "maximize"

    @property
    def worst(self) -> float:
        """The infinity that stands for a run that diverged or did not reach the target."""
        return math.inf if self.lower_is_better else -math.inf

    def __str__(self) -> str:
        if self.needs_target:
            unit = "training seconds" if self.kind == "time-to-target" else "epochs"
            return f"fewest {unit} until {self.metric} reaches {self.target:g}"
        return f"{self.kind} {self.metric} ({'lower' if self.direction == 'minimize' else 'higher'} is better)"
