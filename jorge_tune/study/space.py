"""The space that a study searches around the bootstrapped recipe.

A point has a value for every parameter of the space, by its name in trials: a factor, or one of several choices.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from jorge_tune.config.tree import read_tree
from jorge_tune.config.unknown_keys import suggestion
from jorge_tune.errors import InputError
from jorge_tune.recipe.bootstrap import derive_schedule, no_step_decay_because
from jorge_tune.recipe.checks import base_schedule
from jorge_tune.recipe.hints import RECIPE_WORDS
from jorge_tune.recipe.recipe_files import with_values
from jorge_tune.recipe.render import recipe_to_dict, scalar
from jorge_tune.recipe.schema import Constant, Cosine, JorgeSection, KroneckerFields, Linear, Recipe
from jorge_tune.untrusted import shown

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.trial import Trial

Value: TypeAlias = float | int | str | bool | None  # the value of one parameter of one trial in a storage

_DIGITS = (
    12  # significant digits of a recipe's value: without the noise of floats, but with all digits that a person typed
)
_SAMPLED_DIGITS = 4  # of a sampled factor; more if its range is narrow
_NEAR_AN_END = 0.05  # of the logarithmic range


@dataclass(frozen=True, kw_only=True)
class FactorParameter:
    """A positive number that is searched as a factor of its bootstrapped value, log-uniformly from `low` to `high`.

    Trials hold the factor and not the value. So 1 is the bootstrap for any recipe, and studies of different recipes can
    be compared. `steps` is the number of points of the axis of a grid.
    """

    name: str  # in trials, e.g. lr_factor
    path: str  # in the recipe, e.g. optimizer.lr
    centre: float
    low: float
    high: float
    steps: int | None = None
    whole: bool = False

    @property
    def bootstrap(self) -> float:
        """The factor of the bootstrapped recipe."""
        return 1.0

    def distribution(self) -> BaseDistribution:
        """Log-uniform over the factors."""
        from optuna.distributions import FloatDistribution

        return FloatDistribution(self.low, self.high, log=True)

    def suggest(self, trial: Trial) -> float:
        """The factor of a trial: the one that it has, or a drawn one."""
        return trial.suggest_float(self.name, self.low, self.high, log=True)

    def contains(self, factor: object) -> bool:
        """Whether a trial may hold this factor."""
        return isinstance(factor, (int, float)) and not isinstance(factor, bool) and self.low <= factor <= self.high

    def plain(self, factor: Any) -> float | int:
        """The recipe's value: the product of the decimal numbers, so that 0.1 x 0.3 is exactly 0.03."""
        if factor == 1:
            return self.centre

        exact = Fraction(repr(float(self.centre))) * Fraction(repr(float(factor)))
        if self.whole:
            return max(1, round(exact))
        try:
            return float(f"{float(exact):.{_DIGITS}g}")
        except OverflowError:
            return math.inf  # the rules of recipes refuse it

    def of_plain(self, value: object) -> float:
        """The factor that gives a recipe's value.

        Raises:
            ValueError: the value is outside the range, or is not a number.
        """
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
            raise ValueError(value)
        if value == self.centre:
            return 1.0

        factor = float(Fraction(repr(float(value))) / Fraction(repr(float(self.centre))))
        nearest_end = self.low if abs(factor - self.low) < abs(factor - self.high) else self.high
        if math.isclose(factor, nearest_end, rel_tol=10.0**-_DIGITS):
            factor = nearest_end
        if not self.contains(factor):
            raise ValueError(value)
        return factor

    def at(self, position: float) -> float:
        """The factor at a position between 0 and 1 of the logarithmic range, in few digits."""
        return self.readable(math.exp(math.log(self.low) + position * self._range))

    def readable(self, factor: Any) -> float:
        """A factor with so many digits that thousands of points of the range differ."""
        narrow = max(0, -math.floor(math.log10(self._range)))
        return min(max(float(f"{factor:.{_SAMPLED_DIGITS + narrow}g}"), self.low), self.high)

    def axis(self) -> Sequence[float]:
        """The points of the grid's axis: `steps` of them, evenly spaced in the logarithm."""
        assert self.steps is not None
        return tuple(self._on_axis(index) for index in range(self.steps))

    def axis_size(self) -> int:
        """The number of points of the axis; it makes none."""
        assert self.steps is not None
        return self.steps

    def is_bootstrap_on_axis(self) -> bool:
        """Whether factor 1 is one of the axis's points."""
        assert self.steps is not None

        # The points grow along the axis, so only the two neighbours of the place of factor 1 can be it.
        place = -math.log(self.low) / self._range * (self.steps - 1)
        neighbours = (min(math.floor(place), self.steps - 1), min(math.ceil(place), self.steps - 1))
        return any(self._on_axis(index) == self.bootstrap for index in neighbours)

    def _on_axis(self, index: int) -> float:
        assert self.steps is not None
        return self.at(index / (self.steps - 1))

    @property
    def _range(self) -> float:
        """The width of the logarithmic range."""
        return math.log(self.high) - math.log(self.low)

    def ends(self) -> tuple[float, float]:
        """The outermost factors."""
        return self.low, self.high

    def domain(self) -> str:
        """The allowed values of the recipe in words."""
        return f"between {scalar(self.plain(self.low))} and {scalar(self.plain(self.high))}"

    def edge(self, factor: Any) -> str | None:
        """A sentence if the factor is within 5 % of an end of the range, else None."""
        position = (math.log(factor) - math.log(self.low)) / self._range
        if _NEAR_AN_END < position < 1 - _NEAR_AN_END:
            return None

        end, word = (self.low, "lower") if position < 0.5 else (self.high, "upper")
        if self.whole and word == "lower" and self.plain(end) == 1:
            return None  # no count is smaller
        return (
            f"{self.path}: {scalar(self.plain(factor))} is at the {word} end of its range "
            f"({scalar(self.plain(end))}, factor {end:g})"
        )


