"""What `dashboard` keeps attached to studies: round after round, for trials that ended meanwhile."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jorge_tune.cli.report_subjects import BESIDE
from jorge_tune.errors import InputError, JorgeTuneError

if TYPE_CHECKING:
    from jorge_tune.measure.runs import Run
    from jorge_tune.tuning.dashboard.attachments import Artifact, Attachments
    from jorge_tune.tuning.dashboard.trial_files import TrialFiles
    from jorge_tune.tuning.planning.plan import StudyPlan
    from jorge_tune.tuning.storages.patient import PatientStorage
    from jorge_tune.tuning.study import OpenStudy

ROUND_SECONDS = 5.0
_PAGE_SHARE = 0.05  # of the time may be spent on a study's report, which reads all its trials: workers need the cores
_NOT_NOW = "notes and files are not attached for now"
_PLOTS = ("history", "metric-by-epoch", "learning-rate")  # of the report's figures

Twin = Callable[[str], "dict[str, Any]"]


@dataclass
class _Followed:
    """A study that is kept up with.

    `told` is how many trials had ended when its page was made last; it is made again at `due` at the earliest.
    """

    opened: OpenStudy
    attachments: Attachments
    trials: TrialFiles
    told: tuple[int, ...] = ()
    due: float = 0.0


class Attacher:
    """Attaches notes, plots and files to studies; one thread at a time calls it.

    Args:
        storage: of the studies.
        names: of those to attend to; None: all that jorge-tune made.
        runs: the folder of a study's runs.
        twin: makes a study's report.
        say: hears what could not be attached, each thing once.
    """

    def __init__(
        self,
        storage: PatientStorage,
        names: Sequence[str] | None,
        runs: Callable[[str], Path],
        twin: Twin,
        say: Callable[[str], None],
    ) -> None:
        self._storage, self._names, self._runs, self._twin = storage, names, runs, twin
        self._say, self._said = say, set[str]()
        self._followed: dict[str, _Followed] = {}

    def round(self) -> tuple[int, int]:
        """Attend to every study once; how many trials got something, and how many files were attached.

        Raises:
            StorageError: the storage is gone, or cannot be written.
        """
        from jorge_tune.tuning.study import study_names

        trials = files = 0
        for name in self._present():
            try:
                one = self._follow(name)
                if one is None:
                    continue
                counts = one.trials.attach()
                files += counts.files + self._tell(one)
            except InputError as error:
                self._once(str(error))
                continue
            except KeyError:
                if name in study_names(self._storage):
                    raise
                continue  # it was deleted just now
            trials += counts.trials
            if counts.without_records:
                self._once(_without_records(name, len(counts.without_records), self._runs(name)))
            for fault in counts.faults:
                self._once(fault)
        return trials, files

    def keep_up(self, stop: threading.Event) -> None:
        """Rounds until `stop` is set; a storage that is gone is tried again in the next one."""
        while not stop.wait(ROUND_SECONDS):
            self.try_round()
        self._storage.remove_session()

    def try_round(self) -> tuple[int, int] | None:
        """A round; None where the storage is gone or cannot be written, which is said once until it can be again."""
        try:
            counts = self.round()
        except JorgeTuneError as error:
            self._once(f"{_NOT_NOW}: {error}")
            return None
        self._said = {text for text in self._said if not text.startswith(_NOT_NOW)}
        return counts

    def _present(self) -> list[str]:
        from jorge_tune.tuning.planning.parts import BASELINE_SUFFIX, CONFIRM_SUFFIX
        from jorge_tune.tuning.study import study_names

        there = study_names(self._storage)
        if self._names is None:
            return there
        wanted = {name + end for name in self._names for end in ("", BASELINE_SUFFIX, CONFIRM_SUFFIX)}
        return [name for name in there if name in wanted]

    def _follow(self, name: str) -> _Followed | None:
        """None for a study of another program's, or one that is just being made."""
        from jorge_tune.tuning.dashboard.attachments import Attachments
        from jorge_tune.tuning.dashboard.folders import ARTIFACTS
        from jorge_tune.tuning.dashboard.trial_files import TrialFiles
        from jorge_tune.tuning.runs.runs_folder import is_folder_of
        from jorge_tune.tuning.study import present_study

        known = self._followed.get(name)
        if known is not None and known.opened.study_id == self._storage.get_study_id_from_name(name):
            return known
        opened = present_study(self._storage, name)
        if opened is None:
            return None
        runs: Path | None = self._runs(name)
        assert runs is not None
        runs = runs if is_folder_of(runs, opened.name) else None
        folder = None if runs is None else runs / ARTIFACTS
        attachments = Attachments(opened.storage, opened.study_id, opened.name, folder)
        self._followed[name] = _Followed(opened, attachments, TrialFiles(opened, attachments, runs, _picture))
        return self._followed[name]

    def _tell(self, one: _Followed) -> int:
        """The study's own note, plots and files, where trials have ended since; how many files are new."""
        name = one.opened.plan.name
        search = _search_of(name, self._followed)
        ended = tuple(other.trials.ended for key, other in self._followed.items() if key in (name, *_sides(name)))
        began = time.monotonic()
        if ended == one.told or began < one.due:
            return 0
        one.attachments.look()  # somebody may have written into the note meanwhile
        files = list(_own_files(one.opened, self._runs(name)))
        if search is None:
            files += self._page(one, name)
        else:
            from jorge_tune.tuning.dashboard.study_notes import side_note

            one.attachments.note(side_note(name, search))
        one.told, one.due = ended, began + (time.monotonic() - began) / _PAGE_SHARE
        if one.attachments.folder is None:
            return 0
        return sum(self._attach(one.attachments, file) for file in files)

    def _attach(self, attachments: Attachments, file: Artifact) -> bool:
        from jorge_tune.tuning.dashboard.attachments import UnfitFileError

        try:
            return attachments.artifact(file)
        except UnfitFileError as error:
            self._once(str(error))
            return False

    def _page(self, one: _Followed, name: str) -> list[Artifact]:
        """The report's verdict as the note, some of its figures as plots, and itself as a file."""
        from jorge_tune.reporting.report_page import figure_for_picture, report_page
        from jorge_tune.reporting.report_parts import figures_of
        from jorge_tune.tuning.dashboard.attachments import Artifact
        from jorge_tune.tuning.dashboard.study_notes import bare_note, study_note
        from jorge_tune.tuning.results.confirm import in_words

        try:
            twin = self._twin(name)
        except InputError as error:
            if not one.attachments.has_note:  # one that is there says more
                one.attachments.note(bare_note(name, f"There is no report of it yet: {error}"))
            return []
        one.attachments.note(study_note(twin, name))
        one.attachments.objective(in_words(one.opened.plan.objective))
        for figure in figures_of(twin):
            if figure["key"] in _PLOTS and figure["series"]:
                drawn = figure_for_picture(figure)
                title = {"x": 0.02, "xanchor": "left", "y": 0.97, "yanchor": "top"}  # beside plotly's buttons
                drawn.update_layout(width=None, height=None, autosize=True, title=title)
                one.attachments.plot(figure["key"], drawn.to_json())
        return [Artifact("report.html", report_page(twin), "text/html; charset=utf-8")]

    def _once(self, text: str) -> None:
        if text not in self._said:
            self._said.add(text)
            self._say(text)


