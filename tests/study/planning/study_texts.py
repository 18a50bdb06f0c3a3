"""A good study file, and the same with keys replaced."""

from __future__ import annotations

from jorge_tune.errors import FaultyFileError
from jorge_tune.study.plan import StudyPlan
from jorge_tune.study.study_file import parse_study

GOOD = {
    "name": "digits",
    "recipe": "digits/cnn-sgd",
    "space": "{optimizer.lr: {factor: [0.25, 4]}, optimizer.refresh_interval: {choices: [1, 5, 10, 50]}}",
}


def text(**changes: str | None) -> str:
    """The good file with keys replaced, added, or (None) left out."""
    return "".join(f"{key}: {value}\n" for key, value in {**GOOD, **changes}.items() if value is not None)


def study(**changes: str | None) -> StudyPlan:
    """Its plan."""
    return parse_study(text(**changes), "s.yaml")


def faults(**changes: str | None) -> list[str]:
    """What is wrong with it, line by line."""
    try:
        parse_study(text(**changes), "s.yaml")
    except FaultyFileError as error:
        return str(error).splitlines()
    raise AssertionError("it has no faults")
