"""`jorge-tune dashboard`: attach missing notes and files to studies and trials, then serve Optuna's dashboard."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from jorge_tune.cli.attach_study import Twin, attach_conclusion, attach_to_study, search_of
from jorge_tune.cli.output import say, tell, warn
from jorge_tune.cli.study_options import (
    StudyContext,
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
_PATIENCE_SECONDS = 10.0  # how long a page waits for a lost storage


@click.command()
@click.argument("study", required=False)
@storage_option
@runs_option
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=_PORT,
    show_default=True,
    help="Port on 127.0.0.1; 0 takes a free port.",
)
@click.option("--no-serve", is_flag=True, help="Attach the missing notes and files, and exit.")
def dashboard_command(study: str | None, storage: str | None, runs: Path | None, port: int, no_serve: bool) -> int:
    """Serve Optuna's dashboard on this machine, for STUDY or for all studies.

    The dashboard shows each study's verdict as its note, and each trial's recipe, records and curves as files. Workers
    attach these files when a trial ends; the command that ends a study attaches the verdict, the plots and the report.
    At its start, the dashboard attaches what is missing. To update the note and the report of a running study, start
    the dashboard again. If the run directories are not on this machine, the dashboard attaches notes only.

    The dashboard listens on 127.0.0.1 only. To open it from another machine, use
    `ssh -L 8080:127.0.0.1:8080 HOST`. Everyone who can open it can write notes, attach files to a study, and delete a
    study without running trials. Nobody can create or rename a study there, or change a trial. Press Ctrl-C to stop
    it.

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
        raise InputError("--runs is the directory of one study's runs; give the name of this study too")
    address = find_address(storage)
    warn_of_password(storage, address)
    if storage is not None and address.secrets():  # warn once; reports then find it in the environment
        os.environ.update(address.for_environment())
        storage = None
    is_copy = not can_be_written(address)
    if is_copy and no_serve:
        raise InputError(
            f"{address}: is read-only, so nothing can be attached to its studies; leave --no-serve out to see a copy"
        )

    with reading(address, patience_of(address)) as opened:
        opened.patience.seconds = _PATIENCE_SECONDS
        study_id = None if study is None else _study_id(opened, study)
        where, twin = folders(study, runs), _twins(storage, folders(study, runs))
        if no_serve:
            attach_missing(opened, study, where, twin)
            return 0
        if is_copy:
            tell(f"{address}: is read-only; showing a copy, in which nothing can be attached or changed")
        return _serve(opened, study, study_id, port, where, None if is_copy else twin)


def _study_id(storage: PatientStorage, name: str) -> int:
    """Raises InputError if the storage has no such study; the message names its studies."""
    from jorge_tune.study.study import join_study

    return join_study(storage, name).study_id


def _twins(option: str | None, where: Callable[[str], Path]) -> Twin:
    """A function that makes a study's report as plain data."""
    from jorge_tune.cli.cmd_report import report_of_study

    return lambda name: report_of_study(name, option, where(name), (None, None), ()).to_json()


def attach_verdict(context: StudyContext) -> None:
    """Attach the verdict, plots and files of a finished search for its page in the dashboard."""
    option: str | None = str(context.address)
    if context.address.secrets():  # an option would repeat the warning
        os.environ.update(context.address.for_environment())
        option = None
    attach_conclusion(context, _twins(option, context.runs))


def _artifacts(storage: PatientStorage, study: str | None, where: Callable[[str], Path]) -> ArtifactFolders | None:
    """The directories of artifacts on this machine, the named study's first."""
    from jorge_tune.study.dashboard.attachments import ARTIFACTS, ArtifactFolders
    from jorge_tune.study.stored_plan import is_study_name
    from jorge_tune.study.study import study_names

    there = [name for name in study_names(storage) if is_study_name(name)]  # only these can name directories
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
    """Serve until Ctrl-C or SIGTERM; take the port first, then attach (nothing without `twin`)."""
    from jorge_tune.study.dashboard.server import DashboardServer

    stop = threading.Event()
    storage.patience.unwanted = stop.is_set
    with DashboardServer(port, storage, _artifacts(storage, study, where), is_copy=twin is None) as server:
        if twin is not None:
            try:
                attach_missing(storage, study, where, twin)
            except JorgeTuneError as error:  # the earlier attachments can be seen all the same
                warn(f"the missing notes and files were not attached: {error}")
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
    """Attach the missing notes and files to a study and its companion studies, or to all studies.

    Args:
        storage: The storage of the studies.
        study: The study's name; None: all studies of jorge-tune.
        where: Gives the directory of a study's runs, by name.
        twin: Makes a study's report as plain data.

    Raises:
        StorageError: The storage is lost, or cannot be written.
    """
    from jorge_tune.study.dashboard.attachments import NO_PACKAGE, has_package
    from jorge_tune.study.study import study_names

    said = _TellOnce()
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
            continue  # a user has just deleted it
        trials, files = trials + counts.trials, files + counts.files
        if counts.without_records:
            said(_without_records(name, len(counts.without_records), where(name)))
        for fault in counts.faults:
            said(fault)
    tell(f"attached notes and files: {_counted(trials, 'trial')}, {_counted(files, 'file')}")


def _counted(number: int, what: str) -> str:
    return f"{number} {what}" + ("" if number == 1 else "s")


class _TellOnce:
    """Prints each message to stderr once."""

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
    """Attach to one study and its trials; skip a study of another program, and one that is being created."""
    from jorge_tune.study.dashboard.trial_files import AttachmentCounts, TrialFiles
    from jorge_tune.study.runs_directory import is_folder_of
    from jorge_tune.study.study import present_study

    opened = present_study(storage, name)
    if opened is None:
        return AttachmentCounts()
    here = runs if is_folder_of(runs, opened.name) else None
    counts = TrialFiles(opened, here).attach_missing()
    counts.files += attach_to_study(opened, here, twin, said, search=search_of(name, names))
    return counts


def _without_records(name: str, count: int, runs: Path) -> str:
    trials = _counted(count, "trial")
    return f"study {name}: the run directories of {trials} are not in {runs}, so they get notes only; give --runs"
