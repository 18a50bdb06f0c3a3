"""Contests: one contender against another on the seeds that both have, with tallies, ratios and corrected p-values."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

from jorge_tune.compare import statistics
from jorge_tune.compare.comparison import (
    Comparison,
    OptimizerApart,
    PairedContest,
    RaceScore,
    Standing,
    Tally,
    TargetLine,
)
from jorge_tune.compare.run_directories import (
    Contender,
    Run,
    find_runs,
    is_control,
    read_contenders,
    read_run,
    unpaired_because,
    worth_a_note,
)
from jorge_tune.errors import InputError
from jorge_tune.recipe.metrics import is_lower_better, target_fault
from jorge_tune.recipe.schema import Gen, SGDSection


def pair(standing: Standing, other: Standing, *, lower_is_better: bool) -> PairedContest | None:
    """The standing against another on their common seeds; None where seeds do not pair them."""
    if unpaired_because(other.contender.recipe, standing.contender.recipe) is not None:
        return None
    theirs = {score.seed: score for score in other.scores}
    pairs = [(score, theirs[score.seed]) for score in standing.scores if score.seed in theirs]
    if not pairs:
        return None
    epochs = [(a.epochs_to_target, b.epochs_to_target) for a, b in pairs]
    seconds = [(a.seconds_to_target, b.seconds_to_target) for a, b in pairs]
    sign = -1 if lower_is_better else 1
    gains = [sign * difference for difference in statistics.differences([(a.final, b.final) for a, b in pairs])]
    return PairedContest(
        pairs=len(pairs),
        epochs=_tally(statistics.differences(epochs)),
        seconds=_tally(statistics.differences(seconds)),
        final=_tally([-gain for gain in gains]),
        epoch_ratio=_median_ratio(epochs),
        second_ratio=_median_ratio(seconds),
        final_gain=statistics.median(gains),
    )


def contests(standings: Sequence[Standing], lower: bool) -> tuple[dict[str, PairedContest], tuple[OptimizerApart, ...]]:
    """Each standing against the first, by its name, and each Jorge recipe against its control."""
    first = standings[0]
    firsts = [(standing, first) for standing in standings[1:]]
    controls = [
        (jorge, other)
        for jorge in standings
        for other in standings
        if is_control(other.contender.recipe, jorge.contender.recipe)
    ]
    held = {
        (one.name, other.name): paired
        for one, other in [*firsts, *controls]
        if (paired := pair(one, other, lower_is_better=lower)) is not None
    }
    for quantity in ("epochs", "seconds", "final"):
        held = _corrected(held, quantity)
    apart = [OptimizerApart(a.name, b.name, held[a.name, b.name]) for a, b in controls if (a.name, b.name) in held]
    return {name: paired for (name, other), paired in held.items() if other == first.name}, tuple(apart)


def ranked(standings: Sequence[Standing]) -> list[Standing]:
    """With mean ranks over the seeds that the first and all that are paired with it share."""
    result = list(standings)
    together = [index for index, s in enumerate(result) if index == 0 or s.against_first is not None]
    epochs = [{score.seed: score.epochs_to_target for score in result[index].scores} for index in together]
    common = sorted(set.intersection(*(set(by_seed) for by_seed in epochs)))
    if common and len(together) > 1:
        means = statistics.mean_ranks([[by_seed[seed] for by_seed in epochs] for seed in common])
        for index, mean in zip(together, means, strict=True):
            result[index] = replace(result[index], mean_rank=mean)
    return result


def _corrected(held: Mapping[tuple[str, str], PairedContest], quantity: str) -> dict[tuple[str, str], PairedContest]:
    """The contests with their p-values in one quantity corrected; one that is held both ways is one test."""
    raw = {frozenset(names): getattr(paired, quantity).p for names, paired in held.items()}
    corrected = dict(zip(raw, statistics.holm(list(raw.values())), strict=True))
    return {
        names: replace(
            paired, **{quantity: replace(getattr(paired, quantity), p_corrected=corrected[frozenset(names)])}
        )
        for names, paired in held.items()
    }


def _tally(excess: Sequence[float]) -> Tally:
    """Wins are negative: less than the other needed."""
    return Tally(
        wins=sum(value < 0 for value in excess),
        ties=sum(value == 0 for value in excess),
        losses=sum(value > 0 for value in excess),
        p=statistics.signed_rank_p(excess),
        leaning=-statistics.signed_rank_sign(excess),
    )


def _median_ratio(pairs: Sequence[tuple[float, float]]) -> float | None:
    """The median; where half the pairs are wins by a miss, the finite neighbour: no mean of 0 and a ratio."""
    ratios = sorted(value for a, b in pairs if (value := statistics.ratio(a, b)) is not None)
    if not ratios:
        return None
    lower, upper = ratios[(len(ratios) - 1) // 2], ratios[len(ratios) // 2]
    if lower == 0:
        return None if math.isinf(upper) else upper
    return statistics.median(ratios)


__all__ = [
    "Comparison",
    "Contender",
    "PairedContest",
    "RaceScore",
    "Run",
    "Standing",
    "Tally",
    "TargetLine",
    "compare",
    "find_runs",
    "is_lower_better",
    "pair",
    "read_contenders",
    "read_run",
]


def compare(contenders: Sequence[Contender], *, metric: str | None = None, target: float | None = None) -> Comparison:
    """Measure every contender's runs against one target.

    Args:
        contenders: with their runs; the first one is what the others are compared with.
        metric: None: that of the first recipe's target, else top1, else another score, else the loss.
        target: None: the first recipe's target, else the first contender's median final value.

    Raises:
        InputError: nothing to measure, nothing that all runs have measured, or a target outside the metric's range.
    """
    assert contenders
    usable = [tuple(run for run in contender.runs if _why_left_out(run) is None) for contender in contenders]
    measured = [run for runs in usable for run in runs if run.evaluations]
    if not measured:
        raise InputError("nothing to compare: " + "; ".join(_all_left_out(contenders)))
    part = _common_part(measured)
    own = contenders[0].recipe.target
    wanted = metric or (own.metric if own else None)
    metric = _chosen_metric(measured, part, wanted)
    left_out = [] if wanted else _metrics_left_out(measured, part)
    lower = is_lower_better(metric)
    line = _target_line(contenders[0], usable[0], part, metric, target)
    standings = [
        Standing(
            contender=contender,
            scores=tuple(_score(run, part, metric, line.value) for run in runs),
            left_out=tuple(f"{run.folder}: {why}" for run in contender.runs if (why := _why_left_out(run))),
        )
        for contender, runs in zip(contenders, usable, strict=True)
    ]
    against, apart = contests(standings, lower)
    placed = ranked([replace(s, against_first=against.get(s.name)) for s in standings])
    notes = [note for standing in standings[1:] for note in _pair_notes(standings[0], standing)]
    return Comparison(metric, lower, part, line, tuple(placed), tuple(_notes(placed, part) + left_out + notes), apart)


def _pair_notes(first: Standing, standing: Standing) -> list[str]:
    names = f"{standing.name} and {first.name}"
    mine, theirs = standing.contender.recipe, first.contender.recipe
    why = unpaired_because(theirs, mine)
    if why is not None:
        return [f"{names} are not paired by their seeds: {why}"]
    notes = [f"{names} differ in {note}" for note in worth_a_note(mine, theirs)]
    seeds = {score.seed for score in standing.scores} ^ {score.seed for score in first.scores}
    if seeds:
        listed = ", ".join(str(seed) for seed in sorted(seeds))
        notes.append(f"{names} are paired on the seeds both have; without a partner: {listed}")
    return notes


def _notes(standings: Sequence[Standing], part: str) -> list[str]:
    notes = []
    if part == "test":
        notes.append("no validation part: targets and finals are read on the test part, once per evaluation")
    for standing in standings:
        notes += [f"{standing.name}: left out: {what}" for what in standing.left_out]
        notes += [f"{standing.name}: {note}" for run in standing.contender.runs for note in run.notes]
    return notes


def _why_left_out(run: Run) -> str | None:
    if run.outcome is None:
        return "not ended yet (or killed); train it further with --resume"
    if not run.ended:
        return f"{run.outcome}" + (f" ({run.reason})" if run.reason else "")
    if not run.evaluations and run.outcome == "finished":
        return "finished without one evaluation"
    return None


def _all_left_out(contenders: Sequence[Contender]) -> list[str]:
    """A reason per contender, or several with the number of runs of each."""
    told = []
    for contender in contenders:
        reasons = Counter(_why_left_out(run) or str(run.outcome) for run in contender.runs)
        several = [why if count == 1 else f"{count} runs: {why}" for why, count in reasons.items()]
        told.append(f"{contender.name}: {', '.join(several) or 'no runs'}")
    return told


def _common_part(runs: Sequence[Run]) -> str:
    """The part every run can be measured on: validation if one has it, and then all must."""
    if not any("validation" in run.evaluations for run in runs):
        part = "test" if "test" in runs[0].evaluations else next(iter(runs[0].evaluations))
    else:
        part = "validation"
    for run in runs:
        if part not in run.evaluations:
            has = ", ".join(run.evaluations)
            raise InputError(f"{run.folder}: evaluated on {has}, the others on {part}: these cannot be compared")
    return part


def _chosen_metric(runs: Sequence[Run], part: str, wanted: str | None) -> str:
    """The metric wanted, or the best known one among those that every run has recorded."""
    recorded = [_recorded(run, part) for run in runs]
    common = set.intersection(*recorded)
    if wanted is not None:
        for run, names in zip(runs, recorded, strict=True):
            if wanted not in names:
                has = ", ".join(sorted(names)) or "nothing"
                raise InputError(f"{run.folder}: no metric {wanted!r} on the {part} part; it records {has}")
        return wanted
    if not common:
        listed = sorted({", ".join(sorted(names)) for names in recorded})
        raise InputError("the runs share no metric: " + " against ".join(listed))
    return min(common, key=_by_rank)


def _metrics_left_out(runs: Sequence[Run], part: str) -> list[str]:
    """A note where a metric that is better known than the one compared is missing in some runs."""
    recorded = [_recorded(run, part) for run in runs]
    common, known = set.intersection(*recorded), set.union(*recorded)
    if not common or min(known, key=_by_rank) in common:
        return []
    missing = ", ".join(sorted(known - common))
    return [f"{min(common, key=_by_rank)} is compared, since not all runs have recorded {missing}"]


def _recorded(run: Run, part: str) -> set[str]:
    return {name for reading in run.evaluations[part] for name in reading.metrics}


def _by_rank(metric: str) -> tuple[object, ...]:
    return (metric != "top1", is_lower_better(metric), metric != "loss", metric)


def _target_line(first: Contender, runs: Sequence[Run], part: str, metric: str, given: float | None) -> TargetLine:
    if given is not None:
        if (what := target_fault(metric, given)) is not None:
            raise InputError(f"--target: {what}")
        return TargetLine(given, "given")
    target = first.recipe.target
    if target is not None and target.metric == metric:
        return TargetLine(target.value, f"the target in {first.name}'s recipe")
    finals = [_final(run, part, metric) for run in runs]
    if not finals or not math.isfinite(value := statistics.median(finals)):
        raise InputError(f"{first.name}, the first contender, has no final {metric} to race against; give --target")
    return TargetLine(value, f"{first.name}'s median final value")


def _score(run: Run, part: str, metric: str, target: float) -> RaceScore:
    lower = is_lower_better(metric)
    readings = run.evaluations.get(part, ())
    lasting = () if run.outcome == "diverged" else readings  # what it reached before it was lost again
    hit = next((r for r in lasting if metric in r.metrics and _reaches(r.metrics[metric], target, lower)), None)
    values = [v for r in readings if not math.isnan(v := r.metrics.get(metric, math.nan))]
    test = [r.metrics[metric] for r in run.evaluations.get("test", ()) if metric in r.metrics]
    return RaceScore(
        seed=run.seed,
        diverged=run.outcome == "diverged",
        epochs_to_target=hit.epoch if hit else math.inf,
        seconds_to_target=hit.train_seconds if hit else math.inf,
        train_seconds=run.train_seconds,
        best=(min if lower else max)(values, default=_worst(metric)),
        final=_final(run, part, metric),
        test=test[-1] if part != "test" and test and not math.isnan(test[-1]) else None,
    )


def _reaches(value: float, target: float, lower: bool) -> bool:
    return value <= target if lower else value >= target  # NaN reaches nothing


def _final(run: Run, part: str, metric: str) -> float:
    """The last reading; the worst value there is for a run that diverged or ended in NaN."""
    readings = run.evaluations.get(part, ())
    value = readings[-1].metrics.get(metric, math.nan) if readings else math.nan
    return _worst(metric) if run.outcome == "diverged" or math.isnan(value) else value


def _worst(metric: str) -> float:
    return math.inf if is_lower_better(metric) else -math.inf


_OTHER = 2
"""What is not SGD at all."""


class Ordered(NamedTuple):
    """Contenders, the reference first, and a note where that is not the first that was given."""

    contenders: list[Contender]
    notes: tuple[str, ...] = ()


def reference_first(contenders: Sequence[Contender], named: str | None = None) -> Ordered:
    """Put the reference first: the one named, else SGD where it runs, else the first that was given.

    SGD itself is preferred to SGD with decoupled decay (a control) and to GeN on top of SGD. A contender whose runs
    have not ended is no reference unless it is named.

    Args:
        contenders: in the order given; without runs (recipes to train) the first stays the reference.
        named: the reference's name; None: choose.

    Raises:
        InputError: there is no contender of that name.
    """
    reference = contenders[0] if named is None else _named(contenders, named)
    notes: tuple[str, ...] = ()
    if named is None and all(contender.runs for contender in contenders):
        ended = [one for one in contenders if any(run.ended for run in one.runs)]
        nearest = min(ended, key=_distance_from_sgd, default=reference)  # of equals the first
        if _distance_from_sgd(nearest) < _OTHER and nearest is not reference:
            notes = (f"{nearest.name} is the reference, since it is trained with SGD; --reference takes another",)
            reference = nearest

    return Ordered([reference, *(one for one in contenders if one is not reference)], notes)


def _distance_from_sgd(contender: Contender) -> int:
    optimizer, schedule = contender.recipe.optimizer, contender.recipe.schedule
    if not isinstance(optimizer, SGDSection):
        return _OTHER
    return 1 if optimizer.decoupled or isinstance(schedule, Gen) else 0


def _named(contenders: Sequence[Contender], name: str) -> Contender:
    for contender in contenders:
        if contender.name == name:
            return contender
    names = ", ".join(contender.name for contender in contenders)
    raise InputError(f"--reference: must be one of {names}, got {name!r}")
