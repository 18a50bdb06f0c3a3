"""A plan as plain data, so that a worker on any machine can read it from the storage."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Annotated, Any, Final, TypeVar

from jorge_tune.config.decode import decode
from jorge_tune.config.ranges import FILE_NAME, LARGEST_SEED, SEED, Count, Positive, Rule, Text, at_least, one_of
from jorge_tune.config.tree import node_of
from jorge_tune.errors import Fault, InputError, shortened
from jorge_tune.recipe.derivation import Derivation
from jorge_tune.recipe.recipe_files import parse_recipe, render_recipe
from jorge_tune.records import from_portable, portable
from jorge_tune.study.plan import (
    BASELINE_SUFFIX,
    CONFIRM_SUFFIX,
    CONTENDER,
    ComparisonSpace,
    SeedParameter,
    StudyPlan,
    is_comparison,
    space_of,
)
from jorge_tune.study.space import ChoiceParameter, FactorParameter, Parameter, same, searchable_fields
from jorge_tune.study.study_schema import Kind, Objective, PrunerName, SamplerName
from jorge_tune.untrusted import DEEPEST_STORED, is_number, is_shallow, must_be, shown

T = TypeVar("T")

LARGEST_GRID = 1_000_000
"""The largest grid of a stored plan, in points; a study file may have fewer."""
_KINDS: dict[str, Any] = {"factor": FactorParameter, "choice": ChoiceParameter, "seed": SeedParameter}

_SETTINGS = ("name", "sampler", "pruner", "trials", "hours", "overhead", "device", "threads", "sampler_seed")


def plan_to_json(plan: StudyPlan) -> dict[str, Any]:
    """The plan as plain data, with the recipes as the text of their files."""
    data = {
        "format": FORMAT,
        "recipe": render_recipe(plan.recipe),
        "baseline": None if plan.baseline is None else render_recipe(plan.baseline),
        "space": [_parameter_to_json(parameter) for parameter in plan.space],
        "objective": asdict(plan.objective),
        "seeds": list(plan.seeds),
        "confirm_seeds": list(plan.confirm_seeds),
        "derivations": [asdict(derivation) for derivation in plan.derivations],
        "notes": list(plan.notes),
        **{name: getattr(plan, name) for name in _SETTINGS},
    }
    return portable(data)  # type: ignore[return-value]


def plan_from_json(data: object, source: str) -> StudyPlan:
    """Read what `plan_to_json` wrote.

    Others may write to a storage. So before the plan is used, every value is checked for its type and range, and every
    name for being the name of a directory.

    Args:
        data: the stored plan.
        source: names the study in messages.

    Raises:
        InputError: another version of jorge-tune wrote the plan, or another program did.
    """
    try:
        return _plan(read_stored(StoredPlan, data), source)
    except InputError as error:
        what = " ".join(str(error).split())
    except (AttributeError, KeyError, OverflowError, RecursionError, TypeError, ValueError) as error:
        what = f"{type(error).__name__}: {shown(str(error))}"
    raise InputError(
        f"{source}: its plan cannot be read ({what}); another version of jorge-tune made it; continue it with that one"
    )


def read_stored(cls: type[T], data: object) -> T:
    """Read plain data from a storage as a dataclass.

    Raises:
        InputError: a field is missing or not of its type; the message has the first few faults.
    """
    if not is_shallow(data):
        raise InputError(f"must be nested no deeper than {DEEPEST_STORED} levels")

    faults: list[Fault] = []
    made = decode(cls, node_of(data), faults)
    if made is None:
        raise InputError(shortened([f"{fault.path}: {fault.what}" if fault.path else fault.what for fault in faults]))
    return made


def _plan(stored: StoredPlan, source: str) -> StudyPlan:
    recipe = parse_recipe(stored.recipe, f"{source} (recipe)").recipe
    baseline = None
    if stored.baseline is not None:
        baseline = parse_recipe(stored.baseline, f"{source} (baseline)").recipe

    settings: dict[str, Any] = {name: getattr(stored, name) for name in _SETTINGS}
    plan = StudyPlan(
        recipe=recipe,
        baseline=baseline,
        space=space_of(recipe, [_parameter_from_json(item) for item in stored.space]),
        objective=Objective(**asdict(stored.objective)),
        seeds=stored.seeds,
        confirm_seeds=stored.confirm_seeds,
        derivations=tuple(Derivation(**asdict(item)) for item in from_portable(list(stored.derivations))),
        notes=stored.notes,
        **settings,
    )
    _check(plan)
    return plan


def _check(plan: StudyPlan) -> None:
    """Check what the types of the fields do not say.

    Raises:
        InputError: fields contradict each other, or the space searches a field that the recipe does not have.
    """
    if plan.objective.needs_target != (plan.objective.target is not None):
        raise InputError("objective.target must be given for epochs-to-target and time-to-target, and only for these")

    names = [parameter.name for parameter in plan.space]
    if len(set(names)) < len(names):
        raise InputError("space: no two parameters may have the same name")
    if not is_comparison(plan) and not plan.seeds:
        raise InputError("seeds must be one seed or more, got none")

    known = searchable_fields(plan.recipe)
    for parameter in plan.space:
        if not isinstance(parameter, SeedParameter) and parameter.name != CONTENDER and parameter.path not in known:
            raise InputError(f"space: {shown(parameter.path)} is not a field of the recipe")

    if is_comparison(plan):
        assert isinstance(plan.space, ComparisonSpace)
        plan.space.recipes()
    elif CONTENDER not in names:
        plan.space.recipe_of(plan.space.bootstrap_point())
        for parameter in plan.space:
            labels = parameter.labels if isinstance(parameter, ChoiceParameter) else ()
            for label in labels:
                parameter.plain(label)

    if plan.sampler == "grid" and len(plan.space):
        if any(isinstance(p, FactorParameter) and p.steps is None for p in plan.space):
            raise InputError("space: a grid needs the steps of every factor")
        if (size := plan.space.grid_size()) > LARGEST_GRID:
            raise InputError(f"space: a grid must have at most {LARGEST_GRID} points, got {size}")


def _parameter_to_json(parameter: Parameter) -> dict[str, Any]:
    kind = next(kind for kind, known in _KINDS.items() if isinstance(parameter, known))
    return {"kind": kind, **asdict(parameter)}


def _parameter_from_json(data: object) -> Any:
    """Read a parameter of the kind that it names.

    Raises:
        InputError: there is no such kind, or the fields do not fit.
    """
    kind = data.get("kind") if isinstance(data, Mapping) else None
    if not isinstance(data, Mapping) or not isinstance(kind, str) or kind not in STORED_PARAMETERS:
        raise InputError(must_be("space: the kind of a parameter", f"one of {', '.join(STORED_PARAMETERS)}", kind))

    stored = read_stored(STORED_PARAMETERS[kind], {key: value for key, value in data.items() if key != "kind"})
    fields = {key: tuple(value) if isinstance(value, list) else value for key, value in asdict(stored).items()}
    if kind == "choice":
        _check_choice(fields)
    if kind == "factor" and not fields["low"] < fields["high"]:
        raise InputError(f"space: the range of {shown(fields['name'])} must have a low end below its high end")
    return _KINDS[kind](**fields)


def _check_choice(fields: Mapping[str, Any]) -> None:
    name, labels, values = shown(fields["name"]), fields["labels"], fields["values"]
    scalars = all(label is None or isinstance(label, (str, bool)) or is_number(label) for label in labels)
    if not scalars or not labels or len(labels) != len(values):
        raise InputError(f"space: {name} must have labels, which are numbers or texts, and a value for each of them")
    if not any(same(fields["bootstrap"], label) for label in labels):
        raise InputError(f"space: the bootstrap's label of {name} must be one of its labels")


FORMAT: Final = 1


def is_study_name(name: object) -> bool:
    """Whether a name from a storage may name a directory: that of a study, or of a companion study."""
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
    higher_is_better: bool | None = None


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
    high: Annotated[int, one_of(LARGEST_SEED)] = LARGEST_SEED
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
    """The record of a study in its attribute: its random names, its identity and its plan."""

    name: Annotated[str, RANDOM_NAME]
    folder: Annotated[str, RANDOM_NAME]
    identity: Any
    plan: Any


@dataclass(frozen=True, kw_only=True)
class StoredStopRequest:
    """See `StudyStopRequest`."""

    how: str
    reason: str
    exit_code: Annotated[int, Rule("between 0 and 255", lambda value: 0 <= value <= 255)] = 0
