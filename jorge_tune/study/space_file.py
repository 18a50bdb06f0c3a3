"""Making a space from a study file; a field that cannot be searched, or a space without the bootstrap, is a finding."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from jorge_tune.errors import Fault, Finding, InputError
from jorge_tune.recipe.recipe_files import with_values
from jorge_tune.recipe.render import scalar
from jorge_tune.recipe.schema import KroneckerFields, Recipe
from jorge_tune.recipe.unread import UNREAD, UnreadField, unread_fields
from jorge_tune.study.space import (
    INTERVAL,
    SCHEDULE,
    ChoiceParameter,
    FactorParameter,
    Parameter,
    SearchSpace,
    Value,
    is_overruled,
    plain_schedule,
    plain_value,
    same,
    schedule_of,
    searchable_fields,
    trained_interval,
    why_not,
)
from jorge_tune.study.study_schema import ParameterSection


def build_space(
    sections: Mapping[str, ParameterSection], recipe: Recipe, findings: list[Finding]
) -> SearchSpace | None:
    """The space around a bootstrapped recipe; None if there are faults, which become findings."""
    before = len(findings)
    if not sections:
        findings.append(("space", "is empty; search something, e.g. optimizer.lr: {factor: [0.25, 4]}"))
    names = _names(sections)
    parameters = [
        parameter
        for path, section in sections.items()
        if (parameter := _SearchableField(path, section, recipe, names[path], findings).parameter()) is not None
    ]

    for path in sections:
        if SCHEDULE in sections and path.startswith(f"{SCHEDULE}."):
            findings.append(
                (f"space.{path}", "is part of the schedule, which is searched as a whole; keep one of them")
            )
    if len(findings) == before:
        _check_pairs(recipe, parameters, findings)
    _check_read(recipe, parameters, findings)
    return SearchSpace(recipe, tuple(parameters)) if len(findings) == before else None


def _names(sections: Mapping[str, ParameterSection]) -> dict[str, str]:
    """The name of each parameter in trials: the last word of the field if only one has it; `_factor` marks factors."""
    last = {path: path.rpartition(".")[2] for path in sections}
    counts = Counter(last.values())
    return {
        path: (path if counts[last[path]] > 1 else last[path]) + ("_factor" if section.factor is not None else "")
        for path, section in sections.items()
    }


class _Unfit(Exception):  # noqa: N818  (not an error of the program, but the fault of one entry, at a key)
    def __init__(self, key: str, what: str) -> None:
        self.key, self.what = key, what


class _SearchableField:
    """One entry of the space in a study file."""

    def __init__(
        self, path: str, section: ParameterSection, recipe: Recipe, name: str, findings: list[Finding]
    ) -> None:
        self._path, self._section, self._recipe, self._name, self._findings = path, section, recipe, name, findings
        self._centre: Any = None

    def parameter(self) -> Parameter | None:
        """The parameter; None if the entry has faults."""
        before = len(self._findings)
        try:
            made = self._made()
        except _Unfit as unfit:
            self._note(unfit.key, unfit.what)
        return made if len(self._findings) == before else None

    def _note(self, key: str, what: str) -> None:
        self._findings.append((f"space.{self._path}" + (f".{key}" if key else ""), what))

    def _made(self) -> Parameter:
        fields = searchable_fields(self._recipe)
        if self._path not in fields:
            raise _Unfit("", why_not(self._path, self._recipe))
        if is_overruled(self._path, self._recipe):
            raise _Unfit("", "is set by preset: paper; to search it, write the values out instead of the preset")

        self._centre = fields[self._path]
        if self._centre == "auto" and self._path == INTERVAL:
            way_out = "measure it first (`jorge-tune calibrate-freq RECIPE --write`), or give a number"
            raise _Unfit("", f"is auto in the recipe: {way_out}")

        given = [key for key in ("factor", "choices") if getattr(self._section, key) is not None]
        if len(given) != 1:
            raise _Unfit("", f"exactly one of factor and choices must be given, got {'both' if given else 'neither'}")
        if self._section.factor is not None:
            return self._factor(*self._section.factor)
        if self._section.steps is not None:
            raise _Unfit("steps", "belongs to a factor; choices are a grid already")
        return self._choices(self._section.choices or ())

    def _factor(self, low: float, high: float) -> FactorParameter:
        centre, shown = self._centre, scalar(self._centre)
        if isinstance(centre, bool) or not isinstance(centre, (int, float)):
            raise _Unfit("factor", f"needs a number to multiply, but the recipe has {shown}; give choices")
        if centre <= 0:
            raise _Unfit("factor", f"cannot change {shown}, the recipe's value; give choices")
        if not low < high:
            raise _Unfit("factor", f"must be increasing, got [{low:g}, {high:g}]")
        if not low <= 1 <= high:
            way_out = f"widen it, or change {self._path} in the recipe"
            what = f"must include 1, which is the bootstrapped value ({shown}), got [{low:g}, {high:g}]; {way_out}"
            raise _Unfit("factor", what)

        parameter = FactorParameter(
            name=self._name,
            path=self._path,
            centre=centre,
            low=low,
            high=high,
            steps=self._section.steps,
            whole=isinstance(centre, int),
        )

        for end in parameter.ends():
            _, faults = with_values(self._recipe, {self._path: parameter.plain(end)})
            for fault in faults:
                at = "" if fault.path == self._path else f"{fault.path} "
                self._note("factor", f"at {end:g} x {shown}: {at}{fault.what}")
        return parameter

    def _choices(self, choices: tuple[Any, ...]) -> ChoiceParameter:
        if len(choices) < 2:
            raise _Unfit("choices", f"must be two values or more, got {len(choices)}")

        values = self._chosen(choices)
        for index, value in enumerate(values):
            first = next(i for i, other in enumerate(values) if same(value, other))
            if first != index:
                what = f"means the same as {scalar(choices[first])}, which is listed before it; keep one"
                self._note(f"choices[{index}]", what)

        bootstrap = next((index for index, value in enumerate(values) if same(value, self._centre)), None)
        if bootstrap is None:
            add = f"keep, which is {scalar(self._centre)}" if self._path == SCHEDULE else scalar(self._centre)
            raise _Unfit("choices", f"must include the bootstrapped value: add {add}")

        labels = tuple(_label(choice, value) for choice, value in zip(choices, values, strict=True))
        return ChoiceParameter(
            name=self._name, path=self._path, labels=labels, values=values, bootstrap=labels[bootstrap]
        )

    def _chosen(self, choices: tuple[Any, ...]) -> tuple[Any, ...]:
        """The plain values that go into the recipe."""
        readings = [self._value(choice) for choice in choices]
        complaints = [(f"choices[{i}]", what) for i, (_, faults) in enumerate(readings) for what in faults]
        for key, what in complaints[1:]:
            self._note(key, what)
        if complaints:
            raise _Unfit(*complaints[0])
        return tuple(value for value, _ in readings)

    def _value(self, choice: Any) -> tuple[Any, list[str]]:
        """The recipe's value for a choice, and the faults of the choice."""
        if self._path == SCHEDULE:
            try:
                return schedule_of(choice, self._recipe), []
            except ValueError as error:
                return None, [str(error)]
        if self._path == INTERVAL and (choice is None or choice == "auto"):
            return None, [f"must be a number of steps, got {scalar(choice)}"]
        changed, faults = with_values(self._recipe, {self._path: choice})
        if changed is not None:
            return plain_value(changed, self._path), []
        return None, [self._complaint(fault) for fault in faults]

    def _complaint(self, fault: Fault) -> str:
        """A fault of the recipe as a fault of this entry."""
        if not fault.path.startswith(self._path):
            return f"{fault.path} {fault.what}"
        inside = fault.path.removeprefix(self._path).lstrip(".")
        return f"{inside}: {fault.what}" if inside else fault.what


