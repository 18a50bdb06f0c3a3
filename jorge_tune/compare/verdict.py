"""A comparison in words: who won, tied or lost, by how much, and how much of it is due to the schedule."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

from jorge_tune.compare.comparison import Comparison, RaceContest, Standing
from jorge_tune.compare.contest import PairedContest
from jorge_tune.compare.statistics import MIN_PAIRS, SIGNIFICANT, Spread

_PLAIN = {"top1": "accuracy"}
"""The headline's name for a metric."""


def verdict(comparison: Comparison) -> str:
    """The headline, and then one line for each contest: who won, tied or lost. Numbers alone decide."""
    lines = details(comparison)
    return lines if len(comparison.standings) == 1 else f"{headline(comparison)}\n{lines}"


def headline(comparison: Comparison) -> str:
    """One sentence about Jorge against the reference, or about another contender where no Jorge recipe runs.

    An outcome that chance could explain is called undecided, or the sentence says that the seeds are too few.
    """
    subject, other, paired = _main_contest(comparison)
    names = f"{_shown_name(subject)} against {other.name}"
    if paired is None:
        idle = next((one for one in (subject, other) if not one.scores), None)
        why = "they have no paired seeds" if idle is None else f"{idle.name} has no run that ended"
        return f"{names}: no verdict, {why}."
    text = _headline_of(comparison, subject, other, paired)
    diverged = [f"{_count(one.diverged, 'run')} of {one.name} diverged" for one in (subject, other) if one.diverged]
    return "; ".join([text, *diverged]) + "."


def headline_outcome(comparison: Comparison) -> str:
    """The outcome of the headline's contest in one word; "" where there is no contest."""
    _, _, paired = _main_contest(comparison)
    return "" if paired is None else word(deciding(paired))


def details(comparison: Comparison) -> str:
    """One line for each contender: whether it won, tied or lost against the first one.

    "won" needs a corrected p-value of at most 0.05. Where the pairs are too few for a p-value, it needs wins on more
    than half of the paired seeds and no loss. "lost" is the same the other way round. Equally many wins and losses are
    "tied"; everything else is "undecided".
    A Jorge recipe is also compared with its control (the optimizer it grafts from, with its schedule and decoupled
    decay), if the control runs too: the two differ in the optimizer alone.
    """
    first = comparison.standings[0]
    lines = [_against(comparison, standing, first, standing.against_first) for standing in comparison.standings[1:]]
    lines += _optimizer_apart(comparison)
    if not lines:
        return f"{first.name} ran alone: there is nothing to compare it with."
    lines += _too_few(comparison)
    if comparison.is_side_by_side:
        lines.append("Seconds are not compared: the runs trained side by side on one machine.")
    elif comparison.clock_fault is not None:
        lines.append(f"Seconds are not compared: {comparison.clock_fault}.")
    elif not comparison.compares_seconds:
        lines.append(f"Seconds are not compared: the runs trained on {', '.join(comparison.devices)}.")
    return "\n".join(lines)


def outcome(paired: RaceContest) -> int:
    """1 for won, -1 for lost, else 0: by epochs to the target; by the final value where all seeds are equal there."""
    return deciding(paired).outcome


def deciding(paired: RaceContest) -> PairedContest:
    """The quantity that decides between two contenders."""
    return paired.epochs if paired.epochs.wins or paired.epochs.losses else paired.final


def _main_contest(comparison: Comparison) -> tuple[Standing, Standing, RaceContest | None]:
    """The two contenders of the headline, and the contest as the first of them sees it.

    The first one is Jorge, or the leader where no Jorge recipe runs. The second one is the reference, or SGD where
    Jorge is the reference.
    """
    first, *others = comparison.standings
    if _is_jorge(first):
        sgd = next((one for one in others if one.contender.recipe.optimizer.name == "sgd"), None)
        if sgd is not None:
            held = sgd.against_first if sgd.scores and first.scores else None
            return first, sgd, None if held is None else held.turned()
    jorges = sorted(filter(_is_jorge, others), key=lambda one: one.contender.recipe.schedule.name == "gen")
    leader = min(others, key=lambda one: math.inf if one.mean_rank is None else one.mean_rank)
    subject = jorges[0] if jorges else leader
    return subject, first, subject.against_first if subject.scores and first.scores else None


