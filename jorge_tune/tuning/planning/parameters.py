"""One parameter of a space: a factor of the bootstrapped value, or a choice among values."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any, TypeAlias

from jorge_tune.recipe.render import scalar

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.trial import Trial

Value: TypeAlias = float | int | str | bool | None  # what a storage holds for one parameter of one trial

_DIGITS = 12  # significant digits of a recipe's value: drops the noise of floats, keeps what a person typed
_SAMPLED_DIGITS = 4  # of a sampled factor, more where its range is narrow
_NEAR_AN_END = 0.05  # of the logarithmic range


@dataclass(frozen=True, kw_only=True)
class FactorParameter:
    """A positive number searched as a factor of its bootstrapped value, log-uniformly between `low` and `high`.

    Trials hold the factor, not the value: 1 is the bootstrap, whatever the recipe, so that studies over different
    recipes compare. `steps` points make the axis of a grid.
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
        """The factor of a trial, drawn or found in it."""
        return trial.suggest_float(self.name, self.low, self.high, log=True)

    def contains(self, factor: object) -> bool:
        """Whether a trial may hold this factor."""
        return isinstance(factor, (int, float)) and not isinstance(factor, bool) and self.low <= factor <= self.high

    def plain(self, factor: Any) -> float | int:
        """The recipe's value: the product of the decimal digits, so 0.1 x 0.3 is 0.03 and factor 1 the bootstrap."""
        if factor == 1:
            return self.centre
        exact = Fraction(repr(float(self.centre))) * Fraction(repr(float(factor)))
        if self.whole:
            return max(1, round(exact))
        try:
            return float(f"{float(exact):.{_DIGITS}g}")
        except OverflowError:
            return math.inf  # which the recipe's own rules refuse

    def of_plain(self, value: object) -> float:
        """The factor that gives a recipe's value.

        Raises:
            ValueError: it lies outside the range or is no number.
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
        """A factor in as many digits as it takes to tell thousands of points of the range apart."""
        narrow = max(0, -math.floor(math.log10(self._range)))
        return min(max(float(f"{factor:.{_SAMPLED_DIGITS + narrow}g}"), self.low), self.high)

    def axis(self) -> Sequence[float]:
        """The grid's points: `steps` of them, evenly spaced in the logarithm."""
        assert self.steps is not None
        return tuple(self._on_axis(index) for index in range(self.steps))

    def axis_size(self) -> int:
        """How many points the axis has, without making them."""
        assert self.steps is not None
        return self.steps

    def is_bootstrap_on_axis(self) -> bool:
        """Whether factor 1 is among the axis's points: points only grow along it, so one beside 1 is it, or none."""
        assert self.steps is not None
        place = -math.log(self.low) / self._range * (self.steps - 1)
        beside = (min(math.floor(place), self.steps - 1), min(math.ceil(place), self.steps - 1))
        return any(self._on_axis(index) == self.bootstrap for index in beside)

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
        """What a recipe's value may be, in words."""
        return f"between {scalar(self.plain(self.low))} and {scalar(self.plain(self.high))}"

    def edge(self, factor: Any) -> str | None:
        """In words, where a factor lies within 5 % of an end of the range."""
        position = (math.log(factor) - math.log(self.low)) / self._range
        if _NEAR_AN_END < position < 1 - _NEAR_AN_END:
            return None
        end, word = (self.low, "lower") if position < 0.5 else (self.high, "upper")
        if self.whole and word == "lower" and self.plain(end) == 1:
            return None  # the least that a count can be
        return (
            f"{self.path}: {scalar(self.plain(factor))} is at the {word} end of its range "
            f"({scalar(self.plain(end))}, factor {end:g})"
        )


@dataclass(frozen=True, kw_only=True)
class ChoiceParameter:
    """One of several values; trials hold the value itself, for a section its text (`{name: step, ...}`).

    `labels` are what trials hold, `values` what goes into the recipe, both in the file's order.
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
        """The label of a trial, drawn or found in it."""
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
            ValueError: it is not among the values.
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
        """The grid's points: all labels."""
        return self.labels

    def axis_size(self) -> int:
        """How many points the axis has."""
        return len(self.labels)

    def is_bootstrap_on_axis(self) -> bool:
        """It is one of the labels."""
        return True

    def ends(self) -> tuple[Value, ...]:
        """All labels: any of them may be the one that the recipe's rules refuse."""
        return self.labels

    def domain(self) -> str:
        """What a recipe's value may be, in words."""
        return "one of " + ", ".join(scalar(label) for label in self.labels)

    def edge(self, label: Any) -> str | None:
        """In words, where the choice is the smallest or largest of three numbers or more, and one could go further.

        1 is the least that a count can be, and null stands for no limit, so nothing lies beyond them.
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
    """Equality that keeps true and 1 apart."""
    return one == other and isinstance(one, bool) == isinstance(other, bool)
