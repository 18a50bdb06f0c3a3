"""The study file as it is written, field by field; `study_file.py` reads it and makes the plan of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from jorge_tune.recipe.ranges import FILE_NAME, SEED, Count, Positive, Rule, Text, Whole, at_least, one_of
from jorge_tune.tuning.planning.objective import Kind

SamplerName = Literal["tpe", "gp", "cmaes", "random", "grid", "qmc"]
PrunerName = Literal["median", "hyperband", "asha", "wilcoxon", "none"]


def share_of(value: float | str) -> float | None:
    """`10%`, `0.1` or 0.1 as a fraction; None where it is none between 0 and 1000 %, or 100 % and no % sign."""
    text = str(value).strip()
    try:
        fraction = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        return None
    return fraction if 0 < fraction <= 10 and (fraction < 1 or text.endswith("%")) else None


_SHARE = Rule("greater than 0 and at most 1000%, written as 10% or 0.1", lambda value: share_of(value) is not None)
STUDY_NAME = Rule(
    "1 to 100 letters, digits, '.', '_' or '-', the first a letter or digit, not ending in .sgd or .confirm "
    "(those are the studies beside it)",
    lambda value: FILE_NAME.holds(value) and not value.lower().endswith((".sgd", ".confirm")),
)
_SEEDS = Rule("one seed or more, none of them twice", lambda value: 0 < len(value) == len(set(value)))


@dataclass(frozen=True, kw_only=True)
class ParameterSection:
    """How one field of the recipe is searched: by a `factor` of its bootstrapped value, or among `choices`."""

    factor: tuple[Positive, Positive] | None = None
    steps: Annotated[int, at_least(2)] | None = None  # points of a factor on a grid
    choices: tuple[Any, ...] | None = None


@dataclass(frozen=True, kw_only=True)
class ObjectiveSection:
    """What is optimised. `metric` and `target` unset: the recipe's target's, else what suits the task."""

    kind: Kind = "best"
    metric: Text | None = None
    target: float | None = None


@dataclass(frozen=True, kw_only=True)
class ConstraintSection:
    """What a training step may take longer than the baseline's."""

    overhead: Annotated[float, _SHARE] | Annotated[str, _SHARE] = 0.1


@dataclass(frozen=True, kw_only=True)
class StudyFile:
    """One study file. `recipe` and `baseline`: a file beside it, a path, or a shipped recipe's name.

    `constraint` unset: 10 % where a step can be calibrated. `trials` unset: 40, or the points of the grid.
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