@dataclass(frozen=True, kw_only=True)
class ChoiceParameter:
    """One of several values; trials hold the value itself, or the text of a section (`{name: step, ...}`).

    Trials hold one of `labels`, and the recipe gets the one of `values` at the same place, in the file's order.
    """

    name: str  # in trials, e.g. refresh_interval
    path: str  # in the recipe, e.g. optimizer.refresh_interval
    labels: tuple[Value, ...]
    values: tuple[Any, ...]
    bootstrap: Value  # the bootstrapped recipe's label

    def distribution(self) -> BaseDistribution:
        """Categorical."""
        from optuna.distributions import CategoricalDistribution

        return CategoricalDistribution(self.labels)

    def suggest(self, trial: Trial) -> Value:
        """The label of a trial: the one that it has, or a drawn one."""
        return trial.suggest_categorical(self.name, self.labels)

    def contains(self, label: object) -> bool:
        """Whether a trial may hold this label."""
        return any(same(label, known) for known in self.labels)

    def index(self, label: object) -> int:
        """The label's position."""
        return next(index for index, known in enumerate(self.labels) if same(label, known))

    def plain(self, label: Any) -> Any:
        """The recipe's value."""
        return self.values[self.index(label)]

    def of_plain(self, value: object) -> Value:
        """The label that gives a recipe's value.

        Raises:
            ValueError: it is not one of the values.
        """
        for label, known in zip(self.labels, self.values, strict=True):
            if same(value, known) or same(value, label):
                return label
        raise ValueError(value)

    def at(self, position: float) -> Value:
        """The label at a position between 0 and 1 along the list."""
        return self.labels[min(int(position * len(self.labels)), len(self.labels) - 1)]

    def readable(self, label: Value) -> Value:
        """The label as it is."""
        return label

    def axis(self) -> Sequence[Value]:
        """The points of the grid's axis: all labels."""
        return self.labels

    def axis_size(self) -> int:
        """The number of points of the axis."""
        return len(self.labels)

    def is_bootstrap_on_axis(self) -> bool:
        """Always: the bootstrap is one of the labels."""
        return True

    def ends(self) -> tuple[Value, ...]:
        """All labels, since the rules of recipes may refuse any of them."""
        return self.labels

    def domain(self) -> str:
        """The allowed values of the recipe in words."""
        return "one of " + ", ".join(scalar(label) for label in self.labels)

    def edge(self, label: Any) -> str | None:
        """A sentence if the choice is the smallest or largest of three numbers or more, else None.

        There is none for 1, the smallest count, and none for the largest number if null (no limit) is a choice.
        """
        numbers = sorted(value for value in self.values if type(value) in (int, float))
        value = self.plain(label)
        if len(numbers) + (None in self.values) < 3 or value is None or value not in numbers:
            return None
        if value == numbers[0] and not (isinstance(value, int) and value <= 1) and value != 0:
            return f"{self.path}: {scalar(value)} is the smallest of its choices"
        if value == numbers[-1] and None not in self.values:
            return f"{self.path}: {scalar(value)} is the largest of its choices"
        return None


