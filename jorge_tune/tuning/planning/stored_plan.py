"""The plan as a storage holds it, field by field; `plan_json.py` writes it, and reads it with these types."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Final

from jorge_tune.recipe.ranges import FILE_NAME, SEED, Count, Positive, Rule, Text, at_least, one_of
from jorge_tune.tuning.planning.objective import Kind
from jorge_tune.tuning.planning.parts import BASELINE_SUFFIX, CONFIRM_SUFFIX
from jorge_tune.tuning.planning.study_schema import PrunerName, SamplerName

FORMAT: Final = 1
_LARGEST_SEED = 2**32 - 1


def is_study_name(name: object) -> bool:
    """Whether a name from a storage may be a folder's: as study files have them, or one beside such a study."""
    if not isinstance(name, str):
        return False
    for suffix in (BASELINE_SUFFIX, CONFIRM_SUFFIX):
        name = name.removesuffix(suffix)
    return FILE_NAME.holds(name)


STORED_NAME = Rule("1 to 100 letters, digits, '.', '_' or '-', the first a letter or digit", is_study_name)
RANDOM_NAME = Rule("a random name of letters and digits", lambda value: FILE_NAME.holds(value) and value.isalnum())
_OVERHEAD = Rule("greater than 0 and at most 10", lambda value: 0 < value <= 10)


@dataclass(frozen=True, kw_only=True)
class StoredObjective:
    """See `Objective`."""

    kind: Kind
    metric: Text
    target: float | None = None


@dataclass(frozen=True, kw_only=True)
class StoredDerivation:
    """See `Derivation`."""

    field: str
    before: Any
    after: Any
    rule: str
    formula: str
    source: str


@dataclass(frozen=True, kw_only=True)
class StoredFactor:
    """See `FactorParameter`."""

    name: Text
    path: Text
    centre: float
    low: Positive
    high: Positive
    steps: Annotated[int, at_least(2)] | None = None
    whole: bool = False


@dataclass(frozen=True, kw_only=True)
class StoredChoice:
    """See `ChoiceParameter`."""

    name: Text
    path: Text
    labels: tuple[Any, ...]
    values: tuple[Any, ...]
    bootstrap: Any


@dataclass(frozen=True, kw_only=True)
class StoredSeed:
    """See `SeedParameter`."""

    name: Text
    path: Text
    bootstrap: Annotated[int, SEED]
    low: Annotated[int, one_of(0)] = 0
    high: Annotated[int, one_of(_LARGEST_SEED)] = _LARGEST_SEED
    labels: tuple[int, ...] = ()
    values: tuple[int, ...] = ()


STORED_PARAMETERS: dict[str, Any] = {"factor": StoredFactor, "choice": StoredChoice, "seed": StoredSeed}


@dataclass(frozen=True, kw_only=True)
class StoredPlan:
    """See `StudyPlan`; `space` holds one of `STORED_PARAMETERS` for each parameter, by its `kind`."""

    format: Annotated[int, one_of(FORMAT)]
    name: Annotated[str, STORED_NAME]
    recipe: Text
    baseline: Text | None
    space: tuple[Any, ...]
    objective: StoredObjective
    sampler: SamplerName
    pruner: PrunerName
    trials: Count
    hours: Positive | None
    seeds: tuple[Annotated[int, SEED], ...]
    confirm_seeds: tuple[Annotated[int, SEED], ...]
    overhead: Annotated[float, _OVERHEAD] | None
    device: Text
    threads: Count | None
    sampler_seed: Annotated[int, SEED]
    derivations: tuple[StoredDerivation, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class StoredRecord:
    """What a study's attribute holds of it: its random names, what it is, and its plan."""

    name: Annotated[str, RANDOM_NAME]
    folder: Annotated[str, RANDOM_NAME]
    identity: Any
    plan: Any


@dataclass(frozen=True, kw_only=True)
class StoredWish:
    """See `StopWish`."""

    how: str
    reason: str
    exit_code: Annotated[int, Rule("between 0 and 255", lambda value: 0 <= value <= 255)] = 0
