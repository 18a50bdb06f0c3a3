"""The verdict of a study: the bootstrap's rank, the best trial, the confirmation, and whether single-shot tuning held.

Single-shot tuning is the bootstrap: one recipe, not searched for. Only the confirmation decides whether it held,
because the best of many trials looks better than it is on the seeds that chose it:

- held: no other trial was better; or, on at least six confirmation seeds, the best trial was not significantly better
  than the bootstrap. The best trial is then at most as much better as the upper end of its gain's interval.
- beaten: the best trial was significantly better, at 0.05, by the signed-rank test of this one contest.
- undecided: there is no confirmation, it has too few common seeds, there is nothing to compare, the interval has no
  upper end, or the bootstrap does not keep the constraint.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from jorge_tune.compare.contest import PairedContest, SeedValues, round_robin
from jorge_tune.compare.statistics import MIN_PAIRS, SIGNIFICANT
from jorge_tune.recipe.render import scalar
from jorge_tune.records import portable
from jorge_tune.study.space import SearchSpace
from jorge_tune.study.trial_rows import Importances, TrialRow, best_of, finite, sort_key

Outcome = Literal["held", "beaten", "undecided"]

BASELINE, BOOTSTRAP, BEST = "baseline", "bootstrap", "best"

NOT_REACHED, NO_NUMBER = "did not reach the target", "ended without a number"
"""What an infinite value means if the run did not diverge: for an objective with a target, and without one."""


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """What a verdict is made from.

    Attributes:
        worst: What an infinite value means, `NOT_REACHED` or `NO_NUMBER`.
        rows: The trials of the search; number 0 is the bootstrap.
        constraint: What a feasible trial keeps, in words; None if every trial is feasible.
        confirmation: The values by contender and seed: of the baseline, of the bootstrap and, if it is another trial,
            of the best trial.
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
    """A trial that the verdict names: the bootstrap or the best one.

    `value` is None if the trial has none; `state` says why. `point` has the trial's parameters (factors), and `values`
    the values of its recipe that follow from them.
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
    """The bootstrap's place among all trials that ended: 1 + the number of better trials.

    Pruned and failed trials rank last. `equal` counts the other trials with the same value, and `feasible_better` the
    better trials that keep the constraint.
    """

    place: int
    of: int
    equal: int
    feasible_better: int


@dataclass(frozen=True)
class TrialCounts:
    """The number of trials by state.

    The last three count completed trials. `without_value` counts those that did not diverge, but did not reach the
    target or ended without a number.
    """

    complete: int
    pruned: int
    failed: int
    unfinished: int
    diverged: int
    without_value: int
    infeasible: int

    def to_json(self) -> dict[str, int]:
        """Plain data; stored reports have `without_value` as "missed"."""
        return {"missed" if name == "without_value" else name: number for name, number in asdict(self).items()}


@dataclass(frozen=True)
class SingleShot:
    """Whether the bootstrapped recipe held against the search, and why."""

    outcome: Outcome
    reason: str


@dataclass(frozen=True, kw_only=True)
class StudyVerdict:
    """The verdict as values; `sentences` puts it into words."""

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
    contenders: tuple[SeedValues, ...]
    contests: tuple[PairedContest, ...]
    single_shot: SingleShot
    importances: Importances
    edges: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def has_answer(self) -> bool:
        """Whether there is a best trial at all."""
        return self.best is not None

    def contest(self, contender: str, against: str) -> PairedContest | None:
        """One of the contests of the confirmation."""
        return _contest_of(self.contests, contender, against)

    def to_json(self) -> dict[str, Any]:
        """Plain data, with infinities as strings."""
        data: dict[str, Any] = {}
        for key, value in asdict(self).items():
            if key == "contenders":
                data[key] = [_contender_to_json(contender) for contender in self.contenders]
            elif key == "contests":
                data["gains"] = [_contest_to_json(contest) for contest in self.contests]
            elif key == "counts":
                data[key] = self.counts.to_json()
            else:
                data[key] = value
        return portable(data)  # type: ignore[return-value]


def _contender_to_json(contender: SeedValues) -> dict[str, Any]:
    spread = None if contender.spread is None else asdict(contender.spread)
    return {"name": contender.name, "values": dict(contender.values), "spread": spread}


def _contest_to_json(contest: PairedContest) -> dict[str, Any]:
    return {
        "contender": contest.contender,
        "against": contest.against,
        "pairs": contest.pairs,
        "median": contest.median,
        "low": contest.low,
        "high": contest.high,
        **contest.counts(),
    }


def judge(evidence: Evidence) -> StudyVerdict:
    """The verdict of a study, whether it has finished or not."""
    lower = evidence.lower_is_better
    bootstrap = next((row for row in evidence.rows if row.number == 0), None)
    best = best_of(evidence.rows, lower_is_better=lower)
    counts = _counts(evidence.rows)

    contenders = tuple(
        SeedValues(name, dict(sorted(values.items())))
        for name in (BASELINE, BOOTSTRAP, BEST)
        if (values := evidence.confirmation.get(name))
    )
    contests = round_robin(contenders, lower_is_better=lower, question=(BEST, BOOTSTRAP))

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
        contests=contests,
        single_shot=_single_shot(bootstrap, best, _contest_of(contests, BEST, BOOTSTRAP), counts, evidence),
        importances=evidence.importances,
        edges=tuple(evidence.space.edges(best.point)) if best is not None else (),
        notes=tuple(evidence.notes),
    )


def _contest_of(contests: Sequence[PairedContest], contender: str, against: str) -> PairedContest | None:
    return next((one for one in contests if (one.contender, one.against) == (contender, against)), None)


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
        without_value=sum(not row.diverged for row in worst),
        infeasible=sum(not row.is_feasible for row in complete),
    )


def _rank(bootstrap: TrialRow | None, rows: Sequence[TrialRow], lower: bool) -> Rank | None:
    """The bootstrap's place; None while it has no value."""
    if bootstrap is None or bootstrap.state != "complete" or bootstrap.value is None:
        return None

    ended = [row for row in rows if row.state in ("complete", "pruned", "failed")]
    key = sort_key(lower)
    better = [row for row in finite(rows) if key(row) < key(bootstrap)]
    equal = [row for row in ended if row.state == "complete" and row.value == bootstrap.value]
    return Rank(len(better) + 1, len(ended), len(equal) - 1, sum(row.is_feasible for row in better))