Parameter = FactorParameter | ChoiceParameter


def same(one: object, other: object) -> bool:
    """Equality under which true and 1 differ."""
    return one == other and isinstance(one, bool) == isinstance(other, bool)


Point: TypeAlias = Mapping[str, Value]


@dataclass(frozen=True)
class SearchSpace:
    """Parameters around a bootstrapped recipe; every trial carries all of them."""

    recipe: Recipe
    parameters: tuple[Parameter, ...]

    def distributions(self) -> dict[str, BaseDistribution]:
        """Optuna's distribution of each parameter, by its name in trials."""
        return {parameter.name: parameter.distribution() for parameter in self.parameters}

    def bootstrap_point(self) -> dict[str, Value]:
        """Trial 0: every factor 1, every choice the bootstrapped recipe's."""
        return {parameter.name: parameter.bootstrap for parameter in self.parameters}

    def suggest(self, trial: Trial) -> dict[str, Value]:
        """All parameters of a trial: those that it has, or drawn by its study's sampler."""
        return {parameter.name: parameter.suggest(trial) for parameter in self.parameters}

    def check_point(self, point: Point) -> None:
        """Refuse a point that is not in this space.

        Raises:
            InputError: a parameter is missing, unknown, or outside its range.
        """
        names = {parameter.name for parameter in self.parameters}
        complaints = [f"no parameter {shown(name)}{suggestion(name, names)}" for name in point if name not in names]
        for parameter in self.parameters:
            if parameter.name not in point:
                complaints.append(f"{parameter.name} is missing")
            elif not parameter.contains(point[parameter.name]):
                complaints.append(f"{parameter.name} must be {_domain_of(parameter)}, got {point[parameter.name]!r}")
        if complaints:
            raise InputError("point outside the space: " + "; ".join(complaints))

    def recipe_of(self, point: Point) -> Recipe:
        """The recipe at a point; at factor 1 it is the bootstrapped one.

        Raises:
            InputError: the point is outside the space, or the rules of recipes refuse the combination.
        """
        self.check_point(point)
        changes = {p.path: p.plain(point[p.name]) for p in self.parameters if point[p.name] != p.bootstrap}
        recipe, faults = with_values(self.recipe, changes)
        if recipe is None:
            what = "; ".join(f"{fault.path}: {fault.what}" if fault.path else fault.what for fault in faults)
            raise InputError(f"no recipe at this point of the space: {what}")
        return recipe

    def seeds_of(self, point: Point) -> tuple[int, ...] | None:
        """The seeds that a trial at a point runs; None: the study's."""
        return None

    def identity(self) -> dict[str, Any]:
        """The space as plain data, without the steps of a grid: trials of one study have it in common."""
        return {parameter.path: _searched(parameter) for parameter in self.parameters}

    def edges(self, point: Point) -> list[str]:
        """A sentence for each parameter at an end of its range, since the optimum may be beyond."""
        sentences = (parameter.edge(point[parameter.name]) for parameter in self.parameters)
        return [sentence for sentence in sentences if sentence is not None]

    def point_from_assignments(self, assignments: Sequence[str]) -> dict[str, Value]:
        """A point from values of the recipe: `lr=0.2` or `optimizer.lr=0.2`; all else is as in the bootstrap.

        Raises:
            InputError: an assignment is malformed, names no searched field, or is outside the space.
        """
        point = self.bootstrap_point()
        complaints: list[str] = []
        for assignment in assignments:
            try:
                name, value = self._assigned(assignment)
                point[name] = value
            except ValueError as error:
                complaints.append(f"{shown(assignment)}: {error}")
        if complaints:
            raise InputError("\n".join(complaints))
        self.recipe_of(point)
        return point

    def _assigned(self, assignment: str) -> tuple[str, Value]:
        """The parameter's name and its value in trials.

        Raises:
            ValueError: the assignment is wrong; the message says how.
        """
        path, equals, text = assignment.partition("=")
        path = path.strip()
        if not equals or not path:
            raise ValueError("must be written as field=value, e.g. lr=0.2")

        matches = [p for p in self.parameters if p.path == path or p.path.endswith("." + path)]
        if len(matches) != 1:
            known = [p.path for p in self.parameters]
            if matches:
                raise ValueError("could be " + " or ".join(p.path for p in matches))
            near = suggestion(path, [*known, *(field.rpartition(".")[2] for field in known)])
            raise ValueError(f"is not searched here{near}; the space has {', '.join(known)}")

        tree = read_tree(text) if text.strip() else read_tree('""')
        if tree.root is None or tree.faults:
            raise ValueError("; ".join(fault.what for fault in tree.faults))

        value = tree.root.plain()
        for meant in (value, self._completed(matches[0], value)):
            try:
                return matches[0].name, matches[0].of_plain(meant)
            except ValueError:
                continue
        raise ValueError(f"{matches[0].path} must be {matches[0].domain()}, got {shown(text.strip())}")

    def _completed(self, parameter: Parameter, value: Any) -> Any:
        """The value with the defaults that a recipe fills in, if it is a section."""
        changed, _ = with_values(self.recipe, {parameter.path: value})
        return value if changed is None else plain_value(changed, parameter.path)

    def grid(self) -> list[dict[str, Value]]:
        """The bootstrap, and then all other points of the grid in the file's order; factors need `steps`."""
        names = [parameter.name for parameter in self.parameters]
        points = (
            dict(zip(names, values, strict=True)) for values in itertools.product(*(p.axis() for p in self.parameters))
        )
        bootstrap = self.bootstrap_point()
        return [bootstrap, *(point for point in points if point != bootstrap)]

    def grid_size(self) -> int:
        """The number of points of the grid, with the bootstrap even if it is not on the axes; it makes none."""
        on_axes = all(parameter.is_bootstrap_on_axis() for parameter in self.parameters)
        return math.prod(parameter.axis_size() for parameter in self.parameters) + (not on_axes)

    def at(self, positions: Sequence[float]) -> dict[str, Value]:
        """The point at positions between 0 and 1, one for each parameter."""
        return {p.name: p.at(position) for p, position in zip(self.parameters, positions, strict=True)}

    def __iter__(self) -> Iterator[Parameter]:
        return iter(self.parameters)

    def __len__(self) -> int:
        return len(self.parameters)


