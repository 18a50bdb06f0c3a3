"""How a run ended and what it came to, read back from its records."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from jorge_tune.errors import RunDirectoryError
from jorge_tune.recipe.metrics import by_rank, is_lower_better, usual_metric
from jorge_tune.recipe.schema import Recipe
from jorge_tune.records import Outcome, Record, RunDirectory, of_kind, read_records

JudgedPart = Literal["validation", "test"]


class RunEnding(NamedTuple):
    """How a stretch of training ended."""

    outcome: Outcome
    reason: str


@dataclass(frozen=True)
class Best:
    """The best value of the metric that the run is judged by, and where it was reached."""

    metric: str
    value: float
    step: int
    epoch: float


def better(best: Best | None, other: Best, *, is_lower_better: bool) -> Best:
    """The better of two, the earlier one of equals."""
    sign = -1 if is_lower_better else 1
    return other if best is None or sign * other.value > sign * best.value else best


@dataclass(frozen=True)
class RunResult:
    """How a run stands: `metrics` and `best` of the part it is judged by, `test_metrics` of a test part read apart."""

    outcome: Outcome
    reason: str
    folder: RunDirectory
    step: int
    epoch: float
    metrics: Mapping[str, float] = field(default_factory=dict)
    test_metrics: Mapping[str, float] = field(default_factory=dict)
    part: JudgedPart = "validation"
    best: Best | None = None
    train_seconds: float = 0.0


def read_result(run_directory: RunDirectory, recipe: Recipe) -> RunResult:
    """The result of a run of `recipe` that has ended, from its records.

    Raises:
        RunDirectoryError: the records cannot be read, or none of several evaluations has the recipe's metric.
    """
    records = read_records(run_directory.records)
    end = records[-1]
    judged = list(of_kind(records, "evaluation", "validation"))
    test = list(of_kind(records, "evaluation", "test"))
    part: JudgedPart = "validation" if judged or not test else "test"
    judged, apart = (judged, test) if part == "validation" else (test, [])
    return RunResult(
        outcome=end["outcome"],
        reason=end["reason"],
        folder=run_directory,
        step=end["step"],
        epoch=end["epoch"],
        metrics=judged[-1]["metrics"] if judged else {},
        test_metrics=apart[-1]["metrics"] if apart else {},
        part=part,
        best=_best(judged, recipe, run_directory),
        train_seconds=end["train_seconds"],
    )


def _best(judged: Sequence[Record], recipe: Recipe, run_directory: RunDirectory) -> Best | None:
    """The best reading of the target's metric, else of the best known one that was measured."""
    measured = {name for record in judged for name in record["metrics"]}
    if not measured:
        return None
    is_command = recipe.task is not None and recipe.task.kind == "command"
    is_chosen = recipe.target is not None or not is_command
    metric = usual_metric(recipe) if is_chosen else min(measured, key=lambda name: by_rank(name, recipe))
    lower = is_lower_better(metric, recipe)

    best: Best | None = None
    for record in judged:
        if metric in record["metrics"]:
            reading = Best(metric, record["metrics"][metric], record["step"], record["epoch"])
            best = better(best, reading, is_lower_better=lower)
        elif not is_command:  # a script may report one metric more often than another; our loop measures all at once
            raise RunDirectoryError(f"{run_directory.records}: the evaluation at step {record['step']} has no {metric}")
    return best
