"""`jorge-tune dashboard`: Optuna's dashboard on the storage, with our notes, plots and files attached."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from jorge_tune.cli.cmd_report import BESIDE
from jorge_tune.cli.output import say, tell
from jorge_tune.cli.study_options import folders, patience_of, runs_option, storage_option, warn_of_password
from jorge_tune.errors import InputError, JorgeTuneError

if TYPE_CHECKING:
    from jorge_tune.compare.run_directories import Run
    from jorge_tune.study.dashboard.attachments import Artifact, ArtifactFolders, Attachments
    from jorge_tune.study.dashboard.notes import TrialFiles
    from jorge_tune.study.plan import StudyPlan
    from jorge_tune.study.storage.patient import PatientStorage
    from jorge_tune.study.study import OpenStudy

_PORT = 8080
_PATIENCE_SECONDS = 10.0  # a page does not wait longer for a storage that is gone


@click.command()
@click.argument("study", required=False)
@storage_option
@runs_option
@click.option(
    "--port", type=click.IntRange(0, 65535), default=_PORT, show_default=True, help="On 127.0.0.1; 0: any that is free."
)
@click.option("--no-serve", is_flag=True, help="Attach notes, plots and files, and leave.")
def dashboard_command(study: str | None, storage: str | None, runs: Path | None, port: int, no_serve: bool) -> int:
    """Serve Optuna's dashboard on this machine alone, with verdicts, recipes, records and curves attached.

    A study gets its verdict as a note, plots, its recipes, calibration and report; every trial that has ended a note,
    its recipe, records and curves; trials that end meanwhile follow within seconds. Trials themselves are not changed.
    Files lie in RUNS/artifacts and are attached where run directories are seen. Without STUDY, every study is served.

    The page is served on 127.0.0.1 only; from elsewhere, go through ssh: `ssh -L 8080:127.0.0.1:8080 HOST`. Whoever
    can open it can write notes, attach files to a study, and delete a study of which nothing runs; a study is not
    renamed or made there, and no trial changed. Ctrl-C ends it.

    \b
    Example:
      jorge-tune dashboard digits
      jorge-tune dashboard digits --no-serve
    """
    from jorge_tune.study.dashboard.server import require_package
    from jorge_tune.study.storage.address import find_address
    from jorge_tune.study.storage.open import can_be_written, reading

    if not no_serve:
        require_package()
    if runs is not None and study is None:
        raise InputError("--runs is the directory of one study's runs; name that study")
    address = find_address(storage)
    warn_of_password(storage, address)
    if storage is not None and address.secrets():  # said once; reports find it as children of this process would
        os.environ.update(address.for_environment())
        storage = None
    is_copy = not can_be_written(address)
    if is_copy and no_serve:
        raise InputError(f"{address}: cannot be written, so nothing can be attached to its studies")
    with reading(address, patience_of(address)) as opened:
        opened.patience.seconds = _PATIENCE_SECONDS
        study_id = None if study is None else _study_id(opened, study)
        attacher = _attacher(opened, study, storage, folders(study, runs))
        if no_serve:
            _say(_in_words(*attacher.round()))
            return 0
        if is_copy:
            _say(f"{address}: cannot be written; this is a copy as it is now, and nothing can be attached or changed")
        artifacts = _artifacts(opened, study, folders(study, runs))
        return _serve(opened, artifacts, port, study_id, None if is_copy else attacher)


def _study_id(storage: PatientStorage, name: str) -> int:
    """Raises InputError where there is no such study; it names those there are."""
    from jorge_tune.study.study import join_study

    return join_study(storage, name).study_id


def _attacher(storage: PatientStorage, study: str | None, option: str | None, where: Callable[[str], Path]) -> Attacher:
    from jorge_tune.cli.cmd_report import report_of_study

    def twin(name: str) -> dict[str, Any]:
        return report_of_study(name, option, where(name), (None, None), ()).to_json()

    return Attacher(storage, None if study is None else [study], where, twin, _say)


def _artifacts(storage: PatientStorage, study: str | None, where: Callable[[str], Path]) -> ArtifactFolders | None:
    """The directories of artifacts that are here, the named study's first."""
    from jorge_tune.study.dashboard.attachments import ARTIFACTS, ArtifactFolders
    from jorge_tune.study.stored_plan import is_study_name
    from jorge_tune.study.study import study_names

    there = [name for name in study_names(storage) if is_study_name(name)]  # which alone are names of directories
    names = sorted(there, key=lambda name: name != study)
    found = [where(name) / ARTIFACTS for name in names if where(name).is_dir()]
    return ArtifactFolders(found) if found else None


