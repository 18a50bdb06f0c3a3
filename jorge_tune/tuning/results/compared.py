"""A comparison run as a study: opened with every run queued that is missing, and its runs collected by contender."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from jorge_tune.errors import JorgeTuneError
from jorge_tune.measure.runs import Contender, Run, read_run
from jorge_tune.tuning.planning.comparison_plan import comparison_points, is_comparison
from jorge_tune.tuning.planning.parts import CONTENDER, SEED, ComparisonSpace
from jorge_tune.tuning.planning.plan import StudyPlan
from jorge_tune.tuning.results.confirm import Runs, queue_missing
from jorge_tune.tuning.results.history import TrialRow, overlap, rows_of
from jorge_tune.tuning.runs.runs_folder import is_folder_of, run_path
from jorge_tune.tuning.study import OpenStudy, open_study, present_study

if TYPE_CHECKING:
    from optuna.storages import BaseStorage

_ELSEWHERE = "trained elsewhere, and its run folder is not seen here (give a --runs that all machines see)"


class Collected(NamedTuple):
    """Contenders with their runs, in the order in which they were queued first; and what there is to say of them."""

    contenders: list[Contender]
    notes: list[str]
    is_side_by_side: bool  # their spans overlap, so that seconds are not to be compared


def open_comparison(
    storage: BaseStorage, plan: StudyPlan, contenders: Sequence[str], seeds: Sequence[int], runs: Runs
) -> OpenStudy:
    """The study of a comparison, made or gone on with, and every run queued that it does not have, or that failed.

    A study that is there keeps its objective: what a table shows is measured anew from the runs.

    Args:
        storage: from `open_storage`.
        plan: from `comparison_plan`.
        contenders: names, in the order in which they run.
        seeds: to run; those that the study has besides stay.
        runs: the folder for the runs of a study of that name.

    Raises:
        InputError: another study has this name, with other recipes, or the folder is taken.
    """
    there = present_study(storage, plan.name)
    if there is not None and is_comparison(there.plan):
        plan = replace(plan, objective=there.plan.objective)
    done = 1 if there is None else len(rows_of(there))  # a new study has its first run queued
    opened = open_study(storage, replace(plan, trials=done), runs)
    return queue_missing(opened, comparison_points(contenders, seeds), runs)


def collect(opened: OpenStudy, runs: Path, seeds: Sequence[int] | None = None) -> Collected:
    """Every contender with those of its runs that have ended and are seen on this machine.

    Args:
        opened: the comparison.
        runs: the folder of its runs.
        seeds: whose; None: all that were ever queued.

    Raises:
        InputError: the folder's marker is damaged.
    """
    assert isinstance(opened.plan.space, ComparisonSpace)
    rows, is_ours = rows_of(opened), is_folder_of(runs, opened.name)
    names = dict.fromkeys(str(row.point[CONTENDER]) for row in rows if CONTENDER in row.point)
    wanted = sorted({row.point[SEED] for row in rows if SEED in row.point}) if seeds is None else seeds
    recipes, contenders, notes = opened.plan.space.recipes(), [], []
    for name in names:
        found: list[Run] = []
        missing: dict[str, list[int]] = {}
        for seed in wanted:
            of_seed = [row for row in rows if row.point == {CONTENDER: name, SEED: seed}]
            run = _ended_run(of_seed, runs, seed) if is_ours else _ELSEWHERE
            if isinstance(run, Run):
                found.append(run)
            else:
                missing.setdefault(_why_missing(of_seed, seed, run), []).append(seed)
        contenders.append(Contender(name, recipes[name], tuple(found)))
        notes += [f"{name}: {_seeds(which)}: {why}" for why, which in missing.items()]
    return Collected(contenders, notes, overlap(rows))


def _ended_run(rows: Sequence[TrialRow], runs: Path, seed: int) -> Run | str:
    """The first of the trials' runs that completed and can be read here; else why there is none."""
    why = _ELSEWHERE
    for row in rows:
        folder = run_path(runs, row.number, seed)
        if row.state != "complete" or not folder.is_dir():
            continue
        try:
            run = read_run(folder)
        except JorgeTuneError as error:
            why = str(error)
            continue
        if run.ended:
            return run
        why = f"{folder}: its records stop before the run's end, which the study knows (torn, or ended elsewhere)"
    return why


def _why_missing(rows: Sequence[TrialRow], seed: int, unread: str) -> str:
    if any(row.state == "complete" for row in rows):
        return unread
    if not rows or rows[-1].state != "failed":
        return "has not run to its end yet"
    reason = str(rows[-1].attributes.get("reason") or "no reason is known")
    return f"failed: {reason.rpartition(f'trial-{rows[-1].number}/seed-{seed}: ')[2]}"  # without its run folder


def _seeds(seeds: Sequence[int]) -> str:
    return f"seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, seeds))}"
