"""Workers and runs killed at random while a study goes on, and the audit of what is left."""

from __future__ import annotations

import json
import os
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

from optuna.trial import TrialState

from jorge_tune.study.storage.address import Address
from jorge_tune.study.storage.open import open_storage
from jorge_tune.study.study import OpenStudy, open_study
from jorge_tune.study.supervisor import Supervisor
from jorge_tune.study.worker import WorkerExit, WorkerMessage, WorkerStart
from tests.study.small_studies import small_plan

_WATCH_SECONDS = 0.02


def runs_at_work(folder: Path) -> Iterator[tuple[int, str]]:
    """Processes that have a run's journal open, and the run's directory."""
    for process in Path("/proc").iterdir():
        if not process.name.isdecimal():
            continue
        with suppress(OSError):
            if b"fork_server" not in (process / "cmdline").read_bytes():
                continue
            for descriptor in (process / "fd").iterdir():
                with suppress(OSError):
                    target = os.readlink(descriptor)
                    if target.endswith("/log.txt") and target.startswith(str(folder)):
                        yield int(process.name), os.path.dirname(target)


class Chaos:
    """A study under fire.

    Args:
        directory: for runs (and SQLite).
        address: the storage.
        trials: of the study.
        workers: at once.
        every: seconds between two kills.
        middle: called once when half the trials are over.
    """

    def __init__(
        self,
        folder: Path,
        address: Address,
        *,
        trials: int,
        workers: int,
        every: float,
        lasts: float = 30.0,
        middle: Callable[[], None] = lambda: None,
    ) -> None:
        self.folder, self.every, self.middle = folder / "runs", every, middle
        plan = small_plan(trials=trials, epochs=8, sampler="tpe", pruner="median")
        self.opened: OpenStudy = open_study(open_storage(address), plan, lambda name: self.folder)
        start = WorkerStart(study=plan.name, runs=str(self.folder), device="cpu", threads=1, lasts=lasts)
        self.supervisor = Supervisor(address, [start] * workers, self._hear)
        self.trials = trials
        self.told: list[tuple[float, WorkerMessage, int | None]] = []
        self.kills: dict[str, int] = {"worker": 0, "run": 0}
        self.together: list[tuple[str, set[int]]] = []  # runs that two processes had at once, looked at twice
        self._over = threading.Event()
        self._random = random.Random(0)

    def run(self) -> WorkerExit:
        """Until the supervisor leaves."""
        threads = [threading.Thread(target=self._kill_now_and_then), threading.Thread(target=self._watch)]
        for thread in threads:
            thread.start()
        try:
            return self.supervisor.supervise()
        finally:
            self._over.set()
            for thread in threads:
                thread.join(60)

    def audit(self) -> None:
        """What has to be true of the study and of every run directory."""
        trials = self.opened.study.get_trials()
        assert [trial.number for trial in trials] == list(range(self.trials))
        states = {state.name: [t.number for t in trials if t.state is state] for state in TrialState}
        assert not states["FAIL"] + states["RUNNING"] + states["WAITING"], (states, self._reasons(trials))
        assert not self.together
        for trial in trials:
            assert set(trial.params) == {"lr_factor", "refresh_interval"}
            self._audit_run(self.folder / f"trial-{trial.number}" / "seed-0", trial)
        assert sorted(told.trial for _, told, _ in self.told if told.state in ("complete", "pruned")) == sorted(
            {told.trial for _, told, _ in self.told if told.state in ("complete", "pruned")}
        ), "a trial was told twice"

    def _audit_run(self, folder: Path, trial) -> None:
        content = (folder / "records.jsonl").read_bytes()
        assert content.endswith(b"\n")
        records = [json.loads(line) for line in content.splitlines()]  # every line whole
        assert records[0]["kind"] == "start"
        furthest = 0
        for number, record in enumerate(records):
            if record["kind"] == "start":  # of whoever came next: never beyond what was reached
                assert record["step"] <= furthest
                at = record["step"]
            assert record["step"] >= at, (folder, number)  # two at once would go back and forth
            at = record["step"]
            furthest = max(furthest, at)
        ends = [record["outcome"] for record in records if record["kind"] == "end"]
        if trial.state is TrialState.COMPLETE:
            assert ends.count("finished") == 1
            assert records[-1]["kind"] == "end"
            values = [record["metrics"]["top1"] for record in records if record.get("part") == "validation"]
            assert trial.value == max(values)
        else:
            assert "finished" not in ends[:-1]

    def _hear(self, told: WorkerMessage, worker: int | None) -> None:
        self.told.append((time.monotonic(), told, worker))

    def _kill_now_and_then(self) -> None:
        halfway = False
        while not self._over.wait(self.every):
            done = sum(told.state in ("complete", "pruned") for _, told, _ in self.told)
            if not halfway and done >= self.trials // 2:
                halfway = True
                self.middle()
            runs = sorted({pid for pid, _ in runs_at_work(self.folder)})
            kind = self._random.choice(["worker", "run"])
            victims = self.supervisor.pids if kind == "worker" else runs
            if victims:
                pid = self._random.choice(victims)
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
                    self.kills[kind] += 1

    def _watch(self) -> None:
        """Look for two processes in one run; one that is just refused is gone at the second look."""
        before: dict[str, set[int]] = {}
        while not self._over.wait(_WATCH_SECONDS):
            now: dict[str, set[int]] = {}
            for pid, folder in runs_at_work(self.folder):
                now.setdefault(folder, set()).add(pid)
            for folder, pids in now.items():
                both = pids & before.get(folder, set())
                if len(both) > 1 and len(_holders(Path(folder) / "log.txt")) > 1:
                    self.together.append((folder, both))
            before = now

    @staticmethod
    def _reasons(trials) -> list[str]:
        return [trial.user_attrs["reason"] for trial in trials if trial.state is TrialState.FAIL]


def _holders(path: Path) -> list[str]:
    """The kernel's list of who has a file locked."""
    inode = f":{path.stat().st_ino} "
    return [line for line in Path("/proc/locks").read_text().splitlines() if inode in line and "->" not in line]
