"""Schedules as choices of a space: by name, or as whole sections."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

from jorge_tune.recipe.change import with_values
from jorge_tune.recipe.checks import base_schedule
from jorge_tune.recipe.decode import suggestion
from jorge_tune.recipe.nodes import quoted
from jorge_tune.recipe.schedule_rule import derive_schedule
from jorge_tune.recipe.schema import Constant, Cosine, Linear, Recipe
from jorge_tune.tuning.planning.fields import plain_schedule

_BY_CLASS = {"constant": Constant, "cosine": Cosine, "linear": Linear}
_AS_SECTIONS = {
    "polynomial": "{name: polynomial, power: 0.9}",
    "exponential": "{name: exponential, gamma: 0.95}",
    "gen": "{name: gen, base: {name: linear}}",
}
NAMES: Final = ("keep", "step", *_BY_CLASS)


def schedule_of(choice: Any, recipe: Recipe) -> dict[str, Any]:
    """The plain schedule that a choice means.

    By name: `keep` is the recipe's own, `step` the paper's rule (a tenth at one and two thirds); constant, cosine and
    linear keep the recipe's warm-up. A section is taken as it stands, warm-up included.

    Raises:
        ValueError: with what is wrong.
    """
    if isinstance(choice, Mapping):
        changed, faults = with_values(recipe, {"schedule": choice})
        if changed is None:
            raise ValueError("; ".join(f"{fault.path}: {fault.what}" for fault in faults))
        return plain_schedule(changed)
    if choice == "keep":
        return plain_schedule(recipe)
    if choice == "step":
        schedule, derivations = derive_schedule(recipe, "step")
        if derivations[0].rule.startswith("kept: "):
            raise ValueError(f"the step schedule's rule changes nothing here, the schedule is {derivations[0].rule}")
        return plain_schedule(replace(recipe, schedule=schedule))
    if isinstance(choice, str) and choice in _BY_CLASS:
        base = base_schedule(recipe)
        made = _BY_CLASS[choice](unit=base.unit, warmup=base.warmup)
        return plain_schedule(replace(recipe, schedule=made))
    if isinstance(choice, str) and choice in _AS_SECTIONS:
        raise ValueError(f"has settings of its own: write it as a section, e.g. {_AS_SECTIONS[choice]}")
    shown = quoted(str(choice))
    hint = suggestion(choice, (*NAMES, *_AS_SECTIONS)) if isinstance(choice, str) else ""
    raise ValueError(f"must be {', '.join(NAMES)} or a section such as {{name: cosine}}, got {shown}{hint}")
