"""A comparison in words: who won, tied or lost, by how much, and what the schedule's part is."""

from __future__ import annotations

import math
from dataclasses import replace

from jorge_tune.measure.compare import pair
from jorge_tune.measure.comparison import Comparison, Paired, Standing, Tally
from jorge_tune.measure.statistics import MIN_PAIRS, holm
from jorge_tune.recipe.bootstrap import control
from jorge_tune.recipe.schema import Jorge, Recipe
from jorge_tune.reporting.summary import show_value

_SIGNIFICANT = 0.05


def verdict(comparison: Comparison) -> str:
    """Who won, tied or lost against the first contender: one line each, from the numbers alone.

    "won" in epochs takes a corrected p-value of at most 0.05 where there are pairs enough for one, else (and in
    seconds and final values) more than half of the paired seeds and none against; "lost" likewise; as many won as
    lost is "tied", the rest "undecided".
    Where a Jorge recipe races its control (SGD with the same schedule and decoupled decay), these two are set
    against each other as well: what differs between them is the optimizer's own part.
    """
    first = comparison.standings[0]
    lines = [_against(comparison, standing, first, standing.against_first) for standing in comparison.standings[1:]]
    lines += _optimizer_apart(comparison)
    if not lines:
        return f"{first.name} ran alone: there is nothing to compare it with."
    fewest = min((s.against_first.pairs for s in comparison.standings if s.against_first), default=MIN_PAIRS)
    if fewest < MIN_PAIRS:
        lines.append(f"{_count(fewest, 'paired seed')} cannot rule out chance: a p-value takes at least {MIN_PAIRS}.")
    if comparison.is_side_by_side:
        lines.append("Seconds are not compared: the runs trained side by side on one machine.")
    return "\n".join(lines)


def outcome(paired: Paired) -> int:
    """1 won, 0 neither, -1 lost: by the epochs to the target, by the final value where all are level there."""
    tally = paired.epochs
    if tally.wins == tally.losses == 0:
        return _outcome(paired.final, paired.pairs, None)
    return _outcome(tally, paired.pairs, paired.p_corrected)


def is_control(recipe: Recipe, jorge: Recipe) -> bool:
    """Whether a recipe is the control of a Jorge recipe: all the same, with the optimizer that Jorge grafts from."""
    if not isinstance(jorge.optimizer, Jorge) or jorge.optimizer.graft == "none":
        return False
    return (recipe.optimizer, recipe.schedule) == (control(jorge).optimizer, jorge.schedule)


def _outcome(tally: Tally, pairs: int, p: float | None) -> int:
    more, fewer = max(tally.wins, tally.losses), min(tally.wins, tally.losses)
    one_sided = fewer == 0 and 2 * more > pairs
    if (p > _SIGNIFICANT) if p is not None else not one_sided:
        return 0
    return 1 if tally.wins > tally.losses else -1


def _word(tally: Tally, pairs: int, p: float | None) -> str:
    even = "tied" if tally.wins == tally.losses else "undecided"
    return {1: "won", 0: even, -1: "lost"}[_outcome(tally, pairs, p)]


def _against(comparison: Comparison, standing: Standing, other: Standing, paired: Paired | None) -> str:
    names = f"{standing.name} against {other.name}"
    if not standing.scores or not other.scores:
        idle = standing if not standing.scores else other
        return f"{names}: no verdict, {idle.name} has no run that ended."
    if paired is None:
        return f"{names}: no verdict, no seed pairs them."
    words = _epochs(comparison, paired, other.name) + _seconds(comparison, paired)
    text = f"{names}: {words}, {_final(standing, other, paired)}."
    if standing.diverged:
        text += f" {_count(standing.diverged, 'run')} of {standing.name} diverged."
    return text


def _epochs(comparison: Comparison, paired: Paired, other: str) -> str:
    target = f"{comparison.metric} {show_value(comparison.target.value)}"
    if paired.epoch_ratio is None:
        return f"tied in epochs (neither reached {target})"
    word = _word(paired.epochs, paired.pairs, paired.p_corrected)
    tally = paired.epochs
    seeds = _count(paired.pairs, "seed")
    counts = f"earlier on {tally.wins}, level on {tally.ties}, later on {tally.losses} of {seeds}"
    p = "" if paired.p_corrected is None else f", p = {paired.p_corrected:.3g}"
    return f"{word} in epochs to {target} ({_times(paired.epoch_ratio, other)}; {counts}{p})"


def _seconds(comparison: Comparison, paired: Paired) -> str:
    if paired.second_ratio is None or comparison.is_side_by_side:
        return ""
    word = _word(paired.seconds, paired.pairs, None)
    missed = paired.second_ratio == 0 or math.isinf(paired.second_ratio)
    return f", {word} in training seconds to it" + ("" if missed else f" ({paired.second_ratio:.2f} times)")


def _final(standing: Standing, other: Standing, paired: Paired) -> str:
    mine, theirs = standing.spread_of("final"), other.spread_of("final")
    assert mine is not None
    assert theirs is not None
    word = _word(paired.final, paired.pairs, None)
    counts = f"better on {paired.final.wins}, worse on {paired.final.losses}"
    return f"{word} in the final value ({show_value(mine.median)} against {show_value(theirs.median)}; {counts})"


def _optimizer_apart(comparison: Comparison) -> list[str]:
    """Every Jorge contender against its control, where that runs too; p-values corrected for their number."""
    found = [
        (jorge, other, paired)
        for jorge in comparison.standings
        for other in comparison.standings
        if is_control(other.contender.recipe, jorge.contender.recipe)
        and (paired := pair(jorge, other, lower_is_better=comparison.lower_is_better)) is not None
    ]
    lines = []
    for (jorge, other, raw), p in zip(found, holm([paired.p for _, _, paired in found]), strict=True):
        paired = replace(raw, p_corrected=p)
        if other is not comparison.standings[0]:  # else said already
            lines.append(_against(comparison, jorge, other, paired))
        elif jorge.against_first is not None:
            paired = jorge.against_first  # one race, one p-value
        lines.append(_meaning(jorge, other, paired))
    return lines


def _meaning(jorge: Standing, other: Standing, paired: Paired) -> str:
    grafted = {"sgd": "SGD", "adamw": "AdamW"}[other.contender.recipe.optimizer.name]
    part = {
        1: f"the lead of {jorge.name} over it is the optimizer's own",
        0: "these runs do not settle whether the optimizer itself makes a difference",
        -1: f"the loss of {jorge.name} against it is the optimizer's own",
    }[outcome(paired)]
    return f"{other.name} is {grafted} with the schedule and decoupled decay of {jorge.name}: {part}."


def _times(ratio: float, other: str) -> str:
    """The median of paired ratios in words; it is infinite or zero where one side missed on half the seeds or more."""
    if math.isinf(ratio):
        return "missed it on at least half the seeds"
    return f"{other} missed it on at least half the seeds" if ratio == 0 else f"{ratio:.2f} times in the median"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("" if number == 1 else "s")
