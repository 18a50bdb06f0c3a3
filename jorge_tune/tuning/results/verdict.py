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
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from jorge_tune.measure.statistics import MIN_PAIRS, SIGNIFICANT
from jorge_tune.records import portable
from jorge_tune.tuning.planning.space import Space
from jorge_tune.tuning.results.contest import Contender, Gain, gains
from jorge_tune.tuning.results.history import TrialRow, best_of, finite, sort_key
from jorge_tune.tuning.results.importance import Importances

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
    space: Space
    importances: Importances
    constraint: str | None = None
    baseline: float | None = None
    confirmation: Mapping[str, Mapping[int, float]] = field(default_factory=dict)
    notes: Sequence[str] = ()


@dataclass(frozen=True)
class Chosen:
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
class Counts:
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
class Verdict:
    """All of it, as values; `words.sentences` says it."""

    study: str
    objective: str
    lower_is_better: bool
    worst: str
    total: int
    counts: Counts
    bootstrap: Chosen | None
    best: Chosen | None
    why_no_best: str
    rank: Rank | None
    baseline: float | None
    constraint: str | None
    contenders: tuple[Contender, ...]
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


def judge(evidence: Evidence) -> Verdict:
    """The verdict on a study, finished or not."""
    lower = evidence.lower_is_better
    bootstrap = next((row for row in evidence.rows if row.number == 0), None)
    best = best_of(evidence.rows, lower_is_better=lower)
    contenders = tuple(
        Contender(name, dict(sorted(values.items())))
        for name in (BASELINE, BOOTSTRAP, BEST)
        if (values := evidence.confirmation.get(name))
    )
    held = gains(contenders, lower_is_better=lower, question=(BEST, BOOTSTRAP))
    counts = _counts(evidence.rows)
    return Verdict(
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


def _chosen(row: TrialRow | None, space: Space) -> Chosen | None:
    if row is None:
        return None
    value = row.value if row.state == "complete" else None
    values = {p.path: p.plain(row.point[p.name]) for p in space if p.name in row.point}
    return Chosen(row.number, row.state, value, dict(row.point), values, row.is_feasible, row.diverged)


def _counts(rows: Sequence[TrialRow]) -> Counts:
    complete = [row for row in rows if row.state == "complete"]
    states = [row.state for row in rows]
    worst = [row for row in complete if row.value is not None and math.isinf(row.value)]
    return Counts(
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
    bootstrap: TrialRow | None, best: TrialRow | None, held: Sequence[Gain], counts: Counts, evidence: Evidence
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


def _unbeaten(counts: Counts, total: int) -> SingleShot:
    """The bootstrap is the best there is: among how many?"""
    others = counts.complete + counts.pruned - 1
    if others < 1:
        return SingleShot("undecided", "no other trial has come to an end of its own, so nothing is compared")
    among = "" if others >= total - 1 else f" ({others} of {total - 1} others were compared)"
    return SingleShot("held", f"no trial of the search was better than the bootstrap{among}")


def _why_no_best(counts: Counts, worst: str) -> str:
    """Why no trial is the best, where none is."""
    if counts.complete == 0:
        return "no trial has completed"
    if counts.missed + counts.diverged < counts.complete:
        return "no completed trial keeps the constraint"
    ends = [what for number, what in ((counts.missed, worst), (counts.diverged, "diverged")) if number]
    return f"every completed trial {' or '.join(ends)}"
