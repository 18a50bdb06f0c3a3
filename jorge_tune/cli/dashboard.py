"""`jorge-tune dashboard`: Optuna's dashboard on the storage, with our notes, plots and files attached."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from jorge_tune.cli.output import say, tell
from jorge_tune.cli.studies import folders, patience_of, runs_option, storage_option, warn_of_password
from jorge_tune.errors import InputError

if TYPE_CHECKING:
    from jorge_tune.cli.dashboard_sync import Attacher
    from jorge_tune.tuning.dashboard.folders import ArtifactFolders
    from jorge_tune.tuning.storages.patient import PatientStorage

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
def command(study: str | None, storage: str | None, runs: Path | None, port: int, no_serve: bool) -> int:
    """Serve Optuna's dashboard on this machine alone, with verdicts, recipes, records and curves attached.

    A study gets its verdict as a note, plots, its recipes, calibration and report; every trial that has ended a note,
    its recipe, records and curves; trials that end meanwhile follow within seconds. Trials themselves are not changed.
    Files lie in RUNS/artifacts and are attached where the run folders are seen. Without STUDY, all studies get theirs.

    The page is served on 127.0.0.1 only; from elsewhere, go through ssh: `ssh -L 8080:127.0.0.1:8080 HOST`. Whoever
    can open it can write notes, attach files to a study, and delete a study of which nothing runs; a study is not
    renamed or made there, and no trial changed. Ctrl-C ends it.

    \b
    Example:
      jorge-tune dashboard digits
      jorge-tune dashboard digits --no-serve
    """
    from jorge_tune.tuning.dashboard.server import require_package
    from jorge_tune.tuning.storages.address import find_address
    from jorge_tune.tuning.storages.reading import can_be_written, reading

    if not no_serve:
        require_package()
    if runs is not None and study is None:
        raise InputError("--runs is the folder of one study's runs; name that study")
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
    from jorge_tune.tuning.study import join_study

    return join_study(storage, name).study_id


def _attacher(storage: PatientStorage, study: str | None, option: str | None, where: Callable[[str], Path]) -> Attacher:
    from jorge_tune.cli.dashboard_sync import Attacher
    from jorge_tune.cli.report_subjects import report_of_study

    def twin(name: str) -> dict[str, Any]:
        return report_of_study(name, option, where(name), (None, None), ()).to_json()

    return Attacher(storage, None if study is None else [study], where, twin, _say)


def _artifacts(storage: PatientStorage, study: str | None, where: Callable[[str], Path]) -> ArtifactFolders | None:
    """The folders of artifacts that are here, the named study's first."""
    from jorge_tune.tuning.dashboard.folders import ARTIFACTS, ArtifactFolders
    from jorge_tune.tuning.planning.stored_plan import is_study_name
    from jorge_tune.tuning.study import study_names

    there = [name for name in study_names(storage) if is_study_name(name)]  # which alone are names of folders
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
    from jorge_tune.tuning.dashboard.server import DashboardServer

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
