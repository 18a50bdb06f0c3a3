"""A trial's end, told to the storage: what people should know first, the constraint next, the state last."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import NamedTuple

from jorge_tune.recipe.schema import Recipe
from jorge_tune.records import portable
from jorge_tune.tuning.planning.plan import StudyPlan
from jorge_tune.tuning.runs.scoring import median_of
from jorge_tune.tuning.work.asking import AskedTrial
from jorge_tune.tuning.work.constraint import IterationTimes
from jorge_tune.tuning.work.trial_run import TrialEnd

_MOST_BYTES = (
    2048  # of an attribute as JSON, which writes a character as six bytes at most (rarer ones as two of those)
)


class Outcome(NamedTuple):
    """What became of the trial in the storage, and in words; `lost`: it was no longer ours to tell."""

    state: str
    words: str


def tell(
    asked: AskedTrial,
    end: TrialEnd,
    recipe: Recipe | None,
    plan: StudyPlan,
    costs: IterationTimes,
    *,
    worker: str,
    changes: Sequence[str] = (),
) -> Outcome:
    """Tell a trial that came to an end of its own: complete, pruned or failed.

    Args:
        asked: the trial; its lease holds.
        end: how it ended.
        recipe: what it ran; None where its point gives none.
        plan: the study's.
        costs: the iteration times on this device.
        worker: who ran it.
        changes: what was done differently after faults, in words.
    """
    if end.scores:
        asked.note("values", portable({str(score.seed): score.value for score in end.scores}))
    if any(score.diverged for score in end.scores):
        asked.note("diverged", True)
    if end.reason:
        asked.note("reason", _short(end.reason))
    if changes:
        asked.note("changes", list(changes))
    asked.note("worker", worker)
    if end.kind == "failed":
        return Outcome("failed" if asked.fail() else "lost", end.reason)
    if recipe is not None:
        _constrain(asked, recipe, costs)
    if end.kind == "pruned":
        return Outcome("pruned" if asked.prune() else "lost", end.reason)
    if plan.objective.kind == "time-to-target" and recipe is not None:
        asked.note("seconds", "measured" if costs.training_seconds(recipe) is None else "calibrated")
    value = median_of(end.scores, plan.objective)
    return Outcome("complete" if asked.complete(value) else "lost", f"{value:g}")


def _short(text: str) -> str:
    """A text as an attribute may hold it, in ASCII; the run's own files have the rest."""
    return text if len(json.dumps(text)) <= _MOST_BYTES else text[: _MOST_BYTES // 6 - 3] + "..."


def _constrain(asked: AskedTrial, recipe: Recipe, costs: IterationTimes) -> None:
    """The constraint, and the same for displays that do not know constraints."""
    excess = costs.excess(recipe)
    if excess is None:
        return
    ratio = costs.ratio(recipe)
    asked.note("iteration_time", ratio)
    asked.constrain(excess)
