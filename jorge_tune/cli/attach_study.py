"""Attaches the verdict, plots, recipes and the report to a study, for Optuna's dashboard.

The command that ends a study does this, and `dashboard` does it when it starts.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jorge_tune.cli.output import tell, warn
from jorge_tune.errors import InputError, JorgeTuneError

if TYPE_CHECKING:
    from jorge_tune.cli.study_options import StudyContext
    from jorge_tune.study.dashboard.attachments import Artifact, Attachments
    from jorge_tune.study.study import OpenStudy

BESIDE = ("probe.json", "calibration.json")
"""Measurements that the directory of a study's runs may hold; the report shows them."""
_PLOTS = ("history", "metric-by-epoch", "learning-rate")  # of the report's figures

Twin = Callable[[str], "dict[str, Any]"]


def attach_conclusion(context: StudyContext, twin: Twin) -> None:
    """Attach the verdict, plots, recipes and report to a study that has ended, and notes to its companion studies.

    If they cannot be attached, stderr gets a warning, and the study is complete without them.

    Args:
        context: The study.
        twin: Makes a study's report as plain data.
    """
    from jorge_tune.study.confirm import companion_studies
    from jorge_tune.study.runs_directory import is_folder_of

    try:
        for opened in (context.opened, *companion_studies(context.opened)):
            name = opened.plan.name
            runs = context.runs(name) if is_folder_of(context.runs(name), opened.name) else None
            attach_to_study(opened, runs, twin, tell, search=None if name == context.name else context.name)
    except (JorgeTuneError, OSError) as error:
        warn(f"the verdict was not attached for the dashboard: {error}")


def search_of(name: str, names: Sequence[str]) -> str | None:
    """The search to which the companion study of this name belongs; None if the study is not a companion."""
    from jorge_tune.study.plan import BASELINE_SUFFIX, CONFIRM_SUFFIX

    return next((search for search in names if name in (search + BASELINE_SUFFIX, search + CONFIRM_SUFFIX)), None)


def attach_to_study(
    opened: OpenStudy, runs: Path | None, twin: Twin, say: Callable[[str], None], *, search: str | None = None
) -> int:
    """Attach a study's own note, plots and files; earlier attachments stay as they are.

    Args:
        opened: The study.
        runs: The directory of its runs; None if this machine does not have it.
        twin: Makes a study's report as plain data.
        say: Receives a message for each file that is not a regular file.
        search: The search to which this companion study belongs; its page has the verdict.

    Returns:
        The number of new files.
    """
    from jorge_tune.study.dashboard.attachments import ARTIFACTS, Attachments, UnfitFileError, has_package
    from jorge_tune.study.dashboard.notes import side_note

    attachments = Attachments(opened, None if runs is None else runs / ARTIFACTS)
    attachments.look()
    files = list(_own_files(opened, runs))
    if search is None:
        files += _page(opened, attachments, twin)
    elif has_package():
        attachments.note(side_note(opened.plan.name, search))
    if attachments.directory is None:
        return 0

    count = 0
    for one in files:
        try:
            count += attachments.file(one)
        except UnfitFileError as error:
            say(str(error))
    return count


def _page(opened: OpenStudy, attachments: Attachments, twin: Twin) -> list[Artifact]:
    """Attach the report's verdict as the note and some figures as plots; gives the report as a file."""
    from jorge_tune.reports.page import figure_for_picture, report_page
    from jorge_tune.reports.parts import figures_of
    from jorge_tune.study.confirm import in_words
    from jorge_tune.study.dashboard.attachments import Artifact, has_package
    from jorge_tune.study.dashboard.notes import bare_note, study_note

    name = opened.plan.name
    try:
        report = twin(name)
    except InputError as error:
        if has_package() and not attachments.has_note():  # an earlier note says more
            attachments.note(bare_note(name, f"The study has no report yet: {error}"))
        return []

    attachments.objective(in_words(opened.plan.objective))
    if has_package():
        attachments.note(study_note(report, name))
        for figure in figures_of(report):
            if figure["key"] in _PLOTS and figure["series"]:
                drawn = figure_for_picture(figure)
                title = {"x": 0.02, "xanchor": "left", "y": 0.97, "yanchor": "top"}  # left of plotly's buttons
                drawn.update_layout(width=None, height=None, autosize=True, title=title)
                attachments.plot(figure["key"], drawn)
    return [Artifact("report.html", report_page(report), "text/html; charset=utf-8")]


def _own_files(opened: OpenStudy, runs: Path | None) -> Iterator[Artifact]:
    """The recipes that a study began with, and its measurements."""
    from jorge_tune.recipe.render import render_recipe
    from jorge_tune.study.constraint import stored_costs
    from jorge_tune.study.dashboard.attachments import Artifact
    from jorge_tune.study.plan import ComparisonSpace, is_comparison

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
    measured = [] if runs is None else [runs / name for name in BESIDE]
    for path in measured:
        if os.path.lexists(path):
            yield Artifact(path.name, path, "application/json")
