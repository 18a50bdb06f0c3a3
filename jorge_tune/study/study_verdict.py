"""What a study says in the end: the bootstrap's rank, the best trial, the confirmation, whether one shot was enough.

Whether single-shot tuning held is decided by the confirmation alone, because the best of many trials looks better
than it is on the seeds that chose it:

- held: no other trial that came to an end was better; or, on at least six confirmation seeds, the best trial was not
  significantly better than the bootstrap. The upper end of its gain's interval is what may have been left behind.
- beaten: it was, at 0.05, by the signed-rank test of this one contest.
- undecided: too few common seeds, no confirmation, nothing to compare, an interval without an upper end, or a
  bootstrap that breaks the constraint.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from jorge_tune.compare import statistics
from jorge_tune.compare.statistics import MIN_PAIRS, SIGNIFICANT, Spread
from jorge_tune.recipe.render import scalar
from jorge_tune.records import portable
from jorge_tune.study.space import SearchSpace
from jorge_tune.study.trial_rows import Importances, TrialRow, best_of, finite, sort_key

Outcome = Literal["held", "beaten", "undecided"]

BASELINE, BOOTSTRAP, BEST = "baseline", "bootstrap", "best"

MISSED, NO_NUMBER = "missed the target", "ended without a number"
"""What an infinite value means where the run did not diverge: with a target, and without one."""


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """What a verdict is made from.

    `rows` are the search's trials, number 0 the bootstrap; `confirmation` the values per contender and seed, for
    baseline, bootstrap and (where it is another trial) best. `worst`: see `MISSED`. `constraint`
    says in words what a feasible trial keeps; None: anything is.
    """

    study: str
    objective: str
    lower_is_better: bool
    worst: str = NO_NUMBER
    total: int
    rows: Sequence[TrialRow]
    space: SearchSpace
    importances: Importances
    constraint: str | None = None
    baseline: float | None = None
    confirmation: Mapping[str, Mapping[int, float]] = field(default_factory=dict)
    notes: Sequence[str] = ()


@dataclass(frozen=True)
class ChosenTrial:
    """A trial as a verdict names it; `value` None: it has none (yet), and `state` says why.

    `point` is what the trial holds (factors), `values` what its recipe has for them.
    """

    number: int
    state: str
    value: float | None
    point: Mapping[str, Any]
    values: Mapping[str, Any]
    is_feasible: bool
    diverged: bool


@dataclass(frozen=True)
class Rank:
    """The bootstrap's place among all trials that ended: 1 + those better; equals share it.

    A pruned or failed trial is behind. `feasible_better` counts only those that kept the constraint.
    """

    place: int
    of: int
    equal: int
    feasible_better: int


@dataclass(frozen=True)
class TrialCounts:
    """How many trials came to which end; `diverged`, `missed` and `infeasible` ones are among the completed."""

    complete: int
    pruned: int
    failed: int
    unfinished: int
    diverged: int
    missed: int
    infeasible: int


@dataclass(frozen=True)
class SingleShot:
    """Whether the bootstrapped recipe held against the search, and why."""

    outcome: Outcome
    reason: str


@dataclass(frozen=True, kw_only=True)
class StudyVerdict:
    """All of it, as values; `words.sentences` says it."""

    study: str
    objective: str
    lower_is_better: bool
    worst: str
    total: int
    counts: TrialCounts
    bootstrap: ChosenTrial | None
    best: ChosenTrial | None
    why_no_best: str
    rank: Rank | None
    baseline: float | None
    constraint: str | None
    contenders: tuple[ConfirmedRecipe, ...]
    gains: tuple[Gain, ...]
    single_shot: SingleShot
    importances: Importances
    edges: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def has_answer(self) -> bool:
        """Whether there is a best trial at all."""
        return self.best is not None

    def gain(self, contender: str, against: str) -> Gain | None:
        """One of the contests that were held."""
        return next((g for g in self.gains if (g.contender, g.against) == (contender, against)), None)

    def to_json(self) -> dict[str, Any]:
        """Plain data; infinities (diverged, missed) as strings."""
        data = asdict(self)
        for contender, values in zip(data["contenders"], self.contenders, strict=True):
            contender["spread"] = None if values.spread is None else asdict(values.spread)
        return portable(data)  # type: ignore[return-value]


def judge(evidence: Evidence) -> StudyVerdict:
    """The verdict on a study, finished or not."""
    lower = evidence.lower_is_better
    bootstrap = next((row for row in evidence.rows if row.number == 0), None)
    best = best_of(evidence.rows, lower_is_better=lower)
    contenders = tuple(
        ConfirmedRecipe(name, dict(sorted(values.items())))
        for name in (BASELINE, BOOTSTRAP, BEST)
        if (values := evidence.confirmation.get(name))
    )
    held = gains(contenders, lower_is_better=lower, question=(BEST, BOOTSTRAP))
    counts = _counts(evidence.rows)
    return StudyVerdict(
        study=evidence.study,
        objective=evidence.objective,
        lower_is_better=lower,
        worst=evidence.worst,
        total=evidence.total,
        counts=counts,
        bootstrap=_chosen(bootstrap, evidence.space),
        best=_chosen(best, evidence.space),
        why_no_best="" if best is not None else _why_no_best(counts, evidence.worst),
        rank=_rank(bootstrap, evidence.rows, lower),
        baseline=evidence.baseline,
        constraint=evidence.constraint,
        contenders=contenders,
        gains=held,
        single_shot=_single_shot(bootstrap, best, held, counts, evidence),
        importances=evidence.importances,
        edges=tuple(evidence.space.edges(best.point)) if best is not None else (),
        notes=tuple(evidence.notes),
    )


def _chosen(row: TrialRow | None, space: SearchSpace) -> ChosenTrial | None:
    if row is None:
        return None
    value = row.value if row.state == "complete" else None
    values = {p.path: p.plain(row.point[p.name]) for p in space if p.name in row.point}
    return ChosenTrial(row.number, row.state, value, dict(row.point), values, row.is_feasible, row.diverged)


def _counts(rows: Sequence[TrialRow]) -> TrialCounts:
    complete = [row for row in rows if row.state == "complete"]
    states = [row.state for row in rows]
    worst = [row for row in complete if row.value is not None and math.isinf(row.value)]
    return TrialCounts(
        complete=len(complete),
        pruned=states.count("pruned"),
        failed=states.count("failed"),
        unfinished=states.count("running") + states.count("waiting"),
        diverged=sum(row.diverged for row in complete),
        missed=sum(not row.diverged for row in worst),
        infeasible=sum(not row.is_feasible for row in complete),
    )


def _rank(bootstrap: TrialRow | None, rows: Sequence[TrialRow], lower: bool) -> Rank | None:
    """None while the bootstrap has no value."""
    if bootstrap is None or bootstrap.state != "complete" or bootstrap.value is None:
        return None
    ended = [row for row in rows if row.state in ("complete", "pruned", "failed")]
    key = sort_key(lower)
    better = [row for row in finite(rows) if key(row) < key(bootstrap)]
    equal = [row for row in ended if row.state == "complete" and row.value == bootstrap.value]
    return Rank(len(better) + 1, len(ended), len(equal) - 1, sum(row.is_feasible for row in better))


def _single_shot(
    bootstrap: TrialRow | None, best: TrialRow | None, held: Sequence[Gain], counts: TrialCounts, evidence: Evidence
) -> SingleShot:
    if bootstrap is None or bootstrap.state not in ("complete", "pruned"):
        state = "is missing" if bootstrap is None else f"is {bootstrap.state}"
        return SingleShot("undecided", f"trial 0, the bootstrap, {state}")
    if best is None:
        return SingleShot("undecided", _why_no_best(counts, evidence.worst))
    if not bootstrap.is_feasible:
        return SingleShot("undecided", "trial 0, the bootstrap, does not keep the constraint itself")
    if best.point == bootstrap.point and bootstrap.state == "complete":
        return _unbeaten(counts, evidence.total)
    gain = next((g for g in held if (g.contender, g.against) == (BEST, BOOTSTRAP)), None)
    if gain is None:
        return SingleShot("undecided", f"trial {best.number} was better in the search, and was not run on other seeds")
    if gain.pairs < MIN_PAIRS:
        seeds = f"{gain.pairs} confirmation seed" + ("" if gain.pairs == 1 else "s")
        return SingleShot("undecided", f"{seeds} cannot rule out chance: {MIN_PAIRS} can")
    if gain.p is not None and gain.p <= SIGNIFICANT and gain.leaning > 0:
        return SingleShot("beaten", f"on confirmation seeds, trial {best.number} is better than the bootstrap")
    if gain.high == math.inf:
        return SingleShot("undecided", f"the bootstrap failed on seeds on which trial {best.number} did not")
    if gain.losses == 0 and gain.wins and 2 / 2**gain.wins > SIGNIFICANT:
        seeds = f"{gain.wins} confirmation seed{'s tell' if gain.wins > 1 else ' tells'} the two apart"
        return SingleShot("undecided", f"{seeds}, all for trial {best.number}, which cannot rule out chance")
    return SingleShot("held", f"on confirmation seeds, trial {best.number} is not surely better than the bootstrap")


def _unbeaten(counts: TrialCounts, total: int) -> SingleShot:
    """The bootstrap is the best there is: among how many?"""
    others = counts.complete + counts.pruned - 1
    if others < 1:
        return SingleShot("undecided", "no other trial has come to an end of its own, so nothing is compared")
    among = "" if others >= total - 1 else f" ({others} of {total - 1} others were compared)"
    return SingleShot("held", f"no trial of the search was better than the bootstrap{among}")


def _why_no_best(counts: TrialCounts, worst: str) -> str:
    """Why no trial is the best, where none is."""
    if counts.complete == 0:
        return "no trial has completed"
    if counts.missed + counts.diverged < counts.complete:
        return "no completed trial keeps the constraint"
    ends = [what for number, what in ((counts.missed, worst), (counts.diverged, "diverged")) if number]
    return f"every completed trial {' or '.join(ends)}"


_RESAMPLES = 10_000
_TAIL = 0.025


@dataclass(frozen=True)
class ConfirmedRecipe:
    """One recipe under confirmation, and its objective's value per seed."""

    name: str
    values: Mapping[int, float]

    @property
    def spread(self) -> Spread | None:
        """Median and range over its seeds; None before the first."""
        return statistics.spread(list(self.values.values()))


