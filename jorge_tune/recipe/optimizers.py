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
    """Parameters whose name matches `pattern` get a scaled rate and decay; the first rule that matches counts.

    Attributes:
        pattern: A regular expression that is searched for in the parameter's name.
        lr_scale: The factor on the learning rate.
        weight_decay_scale: The factor on the weight decay.
    """

    pattern: Annotated[str, REGULAR_EXPRESSION]
    lr_scale: NotNegative = 1.0
    weight_decay_scale: NotNegative = 1.0


@dataclass(frozen=True, kw_only=True)
class OptimizerFields:
    """What every optimizer section has.

    Attributes:
        name: Which optimizer it is; it decides which other fields there are.
        lr: The learning rate before the schedule.
        weight_decay: The weight decay: in the gradient for `sgd`, decoupled for `adamw` and for our own optimizers.
        no_decay: Classes of parameters without decay: normalisation layers, biases, all one-dimensional ones.
        groups: Rules that scale rate and decay for parameters by name.
    """

    name: str
    lr: Positive
    weight_decay: NotNegative = 0.0
    no_decay: tuple[NoDecayClass, ...] = ()
    groups: tuple[GroupRule, ...] = ()


@dataclass(frozen=True, kw_only=True)
class SGD(OptimizerFields):
    """torch's SGD.

    Attributes:
        momentum: The momentum.
        dampening: How much less the new gradient counts in the momentum.
        nesterov: Use Nesterov's momentum; needs momentum above 0 and dampening 0.
        decoupled: Take the decay out of the gradient: w <- (1 - lr wd) w.
    """

    name: Literal["sgd"] = "sgd"
    momentum: BelowOne = 0.0
    dampening: BelowOne = 0.0
    nesterov: bool = False
    decoupled: bool = False


@dataclass(frozen=True, kw_only=True)
class AdamW(OptimizerFields):
    """torch's AdamW.

    Attributes:
        weight_decay: The decoupled weight decay.
        betas: Averaging weights of the gradient and of its square.
        eps: Added to the denominator.
    """

    name: Literal["adamw"] = "adamw"
    weight_decay: NotNegative = 0.01
    betas: tuple[BelowOne, BelowOne] = (0.9, 0.999)
    eps: NotNegative = 1e-8


@dataclass(frozen=True, kw_only=True)
class KroneckerFields(OptimizerFields):
    """What every preconditioned optimizer of ours has; names and defaults are the constructors' own.

    Attributes:
        momentum: The momentum of the preconditioned gradient and of the grafted SGD.
        dampening: How much less the new gradient counts in the momentum.
        nesterov: Use Nesterov's momentum; needs momentum above 0 and dampening 0.
        graft: Whose step length is taken: that of SGD, of AdamW, or none.
        graft_betas: AdamW's averaging weights, for `graft: adamw`.
        graft_eps: AdamW's eps, for `graft: adamw`.
        refresh_interval: Steps between two refreshes of a preconditioner; `auto` measures it before training, unset
            uses 10.
        warm_refreshes: Refresh at each of this many first steps.
        stagger: Spread the refreshes of different blocks over the interval, so that all steps cost about the same.
        block_size: Sides longer than this are cut into blocks; `null` never cuts.
        nonfinite: At a gradient that is not finite: `skip` leaves the parameter as it is, `raise` stops the run.
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
    """Jorge: Shampoo's preconditioners by a binomial series, without inverses.

    Attributes:
        eps: The start of the statistics, relative or absolute as `eps_kind` says.
        eps_kind: `relative` multiplies `eps` by the size of the first gradient's statistics; `absolute` takes it as
            it is.
        b2_floor: The least averaging weight of old statistics.
        series_terms: The highest power in the series.
        form: `series` is the paper's; `congruence` is a symmetric form that keeps its accuracy over many refreshes.
        product_precision: The arithmetic of the products that correct a preconditioner.
        preset: `paper` takes the paper's algorithm to the letter; values given beside it win.
    """

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
    """Shampoo with inverse roots by eigh or by Newton iterations.

    Attributes:
        statistics_interval: Steps between two updates of the statistics.
        b2: The averaging weight of old statistics.
        eps: Added to the statistics, relative to their mean eigenvalue.
        root: How the inverse root is taken: an eigendecomposition, or Newton's iteration.
        root_iterations: The most iterations, for `root: newton`.
    """

    name: Literal["shampoo"] = "shampoo"
    statistics_interval: Count = 1
    b2: BelowOne = 0.999
    eps: Positive = 1e-6
    root: Literal["eigh", "newton"] = "eigh"
    root_iterations: Count = 30


@dataclass(frozen=True, kw_only=True)
class SketchyShampoo(KroneckerFields):
    """Shampoo from statistics in a few directions, which saves memory.

    Attributes:
        rank: The paper's l: a side longer than this keeps rank - 1 directions, a shorter one all of them.
        statistics_interval: Steps between two updates of the statistics; unset updates them at refresh steps.
        b2: The averaging weight of old statistics.
        eps: Added to the statistics, relative to their mean eigenvalue.
    """

    name: Literal["sketchy"] = "sketchy"
    rank: Rank = 64
    statistics_interval: Count | None = None
    b2: BelowOne = 0.999
    eps: Positive = 1e-6


@dataclass(frozen=True, kw_only=True)
class SketchyAdaGrad(OptimizerFields):
    """AdaGrad with a sketch of the full matrix, each parameter one vector; for convex and small problems.

    Attributes:
        momentum: The momentum of the step; the paper has none.
        rank: The paper's l: a parameter with more values keeps rank - 1 directions.
        eps: Added to the statistics, relative to their mean eigenvalue; 0 takes the paper's pseudo-inverse.
        nonfinite: At a gradient that is not finite: `skip` leaves the parameter as it is, `raise` stops the run.
    """

    name: Literal["sketchy_adagrad"] = "sketchy_adagrad"
    momentum: BelowOne = 0.0
    rank: Rank = 64
    eps: NotNegative = 0.0
    nonfinite: Literal["skip", "raise"] = "skip"


@dataclass(frozen=True, kw_only=True)
class CustomOptimizer(OptimizerFields):
    """Any torch optimizer by `module:Class`.

    Attributes:
        name: The class, as `torch.optim:Adagrad`.
        args: Further arguments of its constructor.
    """

    name: Annotated[str, IMPORTABLE]
    args: Mapping[str, Any] = field(default_factory=dict)


Optimizer = SGD | AdamW | Jorge | Shampoo | SketchyShampoo | SketchyAdaGrad | CustomOptimizer