def _single_shot(
    bootstrap: TrialRow | None,
    best: TrialRow | None,
    contest: PairedContest | None,
    counts: TrialCounts,
    evidence: Evidence,
) -> SingleShot:
    """Whether single-shot tuning held; `contest` is the best trial against the bootstrap."""
    if bootstrap is None or bootstrap.state not in ("complete", "pruned"):
        state = "is missing" if bootstrap is None else f"is {bootstrap.state}"
        return SingleShot("undecided", f"trial 0, the bootstrap, {state}")
    if best is None:
        return SingleShot("undecided", _why_no_best(counts, evidence.worst))
    if not bootstrap.is_feasible:
        return SingleShot("undecided", "trial 0, the bootstrap, does not keep the constraint itself")
    if best.point == bootstrap.point and bootstrap.state == "complete":
        return _unbeaten(counts, evidence.total)

    trial = f"trial {best.number}"
    if contest is None:
        return SingleShot("undecided", f"{trial} was better in the search but was not run on confirmation seeds")
    if contest.pairs < MIN_PAIRS:
        seeds = _number(contest.pairs, "confirmation seed")
        return SingleShot("undecided", f"{seeds} cannot rule out chance: {MIN_PAIRS} can")

    if contest.outcome > 0:
        return SingleShot("beaten", f"on confirmation seeds, {trial} is better than the bootstrap")
    if contest.high == math.inf:
        return SingleShot("undecided", f"the bootstrap failed on seeds on which {trial} did not")
    if contest.losses == 0 and contest.wins and 2 / 2**contest.wins > SIGNIFICANT:
        # All seeds that are not level speak for the best trial, but they are too few for a significant p-value.
        seeds = _number(contest.wins, "confirmation seed")
        level = f"{trial} is better on {seeds} and level on the others"
        return SingleShot("undecided", f"{level}, which cannot rule out chance")
    return SingleShot("held", f"on confirmation seeds, {trial} is not significantly better than the bootstrap")


def _unbeaten(counts: TrialCounts, total: int) -> SingleShot:
    """The outcome if the bootstrap itself is the best trial."""
    others = counts.complete + counts.pruned - 1
    if others < 1:
        return SingleShot("undecided", "no other trial has completed or been pruned, so there is nothing to compare")

    among = "" if others >= total - 1 else f" ({others} of {total - 1} other trials were compared)"
    return SingleShot("held", f"no trial of the search was better than the bootstrap{among}")