@dataclass(frozen=True)
class Gain:
    """A contender against another on the seeds both have; a positive gain speaks for it.

    `median` of the paired gains with the middle 95 % of resampled medians; `p` of the exact signed-rank test, from
    six pairs, and `p_corrected` by Holm over the contests that were held beside the question that was asked. `leaning`
    is 1 where the test's ranks speak for the contender, -1 against it.
    """

    contender: str
    against: str
    pairs: int
    median: float
    low: float
    high: float
    wins: int
    ties: int
    losses: int
    p: float | None
    p_corrected: float | None = None
    leaning: int = 0


def gains(
    contenders: Sequence[ConfirmedRecipe], *, lower_is_better: bool, question: tuple[str, str] | None = None
) -> tuple[Gain, ...]:
    """Each contender against every earlier one with which it shares a seed.

    Args:
        contenders: in an order in which earlier ones are what later ones are measured by.
        lower_is_better: of their values.
        question: the one contest (contender, against) that was asked about before anything ran, so that its p-value
            needs no correction; those of the others are corrected for their number.
    """
    found = [
        gain
        for index, contender in enumerate(contenders)
        for other in contenders[:index]
        if (gain := gain_of(contender, other, lower_is_better=lower_is_better)) is not None
    ]
    others = [gain for gain in found if (gain.contender, gain.against) != question]
    corrected = iter(statistics.holm([gain.p for gain in others]))
    return tuple(replace(gain, p_corrected=next(corrected) if gain in others else gain.p) for gain in found)


