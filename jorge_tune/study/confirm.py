"""The companion studies of a search: opening and filling them, and the verdict, which the search's attributes keep.

Workers run companion studies like any study: with leases and retries, and they resume them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from jorge_tune.compare.run_directories import read_run
from jorge_tune.errors import InputError, JorgeTuneError
from jorge_tune.study.constraint import COST, KEPT, are_mixed, unread_costs, why_dropped
from jorge_tune.study.plan import (
    BASELINE_SUFFIX,
    CONFIRM_SUFFIX,
    CONTENDER,
    SEARCH,
    SEED,
    StudyPlan,
    baseline_plan,
    confirmation_plan,
    confirmation_points,
)
from jorge_tune.study.runs_directory import folder_name, run_path
from jorge_tune.study.score import RunScore, median_of, score_run
from jorge_tune.study.space import Value
from jorge_tune.study.status import VERDICT
from jorge_tune.study.study import OpenStudy, add_point, open_study, present_study
from jorge_tune.study.study_schema import Objective
from jorge_tune.study.study_verdict import (
    BASELINE,
    BEST,
    BOOTSTRAP,
    NO_NUMBER,
    NOT_REACHED,
    Evidence,
    StudyVerdict,
    headline,
    judge,
    sentences,
)
from jorge_tune.study.trial_rows import TrialRow, best_of, importances, rows_of, unread_in

_QUEUED = ("waiting", "running", "complete")

Runs = Callable[[str], Path]


def open_baseline(opened: OpenStudy, runs: Runs) -> OpenStudy | None:
    """Open `NAME.sgd`, or make it if it is not there; None without a baseline.

    Raises:
        InputError: another baseline was run under this name, or its directory is taken.
    """
    plan = baseline_plan(opened.plan)
    return None if plan is None else open_study(opened.storage, plan, runs)


def open_confirmation(opened: OpenStudy, runs: Runs) -> OpenStudy | None:
    """Open `NAME.confirm` and queue its missing runs: baseline, bootstrap and best trial on the confirmation seeds.

    Runs that failed are queued again. None if there is nothing to confirm: no seeds, or no best trial.

    Raises:
        InputError: another confirmation was run under this name, or its directory is taken.
    """
    search = opened.plan
    best = best_of(rows_of(opened), lower_is_better=search.objective.lower_is_better)
    if best is None or not search.confirm_seeds:
        return None

    contenders: list[Mapping[str, Value]] = [search.space.bootstrap_point()]
    if best.number != 0 and best.point != contenders[0]:
        contenders.append(best.point)
    points = confirmation_points(search, contenders, search.confirm_seeds)

    there = present_study(opened.storage, search.name + CONFIRM_SUFFIX)
    done = 1 if there is None else len(rows_of(there))  # a new study has its first run queued
    confirmation = open_study(opened.storage, confirmation_plan(search, done), runs)
    _copy_costs(opened, confirmation)
    return queue_missing(confirmation, points, runs)


def queue_missing(opened: OpenStudy, points: Sequence[Mapping[str, Value]], runs: Runs) -> OpenStudy:
    """Queue those points of a study that it does not have, or that failed. Raises as `open_study` does."""
    queued = [dict(row.point) for row in rows_of(opened) if row.state in _QUEUED]
    for point in points:
        if point not in queued:
            add_point(opened, point)

    total = len(rows_of(opened))
    return open_study(opened.storage, replace(opened.plan, trials=total), runs)


def _copy_costs(opened: OpenStudy, confirmation: OpenStudy) -> None:
    """Copy the costs that the search calibrated to its confirmation."""
    known = confirmation.storage.get_study_system_attrs(confirmation.study_id)
    for key, value in opened.storage.get_study_system_attrs(opened.study_id).items():
        if (key == KEPT or key.startswith(COST)) and key not in known:
            confirmation.storage.set_study_system_attr(confirmation.study_id, key, value)


def companion_studies(opened: OpenStudy) -> list[OpenStudy]:
    """The companion studies of a search that are there and can be read: baseline, confirmation."""
    return [companion.study for companion in _companions(opened).values() if companion.study is not None]


class _Companion(NamedTuple):
    """A companion study with its trials; `study` is None if it is not there, or if it cannot be read (see `why`)."""

    study: OpenStudy | None
    rows: tuple[TrialRow, ...] = ()
    why: str = ""


def _companions(opened: OpenStudy) -> dict[str, _Companion]:
    """The companion studies by the suffix of their name."""
    return {suffix: _companion(opened, suffix) for suffix in (BASELINE_SUFFIX, CONFIRM_SUFFIX)}


def _companion(opened: OpenStudy, suffix: str) -> _Companion:
    try:
        study = present_study(opened.storage, opened.plan.name + suffix)
    except InputError as error:
        return _Companion(None, why=str(error))
    return _Companion(study) if study is None else _Companion(study, rows_of(study))


def conclude(opened: OpenStudy) -> StudyVerdict:
    """Judge all that has ended so far, and keep the verdict with its sentences in the search's user attributes."""
    verdict = judge(gather(opened))
    opened.study.set_user_attr(VERDICT, stored_form(verdict))
    return verdict


