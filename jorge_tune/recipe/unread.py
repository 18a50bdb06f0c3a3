"""Hyperparameters that have no effect while another one has a certain value: one table for `validate` and studies.

The optimizers ignore them silently, as torch's own do (a dampening without momentum). So `validate` warns of a recipe
that sets one, and a study that searches one is refused: it would train the same run again and again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final, NamedTuple

from jorge_tune.recipe.schema import (
    Cosine,
    Gen,
    GraftedFields,
    JorgeSection,
    KroneckerFields,
    Recipe,
    SGDSection,
    ShampooSection,
)


class UnreadField(NamedTuple):
    """A field, what it depends on, and the reason; with `is_warned`, `validate` warns of a recipe that sets it."""

    path: str
    ruled_by: str  # the field whose value decides
    applies: Callable[[Recipe], bool]
    why: str
    is_warned: bool = True


def _grafts(*grafts: str) -> Callable[[Recipe], bool]:
    return lambda recipe: isinstance(recipe.optimizer, GraftedFields) and recipe.optimizer.graft in grafts


def _has_form(*forms: str) -> Callable[[Recipe], bool]:
    return lambda recipe: isinstance(recipe.optimizer, JorgeSection) and recipe.optimizer.form in forms


def _has_no_momentum(recipe: Recipe) -> bool:
    optimizer = recipe.optimizer
    return (isinstance(optimizer, SGDSection) or _grafts("sgd")(recipe)) and getattr(optimizer, "momentum", 0.0) == 0


def _is_refreshed_always(recipe: Recipe) -> bool:
    optimizer = recipe.optimizer
    if isinstance(optimizer, JorgeSection) and optimizer.preset == "paper" and optimizer.refresh_interval is None:
        return True
    return isinstance(optimizer, KroneckerFields) and optimizer.refresh_interval == 1


def _searches_its_rate(recipe: Recipe) -> bool:
    """GeN's first step finds the rate; only a floor that is a rate, cosine's, is then set against the given one."""
    schedule = recipe.schedule
    if not isinstance(schedule, Gen) or schedule.initial_lr != "search":
        return False
    return not isinstance(schedule.base, Cosine) or schedule.base.min_lr == 0


_GRAFT: Final = "optimizer.graft"
_INTERVAL: Final = "optimizer.refresh_interval"
UNREAD: Final = (
    UnreadField(
        "optimizer.momentum", _GRAFT, _grafts("adamw"), "with graft adamw, whose first graft_betas is the momentum"
    ),
    UnreadField("optimizer.dampening", _GRAFT, _grafts("adamw", "none"), "unless graft is sgd"),
    UnreadField("optimizer.dampening", "optimizer.momentum", _has_no_momentum, "with momentum 0"),
    UnreadField("optimizer.graft_betas", _GRAFT, _grafts("sgd", "none"), "unless graft is adamw"),
    UnreadField("optimizer.graft_eps", _GRAFT, _grafts("sgd", "none"), "unless graft is adamw"),
    UnreadField(
        "optimizer.series_terms",
        "optimizer.form",
        _has_form("congruence", "half"),
        "unless form is series",
    ),
    UnreadField("optimizer.ridge", "optimizer.form", _has_form("series"), "with form series, which has none"),
    UnreadField("optimizer.length", _GRAFT, _grafts("none"), "with graft none, which has no length to take"),
    UnreadField("optimizer.embeddings", _GRAFT, _grafts("adamw", "none"), "unless graft is sgd"),
    UnreadField(
        "optimizer.root_iterations",
        "optimizer.root",
        lambda recipe: isinstance(recipe.optimizer, ShampooSection) and recipe.optimizer.root == "eigh",
        "unless root is newton",
    ),
    UnreadField(
        "optimizer.warm_refreshes", _INTERVAL, _is_refreshed_always, "with refresh_interval 1", is_warned=False
    ),
    UnreadField("optimizer.stagger", _INTERVAL, _is_refreshed_always, "with refresh_interval 1", is_warned=False),
    UnreadField(
        "optimizer.lr",
        "schedule.initial_lr",
        _searches_its_rate,
        "with initial_lr: search, which finds the rate at the first step",
        is_warned=False,
    ),
)


def unread_fields(recipe: Recipe) -> Iterator[UnreadField]:
    """The fields of this recipe that have no effect."""
    return (entry for entry in UNREAD if entry.applies(recipe))
