"""The contenders that rules derive from a tuned recipe: what `compare --against` races it with.

kind        is
control     the optimizer that Jorge grafts from, with Jorge's schedule and decoupled decay
jorge       the recipe as `bootstrap` makes it
shampoo     the same recipe with exact Shampoo: Jorge's rate, grafting, decay, momentum, blocks and refreshes
sketchy     the same with Shampoo from sketched statistics
muon        the same with Muon's direction, which needs no preconditioner: no rate of its own to tune
gen-jorge   the same with GeN on top of its schedule
gen-sgd     the SGD recipe with GeN on top of its schedule
gen-adamw   an AdamW recipe with GeN on top of its schedule
adamw       an AdamW recipe, which has to be given: no rule derives its rate from SGD's

Settings that only Shampoo and its sketch have (decay of the statistics, eps, rank) stay at their defaults.
"""

from __future__ import annotations

from collections.abc import Sequence, Set
from dataclasses import fields, replace
from typing import Any, Final

from jorge_tune.config.unknown_keys import suggestion
from jorge_tune.errors import InputError
from jorge_tune.recipe.bootstrap import bootstrap, control, renamed
from jorge_tune.recipe.schema import (
    AdamWSection,
    Gen,
    GraftedFields,
    KroneckerFields,
    MuonSection,
    Recipe,
    SGDSection,
    ShampooSection,
    SketchyShampooSection,
)
from jorge_tune.untrusted import shown

KINDS: Final = ("control", "jorge", "shampoo", "sketchy", "muon", "gen-sgd", "gen-jorge", "gen-adamw", "adamw")
_NOT_SHARED = frozenset({"name"})


def contender_kinds(text: str) -> tuple[str, ...]:
    """`control,jorge` as kinds, in the order given.

    Raises:
        InputError: one of them is unknown, or is named twice.
    """
    kinds = tuple(piece.strip() for piece in text.split(","))
    for kind in kinds:
        if kind not in KINDS:
            raise InputError(
                f"{shown(kind)} is not a contender{suggestion(kind, KINDS)}; give some of {', '.join(KINDS)}"
            )
        if kinds.count(kind) > 1:
            raise InputError(f"{kind} is named twice")
    return kinds


def derive_contenders(recipes: Sequence[Recipe], kinds: Sequence[str]) -> list[Recipe]:
    """The contenders of these kinds that are not among the recipes already.

    Args:
        recipes: those given; contenders follow from the first, `gen-adamw` from the first AdamW recipe.
        kinds: some of `KINDS`; `adamw` only asks for an AdamW recipe to be among those given.

    Raises:
        InputError: the rules do not apply to the recipes, or lead back to the recipe itself.
    """
    made = [_derived(recipes, kind) for kind in kinds]
    return [recipe for recipe in made if recipe is not None]


def _derived(recipes: Sequence[Recipe], kind: str) -> Recipe | None:
    """One contender; None where it is among the recipes already."""
    if kind in ("adamw", "gen-adamw"):
        given = _first_with(
            recipes, AdamWSection, kind, "no rule derives AdamW from SGD, since its learning rate must be tuned"
        )
        return None if kind == "adamw" else _with_gen(given, kind)
    if kind == "gen-sgd":
        return _with_gen(_first_with(recipes, SGDSection, kind, "GeN goes on top of a recipe's own optimizer"), kind)
    first = recipes[0]
    jorge = bootstrap(first).recipe
    if kind == "control":
        made = control(jorge)
        if replace(made, name=first.name, calibration=first.calibration) == first:
            raise InputError(
                f"control: would be recipe {first.name} itself, whose schedule and decay stay the same; leave it out"
            )
        return made
    if kind == "shampoo":
        return _with_optimizer(jorge, ShampooSection(**_shared(jorge)))
    if kind == "sketchy":
        return _with_optimizer(jorge, SketchyShampooSection(**_shared(jorge)))
    if kind == "muon":
        return _with_optimizer(jorge, MuonSection(**_shared(jorge, GraftedFields, besides={"flatten"})))
    return _with_gen(jorge, kind) if kind == "gen-jorge" else jorge


def _first_with(recipes: Sequence[Recipe], optimizer: type[SGDSection | AdamWSection], kind: str, why: str) -> Recipe:
    """The first recipe with that optimizer."""
    found = next((recipe for recipe in recipes if isinstance(recipe.optimizer, optimizer)), None)
    if found is None:
        raise InputError(
            f"{kind}: {why}; give an {optimizer.__name__.removesuffix('Section')} recipe as another argument"
        )
    return found


def _shared(
    jorge: Recipe, kind: type[GraftedFields] = KroneckerFields, besides: Set[str] = frozenset()
) -> dict[str, Any]:
    """What every optimizer of a kind has, as Jorge's section has it."""
    names = [field.name for field in fields(kind) if field.name not in _NOT_SHARED | besides]
    return {name: getattr(jorge.optimizer, name) for name in names}


def _with_optimizer(jorge: Recipe, optimizer: ShampooSection | SketchyShampooSection | MuonSection) -> Recipe:
    return replace(jorge, name=renamed(jorge.name, "jorge", optimizer.name), optimizer=optimizer)


def _with_gen(recipe: Recipe, kind: str) -> Recipe:
    if isinstance(recipe.schedule, Gen):
        raise InputError(f"{kind}: recipe {recipe.name} has a gen schedule already; leave it out")
    name = renamed(recipe.name, recipe.optimizer.name, kind)
    return replace(recipe, name=name, schedule=Gen(base=recipe.schedule))
