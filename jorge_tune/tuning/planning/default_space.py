"""What is searched where no study file says it: what the bootstrap rules derived, and what they left to measurement."""

from __future__ import annotations

from typing import Any

from jorge_tune.errors import InputError
from jorge_tune.recipe.schema import KroneckerFields, Recipe
from jorge_tune.recipe.unread import unread_fields
from jorge_tune.tuning.planning.fields import INTERVAL, SCHEDULE, plain_schedule, trained_interval
from jorge_tune.tuning.planning.schedule_choices import schedule_of

_RATES = [0.25, 4.0]  # two doublings either way: grafted steps have the tuned rate's length
_DECAYS = [0.1, 10.0]  # Eq. 9's own factor at momentum 0.9, either way
_INTERVALS = (1, 5, 10, 50)


def default_space(centre: Recipe, tuned: Recipe) -> dict[str, Any]:
    """The `space` section of a study file around `centre`, which came from `tuned` (or is the same)."""
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
    """The bootstrapped schedule, the tuned one where the rules replaced it, and the paper's where they kept it."""
    own, before = plain_schedule(centre), plain_schedule(tuned)
    choices: list[Any] = ["keep"] if before == own else ["keep", before]
    try:
        stepped = schedule_of("step", centre)
    except ValueError:  # too short a training, or its warm-up goes past the first third
        return choices
    return choices if stepped in (own, before) else [*choices, "step"]
