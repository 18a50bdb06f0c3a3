"""Studies with their baseline and confirmation, worked on by runs that train nothing."""

from __future__ import annotations

import atexit
import contextlib
import shutil
import sqlite3
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from jorge_tune.study.confirm import open_baseline, open_confirmation
from jorge_tune.study.runs_directory import Presence
from jorge_tune.study.stop import WorkerStops
from jorge_tune.study.storage.open import open_storage
from jorge_tune.study.study import OpenStudy, add_point, open_study
from jorge_tune.study.worker import WorkerExit, WorkerSettings, work_on
from tests.study.empty_runs import EmptyRuns
from tests.study.small_studies import small_plan, sqlite_at

SEEDS = (1, 2, 3, 4, 5, 6)

_templates: dict[str, Path] = {}  # by what was done, and with which plan


def by_rate(lr: float, seed: int, evaluation: int) -> float:
    """Higher rates are better, seeds differ a little."""
    return lr + 0.001 * seed


def searched(folder: Path, **plan: Any) -> Searched:
    """Four trials at rates that are set, the second one the best."""
    return _copied(search_anew, folder, {"trials": 4, "confirm_seeds": SEEDS} | plan)


def confirmed(folder: Path, **plan: Any) -> Searched:
    """The same, and every run of its confirmation."""
    return _copied(_confirm_anew, folder, {"trials": 4, "confirm_seeds": SEEDS} | plan)


def search_anew(folder: Path, **plan: Any) -> Searched:
    """The same, searched in the directory itself, and not copied from another."""
    made = Searched(folder, **({"trials": 4, "confirm_seeds": SEEDS} | plan))
    for lr in (2.0, 0.5, 1.5):
        add_point(made.opened, {"lr_factor": lr, "refresh_interval": 10})
    made.search(EmptyRuns(by_rate))
    return made


def _confirm_anew(folder: Path, **plan: Any) -> Searched:
    made = searched(folder, **plan)
    made.work(made.confirmation(), EmptyRuns(by_rate))
    return made


def _copied(make: Callable[..., Searched], folder: Path, plan: dict[str, Any]) -> Searched:
    """A copy of a study that was made once for all tests of this process: a study knows its runs by a name in them."""
    key = f"{make.__name__} {sorted(plan.items())}"
    if key not in _templates:
        root = Path(tempfile.mkdtemp(prefix="jorge-tune-searched-"))
        atexit.register(shutil.rmtree, root, ignore_errors=True)
        make(root, **plan).opened.storage.close()
        with contextlib.closing(sqlite3.connect(root / "study.db")) as connection:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        _templates[key] = root
    folder.mkdir(exist_ok=True)
    shutil.copytree(_templates[key] / "runs", folder / "runs")
    shutil.copyfile(_templates[key] / "study.db", folder / "study.db")
    return Searched(folder, **plan)


class Searched:
    """A small study in a directory.

    Args:
        directory: of its storage and its runs.
        plan: changes of the plan.
    """

    def __init__(self, folder: Path, **plan: Any) -> None:
        folder.mkdir(exist_ok=True)
        self.folder, self.address = folder, sqlite_at(folder)
        self.opened = self.open(**plan)

    def open(self, **plan: Any) -> OpenStudy:
        """The study anew, its plan changed."""
        self.opened = open_study(open_storage(self.address), small_plan(**plan), self.runs)
        return self.opened

    def runs(self, name: str) -> Path:
        return self.folder / "runs" / name

    def lose_a_worker(self) -> None:
        """Leave trial 0 and a lock as a worker leaves them that was killed."""
        self.opened.enter(self.runs("small"))
        presence = Presence(self.runs("small"), "w-dead")
        self.opened.claims.claim("w-dead", 4)
        lock = self.runs("small") / "workers" / "w-dead.lock"
        kernel = lock.read_text()
        presence.close()
        lock.write_text(kernel)

    def work(self, opened: OpenStudy | None, runs: EmptyRuns) -> WorkerExit:
        """One worker on one of the studies."""
        assert opened is not None
        stops = WorkerStops()
        try:
            settings = WorkerSettings(device="cpu", threads=1)
            return work_on(opened, self.runs(opened.plan.name), settings, stops, server=runs)
        finally:
            stops.close()

    def search(self, runs: EmptyRuns) -> None:
        """The baseline and all trials."""
        self.work(open_baseline(self.opened, self.runs), runs)
        self.work(self.opened, runs)

    def confirmation(self) -> OpenStudy:
        """The study of its confirmation, every missing run queued."""
        found = open_confirmation(self.opened, self.runs)
        assert found is not None
        return found
