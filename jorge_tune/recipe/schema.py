"""The recipe: what one YAML file says, as frozen dataclasses. No torch here.

`io.py` reads and writes them, `bootstrap.py` turns one into another, `schedule.py` gives the learning rate; the
optimizer sections are in `optimizers.py` and are exported from here.
A field's range stands beside it as `Annotated[type, rule]`, so that the reader can report every fault in one go;
rules that span fields are in `checks.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from jorge_tune.recipe.optimizers import SGD as SGD
from jorge_tune.recipe.optimizers import AdamW as AdamW
from jorge_tune.recipe.optimizers import CustomOptimizer as CustomOptimizer
from jorge_tune.recipe.optimizers import GroupRule as GroupRule
from jorge_tune.recipe.optimizers import Jorge as Jorge
from jorge_tune.recipe.optimizers import KroneckerFields as KroneckerFields
from jorge_tune.recipe.optimizers import Optimizer as Optimizer
from jorge_tune.recipe.optimizers import OptimizerFields as OptimizerFields
from jorge_tune.recipe.optimizers import Shampoo as Shampoo
from jorge_tune.recipe.optimizers import SketchyAdaGrad as SketchyAdaGrad
from jorge_tune.recipe.optimizers import SketchyShampoo as SketchyShampoo
from jorge_tune.recipe.ranges import (
    FILE_NAME,
    IMPORTABLE,
    INCREASING,
    INSIDE_ONE,
    LOADER_WORKERS,
    SEED,
    SPLIT,
    UP_TO_ONE,
    Count,
    Factor,
    NotNegative,
    Positive,
    Text,
    Whole,
    one_of,
)

TaskKind = Literal["classification", "segmentation", "detection", "language", "python", "command"]
Precision = Literal["fp32", "tf32", "bf16", "fp16"]
Unit = Literal["epoch", "step"]


@dataclass(frozen=True, kw_only=True)
class Model:
    """A model by name, with its constructor's arguments."""

    name: Text
    args: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Data:
    """A data set, what is held out of it, and how it is augmented.

    `validation` is a fraction of the training part, a split's name, or None (then evaluation reads the test part).
    `subset` keeps that many training examples, class-balanced, first in file order.
    """

    name: Text
    root: Text = "data"
    validation: Annotated[float, INSIDE_ONE] | Annotated[str, SPLIT] | None = None
    augment: Text = "standard"
    subset: Count | None = None
    workers: Annotated[int, LOADER_WORKERS] = 0
    drop_last: bool = False
    evaluate_every: Count = 1  # epochs
    args: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Task:
    """What is trained on what. `factory` belongs to kind python, `command` to kind command."""

    kind: TaskKind
    model: Model | None = None
    data: Data | None = None
    factory: Annotated[str, IMPORTABLE] | None = None
    command: tuple[Text, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Warmup:
    """From `start_factor` to 1 over `epochs` or `steps` (one of them); `constant` stays at start_factor.

    It rises from step to step, whatever the schedule's unit; a warm-up in epochs rises once an epoch with `per: epoch`.
    """

    epochs: Positive | None = None
    steps: Count | None = None
    kind: Literal["linear", "constant"] = "linear"
    start_factor: Annotated[float, UP_TO_ONE] = 0.01
    per: Unit = "step"


@dataclass(frozen=True, kw_only=True)
class ScheduleFields:
    """What every schedule has. `unit` None: step where the recipe's length is in steps, else epoch."""

    name: str
    unit: Unit | None = None
    warmup: Warmup | None = None


@dataclass(frozen=True, kw_only=True)
class Constant(ScheduleFields):
    """The rate as given."""

    name: Literal["constant"] = "constant"


@dataclass(frozen=True, kw_only=True)
class Step(ScheduleFields):
    """Times `gamma` at each milestone (absolute, warm-up included), or every `step_size` units."""

    name: Literal["step"] = "step"
    milestones: Annotated[tuple[Count, ...], INCREASING] = ()
    step_size: Count | None = None
    gamma: Factor = 0.1


@dataclass(frozen=True, kw_only=True)
class Cosine(ScheduleFields):
    """Half a cosine down to `min_lr` (a rate, not a factor)."""

    name: Literal["cosine"] = "cosine"
    min_lr: NotNegative = 0.0


@dataclass(frozen=True, kw_only=True)
class Polynomial(ScheduleFields):
    """(1 - progress) ** power."""

    name: Literal["polynomial"] = "polynomial"
    power: Positive = 1.0


@dataclass(frozen=True, kw_only=True)
class Linear(ScheduleFields):
    """Straight down to zero."""

    name: Literal["linear"] = "linear"


@dataclass(frozen=True, kw_only=True)
class Exponential(ScheduleFields):
    """gamma ** t."""

    name: Literal["exponential"] = "exponential"
    gamma: Factor = 0.95


PlainSchedule = Constant | Step | Cosine | Polynomial | Linear | Exponential


@dataclass(frozen=True, kw_only=True)
class Gen:
    """GeN: the rate from forward passes along the optimizer's own direction, on top of `base` (GeN, Alg. 1).

    `interval` is in steps. `initial_lr: search` lets the first step look for the rate that `optimizer.lr` gives else.
    The loss is read on the step's own batch, as the paper does, or on as many `earlier_batches`, which the step does
    not know: that takes points x batches forward passes, and lower rates.
    """

    name: Literal["gen"] = "gen"
    interval: Count = 8
    smoothing: Annotated[float, UP_TO_ONE] = 0.9
    points: Annotated[int, one_of(3, 5)] = 3
    initial_lr: Literal["given", "search"] = "given"
    earlier_batches: Whole = 0
    base: PlainSchedule = Constant()


Schedule = PlainSchedule | Gen


@dataclass(frozen=True, kw_only=True)
class Target:
    """The metric value a race is measured against."""

    metric: Text
    value: float


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """Where and how a refresh interval was measured."""

    fingerprint: Text
    device: Text
    overhead: float


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """One recipe. Either `epochs` or `steps` is given; without a task it can be bootstrapped but not trained."""

    version: Annotated[int, one_of(1)] = 1
    name: Annotated[str, FILE_NAME]
    task: Task | None = None
    optimizer: Optimizer
    schedule: Schedule = Constant()
    epochs: Count | None = None
    steps: Count | None = None
    batch_size: Count
    precision: Precision = "fp32"
    seed: Annotated[int, SEED] = 0
    target: Target | None = None
    calibration: Calibration | None = None
