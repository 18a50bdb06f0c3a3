"""The studies beside a search, opened and filled; what they came to; and the verdict, kept in the search's attributes.

Workers run them as they run any study: retried, leased, resumed.
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

_THERE = ("waiting", "running", "complete")

Runs = Callable[[str], Path]


def open_baseline(opened: OpenStudy, runs: Runs) -> OpenStudy | None:
    """`NAME.sgd`, made if it is not there; None without a baseline.

    Raises:
        InputError: another baseline was run under this name, or its directory is taken.
    """
    plan = baseline_plan(opened.plan)
    return None if plan is None else open_study(opened.storage, plan, runs)


def open_confirmation(opened: OpenStudy, runs: Runs) -> OpenStudy | None:
    """`NAME.confirm` with every run that is missing queued: baseline, bootstrap and best on the confirmation seeds.

    Runs that failed are queued again. None where there is nothing to confirm: no seeds, or no best trial.

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
    wanted = confirmation_points(search, contenders, search.confirm_seeds)
    there = present_study(opened.storage, search.name + CONFIRM_SUFFIX)
    done = 1 if there is None else len(rows_of(there))  # a new study has its first run queued
    confirmation = open_study(opened.storage, confirmation_plan(search, done), runs)
    _hand_costs_on(opened, confirmation)
    return queue_missing(confirmation, wanted, runs)


def queue_missing(opened: OpenStudy, wanted: Sequence[Mapping[str, Value]], runs: Runs) -> OpenStudy:
    """The study with those points queued that it does not have, or that failed. Raises as `open_study` does."""
    held = [dict(row.point) for row in rows_of(opened) if row.state in _THERE]
    for point in wanted:
        if point not in held:
            add_point(opened, point)
    total = len(rows_of(opened))
    return open_study(opened.storage, replace(opened.plan, trials=total), runs)


def _hand_costs_on(opened: OpenStudy, confirmation: OpenStudy) -> None:
    """What the search calibrated holds for its confirmation."""
    known = confirmation.storage.get_study_system_attrs(confirmation.study_id)
    for key, value in opened.storage.get_study_system_attrs(opened.study_id).items():
        if (key == KEPT or key.startswith(COST)) and key not in known:
            confirmation.storage.set_study_system_attr(confirmation.study_id, key, value)


def beside(opened: OpenStudy) -> list[OpenStudy]:
    """The studies beside a search that are there and can be read: baseline, confirmation."""
    return [rows.study for rows in _all_beside(opened).values() if rows.study is not None]


class _Beside(NamedTuple):
    """A study beside a search with its trials; None where it is not there, or cannot be read: see `why`."""

    study: OpenStudy | None
    rows: tuple[TrialRow, ...] = ()
    why: str = ""


def _all_beside(opened: OpenStudy) -> dict[str, _Beside]:
    """By the end of the name."""
    return {suffix: _beside(opened, suffix) for suffix in (BASELINE_SUFFIX, CONFIRM_SUFFIX)}


def _beside(opened: OpenStudy, suffix: str) -> _Beside:
    try:
        study = present_study(opened.storage, opened.plan.name + suffix)
    except InputError as error:
        return _Beside(None, why=str(error))
    return _Beside(study) if study is None else _Beside(study, rows_of(study))


def conclude(opened: OpenStudy) -> StudyVerdict:
    """The verdict from everything that has ended so far, kept in the search's user attributes with its words."""
    found = judge(gather(opened))
    opened.study.set_user_attr(VERDICT, stored_form(found))
    return found


def fresh_verdict(opened: OpenStudy) -> dict[str, Any] | None:
    """The verdict on all trials that have ended by now, as `stored_form` has it; None before the first was kept."""
    return stored_form(judge(gather(opened))) if VERDICT in opened.study.user_attrs else None


def stored_form(verdict: StudyVerdict) -> dict[str, Any]:
    """The verdict as plain data, with its headline and all its sentences, of which that is the first."""
    return {**verdict.to_json(), "headline": headline(verdict), "sentences": list(sentences(verdict))}


def gather(opened: OpenStudy, recorded: RecordedValues | None = None) -> Evidence:
    """What there is to judge by: values as the study holds them, or as the records of its runs have them."""
    plan, rows = opened.plan, rows_of(opened)
    rows = rows if recorded is None else recorded.chosen_of(opened, rows)
    lower = plan.objective.lower_is_better
    best = best_of(rows, lower_is_better=lower)
    around = _all_beside(opened)
    confirmation = _recorded(around[CONFIRM_SUFFIX], recorded)
    constraint, notes = _constraint(opened)
    baseline = next(iter(_recorded(around[BASELINE_SUFFIX], recorded)), None)
    notes += [] if recorded is None else recorded.notes
    notes += _unread(opened, rows, around)
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
    """What of a search, and of the studies beside it, could not be read, in sentences.

    Args:
        opened: the search.
        rows: its trials.
    """
    return _unread(opened, rows, _all_beside(opened))


def _unread(opened: OpenStudy, rows: Sequence[TrialRow], around: Mapping[str, _Beside]) -> list[str]:
    notes = unread_in(rows, opened.plan.name)
    for suffix, one in around.items():
        notes += unread_in(one.rows, opened.plan.name + suffix)
    attributes = opened.storage.get_study_system_attrs(opened.study_id)
    notes += [f"Study {opened.plan.name}: {what}." for what in unread_costs(attributes)]
    try:
        opened.stop_wish()
    except InputError as error:
        notes.append(f"{error}.")
    return [*notes, *(f"{one.why}." for one in around.values() if one.why)]


