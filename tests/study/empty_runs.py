"""Runs that train nothing: their records appear at once, and they end as a script says."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from jorge_tune.recipe.recipe_files import parse_recipe
from jorge_tune.recipe.render import render_recipe
from jorge_tune.records import RecordWriter, RunDirectory
from jorge_tune.study.jobs.client import ProcessEnd, RunJob
from jorge_tune.study.jobs.job import RunFollower

EVALUATIONS = 5
STEPS = 10  # between two evaluations

FINISHED = ProcessEnd("finished", "")


class EmptyRuns:
    """Starts runs that are over when `start` returns, or that wait to be stopped.

    Args:
        value: of the metric at an evaluation (from 1) of a recipe with that seed and rate.
        end: how the start with that number (from 1) of a run directory ends; None: it lies still until it is stopped.
        evaluations: how many a run has; one that does not finish comes to the first `reached` of what is left.
    """

    def __init__(
        self,
        value: Callable[[float, int, int], float] = lambda lr, seed, evaluation: lr * evaluation,
        end: Callable[[str, int], ProcessEnd | None] = lambda folder, start: FINISHED,
        *,
        evaluations: int = EVALUATIONS,
        reached: int = 0,
    ) -> None:
        self._value, self._end, self._evaluations, self._reached = value, end, evaluations, reached
        self.starts: dict[str, int] = {}
        self.jobs: list[RunJob] = []

    def start(self, job: RunJob) -> EmptyChild:
        self.jobs.append(job)
        name = "/".join(Path(job.out).parts[-2:])
        self.starts[name] = self.starts.get(name, 0) + 1
        end = self._end(name, self.starts[name])
        recipe = parse_recipe(job.recipe_text, "job").recipe
        before = RunFollower(Path(job.out))
        before.read()
        done = len(before.readings)
        to = (
            self._evaluations
            if end is None or end.outcome == "finished"
            else min(self._evaluations, done + self._reached)
        )
        folder = RunDirectory(Path(job.out))
        folder.root.mkdir(parents=True, exist_ok=True)
        folder.recipe.write_text(render_recipe(recipe))
        folder.log.touch()
        with RecordWriter(folder.records) as records:
            at = {"step": done * STEPS, "epoch": float(done), "train_seconds": float(done)}
            records.write({"kind": "start", **at, "world_size": 1, "seed": recipe.seed, "resumed": done > 0})
            for evaluation in range(done + 1, to + 1):
                at = {"step": evaluation * STEPS, "epoch": float(evaluation), "train_seconds": float(evaluation)}
                metrics = {"top1": self._value(recipe.optimizer.lr, recipe.seed, evaluation), "loss": 1.0}
                records.write({"kind": "evaluation", **at, "part": "validation", "metrics": metrics})
            if end is not None and end.outcome != "killed":
                records.write({"kind": "end", **at, "outcome": end.outcome, "reason": end.reason})
        return EmptyChild(end)


class EmptyChild:
    """A run that is over, or lies still."""

    def __init__(self, end: ProcessEnd | None) -> None:
        self._end = end
        self._read, self._write = os.pipe()
        self.stopped: str | None = None
        self.kept: list[tuple[float, float]] = []
        if end is not None:
            os.write(self._write, b".")

    def fileno(self) -> int:
        return self._read

    def poll(self, timeout: float | None = 0.0) -> ProcessEnd | None:
        return self._end

    def stop(self, reason: str) -> None:
        self.stopped = reason
        self._over(ProcessEnd("interrupted", reason))

    def keep(self, seconds: float, grace: float) -> None:
        self.kept.append((seconds, grace))

    def kill(self) -> None:
        self._over(ProcessEnd("killed", "killed by SIGKILL"))

    def close(self) -> None:
        os.close(self._read)
        os.close(self._write)

    def _over(self, end: ProcessEnd) -> None:
        if self._end is None:
            self._end = end
            os.write(self._write, b".")
