"""A study's verdict in sentences, one line each, from the values alone."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from jorge_tune.measure.statistics import SIGNIFICANT
from jorge_tune.recipe.render import scalar
from jorge_tune.tuning.results.contest import Contender, Gain
from jorge_tune.tuning.results.verdict import BASELINE, BEST, BOOTSTRAP, MISSED, NO_NUMBER, Chosen, Verdict

_DIGITS = 4
_WORDS = {MISSED: "miss", NO_NUMBER: "no number"}


def sentences(verdict: Verdict) -> tuple[str, ...]:
    """The headline, whether one shot was enough, and then all that they rest on."""
    lines = [headline(verdict), _single_shot(verdict)]
    lines += [_counts(verdict), _bootstrap(verdict), _best(verdict), _baseline(verdict)]
    lines += _confirmation(verdict)
    lines += [_importances(verdict), *_edges(verdict), *verdict.notes]
    return tuple(line for line in lines if line)


def headline(verdict: Verdict) -> str:
    """The bootstrap against the baseline in one sentence; on confirmation seeds, where it was run on any."""
    gain = verdict.gain(BOOTSTRAP, BASELINE)
    if gain is not None:
        return _headline_of(gain, verdict)
    trial = verdict.bootstrap
    if verdict.baseline is None:
        return "No baseline has ended, so there is nothing to compare the bootstrap with."
    if trial is None or trial.value is None:
        state = "missing" if trial is None else trial.state
        return f"The bootstrap is not compared with the baseline yet: trial 0 is {state}."
    values = f"{show(trial.value, verdict.worst)} against {show(verdict.baseline, verdict.worst)}"
    return (
        f"Nothing is confirmed: the bootstrap has {values} of the baseline in {verdict.objective}, on the seeds of the "
        "search alone."
    )


def show(value: float, worst: str) -> str:
    """A value of the objective in four digits; an infinite one in words: a miss where there is a target, or none."""
    return _WORDS[worst] if math.isinf(value) else f"{value:.{_DIGITS}g}"


def show_point(point: Mapping[str, Any]) -> str:
    """`optimizer.lr 0.2, optimizer.weight_decay 0.005`, as recipes write values."""
    return ", ".join(f"{name} {scalar(value)}" for name, value in point.items())


def _headline_of(gain: Gain, verdict: Verdict) -> str:
    spreads = {contender.name: contender.spread for contender in verdict.contenders}
    mine, theirs = spreads[BOOTSTRAP], spreads[BASELINE]
    assert mine is not None
    assert theirs is not None
    seeds = _number(gain.pairs, "confirmation seed")
    medians = f"{verdict.objective} {show(mine.median, verdict.worst)} against {show(theirs.median, verdict.worst)}"
    if gain.wins == gain.losses == 0:
        return f"The bootstrap and the baseline are level on {seeds} ({medians})."

    is_clean = not min(gain.wins, gain.losses) and 2 * max(gain.wins, gain.losses) > gain.pairs
    is_told = is_clean if gain.p_corrected is None else gain.p_corrected <= SIGNIFICANT
    is_better = gain.wins > gain.losses if gain.p_corrected is None else gain.leaning > 0
    chance = f"; {_number(gain.pairs, 'seed')} cannot rule out chance"
    if gain.p_corrected is not None:
        chance = f" (p = {gain.p_corrected:.2g}{'' if is_told else ', which does not rule out chance'})"
    if not is_told:
        counts = f"better on {gain.wins}, level on {gain.ties}, worse on {gain.losses} of {seeds}"
        return f"Whether the bootstrap is better than the baseline is undecided: {medians}, {counts}{chance}."
    word, number = ("better", gain.wins) if is_better else ("worse", gain.losses)
    return f"The bootstrap is {word} than the baseline: {medians}, {word} on {number} of {seeds}{chance}."


def _counts(verdict: Verdict) -> str:
    counts = verdict.counts
    parts = [
        f"{number} {what}"
        for number, what in (
            (counts.complete, "completed"),
            (counts.pruned, "pruned"),
            (counts.failed, "failed"),
            (counts.unfinished, "not ended"),
            (verdict.total - counts.complete - counts.pruned - counts.failed - counts.unfinished, "not begun"),
        )
        if number or what == "completed"
    ]
    line = f"{_number(verdict.total, 'trial')} in all: {', '.join(parts)}."
    among = [
        f"{number} {what}" for number, what in ((counts.diverged, "diverged"), (counts.missed, verdict.worst)) if number
    ]
    line += f" Of the completed, {' and '.join(among)}." if among else ""
    if counts.infeasible:
        line += f" {counts.infeasible} of {counts.complete} do not keep {verdict.constraint}."
    return line


def _bootstrap(verdict: Verdict) -> str:
    trial, rank = verdict.bootstrap, verdict.rank
    if trial is None:
        return ""
    if rank is None or trial.value is None:
        return f"The bootstrap (trial 0) has no {verdict.objective}: it is {trial.state}."
    line = f"The bootstrap (trial 0) is number {rank.place} of {_number(rank.of, 'trial')} that ended, by "
    line += f"{verdict.objective}: {'diverged' if trial.diverged else show(trial.value, verdict.worst)}"
    line += f"; {_number(rank.equal, 'other')} reached the same." if rank.equal else "."
    if rank.feasible_better < rank.place - 1:
        line += f" Only {rank.feasible_better} of the better ones keep {verdict.constraint}."
    if not trial.is_feasible:
        line += f" It does not keep {verdict.constraint} itself."
    return line


def _best(verdict: Verdict) -> str:
    best = verdict.best
    if best is None:
        return f"There is no best trial: {verdict.why_no_best}."
    if best.number == 0:
        return "No trial was better, so the bootstrap is the best there is."
    assert best.value is not None
    return f"The best is trial {best.number}: {show(best.value, verdict.worst)}, at {show_point(best.values)}."


def _baseline(verdict: Verdict) -> str:
    if verdict.baseline is None:
        return ""
    return f"The baseline has {show(verdict.baseline, verdict.worst)} on the seeds of the search."


def _confirmation(verdict: Verdict) -> list[str]:
    if not verdict.contenders:
        return []
    seeds = sorted({seed for contender in verdict.contenders for seed in contender.values})
    shown = ", ".join(_spread(contender, verdict) for contender in verdict.contenders)
    lines = [f"On {_number(len(seeds), 'confirmation seed')} ({_ranges(seeds)}), median [lowest, highest]: {shown}."]
    return lines + [_gain(gain, verdict) for gain in verdict.gains]


def _spread(contender: Contender, verdict: Verdict) -> str:
    found = contender.spread
    assert found is not None
    low, median, high = (show(value, verdict.worst) for value in (found.low, found.median, found.high))
    missing = "" if found.count == max(len(c.values) for c in verdict.contenders) else f" ({found.count} of them)"
    return f"{_named(contender.name, verdict.best)} {median} [{low}, {high}]{missing}"


def _gain(gain: Gain, verdict: Verdict) -> str:
    names = f"{_named(gain.contender, verdict.best)} against {_named(gain.against, verdict.best)}"
    named = "p" if gain.p == gain.p_corrected else "corrected p"
    p = "" if gain.p_corrected is None else f", {named} = {gain.p_corrected:.2g}"
    median, low, high = (_signed(value) for value in (gain.median, gain.low, gain.high))
    amount = f"a gain of {median} [{low}, {high}]"
    if math.isinf(gain.median):
        amount = "no gain to put in numbers, as one of them has none on most seeds"
    counts = f"better on {gain.wins}, level on {gain.ties}, worse on {gain.losses}"
    line = f"{names}: {amount}; {counts} of {_number(gain.pairs, 'seed')}{p}."
    return line[:1].upper() + line[1:]


def _single_shot(verdict: Verdict) -> str:
    told = verdict.single_shot
    word = {"held": "held", "beaten": "did not hold", "undecided": "is undecided"}[told.outcome]
    line = f"Single-shot tuning {word}: {told.reason}"
    gain = verdict.gain(BEST, BOOTSTRAP)
    if gain is None or told.outcome == "undecided":
        return line + "."
    if told.outcome == "beaten":
        return f"{line}, by {_signed(gain.median)} [{_signed(gain.low)}, {_signed(gain.high)}]."
    return f"{line}; what was left behind is at most {_signed(max(gain.high, 0.0))} (upper end of the 95 % interval)."


def _importances(verdict: Verdict) -> str:
    found = verdict.importances
    if found.reason:
        return f"Importance of the parameters: not enough to tell ({found.reason})."
    shown = ", ".join(f"{name} {100 * share:.0f} %" for name, share in found.shares.items())
    by = "" if found.reading is None else f", ranked by evaluation {found.reading}, before most were pruned"
    return f"What sets the {found.good} best of {found.trials} trials apart{by}: {shown}."


def _edges(verdict: Verdict) -> list[str]:
    return [f"Warning: {edge}; a wider space may hold a better one." for edge in verdict.edges]


def _named(name: str, best: Chosen | None) -> str:
    if name == BEST and best is not None:
        return f"trial {best.number}"
    return {BASELINE: "the baseline", BOOTSTRAP: "the bootstrap"}.get(name, name)


def _signed(value: float) -> str:
    return f"{value:+.2g}" if value else "0"


def _number(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("" if number == 1 else "s")


def _ranges(seeds: Sequence[int]) -> str:
    """`1-6` or `1-3, 7`."""
    runs: list[list[int]] = []
    for seed in seeds:
        if runs and seed == runs[-1][1] + 1:
            runs[-1][1] = seed
        else:
            runs.append([seed, seed])
    return ", ".join(str(low) if low == high else f"{low}-{high}" for low, high in runs)