def gain_of(contender: ConfirmedRecipe, other: ConfirmedRecipe, *, lower_is_better: bool) -> Gain | None:
    """One contest; None where no seed pairs them."""
    sign = -1 if lower_is_better else 1
    seeds = sorted(contender.values.keys() & other.values.keys())
    paired = [sign * d for d in statistics.differences([(contender.values[s], other.values[s]) for s in seeds])]
    if not paired:
        return None
    low, high = interval(paired)
    return Gain(
        contender=contender.name,
        against=other.name,
        pairs=len(paired),
        median=statistics.median(paired),
        low=low,
        high=high,
        wins=sum(value > 0 for value in paired),
        ties=sum(value == 0 for value in paired),
        losses=sum(value < 0 for value in paired),
        p=statistics.signed_rank_p(paired),
        leaning=statistics.signed_rank_sign(paired),
    )


def interval(values: Sequence[float]) -> tuple[float, float]:
    """The middle 95 % of the medians of resampled values; the same values give the same interval."""
    generator = random.Random(0)
    medians = sorted(statistics.median(generator.choices(values, k=len(values))) for _ in range(_RESAMPLES))
    outside = int(_TAIL * _RESAMPLES)
    return medians[outside], medians[-1 - outside]


_DIGITS = 4
_WORDS = {MISSED: "miss", NO_NUMBER: "no number"}


