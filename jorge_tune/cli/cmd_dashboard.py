"""`jorge-tune dashboard`: attach what is missing to studies and their trials, then serve Optuna's dashboard."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from jorge_tune.cli.attach_study import Twin, attach_conclusion, attach_to_study, search_beside
from jorge_tune.cli.output import say, tell
from jorge_tune.cli.study_options import (
    FoundStudy,
    folders,
    patience_of,
    runs_option,
    storage_option,
    warn_of_password,
)
from jorge_tune.errors import InputError, JorgeTuneError

if TYPE_CHECKING:
    from jorge_tune.study.dashboard.attachments import ArtifactFolders
    from jorge_tune.study.dashboard.trial_files import AttachmentCounts
    from jorge_tune.study.storage.patient import PatientStorage

_PORT = 8080
_PATIENCE_SECONDS = 10.0  # a page does not wait longer for a storage that is gone


@click.command()
@click.argument("study", required=False)
@storage_option
@runs_option
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=_PORT,
    show_default=True,
    help="Port on 127.0.0.1; 0 takes any free one.",
)
@click.option("--no-serve", is_flag=True, help="Attach what is missing, and exit.")
def dashboard_command(study: str | None, storage: str | None, runs: Path | None, port: int, no_serve: bool) -> int:
    """Serve Optuna's dashboard on this machine, with verdicts, recipes, records and curves attached.

    Workers attach a note, the recipe, the records and the curves to each trial when it ends; the command that ends a
    study attaches the verdict (as the study's note), plots, recipes and the report. When the dashboard starts, it
    attaches what is missing: to a study that has not ended, and to trials of earlier versions. After that it only
    serves; start it again to bring the study's note and report up to date.

    Files are in RUNS/artifacts. Where run directories are not on this machine, only notes are attached. Without STUDY,
    all studies are served.

    The page is served on 127.0.0.1 only. To see it from another machine, use ssh:
    `ssh -L 8080:127.0.0.1:8080 HOST`. Whoever can open the page can write notes, attach files to a study, and delete
    a study that has no running trials. Nobody can rename or create a study there, or change a trial. Press Ctrl-C to
    stop it.

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
        raise InputError("--runs is the directory of one study's runs; give the name of that study")
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
        where, twin = folders(study, runs), _twins(storage, folders(study, runs))
        if no_serve:
            attach_missing(opened, study, where, twin)
            return 0
        if is_copy:
            tell(f"{address}: cannot be written; showing a copy, in which nothing can be attached or changed")
        return _serve(opened, study, study_id, port, where, None if is_copy else twin)


def _study_id(storage: PatientStorage, name: str) -> int:
    """Raises InputError where there is no such study; it names those there are."""
    from jorge_tune.study.study import join_study

    return join_study(storage, name).study_id


def _twins(option: str | None, where: Callable[[str], Path]) -> Twin:
    """Makes the report of a study of that name, as data."""
    from jorge_tune.cli.cmd_report import report_of_study

    return lambda name: report_of_study(name, option, where(name), (None, None), ()).to_json()


def attach_verdict(found: FoundStudy) -> None:
    """Attach to a search that has ended what its page in the dashboard shows."""
    option: str | None = str(found.address)
    if found.address.secrets():  # an option would be warned of once more
        os.environ.update(found.address.for_environment())
        option = None
    attach_conclusion(found, _twins(option, found.runs))


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
    study: str | None,
    study_id: int | None,
    port: int,
    where: Callable[[str], Path],
    twin: Twin | None,
) -> int:
    """Until Ctrl-C or SIGTERM. The port is taken before anything is attached; without `twin` nothing is."""
    from jorge_tune.study.dashboard.server import DashboardServer

    stop = threading.Event()
    storage.patience.unwanted = stop.is_set
    with DashboardServer(port, storage, _artifacts(storage, study, where), is_copy=twin is None) as server:
        if twin is not None:
            try:
                attach_missing(storage, study, where, twin)
            except JorgeTuneError as error:  # what is attached can be looked at all the same
                tell(f"warning: what is missing was not attached: {error}")
        say(server.url)
        if study_id is not None:
            say(server.study_url(study_id))
        tell("press Ctrl-C to stop")
        with contextlib.suppress(KeyboardInterrupt):
            signal.signal(signal.SIGTERM, signal.default_int_handler)
            server.serve_forever()
        stop.set()
    return 0


def attach_missing(storage: PatientStorage, study: str | None, where: Callable[[str], Path], twin: Twin) -> None:
    """Attach what is missing to a study and its companion studies, or to all studies; say on stderr how much it was.

    Args:
        storage: of the studies.
        study: the study's name; None: all studies that jorge-tune made.
        where: the directory of the runs of a study of that name.
        twin: makes a study's report.

    Raises:
        StorageError: the storage is gone, or cannot be written.
    """
    from jorge_tune.study.dashboard.attachments import NO_PACKAGE, has_package
    from jorge_tune.study.study import study_names

    said = _SaidOnce()
    if not has_package():
        said(NO_PACKAGE)
    trials = files = 0
    names = _present(storage, study)
    for name in names:
        try:
            counts = _attach_to(storage, name, names, where(name), twin, said)
        except InputError as error:
            said(str(error))
            continue
        except KeyError:
            if name in study_names(storage):
                raise
            continue  # somebody deleted it just now
        trials, files = trials + counts.trials, files + counts.files
        if counts.without_records:
            said(_without_records(name, len(counts.without_records), where(name)))
        for fault in counts.faults:
            said(fault)
    tell(f"attached what was missing: {trials} {'trial' if trials == 1 else 'trials'}, {files} files")


class _SaidOnce:
    """Says each thing on stderr once."""

    def __init__(self) -> None:
        self._said: set[str] = set()

    def __call__(self, text: str) -> None:
        if text not in self._said:
            self._said.add(text)
            tell(text)


def _present(storage: PatientStorage, study: str | None) -> list[str]:
    from jorge_tune.study.plan import BASELINE_SUFFIX, CONFIRM_SUFFIX
    from jorge_tune.study.study import study_names

    there = study_names(storage)
    if study is None:
        return there
    return [name for name in there if name in (study, study + BASELINE_SUFFIX, study + CONFIRM_SUFFIX)]


def _attach_to(
    storage: PatientStorage, name: str, names: list[str], runs: Path, twin: Twin, said: Callable[[str], None]
) -> AttachmentCounts:
    """Attach to one study and its trials; nothing to another program's study, or to one that is just being made."""
    from jorge_tune.study.dashboard.trial_files import AttachmentCounts, TrialFiles
    from jorge_tune.study.runs_directory import is_folder_of
    from jorge_tune.study.study import present_study

    opened = present_study(storage, name)
    if opened is None:
        return AttachmentCounts()
    here = runs if is_folder_of(runs, opened.name) else None
    counts = TrialFiles(opened, here).attach_missing()
    counts.files += attach_to_study(opened, here, twin, said, search=search_beside(name, names))
    return counts


def _without_records(name: str, count: int, runs: Path) -> str:
    trials = "1 trial" if count == 1 else f"{count} trials"
    return f"study {name}: the run directories of {trials} are not in {runs}: only notes are attached; give --runs"