def _is_jorge(standing: Standing) -> bool:
    return standing.contender.recipe.optimizer.name == "jorge"


def _headline_of(comparison: Comparison, subject: Standing, other: Standing, paired: RaceContest) -> str:
    tally, name, goal = deciding(paired), _shown_name(subject), _goal(comparison, other)
    outcome_word, chance = word(tally), _chance(tally)
    seeds, ratio = _count(paired.pairs, "seed"), paired.epoch_ratio
    if tally is paired.final:
        level = f"{name} and {other.name} reached {goal} in equally many epochs"
        if ratio is None:
            level = f"Neither {subject.name} nor {other.name} reached {goal}"
        return f"{level}; {_final_headline(subject, other, paired)}{chance}"

    if outcome_word == "won":
        how = f"in {ratio:.2f}x the epochs of {other.name}, earlier" if ratio else f"earlier than {other.name}"
        return f"{name} reached {goal} {how} on {tally.wins} of {seeds}{chance}"
    if outcome_word == "lost":
        is_known = ratio is not None and math.isfinite(ratio)
        how = f"in {ratio:.2f}x the epochs, later" if is_known else "later or not at all"
        return f"{name} lost to {other.name}: it reached {goal} {how} on {tally.losses} of {seeds}{chance}"
    counts = f"earlier on {tally.wins}, level on {tally.ties}, later on {tally.losses} of {seeds}"
    return f"{name} against {other.name} is {outcome_word}: it reached {goal} {counts}{chance}"


def _final_headline(subject: Standing, other: Standing, paired: RaceContest) -> str:
    mine, theirs = subject.spread_of("final"), other.spread_of("final")
    assert mine is not None
    assert theirs is not None
    tally, seeds = paired.final, _count(paired.pairs, "seed")
    medians = f"{show_value(mine.median)} against {show_value(theirs.median)}"
    if tally.wins == tally.losses == 0:
        return f"their final values are level ({medians})"
    outcome_word = word(tally)
    if outcome_word == "won":
        return f"{subject.name}'s final value is better on {tally.wins} of {seeds} ({medians})"
    if outcome_word == "lost":
        return f"{subject.name}'s final value is worse on {tally.losses} of {seeds} ({medians})"
    return f"the final value is {outcome_word} ({medians}; better on {tally.wins}, worse on {tally.losses} of {seeds})"


def _chance(tally: PairedContest) -> str:
    """What to say about chance where one of the two is ahead."""
    if tally.p_corrected is not None:
        rules = "" if tally.p_corrected <= SIGNIFICANT else ", which does not rule out chance"
        return f" (p = {tally.p_corrected:.3g}{rules})"
    if tally.wins == tally.losses == 0:
        return ""
    return f"; {_count(tally.pairs, 'seed')} cannot rule out chance"


def _goal(comparison: Comparison, other: Standing) -> str:
    """The target in words: the reference's final value, or a value of the metric."""
    metric, value = _PLAIN.get(comparison.metric, comparison.metric), show_value(comparison.target.value)
    if other is comparison.standings[0] and comparison.target.origin == f"{other.name}'s median final value":
        return f"{other.name}'s final {metric} ({value})"
    return f"{metric} {value}"


def _shown_name(standing: Standing) -> str:
    """A contender's name at the beginning of a sentence."""
    return "Jorge" if standing.name == "jorge" else standing.name


def _too_few(comparison: Comparison) -> list[str]:
    """How many paired seeds a significant result needs, where there are fewer."""
    contests = {frozenset((s.name, comparison.standings[0].name)): s.against_first for s in comparison.standings}
    contests |= {frozenset((one.jorge, one.control)): one.paired for one in comparison.apart}
    open_ones = [paired.pairs for paired in contests.values() if paired is not None and not _is_significant(paired)]
    enough = MIN_PAIRS
    while len(open_ones) * 2 / 2**enough > SIGNIFICANT:
        enough += 1
    if not open_ones or min(open_ones) >= enough:
        return []
    over = "" if len(open_ones) == 1 else f" over {len(open_ones)} contests"
    return [f"{_count(min(open_ones), 'paired seed')} cannot rule out chance{over}: {enough} could."]