def _sides(name: str) -> tuple[str, str]:
    from jorge_tune.tuning.planning.parts import BASELINE_SUFFIX, CONFIRM_SUFFIX

    return name + BASELINE_SUFFIX, name + CONFIRM_SUFFIX


def _search_of(name: str, known: dict[str, _Followed]) -> str | None:
    """The search that a study lies beside; None where it stands for itself."""
    return next((search for search in known if name in _sides(search)), None)


def _own_files(opened: OpenStudy, runs: Path) -> Iterator[Artifact]:
    """The recipes that a study began with, and what was measured for it."""
    import json

    from jorge_tune.recipe.io import render_recipe
    from jorge_tune.tuning.dashboard.attachments import Artifact
    from jorge_tune.tuning.planning.comparison_plan import is_comparison
    from jorge_tune.tuning.planning.parts import ComparisonSpace
    from jorge_tune.tuning.work.constraint import stored_costs

    plan = opened.plan
    if is_comparison(plan):
        assert isinstance(plan.space, ComparisonSpace)
        for contender, recipe in plan.space.recipes().items():
            yield Artifact(f"{contender.replace('/', '-')}.yaml", render_recipe(recipe))
    else:
        yield Artifact("recipe.yaml", render_recipe(plan.recipe, plan.derivations))
        if plan.baseline is not None:
            yield Artifact("baseline.yaml", render_recipe(plan.baseline))
    costs = stored_costs(opened.storage.get_study_system_attrs(opened.study_id))
    if costs:
        yield Artifact("iteration-times.json", json.dumps(costs, indent=1) + "\n", "application/json")
    for name in BESIDE:
        if os.path.lexists(runs / name):
            yield Artifact(name, runs / name, "application/json")


def _picture(title: str, runs: Sequence[Run], plan: StudyPlan) -> str:
    from jorge_tune.reporting.curve_svg import curve_picture

    return curve_picture(title, runs, plan.objective.metric, plan.objective.target)


def _without_records(name: str, count: int, runs: Path) -> str:
    trials = "1 trial" if count == 1 else f"{count} trials"
    return f"study {name}: the run folders of {trials} are not in {runs}: notes alone are attached; give --runs"
