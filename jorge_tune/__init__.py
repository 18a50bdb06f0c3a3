"""jorge-tune: from a tuned SGD recipe to Jorge, with the proof. Heavy parts load when first used."""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

_HOMES = {
    "DecoupledSGD": "jorge_tune.optim",
    "GeN": "jorge_tune.optim",
    "Jorge": "jorge_tune.optim",
    "Muon": "jorge_tune.optim",
    "Shampoo": "jorge_tune.optim",
    "SketchyAdaGrad": "jorge_tune.optim",
    "SketchyShampoo": "jorge_tune.optim",
    "gen_from_recipe": "jorge_tune.training",
    "optimizer_from_recipe": "jorge_tune.training",
    "param_groups": "jorge_tune.optim",
    "scheduler_from_recipe": "jorge_tune.training",
}

__all__ = [
    "DecoupledSGD",
    "GeN",
    "Jorge",
    "Muon",
    "Shampoo",
    "SketchyAdaGrad",
    "SketchyShampoo",
    "__version__",
    "gen_from_recipe",
    "optimizer_from_recipe",
    "param_groups",
    "scheduler_from_recipe",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'jorge_tune' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