def fresh_verdict(opened: OpenStudy) -> dict[str, Any] | None:
    """The verdict on all trials that have ended by now, in its stored form; None before a first verdict was kept."""
    return stored_form(judge(gather(opened))) if VERDICT in opened.study.user_attrs else None


def stored_form(verdict: StudyVerdict) -> dict[str, Any]:
    """The verdict as plain data, with its headline and all its sentences; the headline is the first of them."""
    return {**verdict.to_json(), "headline": headline(verdict), "sentences": list(sentences(verdict))}


def gather(opened: OpenStudy, recorded: RecordedValues | None = None) -> Evidence:
    """The evidence for a verdict, with values as the study holds them.

    Args:
        opened: the search.
        recorded: takes values from the records of the runs instead, where they can be read.
    """
    plan, rows = opened.plan, rows_of(opened)
    rows = rows if recorded is None else recorded.chosen_of(opened, rows)
    lower = plan.objective.lower_is_better
    best = best_of(rows, lower_is_better=lower)

    companions = _companions(opened)
    confirmation = _rows_of(companions[CONFIRM_SUFFIX], recorded)
    baseline = next(iter(_rows_of(companions[BASELINE_SUFFIX], recorded)), None)

    constraint, notes = _constraint(opened)
    notes += [] if recorded is None else recorded.notes
    notes += _unread(opened, rows, companions)
    if baseline is not None and baseline.state == "failed":
        notes = [f"The baseline failed: {baseline.attributes.get('reason') or 'no reason is known'}.", *notes]

    return Evidence(
        study=plan.name,
        objective=in_words(plan.objective),
        lower_is_better=lower,
        worst=NOT_REACHED if plan.objective.needs_target else NO_NUMBER,
        total=max(plan.trials, len(rows)),
        rows=rows,
        space=plan.space,
        importances=importances(opened.study, lower_is_better=lower),
        constraint=constraint,
        baseline=baseline.value if baseline is not None and baseline.state == "complete" else None,
        confirmation=confirmed(confirmation, plan, best),
        notes=(*plan.notes, *notes),
    )


def unread(opened: OpenStudy, rows: Sequence[TrialRow]) -> list[str]:
    """Sentences about what could not be read of a search and of its companion studies.

    Args:
        opened: the search.
        rows: its trials.
    """
    return _unread(opened, rows, _companions(opened))


def _unread(opened: OpenStudy, rows: Sequence[TrialRow], companions: Mapping[str, _Companion]) -> list[str]:
    notes = unread_in(rows, opened.plan.name)
    for suffix, companion in companions.items():
        notes += unread_in(companion.rows, opened.plan.name + suffix)

    attributes = opened.storage.get_study_system_attrs(opened.study_id)
    notes += [f"Study {opened.plan.name}: {what}." for what in unread_costs(attributes)]
    try:
        opened.stop_request()
    except InputError as error:
        notes.append(f"{error}.")
    return [*notes, *(f"{companion.why}." for companion in companions.values() if companion.why)]


def confirmed(rows: Sequence[TrialRow], plan: StudyPlan, best: TrialRow | None) -> dict[str, dict[int, float]]:
    """The values of each contender by seed; runs of an earlier best trial are left out."""
    bootstrap = plan.space.bootstrap_point()
    values: dict[str, dict[int, float]] = {BASELINE: {}, BOOTSTRAP: {}, BEST: {}}
    for row in rows:
        if row.state != "complete" or row.value is None or row.point.get(SEED) not in plan.confirm_seeds:
            continue

        name = contender_of(row.point, bootstrap, None if best is None else best.point)
        if name is not None:
            values[name][row.point[SEED]] = row.value
    return {name: by_seed for name, by_seed in values.items() if by_seed}


def contender_of(point: Mapping[str, Any], bootstrap: Mapping[str, Any], best: Mapping[str, Any] | None) -> str | None:
    """The contender that a point of a confirmation belongs to; None for an earlier best trial.

    Args:
        point: in the confirmation's space.
        bootstrap: the bootstrap's point, in the search's space.
        best: the best trial's point there; None if there is none.
    """
    if point[CONTENDER] != SEARCH:
        return BASELINE
    where = place_of(point)
    return BOOTSTRAP if where == bootstrap else BEST if where == best else None


def place_of(point: Mapping[str, Any]) -> dict[str, Any]:
    """The point in the search's space that a point of its confirmation stands for."""
    return {name: value for name, value in point.items() if name not in (CONTENDER, SEED)}


def run_in_words(rows: Sequence[TrialRow], number: int, *, named: bool = False) -> str:
    """A trial of a confirmation, or of a comparison (`named`), as `bootstrap, seed 3`; "" for a trial of a search."""
    row = next((row for row in rows if row.number == number), None)
    if row is None or CONTENDER not in row.point or SEED not in row.point:
        return ""
    contender = row.point[CONTENDER] if named else contender_of(row.point, place_of(rows[0].point), None) or BEST
    return f"{contender}, seed {row.point[SEED]}"


