"""Start-up, by what got imported and not by the clock; and the public names."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

import jorge_tune
from jorge_tune.cli import _COMMANDS

HEAVY = {"torch", "torchvision", "torchmetrics", "numpy", "sklearn", "optuna", "sqlalchemy", "plotly"}


def loaded_by(code: str) -> set[str]:
    """Top-level modules that a fresh interpreter has loaded after `code`."""
    program = (
        f"import sys, json\ntry:\n    {code}\nexcept SystemExit:\n    pass\nprint(json.dumps(sorted(sys.modules)))"
    )
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return {name.split(".")[0] for name in json.loads(answer.stdout.splitlines()[-1])}


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], *([name, "--help"] for name in sorted(_COMMANDS))])
def test_help_is_light(arguments):
    loaded = loaded_by(f"from jorge_tune.cli import main; main({arguments!r})")
    assert "click" in loaded
    assert not loaded & HEAVY


def test_importing_the_package_is_light():
    assert not loaded_by("import jorge_tune; jorge_tune.__version__") & HEAVY


def test_the_optimizers_need_torch_alone():
    loaded = loaded_by("from jorge_tune import Jorge; Jorge")
    assert "torch" in loaded
    assert not loaded & {"torchvision", "torchmetrics", "sklearn", "optuna", "plotly", "click", "yaml"}


@pytest.mark.parametrize("name", sorted(_COMMANDS))
def test_every_help_shows_a_runnable_example(name):
    answer = subprocess.run(
        [sys.executable, "-m", "jorge_tune", name, "--help"], capture_output=True, text=True, check=True
    )
    assert "Example" in answer.stdout
    assert f"jorge-tune {name}" in answer.stdout


def test_public_names_are_sorted_and_real():
    assert jorge_tune.__all__ == sorted(jorge_tune.__all__)
    assert dir(jorge_tune) == jorge_tune.__all__
    for name in jorge_tune.__all__:
        assert getattr(jorge_tune, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'Jorg'"):
        _ = jorge_tune.Jorg


@pytest.mark.parametrize("room", ["optim", "training"])
def test_a_rooms_public_names_are_sorted_and_real(room):
    module = __import__(f"jorge_tune.{room}", fromlist=["__all__"])
    assert module.__all__ == sorted(module.__all__)
    assert all(hasattr(module, name) for name in module.__all__)
