"""Which fields of a recipe a study may search, and what each trains as."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any, Final

from jorge_tune.recipe.decode import suggestion
from jorge_tune.recipe.hints import meant_path
from jorge_tune.recipe.render import recipe_to_dict
from jorge_tune.recipe.schema import Jorge, KroneckerFields, Recipe

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
    "optimizer.name": "is not searched: a study is about one optimizer; compare runs a race between several",
    "optimizer.preset": "is not searched: write out the fields it stands for",
    "schedule.name": "is not searched: search 'schedule' among choices: schedules by name, or as sections",
}


def searchable_fields(recipe: Recipe) -> dict[str, Any]:
    """Every dotted path that may be searched, and the plain value that the recipe has there."""
    found = dict(_walk(recipe, _WHOLE_SECTIONS, ""))
    found[SCHEDULE] = plain_schedule(recipe)
    if isinstance(recipe.optimizer, KroneckerFields):
        found[INTERVAL] = trained_interval(recipe.optimizer)
    return found


def trained_interval(optimizer: KroneckerFields) -> int | str:
    """The refresh interval in force: 10 where it is unset, 1 under the paper's preset; `auto` stays."""
    if optimizer.refresh_interval is not None:
        return optimizer.refresh_interval
    return 1 if isinstance(optimizer, Jorge) and optimizer.preset == "paper" else _INTERVAL_UNSET


def trained_warm_refreshes(optimizer: KroneckerFields) -> int:
    """At how many first steps everything is refreshed: once at least, and no more under the paper's preset."""
    is_default = optimizer.warm_refreshes == KroneckerFields.warm_refreshes
    under_preset = isinstance(optimizer, Jorge) and optimizer.preset == "paper" and is_default
    return max(1, 0 if under_preset else optimizer.warm_refreshes)


def plain_schedule(recipe: Recipe) -> dict[str, Any]:
    """The schedule as a recipe file would have it."""
    plain: dict[str, Any] = recipe_to_dict(recipe).get(SCHEDULE, {"name": "constant"})
    return plain


def plain_value(recipe: Recipe, path: str) -> Any:
    """What a recipe has at a searchable path."""
    return searchable_fields(recipe).get(path)


def why_not(path: str, recipe: Recipe) -> str:
    """Why a path is not searched, with the way out."""
    known = searchable_fields(recipe)
    if path in _WHY_NOT:
        return _WHY_NOT[path]
    if path.partition(".")[0] in ("task", "target", "name", "version", "calibration"):
        return "is not searched: all trials of a study have one task"
    ending = [field for field in known if field.endswith(f".{path}")]
    meant = meant_path(path)
    guess = ending[0] if ending else meant if meant in known else None
    hint = f" (did you mean '{guess}'?)" if guess else suggestion(path, known)
    return f"is no field of the recipe, which trains with {recipe.optimizer.name}{hint}"


def is_overruled(path: str, recipe: Recipe) -> bool:
    """Whether the recipe's preset would replace a value here that happens to be the plain default."""
    optimizer = recipe.optimizer
    under_preset = isinstance(optimizer, Jorge) and optimizer.preset is not None
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