def in_words(objective: Objective) -> str:
    """`best top1`, or `epochs to top1 0.97`."""
    if not objective.needs_target:
        return f"{objective.kind} {objective.metric}"
    unit = "training seconds" if objective.kind == "time-to-target" else "epochs"
    return f"{unit} to {objective.metric} {objective.target:g}"


def _constraint(opened: OpenStudy) -> tuple[str | None, list[str]]:
    """The constraint in words, None if there is none; and notes on iteration times and seconds."""
    in_seconds = opened.plan.objective.kind == "time-to-target"
    as_measured = "Training seconds are as they were measured, also where runs shared a machine."
    notes = [as_measured] if in_seconds else []
    if opened.plan.overhead is None:
        return None, notes

    attributes = opened.storage.get_study_system_attrs(opened.study_id)
    dropped = why_dropped(attributes)
    if dropped is not None:
        return None, [f"The constraint on the iteration time was dropped: {dropped}.", *notes]
    budget = f"an iteration time of at most {1 + opened.plan.overhead:g} times the baseline's"
    return budget, _on_calibrated_seconds(opened.plan, attributes) if in_seconds else []


def _on_calibrated_seconds(plan: StudyPlan, attributes: Mapping[str, Any]) -> list[str]:
    """Notes on times to a target that are steps times a calibrated iteration."""
    notes = []
    if plan.baseline is not None:
        notes.append("Seconds are steps times a calibrated iteration; those of the baseline's own study are measured.")
    if are_mixed(plan, attributes):
        notes.append("Iterations were calibrated on several devices or numbers of threads, so their seconds differ.")
    return notes


def _rows_of(companion: _Companion, recorded: RecordedValues | None) -> tuple[TrialRow, ...]:
    """The trials of a companion study, with the values of their records if these are to be read."""
    if recorded is None or companion.study is None:
        return companion.rows
    return recorded.all_of(companion.study, companion.rows)


_SAME = 1e-9  # relative; sums may differ by so much between machines


class RecordedValues:
    """Values read from run directories, with a note for each that differs from the study's.

    A trial keeps the study's value if this machine does not see all of its runs, or if one has not ended. Under a
    time-to-target all trials keep it, since no record holds calibrated seconds.

    Args:
        runs: the directory of the runs of a study of that name.
    """

    def __init__(self, runs: Callable[[str], Path]) -> None:
        self._runs = runs
        self.notes: list[str] = []

    def all_of(self, opened: OpenStudy, rows: Sequence[TrialRow]) -> tuple[TrialRow, ...]:
        """All trials, with the values of their records."""
        return tuple(self._as_recorded(opened, row) for row in rows)

    def chosen_of(self, opened: OpenStudy, rows: Sequence[TrialRow]) -> tuple[TrialRow, ...]:
        """All trials; those that a verdict names, bootstrap and best trial, with the values of their records.

        Reading a value may make another trial the best, which is then read too.
        """
        result, read = tuple(rows), set[int]()
        while True:
            best = best_of(result, lower_is_better=opened.plan.objective.lower_is_better)
            unread = {0, 0 if best is None else best.number} - read
            if not unread:
                return result
            result = tuple(self._as_recorded(opened, row) if row.number in unread else row for row in result)
            read |= unread

    def _as_recorded(self, opened: OpenStudy, row: TrialRow) -> TrialRow:
        scores = self._scores(opened, row)
        if not scores:
            return row

        value = median_of(scores, opened.plan.objective)
        if row.value is None or math.isclose(value, row.value, rel_tol=_SAME):
            return row

        say, hold = ("no number" if math.isinf(each) else f"{each:.9g}" for each in (value, row.value))
        what = f"its records say {say}, but the study holds {hold}; this report goes by the records"
        self.notes.append(f"Trial {row.number} of {opened.plan.name}: {what}.")
        diverged = any(score.diverged for score in scores)
        return replace(row, value=value, attributes={**row.attributes, "diverged": diverged})

    def _scores(self, opened: OpenStudy, row: TrialRow) -> list[RunScore]:
        """One score per seed; none if one of them cannot be read."""
        plan, directory = opened.plan, self._runs(opened.plan.name)
        if row.state != "complete" or row.value is None or plan.objective.kind == "time-to-target":
            return []

        try:
            if folder_name(directory, opened.name) != (row.folder or opened.folder):
                return []  # these are runs of another study, or the trial started again in another directory since
            seeds = [row.point[SEED]] if SEED in row.point else plan.seeds
            runs = [read_run(run_path(directory, row.number, seed)) for seed in seeds]
            return [score_run(run, plan.objective) for run in runs] if all(run.ended for run in runs) else []
        except JorgeTuneError:
            return []