def _serve(
    storage: PatientStorage,
    artifacts: ArtifactFolders | None,
    port: int,
    study_id: int | None,
    attacher: Attacher | None,
) -> int:
    """Until Ctrl-C or SIGTERM. The port is taken before anything is attached."""
    from jorge_tune.study.dashboard.server import DashboardServer

    stop = threading.Event()
    storage.patience.unwanted = stop.is_set
    with DashboardServer(port, storage, artifacts, is_copy=attacher is None) as server, _keeping_up(attacher, stop):
        say(server.url)
        if study_id is not None:
            say(server.study_url(study_id))
        _say("Ctrl-C ends it")
        with contextlib.suppress(KeyboardInterrupt):
            signal.signal(signal.SIGTERM, signal.default_int_handler)
            server.serve_forever()
        stop.set()
    return 0


@contextlib.contextmanager
def _keeping_up(attacher: Attacher | None, stop: threading.Event) -> Iterator[None]:
    """Attach what there is, and go on in a thread of its own until `stop` is set."""
    if attacher is None:
        yield
        return
    if (counts := attacher.try_round()) is not None:
        _say(_in_words(*counts))
    thread = threading.Thread(target=attacher.keep_up, args=(stop,), name="attacher", daemon=True)
    thread.start()
    yield
    thread.join()


def _in_words(trials: int, files: int) -> str:
    return f"attached what was new: {trials} {'trial' if trials == 1 else 'trials'}, {files} files"


def _say(text: str) -> None:
    tell(text)


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
        runs: the directory of a study's runs.
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
        from jorge_tune.study.study import study_names

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
        from jorge_tune.study.plan import BASELINE_SUFFIX, CONFIRM_SUFFIX
        from jorge_tune.study.study import study_names

        there = study_names(self._storage)
        if self._names is None:
            return there
        wanted = {name + end for name in self._names for end in ("", BASELINE_SUFFIX, CONFIRM_SUFFIX)}
        return [name for name in there if name in wanted]

    def _follow(self, name: str) -> _Followed | None:
        """None for a study of another program's, or one that is just being made."""
        from jorge_tune.study.dashboard.attachments import ARTIFACTS, Attachments
        from jorge_tune.study.dashboard.notes import TrialFiles
        from jorge_tune.study.runs_directory import is_folder_of
        from jorge_tune.study.study import present_study

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
            from jorge_tune.study.dashboard.notes import side_note

            one.attachments.note(side_note(name, search))
        one.told, one.due = ended, began + (time.monotonic() - began) / _PAGE_SHARE
        if one.attachments.folder is None:
            return 0
        return sum(self._attach(one.attachments, file) for file in files)

    def _attach(self, attachments: Attachments, file: Artifact) -> bool:
        from jorge_tune.study.dashboard.attachments import UnfitFileError

        try:
            return attachments.artifact(file)
        except UnfitFileError as error:
            self._once(str(error))
            return False

    def _page(self, one: _Followed, name: str) -> list[Artifact]:
        """The report's verdict as the note, some of its figures as plots, and itself as a file."""
        from jorge_tune.report.page import figure_for_picture, report_page
        from jorge_tune.report.parts import figures_of
        from jorge_tune.study.confirm import in_words
        from jorge_tune.study.dashboard.attachments import Artifact
        from jorge_tune.study.dashboard.notes import bare_note, study_note

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
    from jorge_tune.study.plan import BASELINE_SUFFIX, CONFIRM_SUFFIX

    return name + BASELINE_SUFFIX, name + CONFIRM_SUFFIX


def _search_of(name: str, known: dict[str, _Followed]) -> str | None:
    """The search that a study lies beside; None where it stands for itself."""
    return next((search for search in known if name in _sides(search)), None)


def _own_files(opened: OpenStudy, runs: Path) -> Iterator[Artifact]:
    """The recipes that a study began with, and what was measured for it."""
    import json

    from jorge_tune.recipe.recipe_files import render_recipe
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
    for name in BESIDE:
        if os.path.lexists(runs / name):
            yield Artifact(name, runs / name, "application/json")


def _picture(title: str, runs: Sequence[Run], plan: StudyPlan) -> str:
    from jorge_tune.report.of_runs import curve_picture

    return curve_picture(title, runs, plan.objective.metric, plan.objective.target)


def _without_records(name: str, count: int, runs: Path) -> str:
    trials = "1 trial" if count == 1 else f"{count} trials"
    return f"study {name}: the run directories of {trials} are not in {runs}: notes alone are attached; give --runs"