def _why_no_best(counts: TrialCounts, worst: str) -> str:
    """Why there is no best trial."""
    if counts.complete == 0:
        return "no trial has completed"
    if counts.without_value + counts.diverged < counts.complete:
        return "no completed trial keeps the constraint"

    if not counts.diverged and worst == NOT_REACHED:
        return "no completed trial reached the target"
    ends = [what for number, what in ((counts.diverged, "diverged"), (counts.without_value, worst)) if number]
    return f"every completed trial {' or '.join(ends)}"


_DIGITS = 4
_INFINITE = {NOT_REACHED: "not reached", NO_NUMBER: "no number"}


def sentences(verdict: StudyVerdict) -> tuple[str, ...]:
    """The verdict in sentences: the headline, whether single-shot tuning held, and then what both rest on."""
    lines = [headline(verdict), _single_shot_in_words(verdict)]
    lines += [_counts_in_words(verdict), _bootstrap(verdict), _best(verdict), _baseline(verdict)]
    lines += _confirmation(verdict)
    lines += [_importances(verdict), *_edges(verdict), *verdict.notes]
    return tuple(line for line in lines if line)


def headline(verdict: StudyVerdict) -> str:
    """The bootstrap against the baseline in one sentence, on confirmation seeds if both ran on any."""
    contest = verdict.contest(BOOTSTRAP, BASELINE)
    if contest is not None:
        return _headline_of(contest, verdict)

    trial = verdict.bootstrap
    if verdict.baseline is None:
        return "No baseline has finished, so there is nothing to compare the bootstrap with."
    if trial is None or trial.value is None:
        state = "missing" if trial is None else trial.state
        return f"The bootstrap is not compared with the baseline yet: trial 0 is {state}."

    mine, theirs = show(trial.value, verdict.worst), show(verdict.baseline, verdict.worst)
    return (
        f"Nothing is confirmed yet: on the seeds of the search alone, {verdict.objective} is {mine} for the bootstrap "
        f"and {theirs} for the baseline."
    )


def show(value: float, worst: str) -> str:
    """A value of the objective in four digits; an infinite one is "not reached" or "no number", by `worst`."""
    return _INFINITE[worst] if math.isinf(value) else f"{value:.{_DIGITS}g}"


def show_point(point: Mapping[str, Any]) -> str:
    """`optimizer.lr 0.2, optimizer.weight_decay 0.005`, as recipes write values."""
    return ", ".join(f"{name} {scalar(value)}" for name, value in point.items())


def _headline_of(contest: PairedContest, verdict: StudyVerdict) -> str:
    spreads = {contender.name: contender.spread for contender in verdict.contenders}
    mine, theirs = spreads[BOOTSTRAP], spreads[BASELINE]
    assert mine is not None
    assert theirs is not None
    seeds = _number(contest.pairs, "confirmation seed")
    medians = f"{verdict.objective} {show(mine.median, verdict.worst)} against {show(theirs.median, verdict.worst)}"
    if contest.is_level:
        return f"The bootstrap and the baseline are level on {seeds} ({medians})."

    chance = f"; {_number(contest.pairs, 'seed')} cannot rule out chance"
    if contest.p_corrected is not None:
        caveat = "" if contest.p_corrected <= SIGNIFICANT else ", which does not rule out chance"
        chance = f" (p = {contest.p_corrected:.2g}{caveat})"
    if contest.outcome == 0:
        return (
            f"Whether the bootstrap is better than the baseline is undecided: {medians}, {_shown_counts(contest)} of "
            f"{seeds}{chance}."
        )

    word, number = ("better", contest.wins) if contest.outcome > 0 else ("worse", contest.losses)
    return f"The bootstrap is {word} than the baseline: {medians}, {word} on {number} of {seeds}{chance}."


def _shown_counts(contest: PairedContest) -> str:
    return f"better on {contest.wins}, level on {contest.ties}, worse on {contest.losses}"


def _counts_in_words(verdict: StudyVerdict) -> str:
    counts = verdict.counts
    parts = [
        f"{number} {what}"
        for number, what in (
            (counts.complete, "completed"),
            (counts.pruned, "pruned"),
            (counts.failed, "failed"),
            (counts.unfinished, "not finished"),
            (verdict.total - counts.complete - counts.pruned - counts.failed - counts.unfinished, "not started"),
        )
        if number or what == "completed"
    ]
    line = f"{_number(verdict.total, 'trial')} in all: {', '.join(parts)}."

    without_value = [
        f"{number} {what}"
        for number, what in ((counts.diverged, "diverged"), (counts.without_value, verdict.worst))
        if number
    ]
    line += f" Of the completed, {' and '.join(without_value)}." if without_value else ""
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
        keep = "keeps" if rank.feasible_better == 1 else "keep"
        line += f" Only {rank.feasible_better} of the better ones {keep} {verdict.constraint}."
    if not trial.is_feasible:
        line += f" It does not keep {verdict.constraint} itself."
    return line