def _domain_of(parameter: Parameter) -> str:
    if isinstance(parameter, ChoiceParameter):
        return parameter.domain()
    return f"a factor between {parameter.low:g} and {parameter.high:g}"


def _searched(parameter: Parameter) -> dict[str, Any]:
    if isinstance(parameter, FactorParameter):
        return {"factor": [parameter.low, parameter.high]}
    return {"choices": list(parameter.labels), "values": list(parameter.values)}


INTERVAL: Final = "optimizer.refresh_interval"
SCHEDULE: Final = "schedule"
_WHOLE_SECTIONS = ("optimizer", "schedule")
_SINGLE = ("batch_size", "precision")
_NOT_SEARCHED = frozenset({"optimizer.name", "optimizer.preset", "schedule.name"})
_PRESET_SAYS = frozenset({"warm_refreshes", "stagger", "block_size", "eps", "eps_kind"})
_INTERVAL_UNSET = 10
_WHY_NOT = {
    "seed": "is not searched: the seeds of every trial are listed under 'seeds'",
    "epochs": "is not searched: all trials of a study train for one length",
    "steps": "is not searched: all trials of a study train for one length",
    "optimizer": "is searched field by field: optimizer.lr, optimizer.weight_decay, ...",
    "optimizer.name": "is not searched: a study has one optimizer; use `jorge-tune compare` to race several",
    "optimizer.preset": "is not searched: write out the fields that it sets",
    "schedule.name": "is not searched: search 'schedule' among choices: schedules by name, or as sections",
}


def searchable_fields(recipe: Recipe) -> dict[str, Any]:
    """Every dotted path that may be searched, with the recipe's plain value there."""
    fields = dict(_walk(recipe, _WHOLE_SECTIONS, ""))
    fields[SCHEDULE] = plain_schedule(recipe)
    if isinstance(recipe.optimizer, KroneckerFields):
        fields[INTERVAL] = trained_interval(recipe.optimizer)
    return fields


def trained_interval(optimizer: KroneckerFields) -> int | str:
    """The refresh interval in use: 10 if it is not set, 1 under the paper's preset; `auto` stays."""
    if optimizer.refresh_interval is not None:
        return optimizer.refresh_interval
    return 1 if isinstance(optimizer, JorgeSection) and optimizer.preset == "paper" else _INTERVAL_UNSET


