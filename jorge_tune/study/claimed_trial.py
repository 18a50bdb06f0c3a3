"""A claimed trial in Optuna's hands: its point drawn or found, its reports, its end under the claim."""

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
    """A trial cannot be run because of what the storage holds of it; others may."""


class ClaimedTrial:
    """One trial that this worker owns; the study's sampler draws its point, unless it has one.

    Args:
        opened: its study.
        claim: the right to it.

    Raises:
        UnreadTrialError: what the storage holds of it cannot be read.
        InputError: what it holds of other trials keeps the storage from taking this one's point.
    """

    def __init__(self, opened: OpenStudy, claim: Claim) -> None:
        from optuna.trial import Trial

        self._opened, self.claim = opened, claim
        self._whose = f"trial {claim.number} of study {opened.plan.name}"
        if faults := unread_of(opened.storage.get_trial(claim.trial_id)):
            raise UnreadTrialError(f"{self._whose}: {shortened(faults)}; another program wrote there")
        forget_cached_trials(opened.study)
        self._trial: Trial = Trial(opened.study, claim.trial_id)
        frozen = cached_trial_of(self._trial)
        self.was_started = bool(frozen.params)
        self.starts = self._starts_so_far(frozen.system_attrs.get(STARTS))
        self.folder: str | None = frozen.system_attrs.get(FOLDER)
        try:
            self.point: dict[str, Any] = opened.plan.space.suggest(self._trial)
        except ValueError as error:  # of Optuna's, which compares with what the study's trials hold
            raise InputError(
                f"{self._whose}: the storage does not take its point, since another trial holds a parameter of other "
                f"choices ({shown(str(error))}); another program wrote there"
            ) from None

    def _starts_so_far(self, held: Mapping[str, Any] | None) -> Starts | None:
        """None for a trial that is new: its first start is not stored, its parameters will show that it was made."""
        if held is not None:
            try:
                return starts_from_json(held)
            except ValueError as error:
                raise UnreadTrialError(f"{self._whose}: its attribute {STARTS} cannot be read ({error})") from None
        if self.was_started:
            return FIRST
        return None if len(self._opened.plan.space) else Starts()

    @property
    def trial(self) -> Trial:
        """The trial as Optuna hands it to an objective."""
        return self._trial

    @property
    def reported(self) -> Mapping[int, float]:
        """Values by step."""
        return cached_trial_of(self._trial).intermediate_values

    def report(self, value: float, step: int) -> None:
        """Tell a value at a step, once."""
        self._trial.report(value, step)

    def should_prune(self) -> bool:
        """Ask the pruner."""
        return self._trial.should_prune()

    def keep_starts(self, starts: Starts) -> None:
        """Store what its starts came to."""
        self._set_system(STARTS, starts.to_json())

    def keep_folder(self, name: str) -> None:
        """Store in which directory its runs are now."""
        self._set_system(FOLDER, name)

    def note(self, name: str, value: object) -> None:
        """A user attribute, for people and displays."""
        self._trial.set_user_attr(name, value)

    def constrain(self, excess: float) -> None:
        """How far the trial's iteration time lies above the budget; once, and after all else."""
        if CONSTRAINT not in self._trial.constraints:
            self._trial.set_constraint(CONSTRAINT, excess)

    def complete(self, value: float) -> bool:
        """End it with a value; False if it is no longer ours."""
        return self._finish("COMPLETE", value)

    def prune(self) -> bool:
        """End it as pruned, with its last report for a value."""
        reported = self.reported
        return self._finish("PRUNED", reported[max(reported)] if reported else None)

    def fail(self) -> bool:
        """End it as failed."""
        return self._finish("FAIL", None)

    def _finish(self, state: str, value: float | None) -> bool:
        from optuna.trial import TrialState

        values = None if value is None else [float(value)]
        return self._opened.claims.finish(self.claim, TrialState[state], values)

    def _set_system(self, key: str, value: Any) -> None:
        self._opened.storage.set_trial_system_attr(self.claim.trial_id, key, value)


_MOST_BYTES = (
    2048  # of an attribute as JSON, which writes a character as six bytes at most (rarer ones as two of those)
)


Ending = Literal["complete", "pruned", "failed"]


class Outcome(NamedTuple):
    """What became of the trial in the storage, and in words; `lost`: it was no longer ours to tell."""

    state: str
    words: str


def tell(
    asked: ClaimedTrial,
    end: TrialEnd,
    recipe: Recipe | None,
    plan: StudyPlan,
    costs: IterationTimes,
    *,
    worker: str,
    changes: Sequence[str] = (),
    attach: Callable[[Ending, float | None], None] = lambda state, value: None,
) -> Outcome:
    """Report a trial that came to an end of its own: complete, pruned or failed.

    Args:
        asked: the trial; its lease holds.
        end: how it ended.
        recipe: what it ran; None where its point gives none.
        plan: the study's.
        costs: the iteration times on this device.
        worker: who ran it.
        changes: what was done differently after faults, in words.
        attach: called with the end and the value, when all is stored but these: an ended trial takes nothing more.
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
        attach("failed", None)
        return Outcome("failed" if asked.fail() else "lost", end.reason)
    if recipe is not None:
        _constrain(asked, recipe, costs)
    if end.kind == "pruned":
        attach("pruned", None)
        return Outcome("pruned" if asked.prune() else "lost", end.reason)
    if plan.objective.kind == "time-to-target" and recipe is not None:
        asked.note("seconds", "measured" if costs.training_seconds(recipe) is None else "calibrated")
    value = median_of(end.scores, plan.objective)
    attach("complete", value)
    return Outcome("complete" if asked.complete(value) else "lost", f"{value:g}")


def _short(text: str) -> str:
    """A text as an attribute may hold it, in ASCII; the run's own files have the rest."""
    return text if len(json.dumps(text)) <= _MOST_BYTES else text[: _MOST_BYTES // 6 - 3] + "..."


def _constrain(asked: ClaimedTrial, recipe: Recipe, costs: IterationTimes) -> None:
    """The constraint, and the same for displays that do not know constraints."""
    excess = costs.excess(recipe)
    if excess is None:
        return
    ratio = costs.ratio(recipe)
    asked.note("iteration_time", ratio)
    asked.constrain(excess)
