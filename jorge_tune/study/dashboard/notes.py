"""Notes in Markdown: of a trial (its end, seeds, cost, faults and what differs from the bootstrap), and of a study."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jorge_tune.errors import shortened
from jorge_tune.recipe.render import scalar
from jorge_tune.records import from_portable
from jorge_tune.study.confirm import in_words, run_in_words
from jorge_tune.study.dashboard.attachments import NOTE_BYTES, merged, shortened_to
from jorge_tune.study.plan import BASELINE_SUFFIX, CONTENDER, SEED, StudyPlan, is_comparison
from jorge_tune.study.runs_directory import run_path
from jorge_tune.study.study_verdict import NO_NUMBER, NOT_REACHED, show
from jorge_tune.study.trial_rows import TrialRow
from jorge_tune.untrusted import visible

_TEXT_BYTES = 450  # of why a trial failed, of what was changed, of a value
_SEEDS = 12  # whose values are listed


def trial_note(row: TrialRow, rows: Sequence[TrialRow], plan: StudyPlan, *, are_here: bool) -> str:
    """The note of a trial that has ended; always small enough for one attribute.

    Args:
        row: the trial.
        rows: all trials of its study.
        plan: the study's.
        are_here: whether its runs are on this machine.
    """
    worst = NOT_REACHED if plan.objective.needs_target else NO_NUMBER
    lines = [f"**{_title(row, rows, plan)}**", _end(row, plan, worst)]
    lines += _cost(row, plan)
    if changes := row.attributes.get("changes"):
        lines.append(f"Changed after faults: {_plain(shortened(changes))}.")
    where = run_path_in_words(row, plan)
    lines.append(f"Runs: `{where}` in the study's directory of runs" + ("." if are_here else ", not on this machine."))
    return _fitted(lines, _changes(row, plan))


def run_path_in_words(row: TrialRow, plan: StudyPlan) -> str:
    """`trial-3/seed-0`, or `trial-3` where it has several seeds; within the directory of runs."""
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
    """Text in one line of limited length, its Markdown escaped."""
    return shortened_to(plain(text), _TEXT_BYTES)


_SEARCH = (
    ("how it stands", "jorge-tune study status --name {name}"),
    ("more trials, or on after a stop", "jorge-tune study run --name {name} --trials N"),
    ("confirm the best on fresh seeds", "jorge-tune study confirm --name {name}"),
    ("the best trial's recipe", "jorge-tune study best --name {name} -o best.yaml"),
    ("the whole report", "jorge-tune report {name} -o {name}.html"),
)
_COMPARISON = (
    ("how it stands", "jorge-tune study status --name {name}"),
    ("the whole report", "jorge-tune report {name} -o {name}.html"),
)


def study_note(twin: Mapping[str, Any], name: str) -> str:
    """The note of a search, or of a comparison.

    Args:
        twin: the report's.
        name: the study's.
    """
    study = twin["data"].get("study")
    lines = [f"**{plain(twin['title'])}**. {plain(twin['lead'])}", ""]
    if study is not None and not any(trial["ended"] for trial in study["trials"]):
        lines += ["No trial has ended yet: notes, files and plots follow as trials end.", ""]
    lines += ["**Verdict**", ""]
    lines += [f"- {plain(sentence['text'])}" for sentence in twin["verdict"]] or ["- Nothing to judge by yet."]
    noted = [section for section in twin["sections"] if section["name"] == "notes"]
    lines += [f"- Note: {plain(note)}" for section in noted for note in section["lines"]]
    lines += ["", *_beware(study)]
    return "\n".join([*lines, "", *_ways(_COMPARISON if study is None else _SEARCH, name)])


def side_note(name: str, search: str) -> str:
    """The note of a companion study."""
    what = "the baseline" if name.endswith(".sgd") else "the confirmation, on seeds that the search did not see,"
    return f"**Study {plain(name)}**: {what} of study {plain(search)}, whose page has the verdict."


def bare_note(name: str, reason: str) -> str:
    """The note of a study of which there is no report."""
    return "\n".join([f"**Study {plain(name)}**. {plain(reason)}", "", *_ways(_COMPARISON, name)])


def _beware(study: Mapping[str, Any] | None) -> list[str]:
    """What this dashboard does not know of; None: of a comparison."""
    if study is None:
        return ["This is a race, no search: what this dashboard calls the best trial is one run of one contender."]
    if study["constraint"] is None:
        return []
    return [
        f"The constraint: {plain(study['constraint'])}. This dashboard does not know it: what it calls the best trial "
        "may break it. Each trial's note says whether it keeps it."
    ]


def _ways(ways: Sequence[tuple[str, str]], name: str) -> list[str]:
    return ["**Next steps**", "", *(f"- {what}: `{command.format(name=name)}`" for what, command in ways)]


_MARKUP = re.compile(r"([\\`*_{}\[\]<>#|~])")


def plain(text: str) -> str:
    """Text in one line, its Markdown escaped and its control characters written out."""
    return _MARKUP.sub(r"\\\1", visible(" ".join(text.split())))
