"""A study in Markdown, from its report's JSON twin: where it stands, its verdict, and how to go on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from jorge_tune.tuning.dashboard.markdown import plain

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
    """The note of a study beside a search."""
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
    return ["**How to go on**", "", *(f"- {what}: `{command.format(name=name)}`" for what, command in ways)]
