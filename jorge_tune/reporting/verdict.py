"""A comparison in words: who won, tied or lost, by how much, and what the schedule's part is."""

from __future__ import annotations

import math

from jorge_tune.measure.compare import pair
from jorge_tune.measure.comparison import Comparison, Paired, Standing, Tally
from jorge_tune.measure.statistics import MIN_PAIRS
from jorge_tune.recipe.schema import SGD, KroneckerFields, Recipe
from jorge_tune.reporting.summary import show_value

_SIGNIFICANT = 0.05
_WORD = {1: "won", 0: "tied", -1: "lost"}


def verdict(comparison: Comparison) -> str:
    """Who won, tied or lost against the first contender: one line each, from the numbers alone.

    "won" takes more than half of the paired seeds and none against, or (for epochs, with enough pairs) a
    corrected p-value of at most 0.05; "lost" likewise; everything between is "tied". Where the race has a
    preconditioned optimizer and its control (SGD with the same schedule and decoupled decay), these two are
    set against each other as well: what differs between them is the optimizer's own part.
    """
    first = comparison.standings[0]
    lines = [_against(comparison, standing, first, standing.against_first) for standing in comparison.standings[1:]]
    lines += _optimizer_apart(comparison)
    if not lines:
        return f"{first.name} ran alone: there is nothing to compare it with."
    fewest = min((s.against_first.pairs for s in comparison.standings if s.against_first), default=MIN_PAIRS)
    if fewest < MIN_PAIRS:
        lines.append(f"{_count(fewest, 'paired seed')} cannot rule out chance: a p-value takes at least {MIN_PAIRS}.")
    return "\n".join(lines)


def outcome(paired: Paired) -> int:
    """1 won, 0 tied, -1 lost: by the epochs to the target, by the final value where all are level there."""
    tally = paired.epochs
    if tally.wins == tally.losses == 0:
        return _outcome(paired.final, paired.pairs, None)
    return _outcome(tally, paired.pairs, paired.p_corrected)


def is_control(recipe: Recipe) -> bool:
    """Whether the recipe is SGD with decoupled decay, as the control of a race is."""
    return isinstance(recipe.optimizer, SGD) and recipe.optimizer.decoupled


def _outcome(tally: Tally, pairs: int, p: float | None) -> int:
    more, fewer = max(tally.wins, tally.losses), min(tally.wins, tally.losses)
    one_sided = fewer == 0 and 2 * more > pairs
    if not one_sided and (p is None or p > _SIGNIFICANT):
        return 0
    return 1 if tally.wins > tally.losses else -1


def _against(comparison: Comparison, standing: Standing, other: Standing, paired: Paired | None) -> str:
    names = f"{standing.name} against {other.name}"
    if not standing.scores or not other.scores:
        idle = standing if not standing.scores else other
        return f"{names}: no verdict, {idle.name} has no run that ended."
    if paired is None:
        return f"{names}: no verdict, no seed pairs them."
    text = f"{names}: {_epochs(comparison, paired)}{_seconds(paired)}, {_final(standing, other, paired)}."
    if standing.diverged:
        text += f" {_count(standing.diverged, 'run')} of {standing.name} diverged."
    return text


def _epochs(comparison: Comparison, paired: Paired) -> str:
    target = f"{comparison.metric} {show_value(comparison.target.value)}"
    if paired.epoch_ratio is None:
        return f"tied in epochs (neither reached {target})"
    word = _WORD[_outcome(paired.epochs, paired.pairs, paired.p_corrected)]
    tally = paired.epochs
    seeds = _count(paired.pairs, "seed")
    counts = f"earlier on {tally.wins}, level on {tally.ties}, later on {tally.losses} of {seeds}"
    p = "" if paired.p_corrected is None else f", p = {paired.p_corrected:.3g}"
    return f"{word} in epochs to {target} ({_times(paired.epoch_ratio)} in the median; {counts}{p})"


def _seconds(paired: Paired) -> str:
    if paired.second_ratio is None:
        return ""
    word = _WORD[_outcome(paired.seconds, paired.pairs, None)]
    return f", {word} in training seconds to it ({_times(paired.second_ratio)})"


def _final(standing: Standing, other: Standing, paired: Paired) -> str:
    mine, theirs = standing.spread_of("final"), other.spread_of("final")
    assert mine is not None
    assert theirs is not None
    word = _WORD[_outcome(paired.final, paired.pairs, None)]
    counts = f"better on {paired.final.wins}, worse on {paired.final.losses}"
    return f"{word} in the final value ({show_value(mine.median)} against {show_value(theirs.median)}; {counts})"


def _optimizer_apart(comparison: Comparison) -> list[str]:
    """Every preconditioned contender against the controls that share its schedule."""
    lines = []
    for standing in comparison.standings:
        recipe = standing.contender.recipe
        if not isinstance(recipe.optimizer, KroneckerFields):
            continue
        for control in comparison.standings:
            theirs = control.contender.recipe
            if not is_control(theirs) or theirs.schedule != recipe.schedule:
                continue
            paired = pair(standing, control, lower_is_better=comparison.lower_is_better)
            if paired is not None:
                lines.append(
                    _against(comparison, standing, control, paired) + " " + _meaning(standing, control, paired)
                )
    return lines


def _meaning(standing: Standing, control: Standing, paired: Paired) -> str:
    same = f"{control.name} is SGD with the schedule and the decoupled decay of {standing.name}, so"
    part = {
        1: "the optimizer itself gains, beyond its schedule and decay",
        0: "no gain or loss of the optimizer itself is shown beyond its schedule and decay",
        -1: "the optimizer itself costs epochs here: its schedule and decay do better with plain SGD",
    }[outcome(paired)]
    return f"{same} {part}."


def _times(value: float) -> str:
    return "it missed" if math.isinf(value) else f"{value:.2f} times"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("" if number == 1 else "s")
