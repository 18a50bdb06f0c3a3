"""The space of a study: what is searched around the bootstrapped recipe.

A point gives every parameter of the space by its name in trials: factors as factors, choices as values.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from jorge_tune.errors import InputError
from jorge_tune.recipe.change import with_values
from jorge_tune.recipe.decode import suggestion
from jorge_tune.recipe.nodes import quoted, read_tree
from jorge_tune.recipe.schema import Recipe
from jorge_tune.tuning.planning.fields import plain_value
from jorge_tune.tuning.planning.parameters import ChoiceParameter, FactorParameter, Parameter, Value

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.trial import Trial

Point: TypeAlias = Mapping[str, Value]


@dataclass(frozen=True)
class Space:
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
        """All parameters of a trial, drawn by its study's sampler or found in it."""
        return {parameter.name: parameter.suggest(trial) for parameter in self.parameters}

    def check_point(self, point: Point) -> None:
        """Refuse a point that is none of this space.

        Raises:
            InputError: a parameter is missing, unknown, or outside its range.
        """
        names = {parameter.name for parameter in self.parameters}
        complaints = [f"no parameter {quoted(name)}{suggestion(name, names)}" for name in point if name not in names]
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
            InputError: the point is outside the space, or the recipe's own rules refuse the combination.
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
        """What trials of one study have in common of it, as plain data; a grid's steps are the sampler's business."""
        return {parameter.path: _searched(parameter) for parameter in self.parameters}

    def edges(self, point: Point) -> list[str]:
        """A sentence for each parameter that lies at the edge of its range, where the optimum may be beyond."""
        found = (parameter.edge(point[parameter.name]) for parameter in self.parameters)
        return [sentence for sentence in found if sentence is not None]

    def point_from_assignments(self, assignments: Sequence[str]) -> dict[str, Value]:
        """A point from values as the recipe has them: `lr=0.2` or `optimizer.lr=0.2`; the rest is the bootstrap's.

        Raises:
            InputError: an assignment is malformed, names nothing that is searched, or lies outside the space.
        """
        point = self.bootstrap_point()
        complaints: list[str] = []
        for assignment in assignments:
            try:
                name, value = self._assigned(assignment)
                point[name] = value
            except ValueError as error:
                complaints.append(f"{quoted(assignment)}: {error}")
        if complaints:
            raise InputError("\n".join(complaints))
        self.recipe_of(point)
        return point

    def _assigned(self, assignment: str) -> tuple[str, Value]:
        """The parameter's name and its value in trials.

        Raises:
            ValueError: with what is wrong.
        """
        path, equals, text = assignment.partition("=")
        path = path.strip()
        if not equals or not path:
            raise ValueError("must be written as field=value, e.g. lr=0.2")
        found = [p for p in self.parameters if p.path == path or p.path.endswith("." + path)]
        if len(found) != 1:
            known = [p.path for p in self.parameters]
            if found:
                raise ValueError("could be " + " or ".join(p.path for p in found))
            near = suggestion(path, [*known, *(field.rpartition(".")[2] for field in known)])
            raise ValueError(f"is not searched here{near}; the space has {', '.join(known)}")
        tree = read_tree(text) if text.strip() else read_tree('""')
        if tree.root is None or tree.faults:
            raise ValueError("; ".join(fault.what for fault in tree.faults))
        value = tree.root.plain()
        for meant in (value, self._completed(found[0], value)):
            try:
                return found[0].name, found[0].of_plain(meant)
            except ValueError:
                continue
        raise ValueError(f"{found[0].path} must be {found[0].domain()}, got {quoted(text.strip())}")

    def _completed(self, parameter: Parameter, value: Any) -> Any:
        """The value as a recipe has it that was given this one: a section's defaults filled in."""
        changed, _ = with_values(self.recipe, {parameter.path: value})
        return value if changed is None else plain_value(changed, parameter.path)

    def grid(self) -> list[dict[str, Value]]:
        """The bootstrap, then all other points of the grid in the file's order; factors need `steps`."""
        names = [parameter.name for parameter in self.parameters]
        points = (
            dict(zip(names, values, strict=True)) for values in itertools.product(*(p.axis() for p in self.parameters))
        )
        bootstrap = self.bootstrap_point()
        return [bootstrap, *(point for point in points if point != bootstrap)]

    def grid_size(self) -> int:
        """How many points the grid has, the bootstrap included whether it lies on the axes or not; none is made."""
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