def confirmed(rows: Sequence[TrialRow], plan: StudyPlan, best: TrialRow | None) -> dict[str, dict[int, float]]:
    """The values of each contender by seed; runs of an earlier best trial are left aside."""
    bootstrap = plan.space.bootstrap_point()
    found: dict[str, dict[int, float]] = {BASELINE: {}, BOOTSTRAP: {}, BEST: {}}
    for row in rows:
        if row.state != "complete" or row.value is None or row.point.get(SEED) not in plan.confirm_seeds:
            continue
        name = contender_of(row.point, bootstrap, None if best is None else best.point)
        if name is not None:
            found[name][row.point[SEED]] = row.value
    return {name: values for name, values in found.items() if values}


def contender_of(point: Mapping[str, Any], bootstrap: Mapping[str, Any], best: Mapping[str, Any] | None) -> str | None:
    """Whose run a confirmation's point is; None for one of an earlier best trial.

    Args:
        point: of the confirmation.
        bootstrap: in the search's space.
        best: the best trial's point there; None where there is none.
    """
    if point[CONTENDER] != SEARCH:
        return BASELINE
    where = place_of(point)
    return BOOTSTRAP if where == bootstrap else BEST if where == best else None


def place_of(point: Mapping[str, Any]) -> dict[str, Any]:
    """Where in the search's space a confirmation's point lies."""
    return {name: value for name, value in point.items() if name not in (CONTENDER, SEED)}


def run_in_words(rows: Sequence[TrialRow], number: int, *, named: bool = False) -> str:
    """A confirmation's trial as `bootstrap, seed 3`, a comparison's (`named`) likewise; nothing for one of a search."""
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
    """What a feasible trial keeps, in words; and what there is to say where the iteration time is not known."""
    in_seconds = opened.plan.objective.kind == "time-to-target"
    as_measured = "Training seconds are as they were measured, also where runs shared a machine."
    notes = [as_measured] if in_seconds else []
    if opened.plan.overhead is None:
        return None, notes
    attributes = opened.storage.get_study_system_attrs(opened.study_id)
    dropped = why_dropped(attributes)
    if dropped is not None:
        return None, [f"The constraint on the iteration time was given up: {dropped}.", *notes]
    kept = f"an iteration time of at most {1 + opened.plan.overhead:g} times the baseline's"
    return kept, _on_calibrated_seconds(opened.plan, attributes) if in_seconds else []


def _on_calibrated_seconds(plan: StudyPlan, attributes: Mapping[str, Any]) -> list[str]:
    """What to know of times to a target that are steps times a calibrated iteration."""
    notes = []
    if plan.baseline is not None:
        notes.append("Seconds are steps times a calibrated iteration, but the baseline's beside the search: measured.")
    if are_mixed(plan, attributes):
        notes.append("Iterations were calibrated on several devices or numbers of threads; their seconds differ.")
    return notes


def _recorded(one: _Beside, recorded: RecordedValues | None) -> tuple[TrialRow, ...]:
    """The trials of a study beside a search, as their records have them where these are asked; none where it is not."""
    return one.rows if recorded is None or one.study is None else recorded.all_of(one.study, one.rows)


_SAME = 1e-9  # of a value: what sums on another machine may differ by


class RecordedValues:
    """Values read from run directories; one that the study holds otherwise is a note.

    A trial with a run that is not seen here, or has not ended, keeps what the study holds; so do all under a
    time-to-target, since their calibrated seconds are in no record.

    Args:
        runs: the directory of the runs of a study of that name.
    """

    def __init__(self, runs: Callable[[str], Path]) -> None:
        self._runs = runs
        self.notes: list[str] = []

    def all_of(self, opened: OpenStudy, rows: Sequence[TrialRow]) -> tuple[TrialRow, ...]:
        """Every trial as its records have it."""
        return tuple(self._as_recorded(opened, row) for row in rows)

    def chosen_of(self, opened: OpenStudy, rows: Sequence[TrialRow]) -> tuple[TrialRow, ...]:
        """The same for those that a verdict names: the bootstrap, and the trial that is the best by what was read."""
        found, read = tuple(rows), set[int]()
        while True:
            best = best_of(found, lower_is_better=opened.plan.objective.lower_is_better)
            unread = {0, 0 if best is None else best.number} - read
            if not unread:
                return found
            found = tuple(self._as_recorded(opened, row) if row.number in unread else row for row in found)
            read |= unread

    def _as_recorded(self, opened: OpenStudy, row: TrialRow) -> TrialRow:
        scores = self._scores(opened, row)
        if not scores:
            return row
        value = median_of(scores, opened.plan.objective)
        if row.value is None or math.isclose(value, row.value, rel_tol=_SAME):
            return row
        say, hold = ("no number" if math.isinf(each) else f"{each:.9g}" for each in (value, row.value))
        held = f"its records say {say}, the study holds {hold}; this report goes by the records"
        self.notes.append(f"Trial {row.number} of {opened.plan.name}: {held}.")
        diverged = any(score.diverged for score in scores)
        return replace(row, value=value, attributes={**row.attributes, "diverged": diverged})

    def _scores(self, opened: OpenStudy, row: TrialRow) -> list[RunScore]:
        """One per seed; none where one of them cannot be read."""
        plan, folder = opened.plan, self._runs(opened.plan.name)
        if row.state != "complete" or row.value is None or plan.objective.kind == "time-to-target":
            return []
        try:
            if folder_name(folder, opened.name) != (row.folder or opened.folder):
                return []  # another study's, or where the trial ran before it was begun anew elsewhere
            seeds = [row.point[SEED]] if SEED in row.point else plan.seeds
            runs = [read_run(run_path(folder, row.number, seed)) for seed in seeds]
        except JorgeTuneError:
            return []
        return [score_run(run, plan.objective) for run in runs] if all(run.ended for run in runs) else []
