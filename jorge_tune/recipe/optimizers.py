"""The recipe's optimizer sections, one class for each name; `schema.py` puts them into the recipe."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from jorge_tune.recipe.ranges import (
    IMPORTABLE,
    REGULAR_EXPRESSION,
    BelowOne,
    Count,
    NotNegative,
    Positive,
    Whole,
    at_least,
    one_of,
)

NoDecayClass = Literal["norm", "bias", "one_dimensional"]
Interval = Count | Literal["auto"] | None
Rank = Annotated[int, at_least(2)]


@dataclass(frozen=True, kw_only=True)
class GroupRule:
    """Parameters whose name matches `pattern` (a regular expression, searched) get scaled lr and decay."""

    pattern: Annotated[str, REGULAR_EXPRESSION]
    lr_scale: NotNegative = 1.0
    weight_decay_scale: NotNegative = 1.0


@dataclass(frozen=True, kw_only=True)
class OptimizerFields:
    """What every optimizer section has."""

    name: str
    lr: Positive
    weight_decay: NotNegative = 0.0
    no_decay: tuple[NoDecayClass, ...] = ()
    groups: tuple[GroupRule, ...] = ()


@dataclass(frozen=True, kw_only=True)
class SGD(OptimizerFields):
    """torch's SGD; `decoupled` moves the decay out of the gradient: w <- (1 - lr wd) w."""

    name: Literal["sgd"] = "sgd"
    momentum: BelowOne = 0.0
    dampening: BelowOne = 0.0
    nesterov: bool = False
    decoupled: bool = False


@dataclass(frozen=True, kw_only=True)
class AdamW(OptimizerFields):
    """torch's AdamW."""

    name: Literal["adamw"] = "adamw"
    weight_decay: NotNegative = 0.01
    betas: tuple[BelowOne, BelowOne] = (0.9, 0.999)
    eps: NotNegative = 1e-8


@dataclass(frozen=True, kw_only=True)
class KroneckerFields(OptimizerFields):
    """What every preconditioned optimizer of ours has; names and defaults are the constructors' own.

    `refresh_interval`: a number, "auto" (calibrate first) or None (unset, which trains as 10).
    """

    momentum: BelowOne = 0.9
    dampening: BelowOne = 0.0
    nesterov: bool = False
    graft: Literal["sgd", "adamw", "none"] = "sgd"
    graft_betas: tuple[BelowOne, BelowOne] = (0.9, 0.999)
    graft_eps: Positive = 1e-8
    refresh_interval: Interval = None
    warm_refreshes: Whole = 100
    stagger: bool = True
    block_size: Count | None = 1024
    nonfinite: Literal["skip", "raise"] = "skip"


@dataclass(frozen=True, kw_only=True)
class Jorge(KroneckerFields):
    """Jorge: Shampoo's preconditioners by a binomial series, without inverses."""

    name: Literal["jorge"] = "jorge"
    eps: Positive = 1.0
    eps_kind: Literal["relative", "absolute"] = "relative"
    b2_floor: BelowOne = 0.0
    series_terms: Annotated[int, one_of(1, 2, 3)] = 2
    form: Literal["series", "congruence"] = "series"
    product_precision: Literal["fp32", "tf32", "bf16"] = "fp32"
    preset: Literal["paper"] | None = None


@dataclass(frozen=True, kw_only=True)
class Shampoo(KroneckerFields):
    """Shampoo with inverse roots by eigh or by Newton iterations."""

    name: Literal["shampoo"] = "shampoo"
    statistics_interval: Count = 1
    b2: BelowOne = 0.999
    eps: Positive = 1e-6
    root: Literal["eigh", "newton"] = "eigh"
    root_iterations: Count = 30


@dataclass(frozen=True, kw_only=True)
class SketchyShampoo(KroneckerFields):
    """Shampoo from sketched statistics; `statistics_interval` None: at refresh steps."""

    name: Literal["sketchy"] = "sketchy"
    rank: Rank = 64
    statistics_interval: Count | None = None
    b2: BelowOne = 0.999
    eps: Positive = 1e-6


@dataclass(frozen=True, kw_only=True)
class SketchyAdaGrad(OptimizerFields):
    """AdaGrad with a sketch of the full matrix, each parameter one vector; for convex and small problems."""

    name: Literal["sketchy_adagrad"] = "sketchy_adagrad"
    momentum: BelowOne = 0.0
    rank: Rank = 64
    eps: NotNegative = 0.0
    nonfinite: Literal["skip", "raise"] = "skip"


@dataclass(frozen=True, kw_only=True)
class CustomOptimizer(OptimizerFields):
    """Any optimizer by `module:Class`, with its arguments."""

    name: Annotated[str, IMPORTABLE]
    args: Mapping[str, Any] = field(default_factory=dict)


Optimizer = SGD | AdamW | Jorge | Shampoo | SketchyShampoo | SketchyAdaGrad | CustomOptimizer
