"""A plan as plain data, so that a worker anywhere can take it from the storage."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from jorge_tune.errors import InputError
from jorge_tune.recipe.derivation import Derivation
from jorge_tune.recipe.io import parse_recipe, render_recipe
from jorge_tune.records import from_portable, portable
from jorge_tune.tuning.planning.objective import Objective
from jorge_tune.tuning.planning.parameters import ChoiceParameter, FactorParameter, Parameter
from jorge_tune.tuning.planning.parts import SeedParameter, space_of
from jorge_tune.tuning.planning.plan import StudyPlan

FORMAT = 1

_KINDS: dict[str, Any] = {"factor": FactorParameter, "choice": ChoiceParameter, "seed": SeedParameter}

_SETTINGS = ("name", "sampler", "pruner", "trials", "hours", "overhead", "device", "threads", "sampler_seed")


def plan_to_json(plan: StudyPlan) -> dict[str, Any]:
    """Plain data; the recipes as the text that their file would have."""
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


def plan_from_json(data: Mapping[str, Any], source: str) -> StudyPlan:
    """Read what `plan_to_json` wrote; `source` names the study in messages.

    Raises:
        InputError: another version of jorge-tune wrote it, or something else did.
    """
    try:
        if data["format"] != FORMAT:
            raise ValueError(f"format {data['format']!r}")
        recipe = parse_recipe(data["recipe"], f"{source} (recipe)").recipe
        baseline = data["baseline"]
        return StudyPlan(
            recipe=recipe,
            baseline=None if baseline is None else parse_recipe(baseline, f"{source} (baseline)").recipe,
            space=space_of(recipe, [_parameter_from_json(item) for item in data["space"]]),
            objective=Objective(**data["objective"]),
            seeds=tuple(data["seeds"]),
            confirm_seeds=tuple(data["confirm_seeds"]),
            derivations=tuple(Derivation(**item) for item in from_portable(data["derivations"])),
            notes=tuple(data["notes"]),
            **{name: data[name] for name in _SETTINGS},
        )
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"{source}: its plan cannot be read ({type(error).__name__}: {error}); another version of jorge-tune "
            "made it, and must go on with it"
        ) from error


def _parameter_to_json(parameter: Parameter) -> dict[str, Any]:
    kind = next(kind for kind, known in _KINDS.items() if isinstance(parameter, known))
    return {"kind": kind, **asdict(parameter)}


def _parameter_from_json(data: Mapping[str, Any]) -> Any:
    fields = {key: tuple(value) if isinstance(value, list) else value for key, value in data.items() if key != "kind"}
    return _KINDS[data["kind"]](**fields)