def _is_significant(paired: RaceContest) -> bool:
    p = deciding(paired).p_corrected
    return p is not None and p <= SIGNIFICANT


def word(tally: PairedContest) -> str:
    """ "won", "tied", "undecided" or "lost" for one quantity."""
    even = "tied" if tally.wins == tally.losses else "undecided"
    return {1: "won", 0: even, -1: "lost"}[tally.outcome]


def _against(comparison: Comparison, standing: Standing, other: Standing, paired: RaceContest | None) -> str:
    names = f"{standing.name} against {other.name}"
    if not standing.scores or not other.scores:
        idle = standing if not standing.scores else other
        return f"{names}: no verdict, {idle.name} has no run that ended."
    if paired is None:
        return f"{names}: no verdict, they have no paired seeds."
    words = _epochs(comparison, paired, other.name) + _seconds(comparison, paired)
    text = f"{names}: {words}, {_final(standing, other, paired)}."
    if standing.diverged:
        text += f" {_count(standing.diverged, 'run')} of {standing.name} diverged."
    return text


def _epochs(comparison: Comparison, paired: RaceContest, other: str) -> str:
    target = f"{comparison.metric} {show_value(comparison.target.value)}"
    tally, ratio = paired.epochs, paired.epoch_ratio
    if ratio is None and tally.wins == tally.losses == 0:
        return f"tied in epochs (neither reached {target})"
    seeds = _count(paired.pairs, "seed")
    counts = f"earlier on {tally.wins}, level on {tally.ties}, later on {tally.losses} of {seeds}{_p(tally)}"
    return f"{word(tally)} in epochs to {target} ({_times(ratio, other)}{counts})"


def _seconds(comparison: Comparison, paired: RaceContest) -> str:
    if paired.second_ratio is None or not comparison.compares_seconds:
        return ""
    outcome_words = f", {word(paired.seconds)} in training seconds to it"
    if paired.second_ratio == 0 or math.isinf(paired.second_ratio):
        return outcome_words
    return f"{outcome_words} ({paired.second_ratio:.2f} times{_p(paired.seconds)})"


def _final(standing: Standing, other: Standing, paired: RaceContest) -> str:
    mine, theirs = standing.spread_of("final"), other.spread_of("final")
    assert mine is not None
    assert theirs is not None
    counts = f"better on {paired.final.wins}, worse on {paired.final.losses}{_p(paired.final)}"
    medians = f"{show_value(mine.median)} against {show_value(theirs.median)}"
    return f"{word(paired.final)} in the final value ({medians}; {counts})"


def _optimizer_apart(comparison: Comparison) -> list[str]:
    """Every Jorge contender against its control, if the control runs too."""
    standings = {standing.name: standing for standing in comparison.standings}
    lines = []
    for one in comparison.apart:
        jorge, other = standings[one.jorge], standings[one.control]
        if comparison.standings[0] not in (jorge, other):  # else this line is there already
            lines.append(_against(comparison, jorge, other, one.paired))
        lines.append(_meaning(jorge, other, one.paired))
    return lines


def _meaning(jorge: Standing, other: Standing, paired: RaceContest) -> str:
    grafted = {"sgd": "SGD", "adamw": "AdamW"}[other.contender.recipe.optimizer.name]
    won = outcome(paired)
    if won == 0:
        part = "these runs do not settle whether the optimizer itself makes a difference"
    elif deciding(paired).p_corrected is None:
        lead = "lead over" if won > 0 else "loss against"
        part = f"the {lead} it points to the optimizer itself, as far as {_count(paired.pairs, 'seed')} can tell"
    elif won > 0:
        part = f"the lead of {jorge.name} over it is the optimizer's own"
    else:
        part = f"the loss of {jorge.name} against it is the optimizer's own"
    return f"{other.name} is {grafted} with the schedule and decoupled decay of {jorge.name}: {part}."


def _times(ratio: float | None, other: str) -> str:
    """The median of the paired ratios in words; it is infinite or 0 where half of the runs did not reach the target."""
    if ratio is None:
        return ""
    if math.isinf(ratio):
        return "did not reach it on at least half the seeds; "
    return (
        f"{other} did not reach it on at least half the seeds; " if ratio == 0 else f"{ratio:.2f} times in the median; "
    )


