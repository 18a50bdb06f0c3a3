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
    "PythonTask": "jorge_tune.training.python_task",
    "Shadow": "jorge_tune.probe.shadow",
    "Shampoo": "jorge_tune.optim",
    "SketchyAdaGrad": "jorge_tune.optim",
    "SketchyShampoo": "jorge_tune.optim",
    "calibrate": "jorge_tune.calibration.own_loop",
    "compare_runs": "jorge_tune.compare.compare_runs",
    "gen_from_recipe": "jorge_tune.training",
    "optimizer_from_recipe": "jorge_tune.training",
    "param_groups": "jorge_tune.optim",
    "report": "jorge_tune.reporting",
    "run_directory": "jorge_tune.reporting",
    "scheduler_from_recipe": "jorge_tune.training",
    "should_stop": "jorge_tune.reporting",
}

__all__ = [
    "DecoupledSGD",
    "GeN",
    "Jorge",
    "Muon",
    "PythonTask",
    "Shadow",
    "Shampoo",
    "SketchyAdaGrad",
    "SketchyShampoo",
    "__version__",
    "calibrate",
    "compare_runs",
    "gen_from_recipe",
    "optimizer_from_recipe",
    "param_groups",
    "report",
    "run_directory",
    "scheduler_from_recipe",
    "should_stop",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'jorge_tune' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