def sentences(verdict: StudyVerdict) -> tuple[str, ...]:
    """The headline, whether one shot was enough, and then all that they rest on."""
    lines = [headline(verdict), _single_shot_in_words(verdict)]
    lines += [_counts_in_words(verdict), _bootstrap(verdict), _best(verdict), _baseline(verdict)]
    lines += _confirmation(verdict)
    lines += [_importances(verdict), *_edges(verdict), *verdict.notes]
    return tuple(line for line in lines if line)


def headline(verdict: StudyVerdict) -> str:
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


def _headline_of(gain: Gain, verdict: StudyVerdict) -> str:
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


def _counts_in_words(verdict: StudyVerdict) -> str:
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


def _bootstrap(verdict: StudyVerdict) -> str:
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


def _best(verdict: StudyVerdict) -> str:
    best = verdict.best
    if best is None:
        return f"There is no best trial: {verdict.why_no_best}."
    if best.number == 0:
        return "No trial was better, so the bootstrap is the best there is."
    assert best.value is not None
    return f"The best is trial {best.number}: {show(best.value, verdict.worst)}, at {show_point(best.values)}."


def _baseline(verdict: StudyVerdict) -> str:
    if verdict.baseline is None:
        return ""
    return f"The baseline has {show(verdict.baseline, verdict.worst)} on the seeds of the search."


def _confirmation(verdict: StudyVerdict) -> list[str]:
    if not verdict.contenders:
        return []
    seeds = sorted({seed for contender in verdict.contenders for seed in contender.values})
    shown = ", ".join(_spread(contender, verdict) for contender in verdict.contenders)
    lines = [f"On {_number(len(seeds), 'confirmation seed')} ({_ranges(seeds)}), median [lowest, highest]: {shown}."]
    return lines + [_gain(gain, verdict) for gain in verdict.gains]


def _spread(contender: ConfirmedRecipe, verdict: StudyVerdict) -> str:
    found = contender.spread
    assert found is not None
    low, median, high = (show(value, verdict.worst) for value in (found.low, found.median, found.high))
    missing = "" if found.count == max(len(c.values) for c in verdict.contenders) else f" ({found.count} of them)"
    return f"{_named(contender.name, verdict.best)} {median} [{low}, {high}]{missing}"


def _gain(gain: Gain, verdict: StudyVerdict) -> str:
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


def _single_shot_in_words(verdict: StudyVerdict) -> str:
    told = verdict.single_shot
    word = {"held": "held", "beaten": "did not hold", "undecided": "is undecided"}[told.outcome]
    line = f"Single-shot tuning {word}: {told.reason}"
    gain = verdict.gain(BEST, BOOTSTRAP)
    if gain is None or told.outcome == "undecided":
        return line + "."
    if told.outcome == "beaten":
        return f"{line}, by {_signed(gain.median)} [{_signed(gain.low)}, {_signed(gain.high)}]."
    return f"{line}; what was left behind is at most {_signed(max(gain.high, 0.0))} (upper end of the 95 % interval)."


def _importances(verdict: StudyVerdict) -> str:
    found = verdict.importances
    if found.reason:
        return f"Importance of the parameters: not enough to tell ({found.reason})."
    shown = ", ".join(f"{name} {100 * share:.0f} %" for name, share in found.shares.items())
    by = "" if found.reading is None else f", ranked by evaluation {found.reading}, before most were pruned"
    return f"What sets the {found.good} best of {found.trials} trials apart{by}: {shown}."


def _edges(verdict: StudyVerdict) -> list[str]:
    return [f"Warning: {edge}; a wider space may hold a better one." for edge in verdict.edges]


def _named(name: str, best: ChosenTrial | None) -> str:
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
