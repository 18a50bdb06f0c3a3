"""Studies with their baseline and confirmation, worked on by runs that train nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jorge_tune.study.confirm import open_baseline, open_confirmation
from jorge_tune.study.runs_directory import Presence
from jorge_tune.study.stop import WorkerStops
from jorge_tune.study.storage.open import open_storage
from jorge_tune.study.study import OpenStudy, open_study
from jorge_tune.study.worker import WorkerExit, WorkerSettings, work_on
from tests.study.empty_runs import EmptyRuns
from tests.study.small_studies import small_plan, sqlite_at


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