def _p(tally: PairedContest) -> str:
    return "" if tally.p_corrected is None else f", p = {tally.p_corrected:.3g}"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("" if number == 1 else "s")


NOT_REACHED = "not reached"
_ALWAYS = ("contender", "runs", "epochs to target", "final", "best")


class Table(NamedTuple):
    """Headings, rows of cells, and the headings of columns that are aligned to the right."""

    headings: list[str]
    rows: list[list[str]]
    right: list[str]


def comparison_table(comparison: Comparison) -> Table:
    """One row per contender, without the columns that are empty for all of them."""
    rows = [_row(comparison, standing) for standing in comparison.standings]
    headings = [name for name in rows[0] if name in _ALWAYS or any(row[name] != "-" for row in rows)]
    cells = [[row[name] for name in headings] for row in rows]
    return Table(headings, cells, [name for name in headings if name != "contender"])


def target_sentence(comparison: Comparison) -> str:
    """The target, where it comes from, and which part of the data decides."""
    sign = "<=" if comparison.lower_is_better else ">="
    return (
        f"target: {comparison.metric} {sign} {show_value(comparison.target.value)} "
        f"({comparison.target.origin}), read on the {comparison.part} part; "
        "cells show the median [lowest, highest] over seeds"
    )


def show_value(value: float) -> str:
    """A metric's value. An infinite one stands for a run that diverged or ended in NaN."""
    return "no number" if math.isinf(value) else f"{value:.4g}"


def show_amount(value: float) -> str:
    """Epochs or seconds to the target; infinitely many where a run did not reach it."""
    if math.isinf(value):
        return NOT_REACHED
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def show_ratio(value: float | None) -> str:
    """A paired ratio; "-" where no pair has one. Infinity and 0 say which of the two did not reach the target."""
    if value is None:
        return "-"
    if math.isinf(value):
        return NOT_REACHED
    return f"first {NOT_REACHED}" if value == 0 else f"{value:.2f}"


def _row(comparison: Comparison, standing: Standing) -> dict[str, str]:
    paired = standing.against_first
    row = {
        "contender": standing.name,
        "runs": _runs(standing),
        "epochs to target": _hits(standing, "epochs_to_target"),
        "ratio": "-",
        "win/tie/loss": "-",
        "rank": "-" if standing.mean_rank is None else f"{standing.mean_rank:.2f}",
        "p": "-",
        "seconds to target": _hits(standing, "seconds_to_target"),
        "seconds ratio": "-",
        "final": _range(standing.spread_of("final"), show_value),
        "best": _range(standing.spread_of("best"), show_value),
        "test": _range(standing.spread_of("test"), show_value),
    }
    if paired is not None:
        row |= {
            "ratio": show_ratio(paired.epoch_ratio),
            "seconds ratio": show_ratio(paired.second_ratio),
            "win/tie/loss": f"{paired.epochs.wins}/{paired.epochs.ties}/{paired.epochs.losses}",
            "p": "-" if paired.epochs.p_corrected is None else f"{paired.epochs.p_corrected:.3g}",
        }
    elif standing is comparison.standings[0] and len(comparison.standings) > 1:
        row |= {"ratio": "1", "seconds ratio": "1"}
    if not comparison.compares_seconds:
        row |= {"seconds to target": "-", "seconds ratio": "-"}
    return row


def _runs(standing: Standing) -> str:
    text = str(len(standing.scores))
    text += f", {standing.diverged} diverged" if standing.diverged else ""
    return text + (f", {len(standing.left_out)} left out" if standing.left_out else "")


def _hits(standing: Standing, field: str) -> str:
    """Median and range. Where not all runs reached the target, "-" for the highest, and how many runs did."""
    found = standing.spread_of(field)
    if found is None:
        return "-"
    if math.isinf(found.low):
        return NOT_REACHED

    reached = sum(math.isfinite(getattr(score, field)) for score in standing.scores)
    if reached == found.count:
        return _range(found, show_amount)
    return f"{show_amount(found.median)} [{show_amount(found.low)}, -], {reached} of {found.count} reached"


def _range(found: Spread | None, show: Callable[[float], str]) -> str:
    if found is None:
        return "-"
    if found.count == 1:
        return show(found.median)
    return f"{show(found.median)} [{show(found.low)}, {show(found.high)}]"
