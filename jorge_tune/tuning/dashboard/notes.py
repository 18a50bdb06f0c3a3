"""A trial in Markdown: how it ended, what its recipe has that the bootstrap has not, its seeds, cost and faults."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from jorge_tune.errors import shortened
from jorge_tune.recipe.render import scalar
from jorge_tune.records import from_portable
from jorge_tune.tuning.dashboard.attachments import NOTE_BYTES, merged, split
from jorge_tune.tuning.dashboard.markdown import plain
from jorge_tune.tuning.planning.comparison_plan import is_comparison
from jorge_tune.tuning.planning.parts import BASELINE_SUFFIX, CONTENDER, SEED
from jorge_tune.tuning.planning.plan import StudyPlan
from jorge_tune.tuning.results.confirm import in_words, run_in_words
from jorge_tune.tuning.results.history import TrialRow
from jorge_tune.tuning.results.verdict import MISSED, NO_NUMBER
from jorge_tune.tuning.results.words import show
from jorge_tune.tuning.runs.runs_folder import run_path

_TEXT_BYTES = 450  # of why a trial failed, of what was changed, of a value
_SEEDS = 12  # whose values are listed


def trial_note(row: TrialRow, rows: Sequence[TrialRow], plan: StudyPlan, *, are_here: bool) -> str:
    """The note of a trial that has ended; small enough to be one attribute, whatever the trial holds.

    Args:
        row: the trial.
        rows: all trials of its study.
        plan: the study's.
        are_here: whether its runs are on this machine.
    """
    worst = MISSED if plan.objective.needs_target else NO_NUMBER
    lines = [f"**{_title(row, rows, plan)}**", _end(row, plan, worst)]
    lines += _cost(row, plan)
    if changes := row.attributes.get("changes"):
        lines.append(f"Changed after faults: {_plain(shortened(changes))}.")
    where = run_path_in_words(row, plan)
    lines.append(f"Runs: `{where}` in the study's folder of runs" + ("." if are_here else ", not on this machine."))
    return _fitted(lines, _changes(row, plan))


def run_path_in_words(row: TrialRow, plan: StudyPlan) -> str:
    """`trial-3/seed-0`, or `trial-3` where it has several seeds; within the folder of runs."""
    seeds = plan.at(row.point).seeds if row.point or not len(plan.space) else plan.seeds
    one = run_path(Path(), row.number, seeds[0] if seeds else 0)
    return str(one if len(seeds) == 1 else one.parent)


def _title(row: TrialRow, rows: Sequence[TrialRow], plan: StudyPlan) -> str:
    run = run_in_words(rows, row.number, named=is_comparison(plan))
    what = f" ({_plain(run)})" if run else ", the baseline" if plan.name.endswith(BASELINE_SUFFIX) else ""
    what = what or (", the bootstrap" if row.number == 0 else "")
    return f"Trial {row.number} of study {_plain(plan.name)}{what}"


def _end(row: TrialRow, plan: StudyPlan, worst: str) -> str:
    """How it ended, and the value of each seed."""
    ends = {"complete": "Completed", "pruned": "Pruned", "failed": "Failed"}
    text = ends.get(row.state, row.state.capitalize())
    if row.state == "complete" and row.value is not None:
        ended = "diverged" if row.diverged else show(row.value, worst)
        text += f": {in_words(plan.objective)} **{ended}**"
    if reason := row.attributes.get("reason"):
        text += f" ({_plain(str(reason))})"
    values = list(dict(from_portable(row.attributes.get("values") or {})).items())
    if len(values) > 1:
        listed = ", ".join(f"{seed}: {show(value, worst)}" for seed, value in values[:_SEEDS])
        text += f". By seed {listed}" + (", ..." if len(values) > _SEEDS else "")
    return text + "."


def _cost(row: TrialRow, plan: StudyPlan) -> list[str]:
    """Its iteration time, set against the constraint, which the dashboard does not show."""
    ratio, excess = row.attributes.get("iteration_time"), row.constraints.get("iteration_time")
    if ratio is None or plan.overhead is None:
        return []
    text = f"Iteration time: {ratio:.3f} times the baseline's"
    if excess is None:
        return [text + "."]
    kept = "keeps" if excess <= 0 else "does **not** keep"
    return [f"{text}; it {kept} the constraint of at most {1 + plan.overhead:g} (excess {excess:+.3f})."]


def _changes(row: TrialRow, plan: StudyPlan) -> list[str]:
    """Rows of a table: the fields whose values are not the bootstrap's."""
    found = []
    for parameter in plan.space:
        if parameter.name in (CONTENDER, SEED) or parameter.name not in row.point:
            continue
        held, bootstrap = parameter.plain(row.point[parameter.name]), parameter.plain(parameter.bootstrap)
        if held != bootstrap:
            found.append(f"| {parameter.path} | {_plain(scalar(bootstrap))} | {_plain(scalar(held))} |")
    return found


def _fitted(lines: Sequence[str], table: Sequence[str]) -> str:
    """The note with as many rows of the table as there is room for."""
    for count in range(len(table), -1, -1):
        shown = ["", "| changed | bootstrap | here |", "|---|---|---|", *table[:count]] if count else []
        left = [f"\nAnd {len(table) - count} more, in recipe.yaml."] if count < len(table) else []
        text = "\n".join(["\n\n".join(lines), *shown, *left])
        if len(json.dumps(merged(text, ""))) <= NOTE_BYTES:
            break
    return text


def _plain(text: str) -> str:
    """Text as it is, whatever it means in Markdown, in one line that is not too long."""
    pieces = split(plain(text), _TEXT_BYTES)
    return pieces[0] + ("..." if len(pieces) > 1 else "")
