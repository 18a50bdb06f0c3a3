"""A study's values as the records of its runs have them, where these are seen: what a report goes by."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from jorge_tune.errors import JorgeTuneError
from jorge_tune.measure.runs import read_run
from jorge_tune.tuning.planning.parts import SEED
from jorge_tune.tuning.results.history import TrialRow, best_of
from jorge_tune.tuning.runs.runs_folder import folder_name, run_path
from jorge_tune.tuning.runs.scoring import Score, median_of, score_run
from jorge_tune.tuning.study import OpenStudy

_SAME = 1e-9  # of a value: what sums on another machine may differ by


class Recorded:
    """Values read from run folders; one that the study holds otherwise is a note.

    A trial with a run that is not seen here, or has not ended, keeps what the study holds; so do all under a
    time-to-target, since their calibrated seconds are in no record.

    Args:
        runs: the folder of the runs of a study of that name.
    """

    def __init__(self, runs: Callable[[str], Path]) -> None:
        self._runs = runs
        self.notes: list[str] = []

    def all_of(self, opened: OpenStudy, rows: Sequence[TrialRow]) -> tuple[TrialRow, ...]:
        """Every trial as its records have it."""
        return tuple(self._as_recorded(opened, row) for row in rows)

    def chosen_of(self, opened: OpenStudy, rows: Sequence[TrialRow]) -> tuple[TrialRow, ...]:
        """The same for those that a verdict names: the bootstrap, and the trial that is the best by what was read."""
        found, read = tuple(rows), set[int]()
        while True:
            best = best_of(found, lower_is_better=opened.plan.objective.lower_is_better)
            unread = {0, 0 if best is None else best.number} - read
            if not unread:
                return found
            found = tuple(self._as_recorded(opened, row) if row.number in unread else row for row in found)
            read |= unread

    def _as_recorded(self, opened: OpenStudy, row: TrialRow) -> TrialRow:
        scores = self._scores(opened, row)
        if not scores:
            return row
        value = median_of(scores, opened.plan.objective)
        if row.value is None or math.isclose(value, row.value, rel_tol=_SAME):
            return row
        say, hold = ("no number" if math.isinf(each) else f"{each:.9g}" for each in (value, row.value))
        held = f"its records say {say}, the study holds {hold}; this report goes by the records"
        self.notes.append(f"Trial {row.number} of {opened.plan.name}: {held}.")
        diverged = any(score.diverged for score in scores)
        return replace(row, value=value, attributes={**row.attributes, "diverged": diverged})

    def _scores(self, opened: OpenStudy, row: TrialRow) -> list[Score]:
        """One per seed; none where one of them cannot be read."""
        plan, folder = opened.plan, self._runs(opened.plan.name)
        if row.state != "complete" or row.value is None or plan.objective.kind == "time-to-target":
            return []
        try:
            if folder_name(folder, opened.name) != (row.folder or opened.folder):
                return []  # another study's, or where the trial ran before it was begun anew elsewhere
            seeds = [row.point[SEED]] if SEED in row.point else plan.seeds
            runs = [read_run(run_path(folder, row.number, seed)) for seed in seeds]
        except JorgeTuneError:
            return []
        return [score_run(run, plan.objective) for run in runs] if all(run.ended for run in runs) else []
