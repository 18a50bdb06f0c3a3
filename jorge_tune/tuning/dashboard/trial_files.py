"""What is attached to trials that have ended: a note, the recipe, the records, a picture of the curves.

Nothing of a trial itself is changed, and trials that run are let alone.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from jorge_tune.errors import InputError, JorgeTuneError
from jorge_tune.measure.runs import Run, read_run
from jorge_tune.recipe.io import render_recipe
from jorge_tune.records import RunFolder
from jorge_tune.tuning.dashboard.attachments import Artifact, Attachments, UnfitFileError
from jorge_tune.tuning.dashboard.notes import trial_note
from jorge_tune.tuning.planning.plan import StudyPlan
from jorge_tune.tuning.results.export import recipe_of
from jorge_tune.tuning.results.history import ENDED, TrialRow, rows_of
from jorge_tune.tuning.runs.runs_folder import run_path
from jorge_tune.tuning.study import OpenStudy

Picture = Callable[[str, Sequence[Run], StudyPlan], str]
"""Draws the curves of a trial's runs under a title, as SVG; "" where there is nothing to draw."""


@dataclass
class Counts:
    """What was attached, and what could not be."""

    trials: int = 0  # that got something new
    files: int = 0
    without_records: list[int] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)


class TrialFiles:
    """The trials of one study; each is attended to once by every process.

    Args:
        opened: the study.
        attachments: of the study.
        runs: the folder of its runs; None where this machine does not have it.
        picture: draws a trial's curves.
    """

    def __init__(self, opened: OpenStudy, attachments: Attachments, runs: Path | None, picture: Picture) -> None:
        self._opened, self._plan, self._attachments = opened, opened.plan, attachments
        self._runs, self._picture = runs, picture
        self._done: set[int] = set()

    @property
    def ended(self) -> int:
        """Trials that had ended when `attach` looked last."""
        return len(self._done)

    def attach(self) -> Counts:
        """Attach what belongs to the trials that have ended since.

        Raises:
            StorageError: the storage is gone, or cannot be written.
        """
        counts = Counts()
        rows = rows_of(self._opened)
        missing = [row for row in rows if row.state in ENDED and row.number not in self._done]
        if not missing:
            return counts
        self._attachments.look()
        ids = {trial.number: trial._trial_id for trial in self._opened.study.get_trials(deepcopy=False)}
        for row in missing:
            self._attach(row, rows, ids[row.number], counts)
            self._done.add(row.number)
        return counts

    def _attach(self, row: TrialRow, rows: Sequence[TrialRow], trial_id: int, counts: Counts) -> None:
        runs = self._runs_of(row, counts)
        if not runs and row.state != "failed":
            counts.without_records.append(row.number)
        is_new = self._attachments.note(trial_note(row, rows, self._plan, are_here=bool(runs)), trial_id)
        files = 0
        if self._attachments.folder is not None:
            files = self._attach_files(row, runs, trial_id, counts)
        counts.trials += is_new or files > 0
        counts.files += files

    def _attach_files(self, row: TrialRow, runs: Sequence[RunFolder], trial_id: int, counts: Counts) -> int:
        files = 0
        for one in self._files(row, runs, counts):
            try:
                files += self._attachments.artifact(one, trial_id)
            except UnfitFileError as error:
                counts.faults.append(str(error))
            except InputError as error:  # the folder takes no files: notes go on without
                counts.faults.append(str(error))
                self._attachments.folder = None
                break
        return files

    def _runs_of(self, row: TrialRow, counts: Counts) -> list[RunFolder]:
        """Its run folders that are here."""
        if self._runs is None or (len(self._plan.space) and not row.point):
            return []
        folders = [RunFolder(run_path(self._runs, row.number, seed)) for seed in self._plan.at(row.point).seeds]
        return [folder for folder in folders if folder.records.is_file()]

    def _files(self, row: TrialRow, folders: Sequence[RunFolder], counts: Counts) -> Iterator[Artifact]:
        with contextlib.suppress(InputError):  # it has no point yet, or one that gives no recipe, and failed for it
            yield Artifact("recipe.yaml", render_recipe(*recipe_of(row, self._plan)))
        runs = []
        for folder in folders:
            yield Artifact(f"records-{folder.root.name}.jsonl", folder.records)
            try:
                runs.append(read_run(folder.root))
            except JorgeTuneError as error:
                counts.faults.append(f"trial {row.number} of study {self._plan.name} has no curves: {error}")
        if runs and (drawn := self._picture(f"{self._plan.name}, trial {row.number}", runs, self._plan)):
            yield Artifact("curves.svg", drawn, "image/svg+xml")
