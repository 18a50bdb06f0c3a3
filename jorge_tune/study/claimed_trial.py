"""A claimed trial as Optuna knows it: its point, its reports to the pruner, and the report of its end."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from jorge_tune.errors import InputError, shortened
from jorge_tune.recipe.schema import Recipe
from jorge_tune.records import portable
from jorge_tune.study.constraint import IterationTimes
from jorge_tune.study.jobs.faults import FIRST, Starts, starts_from_json
from jorge_tune.study.plan import StudyPlan
from jorge_tune.study.score import median_of
from jorge_tune.study.storage.claims import Claim
from jorge_tune.study.storage.contents import unread_of
from jorge_tune.study.storage.optuna_private import cached_trial_of, forget_cached_trials
from jorge_tune.study.study import OpenStudy
from jorge_tune.study.trial import TrialEnd
from jorge_tune.untrusted import shown

if TYPE_CHECKING:
    from optuna.trial import Trial

STARTS, FOLDER, CONSTRAINT = "jorge:starts", "jorge:folder", "iteration_time"


class UnreadTrialError(InputError):
    """The storage holds something of a trial that cannot be read, so that this trial cannot run; others may."""


class ClaimedTrial:
    """A trial that this worker owns; the study's sampler draws its point, unless the trial has one.

    Args:
        opened: the study.
        claim: the right to run the trial.

    Raises:
        UnreadTrialError: the storage holds something of the trial that cannot be read.
        InputError: the storage does not take the point, because of what it holds of other trials.
    """

    def __init__(self, opened: OpenStudy, claim: Claim) -> None:
        from optuna.trial import Trial

        self._opened, self.claim = opened, claim
        self._name = f"trial {claim.number} of study {opened.plan.name}"
        if faults := unread_of(opened.storage.get_trial(claim.trial_id)):
            raise UnreadTrialError(f"{self._name}: {shortened(faults)}; another program wrote there")

        forget_cached_trials(opened.study)
        self._trial: Trial = Trial(opened.study, claim.trial_id)
        frozen = cached_trial_of(self._trial)
        self.was_started = bool(frozen.params)
        self.starts = self._starts_so_far(frozen.system_attrs.get(STARTS))
        self.folder: str | None = frozen.system_attrs.get(FOLDER)  # the random name of the directory of its runs

        try:
            self.point: dict[str, Any] = opened.plan.space.suggest(self._trial)
        except ValueError as error:  # raised by Optuna, which compares the point with the parameters of other trials
            raise InputError(
                f"{self._name}: the storage does not take its point, because another trial has a parameter with other "
                f"choices ({shown(str(error))}); another program wrote there"
            ) from None

    def _starts_so_far(self, stored: Mapping[str, Any] | None) -> Starts | None:
        """The trial's earlier starts; None for a new trial.

        The first start is not stored: that the trial has parameters shows that there was one.
        """
        if stored is not None:
            try:
                return starts_from_json(stored)
            except ValueError as error:
                raise UnreadTrialError(f"{self._name}: its attribute {STARTS} cannot be read ({error})") from None
        if self.was_started:
            return FIRST
        return None if len(self._opened.plan.space) else Starts()

    @property
    def trial(self) -> Trial:
        """The trial as Optuna hands it to an objective."""
        return self._trial

    @property
    def reported(self) -> Mapping[int, float]:
        """The reported values by step."""
        return cached_trial_of(self._trial).intermediate_values

    def report(self, value: float, step: int) -> None:
        """Report a value at a step, once."""
        self._trial.report(value, step)

    def should_prune(self) -> bool:
        """Ask the pruner."""
        return self._trial.should_prune()

    def store_starts(self, starts: Starts) -> None:
        """Store the starts so far."""
        self._set_system(STARTS, starts.to_json())

    def store_folder(self, name: str) -> None:
        """Store the random name of the directory in which the runs are now."""
        self._set_system(FOLDER, name)

    def note(self, name: str, value: object) -> None:
        """Set a user attribute, for people and displays."""
        self._trial.set_user_attr(name, value)

    def constrain(self, excess: float) -> None:
        """Store how far the iteration time lies above the budget; once, and after all else."""
        if CONSTRAINT not in self._trial.constraints:
            self._trial.set_constraint(CONSTRAINT, excess)

    def complete(self, value: float) -> bool:
        """End the trial with a value; False if this worker no longer owns it."""
        return self._finish("COMPLETE", value)

    def prune(self) -> bool:
        """End the trial as pruned, with its last reported value; else like `complete`."""
        reported = self.reported
        return self._finish("PRUNED", reported[max(reported)] if reported else None)

    def fail(self) -> bool:
        """End the trial as failed; else like `complete`."""
        return self._finish("FAIL", None)

    def _finish(self, state: str, value: float | None) -> bool:
        from optuna.trial import TrialState

        values = None if value is None else [float(value)]
        return self._opened.claims.finish(self.claim, TrialState[state], values)

    def _set_system(self, key: str, value: Any) -> None:
        self._opened.storage.set_trial_system_attr(self.claim.trial_id, key, value)


# Of an attribute as JSON, which writes a character as six bytes at most (rarer ones as two of those).
_MOST_BYTES = 2048


Ending = Literal["complete", "pruned", "failed"]


class TrialReport(NamedTuple):
    """A trial as it was reported: its state in the storage, and words for people.

    The state is `lost` if the worker no longer owned the trial, so that nothing was reported.
    """

    state: str
    words: str


def report_end(
    trial: ClaimedTrial,
    end: TrialEnd,
    recipe: Recipe | None,
    plan: StudyPlan,
    costs: IterationTimes,
    *,
    worker: str,
    changes: Sequence[str] = (),
    attach: Callable[[Ending, float | None], None] = lambda state, value: None,
) -> TrialReport:
    """Report a trial that completed, was pruned or failed.

    Args:
        trial: the trial; its lease holds.
        end: how it ended.
        recipe: the recipe that it ran; None if its point gives none.
        plan: the study's.
        costs: the iteration times on this device.
        worker: the worker's name.
        changes: in words, what was done differently after faults.
        attach: called with the end and the value when all else is stored; a trial that has ended takes nothing more.
    """
    if end.scores:
        trial.note("values", portable({str(score.seed): score.value for score in end.scores}))
    if any(score.diverged for score in end.scores):
        trial.note("diverged", True)
    if end.reason:
        trial.note("reason", _short(end.reason))
    if changes:
        trial.note("changes", list(changes))
    trial.note("worker", worker)

    if end.kind == "failed":
        attach("failed", None)
        return TrialReport("failed" if trial.fail() else "lost", end.reason)
    if recipe is not None:
        _constrain(trial, recipe, costs)
    if end.kind == "pruned":
        attach("pruned", None)
        return TrialReport("pruned" if trial.prune() else "lost", end.reason)

    if plan.objective.kind == "time-to-target" and recipe is not None:
        trial.note("seconds", "measured" if costs.training_seconds(recipe) is None else "calibrated")
    value = median_of(end.scores, plan.objective)
    attach("complete", value)
    return TrialReport("complete" if trial.complete(value) else "lost", f"{value:g}")


def _short(text: str) -> str:
    """A text cut to the length of an attribute; the run's own files have all of it."""
    return text if len(json.dumps(text)) <= _MOST_BYTES else text[: _MOST_BYTES // 6 - 3] + "..."


def _constrain(trial: ClaimedTrial, recipe: Recipe, costs: IterationTimes) -> None:
    """Store the constraint, and the iteration time for displays that do not know constraints."""
    excess = costs.excess(recipe)
    if excess is None:
        return

    ratio = costs.ratio(recipe)
    trial.note("iteration_time", ratio)
    trial.constrain(excess)