def trained_warm_refreshes(optimizer: KroneckerFields) -> int:
    """The number of first steps that refresh everything: at least one, and exactly one under the paper's preset."""
    is_default = optimizer.warm_refreshes == KroneckerFields.warm_refreshes
    under_preset = isinstance(optimizer, JorgeSection) and optimizer.preset == "paper" and is_default
    return max(1, 0 if under_preset else optimizer.warm_refreshes)


def plain_schedule(recipe: Recipe) -> dict[str, Any]:
    """The schedule as a recipe file has it."""
    plain: dict[str, Any] = recipe_to_dict(recipe).get(SCHEDULE, {"name": "constant"})
    return plain


def plain_value(recipe: Recipe, path: str) -> Any:
    """The recipe's plain value at a searchable path."""
    return searchable_fields(recipe).get(path)


def why_not(path: str, recipe: Recipe) -> str:
    """Why a path cannot be searched, with a way out."""
    known = searchable_fields(recipe)
    if path in _WHY_NOT:
        return _WHY_NOT[path]
    if path.partition(".")[0] in ("task", "target", "name", "version", "calibration"):
        return "is not searched: all trials of a study have one task"

    ending = [field for field in known if field.endswith(f".{path}")]
    meant = RECIPE_WORDS.meant_path(path, Recipe)
    guess = ending[0] if ending else meant if meant in known else None
    hint = f" (did you mean '{guess}'?)" if guess else suggestion(path, known)
    return f"is not a field of the recipe, which trains with {recipe.optimizer.name}{hint}"


def is_overruled(path: str, recipe: Recipe) -> bool:
    """Whether the recipe's preset replaces the value at this path if it is the plain default."""
    optimizer = recipe.optimizer
    under_preset = isinstance(optimizer, JorgeSection) and optimizer.preset is not None
    return under_preset and path.partition("optimizer.")[2] in _PRESET_SAYS


def _walk(section: Any, only: tuple[str, ...], path: str) -> Iterator[tuple[str, Any]]:
    for field in dataclasses.fields(section):
        below = f"{path}.{field.name}" if path else field.name
        value = getattr(section, field.name)
        if (not path and field.name not in (*only, *_SINGLE)) or below in _NOT_SEARCHED:
            continue
        if dataclasses.is_dataclass(value):
            yield from _walk(value, only, below)
        elif isinstance(value, Mapping):
            yield from ((f"{below}.{key}", item) for key, item in value.items())
        else:
            yield below, _plain(value)


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    return value


_BY_CLASS = {"constant": Constant, "cosine": Cosine, "linear": Linear}
_AS_SECTIONS = {
    "polynomial": "{name: polynomial, power: 0.9}",
    "exponential": "{name: exponential, gamma: 0.95}",
    "gen": "{name: gen, base: {name: linear}}",
}
NAMES: Final = ("keep", "step", *_BY_CLASS)


def schedule_of(choice: Any, recipe: Recipe) -> dict[str, Any]:
    """The plain schedule that a choice stands for.

    `keep` is the recipe's own schedule and `step` the paper's rule (a tenth at one third, again at two thirds).
    constant, cosine and linear keep the recipe's warm-up. A section is taken as it is, with its own warm-up or none.

    Raises:
        ValueError: the choice is wrong; the message says how.
    """
    if isinstance(choice, Mapping):
        changed, faults = with_values(recipe, {"schedule": choice})
        if changed is None:
            raise ValueError("; ".join(f"{fault.path}: {fault.what}" for fault in faults))
        return plain_schedule(changed)

    if choice == "keep":
        return plain_schedule(recipe)
    if choice == "step":
        if (impossible := no_step_decay_because(recipe)) is not None:
            raise ValueError(f"the step schedule's rule changes nothing here: {impossible.reason}")
        schedule, _ = derive_schedule(recipe, "step")
        return plain_schedule(replace(recipe, schedule=schedule))
    if isinstance(choice, str) and choice in _BY_CLASS:
        base = base_schedule(recipe)
        made = _BY_CLASS[choice](unit=base.unit, warmup=base.warmup)
        return plain_schedule(replace(recipe, schedule=made))

    if isinstance(choice, str) and choice in _AS_SECTIONS:
        raise ValueError(f"has settings of its own: write it as a section, e.g. {_AS_SECTIONS[choice]}")
    hint = suggestion(choice, (*NAMES, *_AS_SECTIONS)) if isinstance(choice, str) else ""
    raise ValueError(
        f"must be {', '.join(NAMES)} or a section such as {{name: cosine}}, got {shown(str(choice))}{hint}"
    )