def _best(verdict: StudyVerdict) -> str:
    best = verdict.best
    if best is None:
        return f"There is no best trial: {verdict.why_no_best}."
    if best.number == 0:
        return "No trial was better than the bootstrap, so the bootstrap is the best trial."
    assert best.value is not None
    return f"The best is trial {best.number}: {show(best.value, verdict.worst)}, at {show_point(best.values)}."


def _baseline(verdict: StudyVerdict) -> str:
    if verdict.baseline is None:
        return ""
    if math.isinf(verdict.baseline):
        return f"The baseline {verdict.worst} on the seeds of the search."
    return f"The baseline has {show(verdict.baseline, verdict.worst)} on the seeds of the search."


def _confirmation(verdict: StudyVerdict) -> list[str]:
    if not verdict.contenders:
        return []
    seeds = sorted({seed for contender in verdict.contenders for seed in contender.values})
    shown = ", ".join(_spread(contender, verdict) for contender in verdict.contenders)
    lines = [f"On {_number(len(seeds), 'confirmation seed')} ({_ranges(seeds)}), median [lowest, highest]: {shown}."]
    return lines + [_contest_in_words(contest, verdict) for contest in verdict.contests]


def _spread(contender: SeedValues, verdict: StudyVerdict) -> str:
    spread = contender.spread
    assert spread is not None
    low, median, high = (show(value, verdict.worst) for value in (spread.low, spread.median, spread.high))
    missing = "" if spread.count == max(len(c.values) for c in verdict.contenders) else f" ({spread.count} of them)"
    return f"{_named(contender.name, verdict.best)} {median} [{low}, {high}]{missing}"


def _contest_in_words(contest: PairedContest, verdict: StudyVerdict) -> str:
    names = f"{_named(contest.contender, verdict.best)} against {_named(contest.against, verdict.best)}"
    amount = f"a gain of {_signed(contest.median)} {_interval(contest)}"
    if math.isinf(contest.median):
        amount = "the gain is undefined, because one of them has no value on most seeds"

    p_name = "p" if contest.p == contest.p_corrected else "corrected p"
    p = "" if contest.p_corrected is None else f", {p_name} = {contest.p_corrected:.2g}"
    line = f"{names}: {amount}; {_shown_counts(contest)} of {_number(contest.pairs, 'seed')}{p}."
    return line[:1].upper() + line[1:]


def _single_shot_in_words(verdict: StudyVerdict) -> str:
    single_shot = verdict.single_shot
    word = {"held": "held", "beaten": "did not hold", "undecided": "is undecided"}[single_shot.outcome]
    line = f"Single-shot tuning {word}: {single_shot.reason}"
    contest = verdict.contest(BEST, BOOTSTRAP)
    if contest is None or single_shot.outcome == "undecided":
        return line + "."

    if single_shot.outcome == "beaten":
        return f"{line}, by {_signed(contest.median)} {_interval(contest)}."
    most = max(contest.high, 0.0)
    return f"{line}; the best trial is at most {most:.2g} better (upper end of the 95 % interval)."


def _importances(verdict: StudyVerdict) -> str:
    importances = verdict.importances
    if importances.reason:
        return f"Importance of the parameters: unknown ({importances.reason})."

    shown = ", ".join(f"{name} {100 * share:.0f} %" for name, share in importances.shares.items())
    by = "" if importances.reading is None else f", ranked by evaluation {importances.reading}, before most were pruned"
    return f"What sets the {importances.good} best of {importances.trials} trials apart{by}: {shown}."


def _edges(verdict: StudyVerdict) -> list[str]:
    return [f"Warning: {edge}; a wider space may hold a better trial." for edge in verdict.edges]


def _named(name: str, best: ChosenTrial | None) -> str:
    if name == BEST and best is not None:
        return f"trial {best.number}"
    return {BASELINE: "the baseline", BOOTSTRAP: "the bootstrap"}.get(name, name)


def _signed(value: float) -> str:
    return f"{value:+.2g}" if value else "0"


def _interval(contest: PairedContest) -> str:
    return f"[{_signed(contest.low)}, {_signed(contest.high)}]"


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
