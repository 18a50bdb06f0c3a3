"""The recipe: what one YAML file says, as frozen dataclasses. No torch here.

`io.py` reads and writes them, `bootstrap.py` turns one into another, `schedule.py` gives the learning rate.
A field's range is declared beside it (`check`), so that the reader can report every fault in one go.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

TaskKind = Literal["classification", "segmentation", "detection", "language", "python", "command"]
Precision = Literal["fp32", "tf32", "bf16", "fp16"]
Unit = Literal["epoch", "step"]
NoDecayClass = Literal["norm", "bias", "one_dimensional"]


@dataclass(frozen=True, kw_only=True)
class Model:
    """A model by name, with its constructor's arguments."""

    name: str
    args: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Data:
    """A data set, what is held out of it, and how it is augmented.

    `validation` is a fraction of the training part, a split's name, or None (then evaluation reads the test part).
    `subset` keeps that many training examples, class-balanced, first in file order.
    """

    name: str
    root: str = "data"
    validation: float | str | None = None
    augment: str = "standard"
    subset: int | None = None
    workers: int = 0
    drop_last: bool = False
    evaluate_every: int = 1  # epochs
    args: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Task:
    """What is trained on what. `factory` belongs to kind python, `command` to kind command."""

    kind: TaskKind
    model: Model | None = None
    data: Data | None = None
    factory: str | None = None
    command: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class GroupRule:
    """Parameters whose name matches `pattern` (a regular expression, searched) get scaled lr and decay."""

    pattern: str
    lr_scale: float = 1.0
    weight_decay_scale: float = 1.0


@dataclass(frozen=True, kw_only=True)
class OptimizerFields:
    """What every optimizer section has."""

    name: str
    lr: float
    weight_decay: float = 0.0
    no_decay: tuple[NoDecayClass, ...] = ()
    groups: tuple[GroupRule, ...] = ()


@dataclass(frozen=True, kw_only=True)
class SGD(OptimizerFields):
    """torch's SGD; `decoupled` moves the decay out of the gradient: w <- (1 - lr wd) w."""

    name: str = "sgd"
    momentum: float = 0.0
    dampening: float = 0.0
    nesterov: bool = False
    decoupled: bool = False


@dataclass(frozen=True, kw_only=True)
class AdamW(OptimizerFields):
    """torch's AdamW."""

    name: str = "adamw"
    weight_decay: float = 0.01
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8


@dataclass(frozen=True, kw_only=True)
class KroneckerFields(OptimizerFields):
    """What every preconditioned optimizer of ours has; names and defaults are the constructors' own."""

    momentum: float = 0.9
    dampening: float = 0.0
    nesterov: bool = False
    graft: Literal["sgd", "adamw", "none"] = "sgd"
    graft_betas: tuple[float, float] = (0.9, 0.999)
    graft_eps: float = 1e-8
    warm_refreshes: int = 100
    stagger: bool = True
    block_size: int | None = 1024
    nonfinite: Literal["skip", "raise"] = "skip"


@dataclass(frozen=True, kw_only=True)
class Jorge(KroneckerFields):
    """Jorge. `refresh_interval`: a number, "auto" (calibrate first) or None (unset, which trains as 10)."""

    name: str = "jorge"
    refresh_interval: int | Literal["auto"] | None = None
    eps: float = 1.0
    eps_kind: Literal["relative", "absolute"] = "relative"
    b2_floor: float = 0.0
    series_terms: int = 2
    preset: Literal["paper"] | None = None


@dataclass(frozen=True, kw_only=True)
class Shampoo(KroneckerFields):
    """Shampoo with exact inverse roots."""

    name: str = "shampoo"
    refresh_interval: int | Literal["auto"] | None = None
    statistics_interval: int = 1
    b2: float = 0.999
    eps: float = 1e-6


@dataclass(frozen=True, kw_only=True)
class CustomOptimizer(OptimizerFields):
    """Any optimizer by `module:Class`, with its arguments."""

    args: Mapping[str, Any] = field(default_factory=dict)


Optimizer = SGD | AdamW | Jorge | Shampoo | CustomOptimizer


@dataclass(frozen=True, kw_only=True)
class Warmup:
    """From `start_factor` to 1 over `epochs` or `steps` (one of them); `constant` stays at start_factor."""

    epochs: float | None = None
    steps: int | None = None
    kind: Literal["linear", "constant"] = "linear"
    start_factor: float = 0.01


@dataclass(frozen=True, kw_only=True)
class ScheduleFields:
    """What every schedule has."""

    name: str
    unit: Unit = "epoch"
    warmup: Warmup | None = None


@dataclass(frozen=True, kw_only=True)
class Constant(ScheduleFields):
    """The rate as given."""

    name: str = "constant"


@dataclass(frozen=True, kw_only=True)
class Step(ScheduleFields):
    """Times `gamma` at each milestone (absolute, warm-up included), or every `step_size` units."""

    name: str = "step"
    milestones: tuple[int, ...] = ()
    step_size: int | None = None
    gamma: float = 0.1


@dataclass(frozen=True, kw_only=True)
class Cosine(ScheduleFields):
    """Half a cosine down to `min_lr` (a rate, not a factor)."""

    name: str = "cosine"
    min_lr: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Polynomial(ScheduleFields):
    """(1 - progress) ** power."""

    name: str = "polynomial"
    power: float = 1.0


@dataclass(frozen=True, kw_only=True)
class Linear(ScheduleFields):
    """Straight down to zero."""

    name: str = "linear"


@dataclass(frozen=True, kw_only=True)
class Exponential(ScheduleFields):
    """gamma ** t."""

    name: str = "exponential"
    gamma: float = 0.95


Schedule = Constant | Step | Cosine | Polynomial | Linear | Exponential


@dataclass(frozen=True, kw_only=True)
class Target:
    """The metric value a race is measured against."""

    metric: str
    value: float


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """Where and how a refresh interval was measured."""

    fingerprint: str
    device: str
    overhead: float


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """One recipe. Either `epochs` or `steps` is given; without a task it can be bootstrapped but not trained."""

    version: int = 1
    name: str
    task: Task | None = None
    optimizer: Optimizer
    schedule: Schedule = Constant()
    epochs: int | None = None
    steps: int | None = None
    batch_size: int
    precision: Precision = "fp32"
    seed: int = 0
    target: Target | None = None
    calibration: Calibration | None = None