def _label(choice: Any, value: Any) -> Value:
    """The label that trials hold: the recipe's value, the name of a schedule, or the text of a section or list."""
    if isinstance(choice, str) and isinstance(value, Mapping):
        return choice
    return scalar(choice) if isinstance(value, (Mapping, list)) else value


def _check_pairs(recipe: Recipe, parameters: list[Parameter], findings: list[Finding]) -> None:
    """Check all pairs of ends and choices; the rules of recipes span at most two fields, so that is enough."""
    for one, other in itertools.combinations(parameters, 2):
        for a, b in itertools.product(one.ends(), other.ends()):
            values = {one.path: one.plain(a), other.path: other.plain(b)}
            _, faults = with_values(recipe, values)
            if faults:
                pair = ", ".join(f"{path} {scalar(value)}" for path, value in values.items())
                findings.append((f"space.{other.path}", f"no recipe with {pair}: {faults[0].path} {faults[0].what}"))
                break


def _check_read(recipe: Recipe, parameters: list[Parameter], findings: list[Finding]) -> None:
    """Refuse a parameter that nothing reads at any point of the space: it would train the same run again and again."""
    for parameter in parameters:
        entries = [entry for entry in UNREAD if entry.path == parameter.path]
        reasons = [_unread_at(entries, made) for made in _ruling_recipes(recipe, parameters, entries)]
        if reasons and None not in reasons:
            findings.append((f"space.{parameter.path}", f"has no effect {reasons[0]}; leave it out"))


