"""What is attached to trials: a note, the recipe, the records and the curves.

A worker attaches them before it reports a trial's end. What a trial lacks all the same (it ended under an earlier
version, its worker had no optuna-dashboard, or the disk was full) is attached when `dashboard` starts.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import Trial

from jorge_tune.compare.run_directories import read_run
from jorge_tune.errors import InputError, JorgeTuneError, shortened
from jorge_tune.recipe.render import render_recipe
from jorge_tune.records import RunDirectory
from jorge_tune.reports.of_runs import curve_picture
from jorge_tune.study.dashboard.attachments import (
    ARTIFACTS,
    NO_PACKAGE,
    Artifact,
    Attachments,
    UnfitFileError,
    has_package,
)
from jorge_tune.study.dashboard.notes import trial_note
from jorge_tune.study.export import recipe_of
from jorge_tune.study.plan import SEED
from jorge_tune.study.runs_directory import run_path
from jorge_tune.study.storage.optuna_private import trial_id_of
from jorge_tune.study.storage.retry import StorageError
from jorge_tune.study.study import OpenStudy
from jorge_tune.study.trial_rows import ENDED, TrialRow, TrialState, row_of, rows_of

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

_RECIPE = "recipe.yaml"


@dataclass
class AttachmentCounts:
    """What was attached, and what could not be."""

    trials: int = 0  # that got something new
    files: int = 0
    without_records: list[int] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)


class TrialFiles:
    """Attaches what belongs to the trials of one study.

    Args:
        opened: the study.
        runs: the directory of its runs; None where this machine does not have it.
    """

    def __init__(self, opened: OpenStudy, runs: Path | None) -> None:
        self._opened, self._plan, self._runs = opened, opened.plan, runs
        self._attachments = Attachments(opened, None if runs is None else runs / ARTIFACTS)

    def attach(
        self, trial: Trial, state: TrialState, value: float | None, *, may_go_on: Callable[[], bool] = lambda: True
    ) -> list[str]:
        """Attach what belongs to a trial that its worker is about to report.

        Args:
            trial: it runs still, and has all attributes but its end.
            state: how it is going to end.
            value: its value then, if it has one.
            may_go_on: asked before each file; False once the trial may be another worker's.

        Returns:
            What could not be attached, a sentence each.

        Raises:
            StorageError: the storage is gone, so that the trial could not be reported either.
            UpdateFinishedTrialError: another worker has ended it.
        """
        counts = AttachmentCounts()
        try:
            self._attach_running(trial, state, value, counts, may_go_on)
        except (StorageError, UpdateFinishedTrialError):
            raise
        except Exception as error:  # an error here must not fail a trial whose runs are done
            what = str(error) if isinstance(error, JorgeTuneError) else shortened([f"{type(error).__name__}: {error}"])
            counts.faults.append(f"study {self._plan.name}: not everything is attached to its trials ({what})")
        return counts.faults

    def attach_missing(self) -> AttachmentCounts:
        """Attach to trials that have ended what they lack.

        Raises:
            StorageError: the storage is gone, or cannot be written.
        """
        counts = AttachmentCounts()
        rows = rows_of(self._opened)
        ended = [row for row in rows if row.state in ENDED]
        if not ended:
            return counts

        self._attachments.look()
        trials = {trial.number: trial for trial in self._opened.study.get_trials(deepcopy=False)}
        for row in ended:
            self._attach_ended(row, rows, trials[row.number], counts)
        return counts

    def _attach_running(
        self,
        trial: Trial,
        state: TrialState,
        value: float | None,
        counts: AttachmentCounts,
        may_go_on: Callable[[], bool],
    ) -> None:
        trial_id = trial_id_of(trial)
        row = replace(row_of(self._opened.storage.get_trial(trial_id)), state=state, value=value)
        runs = self._runs_of(row)

        for artifact in self._files(row, runs, counts):
            if not may_go_on():
                return
            try:
                self._attachments.upload(artifact, trial, trial_id)
            except UnfitFileError as error:
                counts.faults.append(str(error))
            except InputError as error:  # the directory takes no files; the note is written all the same
                counts.faults.append(str(error))
                break

        if not has_package():
            counts.faults.append(NO_PACKAGE)
        elif may_go_on():
            note = trial_note(row, [self._first(row), row], self._plan, are_here=bool(runs))
            self._attachments.note(note, trial)

    def _first(self, row: TrialRow) -> TrialRow:
        """Trial 0, whose point says which contender of a confirmation a trial is."""
        if row.number == 0 or SEED not in row.point:
            return row
        storage = self._opened.storage
        return row_of(storage.get_trial(storage.get_trial_id_from_study_id_trial_number(self._opened.study_id, 0)))

    def _attach_ended(
        self, row: TrialRow, rows: Sequence[TrialRow], trial: FrozenTrial, counts: AttachmentCounts
    ) -> None:
        trial_id, runs = trial_id_of(trial), self._runs_of(row)
        if not runs and row.state != "failed":
            counts.without_records.append(row.number)

        files = 0
        if self._attachments.directory is not None and self._lacks_files(runs, trial_id):
            files = self._attach_files(row, runs, trial_id, counts)

        is_new = False
        if has_package() and (files or not self._attachments.has_note(trial_id)):
            note = trial_note(row, rows, self._plan, are_here=bool(runs))
            is_new = self._attachments.note(note, Trial(self._opened.study, trial_id))
        counts.trials += is_new or files > 0
        counts.files += files

    def _lacks_files(self, runs: Sequence[RunDirectory], trial_id: int) -> bool:
        """Whether a file that a trial has as a rule is not attached; curves are drawn anew only with another."""
        names = self._attachments.names_of(trial_id)
        wanted = [_RECIPE, *map(_records_name, runs)]
        return any(name not in names for name in wanted) or not all(
            self._attachments.is_settled(identity, trial_id) for identity in names.values()
        )

    def _attach_files(
        self, row: TrialRow, runs: Sequence[RunDirectory], trial_id: int, counts: AttachmentCounts
    ) -> int:
        files = 0
        for one in self._files(row, runs, counts):
            try:
                files += self._attachments.file(one, trial_id)
            except UnfitFileError as error:
                counts.faults.append(str(error))
            except InputError as error:  # the directory takes no files; notes are written all the same
                counts.faults.append(str(error))
                self._attachments.directory = None
                break
        return files

    def _runs_of(self, row: TrialRow) -> list[RunDirectory]:
        """Its run directories that are here."""
        if self._runs is None or (len(self._plan.space) and not row.point):
            return []
        folders = [RunDirectory(run_path(self._runs, row.number, seed)) for seed in self._plan.at(row.point).seeds]
        return [folder for folder in folders if folder.records.is_file()]

    def _files(self, row: TrialRow, folders: Sequence[RunDirectory], counts: AttachmentCounts) -> Iterator[Artifact]:
        with contextlib.suppress(InputError):  # it has no point yet, or one that gives no recipe, and failed for it
            yield Artifact(_RECIPE, render_recipe(*recipe_of(row, self._plan)))

        runs = []
        for folder in folders:
            yield Artifact(_records_name(folder), folder.records)
            try:
                runs.append(read_run(folder.root))
            except JorgeTuneError as error:
                counts.faults.append(f"trial {row.number} of study {self._plan.name} has no curves: {error}")

        objective = self._plan.objective
        title = f"{self._plan.name}, trial {row.number}"
        if runs and (drawn := curve_picture(title, runs, objective.metric, objective.target)):
            yield Artifact("curves.svg", drawn, "image/svg+xml")


def _records_name(folder: RunDirectory) -> str:
    return f"records-{folder.root.name}.jsonl"