def _unread_at(entries: list[UnreadField], recipe: Recipe) -> str | None:
    """Why nothing reads the entries' field in this recipe; None if something does."""
    return next((entry.why for entry in entries if entry.applies(recipe)), None)


def _ruling_recipes(recipe: Recipe, parameters: list[Parameter], entries: list[UnreadField]) -> Iterator[Recipe]:
    """The recipe with every combination of those searched values that decide whether a field is read."""
    rulers = [p for p in parameters if any(entry.ruled_by == p.path for entry in entries)]
    for values in itertools.product(*(ruler.ends() for ruler in rulers)):
        changes = {ruler.path: ruler.plain(value) for ruler, value in zip(rulers, values, strict=True)}
        made, _ = with_values(recipe, changes)
        if made is not None:
            yield made


_RATES = [0.25, 4.0]  # two doublings up and down, since grafted steps have the length of the tuned rate
_DECAYS = [0.1, 10.0]  # the factor of Eq. 9 at momentum 0.9, up and down
_INTERVALS = (1, 5, 10, 50)


def default_space(centre: Recipe, tuned: Recipe) -> dict[str, Any]:
    """The `space` section of a study file around `centre`, which was bootstrapped from `tuned` or is the same."""
    unread = {entry.path for entry in unread_fields(centre)}
    space: dict[str, Any] = {} if "optimizer.lr" in unread else {"optimizer.lr": {"factor": _RATES}}
    if centre.optimizer.weight_decay > 0:
        space["optimizer.weight_decay"] = {"factor": _DECAYS}

    if isinstance(centre.optimizer, KroneckerFields):
        interval = trained_interval(centre.optimizer)
        if interval == "auto":
            raise InputError(
                f"recipe {centre.name}: optimizer.refresh_interval is auto: measure it first "
                "(`jorge-tune calibrate-freq RECIPE --write`), or give a number"
            )
        space[INTERVAL] = {"choices": sorted({*_INTERVALS, int(interval)})}
    if len(schedules := _schedules(centre, tuned)) > 1:
        space[SCHEDULE] = {"choices": schedules}
    return space


def _schedules(centre: Recipe, tuned: Recipe) -> list[Any]:
    """The bootstrapped schedule, the tuned one if the rules replaced it, and the paper's if they kept it."""
    own, before = plain_schedule(centre), plain_schedule(tuned)
    choices: list[Any] = ["keep"] if before == own else ["keep", before]
    try:
        stepped = schedule_of("step", centre)
    except ValueError:  # the training is too short, or the first third ends within the warm-up
        return choices
    return choices if stepped in (own, before) else [*choices, "step"]
