"""A comparison as values: runs measured against one target, and contenders compared in pairs."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, NamedTuple

from jorge_tune.compare import statistics
from jorge_tune.compare.contest import PairedContest, SeedValues, correct, median_ratio, pair
from jorge_tune.compare.run_directories import Contender, Run, is_control, unpaired_because, worth_a_note
from jorge_tune.compare.statistics import Spread, spread
from jorge_tune.errors import InputError
from jorge_tune.recipe.metrics import by_rank, is_lower_better, target_fault
from jorge_tune.recipe.schema import Gen, SGDSection


@dataclass(frozen=True)
class TargetLine:
    """The value that a run has to reach, and where it comes from, in words."""

    value: float
    origin: str


@dataclass(frozen=True)
class RaceScore:
    """One run, measured.

    Epochs and seconds are infinite where the run did not reach the target. `best` and `final` are the worst possible
    value where the run has none.
    """

    seed: int
    diverged: bool
    epochs_to_target: float
    seconds_to_target: float
    train_seconds: float
    best: float
    final: float
    test: float | None


@dataclass(frozen=True)
class RaceContest:
    """A contender against another on the seeds that both have, in each quantity of a race.

    The ratios are medians over the pairs; a ratio below 1 speaks for the contender. A pair in which neither run reached
    the target has no ratio. There is no median ratio if as many pairs are won as are lost because one run did not reach
    the target.
    """

    epochs: PairedContest
    seconds: PairedContest
    final: PairedContest
    epoch_ratio: float | None
    second_ratio: float | None

    @property
    def pairs(self) -> int:
        """The number of common seeds."""
        return self.epochs.pairs

    @property
    def final_gain(self) -> float:
        """The median gain in the final value; a positive one speaks for the contender."""
        return self.final.median

    def turned(self) -> RaceContest:
        """The same contest as the other contender sees it."""
        return RaceContest(
            epochs=self.epochs.turned(),
            seconds=self.seconds.turned(),
            final=self.final.turned(),
            epoch_ratio=_inverse(self.epoch_ratio),
            second_ratio=_inverse(self.second_ratio),
        )

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "pairs": self.pairs,
            "epochs": self.epochs.counts(),
            "seconds": self.seconds.counts(),
            "final": self.final.counts(),
            "epoch_ratio": self.epoch_ratio,
            "second_ratio": self.second_ratio,
            "final_gain": self.final_gain,
        }


@dataclass(frozen=True)
class Standing:
    """One contender's row: its scores by seed, the runs left out with the reason, and its contest with the first."""

    contender: Contender
    scores: tuple[RaceScore, ...]
    left_out: tuple[str, ...]
    against_first: RaceContest | None = None
    mean_rank: float | None = None

    @property
    def name(self) -> str:
        """The contender's name."""
        return self.contender.name

    @property
    def diverged(self) -> int:
        """How many of the runs diverged."""
        return sum(score.diverged for score in self.scores)

    def by_seed(self, field: str) -> SeedValues:
        """One field of the scores by seed."""
        return SeedValues(self.name, {score.seed: getattr(score, field) for score in self.scores})

    def spread_of(self, field: str) -> Spread | None:
        """Median and range of one field of the scores; None if no run has it."""
        values: Iterable[float | None] = (getattr(score, field) for score in self.scores)
        return spread([value for value in values if value is not None])


@dataclass(frozen=True)
class OptimizerApart:
    """A Jorge contender against its control, by their names.

    The control has the optimizer that Jorge grafts from, Jorge's schedule and decoupled decay.
    """

    jorge: str
    control: str
    paired: RaceContest

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return {"jorge": self.jorge, "control": self.control, "paired": self.paired.to_json()}


@dataclass(frozen=True)
class Comparison:
    """Everything a table, a picture and a verdict need."""

    metric: str
    lower_is_better: bool
    part: str
    target: TargetLine
    standings: tuple[Standing, ...]
    notes: tuple[str, ...]
    apart: tuple[OptimizerApart, ...] = ()
    is_side_by_side: bool = False
    """Whether runs shared a machine while they trained."""

    @property
    def devices(self) -> list[str]:
        """The devices that the runs were measured on, sorted by name; an unknown device counts as one."""
        return sorted(
            {
                run.device or "an unknown device"
                for standing in self.standings
                for run in standing.contender.runs
                if run.seed in {score.seed for score in standing.scores}
            }
        )

    @property
    def compares_seconds(self) -> bool:
        """Whether seconds are comparable: the runs trained alone, on one device, and by clocks of one kind."""
        return not self.is_side_by_side and len(self.devices) < 2 and self.clock_fault is None

    @property
    def clock_fault(self) -> str | None:
        """Why the runs' clocks do not allow to compare seconds; None where they do."""
        clocks = {run.clock for standing in self.standings for run in standing.contender.runs}
        if "none" in clocks:
            return "not all logs have them"
        return None if len(clocks) < 2 else "some count training alone, others a process's wall clock"

    def to_json(self) -> dict[str, object]:
        """Plain data.

        Infinite epochs and seconds stand for a target that was not reached, an infinite final value for a run that
        diverged.
        """
        return {
            "metric": self.metric,
            "lower_is_better": self.lower_is_better,
            "part": self.part,
            "target": asdict(self.target),
            "contenders": [_standing_to_json(standing) for standing in self.standings],
            "optimizer_apart": [one.to_json() for one in self.apart],
            "notes": list(self.notes),
            "is_side_by_side": self.is_side_by_side,
        }


def compare(contenders: Sequence[Contender], *, metric: str | None = None, target: float | None = None) -> Comparison:
    """Measure every contender's runs against one target.

    Args:
        contenders: with their runs; the others are compared with the first.
        metric: None takes that of the first recipe's target, else top1, else another score, else the loss.
        target: None takes the first recipe's target, else the first contender's median final value.

    Raises:
        InputError: there is nothing to measure, the runs share no part or no metric, or the target is outside the
            range of the metric.
    """
    assert contenders
    usable = [tuple(run for run in contender.runs if _why_left_out(run) is None) for contender in contenders]
    measured = [run for runs in usable for run in runs if run.evaluations]
    if not measured:
        raise InputError("nothing to compare: " + "; ".join(_all_left_out(contenders)))

    part = _common_part(measured)
    recipe_target = contenders[0].recipe.target
    wanted = metric or (recipe_target.metric if recipe_target else None)
    metric = _chosen_metric(measured, part, wanted)
    metric_notes = [] if wanted else _metrics_left_out(measured, part)
    lower = is_lower_better(metric, contenders[0].recipe)
    line = _target_line(contenders[0], usable[0], part, metric, target, lower=lower)

    standings = [
        Standing(
            contender=contender,
            scores=tuple(_score(run, part, metric, line.value, lower=lower) for run in runs),
            left_out=tuple(f"{run.folder}: {why}" for run in contender.runs if (why := _why_left_out(run))),
        )
        for contender, runs in zip(contenders, usable, strict=True)
    ]
    placed, apart = _with_contests(standings, lower)
    pair_notes = [note for standing in standings[1:] for note in _pair_notes(standings[0], standing)]
    return Comparison(
        metric=metric,
        lower_is_better=lower,
        part=part,
        target=line,
        standings=tuple(_ranked(placed)),
        notes=(*_run_notes(standings, part), *metric_notes, *pair_notes),
        apart=apart,
    )


_NOT_SGD = 2  # see `_distance_from_sgd`


class ContenderOrder(NamedTuple):
    """Contenders, the reference first, and a note if the reference is not the first that was given."""

    contenders: list[Contender]
    notes: tuple[str, ...] = ()


def reference_first(contenders: Sequence[Contender], named: str | None = None) -> ContenderOrder:
    """Put the reference first: the one named, else SGD if it runs, else the first that was given.

    SGD itself is preferred to SGD with decoupled decay (a control) and to GeN on top of SGD. A contender whose runs
    have not ended is no reference unless it is named.

    Args:
        contenders: in the order given. If one has no runs (recipes to train), the first stays the reference.
        named: the name of the reference; None chooses one.

    Raises:
        InputError: there is no contender of that name.
    """
    reference = contenders[0] if named is None else _named(contenders, named)
    notes: tuple[str, ...] = ()
    if named is None and all(contender.runs for contender in contenders):
        ended = [one for one in contenders if any(run.ended for run in one.runs)]
        nearest = min(ended, key=_distance_from_sgd, default=reference)  # the first of several at one distance
        if _distance_from_sgd(nearest) < _NOT_SGD and nearest is not reference:
            notes = (f"{nearest.name} is the reference, since it is trained with SGD; --reference takes another",)
            reference = nearest

    return ContenderOrder([reference, *(one for one in contenders if one is not reference)], notes)


def race_contest(standing: Standing, other: Standing, *, lower_is_better: bool) -> RaceContest | None:
    """Compare a standing with another on their common seeds; None if seeds do not pair them."""
    if unpaired_because(other.contender.recipe, standing.contender.recipe) is not None:
        return None

    epochs, seconds, final = (
        pair(standing.by_seed(quantity), other.by_seed(quantity), lower_is_better=lower)
        for quantity, lower in (("epochs_to_target", True), ("seconds_to_target", True), ("final", lower_is_better))
    )
    if epochs is None or seconds is None or final is None:
        return None

    return RaceContest(
        epochs=epochs,
        seconds=seconds,
        final=final,
        epoch_ratio=_ratio(standing, other, "epochs_to_target"),
        second_ratio=_ratio(standing, other, "seconds_to_target"),
    )


def _ratio(standing: Standing, other: Standing, quantity: str) -> float | None:
    """The median ratio of epochs or seconds over the common seeds."""
    mine, theirs = standing.by_seed(quantity).values, other.by_seed(quantity).values
    return median_ratio([(mine[seed], theirs[seed]) for seed in mine if seed in theirs])


def _with_contests(standings: Sequence[Standing], lower: bool) -> tuple[list[Standing], tuple[OptimizerApart, ...]]:
    """The standings with the contest of each against the first, and each Jorge recipe against its control."""
    first = standings[0]
    controls = [
        (jorge, other)
        for jorge in standings
        for other in standings
        if is_control(other.contender.recipe, jorge.contender.recipe)
    ]
    against_first = [(standing, first) for standing in standings[1:]]
    contests = {
        (one.name, other.name): contest
        for one, other in [*against_first, *controls]
        if (contest := race_contest(one, other, lower_is_better=lower)) is not None
    }

    # In each quantity, all contests of the comparison are corrected together.
    epochs = correct([contest.epochs for contest in contests.values()])
    seconds = correct([contest.seconds for contest in contests.values()])
    final = correct([contest.final for contest in contests.values()])
    corrected = {
        names: replace(contest, epochs=e, seconds=s, final=f)
        for (names, contest), e, s, f in zip(contests.items(), epochs, seconds, final, strict=True)
    }

    apart = [
        OptimizerApart(jorge.name, other.name, corrected[jorge.name, other.name])
        for jorge, other in controls
        if (jorge.name, other.name) in corrected
    ]
    placed = [
        first,
        *(replace(standing, against_first=corrected.get((standing.name, first.name))) for standing in standings[1:]),
    ]
    return placed, tuple(apart)


def _ranked(standings: Sequence[Standing]) -> list[Standing]:
    """The standings with mean ranks, over the seeds that the first and all that are paired with it share."""
    ranked = list(standings)
    places = [index for index, standing in enumerate(ranked) if index == 0 or standing.against_first is not None]
    epochs = [ranked[index].by_seed("epochs_to_target").values for index in places]
    common = sorted(set.intersection(*(set(values) for values in epochs)))
    if not common or len(places) == 1:
        return ranked

    means = statistics.mean_ranks([[values[seed] for values in epochs] for seed in common])
    for index, mean in zip(places, means, strict=True):
        ranked[index] = replace(ranked[index], mean_rank=mean)
    return ranked


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


def _run_notes(standings: Sequence[Standing], part: str) -> list[str]:
    notes = []
    if part == "test":
        notes.append("no validation part: targets and finals are read on the test part, once per evaluation")
    for standing in standings:
        notes += [f"{standing.name}: left out: {what}" for what in standing.left_out]
        said = [note for run in standing.contender.runs for note in run.notes]
        notes += [f"{standing.name}: {note}" for note in dict.fromkeys(said)]
    timed = [one.name for one in standings if any(run.clock == "wall" for run in one.contender.runs)]
    if timed:
        notes.append(f"seconds of {', '.join(timed)} are the wall clock of their processes, evaluations included")
    return notes


def _why_left_out(run: Run) -> str | None:
    if run.outcome is None:
        return "not ended yet, or killed; resume it with --resume"
    if not run.ended:
        return f"{run.outcome}" + (f" ({run.reason})" if run.reason else "")
    if not run.evaluations and run.outcome == "finished":
        return "finished without one evaluation"
    return None


def _all_left_out(contenders: Sequence[Contender]) -> list[str]:
    """For each contender, why its runs are left out; several reasons come with their numbers of runs."""
    lines = []
    for contender in contenders:
        reasons = Counter(_why_left_out(run) or str(run.outcome) for run in contender.runs)
        shown = [why if count == 1 else f"{count} runs: {why}" for why, count in reasons.items()]
        lines.append(f"{contender.name}: {', '.join(shown) or 'no runs'}")
    return lines


def _common_part(runs: Sequence[Run]) -> str:
    """The part that every run is measured on: validation, and then all runs need it, unless no run has it."""
    if any("validation" in run.evaluations for run in runs):
        part = "validation"
    else:
        part = "test" if "test" in runs[0].evaluations else next(iter(runs[0].evaluations))

    for run in runs:
        if part not in run.evaluations:
            has = ", ".join(run.evaluations)
            raise InputError(f"{run.folder}: evaluated on {has}, but the others on {part}; these cannot be compared")
    return part


def _chosen_metric(runs: Sequence[Run], part: str, wanted: str | None) -> str:
    """The metric that is asked for, or the best known one among those that every run has recorded."""
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
    return min(common, key=_rank_in(runs))


def _metrics_left_out(runs: Sequence[Run], part: str) -> list[str]:
    """A note if some runs lack a metric that is better known than the one compared."""
    recorded = [_recorded(run, part) for run in runs]
    common, known = set.intersection(*recorded), set.union(*recorded)
    rank = _rank_in(runs)
    if not common or min(known, key=rank) in common:
        return []
    missing = ", ".join(sorted(known - common))
    return [f"{min(common, key=rank)} is compared, since not all runs have recorded {missing}"]


def _recorded(run: Run, part: str) -> set[str]:
    return {name for reading in run.evaluations[part] for name in reading.metrics}


def _rank_in(runs: Sequence[Run]) -> Callable[[str], tuple[object, ...]]:
    """`by_rank` for the metrics of runs, which share a task."""
    return lambda metric: by_rank(metric, runs[0].recipe)


def _target_line(
    first: Contender, runs: Sequence[Run], part: str, metric: str, given: float | None, *, lower: bool
) -> TargetLine:
    if given is not None:
        if (what := target_fault(metric, given, first.recipe)) is not None:
            raise InputError(f"--target {what}")
        return TargetLine(given, "given")

    target = first.recipe.target
    if target is not None and target.metric == metric:
        return TargetLine(target.value, f"the target in {first.name}'s recipe")

    finals = [_final(run, part, metric, lower=lower) for run in runs]
    if not finals or not math.isfinite(value := statistics.median(finals)):
        raise InputError(f"{first.name}, the first contender, has no final {metric} to race against; give --target")
    return TargetLine(value, f"{first.name}'s median final value")


def _score(run: Run, part: str, metric: str, target: float, *, lower: bool) -> RaceScore:
    readings = run.evaluations.get(part, ())

    # A run that diverged did not reach the target, whatever it had before.
    counted = () if run.outcome == "diverged" else readings
    hit = next((r for r in counted if metric in r.metrics and _reaches(r.metrics[metric], target, lower)), None)

    values = [v for r in readings if not math.isnan(v := r.metrics.get(metric, math.nan))]
    test = [r.metrics[metric] for r in run.evaluations.get("test", ()) if metric in r.metrics]
    return RaceScore(
        seed=run.seed,
        diverged=run.outcome == "diverged",
        epochs_to_target=hit.epoch if hit else math.inf,
        seconds_to_target=hit.train_seconds if hit else math.inf,
        train_seconds=run.train_seconds,
        best=(min if lower else max)(values, default=_worst(lower=lower)),
        final=_final(run, part, metric, lower=lower),
        test=test[-1] if part != "test" and test and not math.isnan(test[-1]) else None,
    )


def _reaches(value: float, target: float, lower: bool) -> bool:
    return value <= target if lower else value >= target  # NaN reaches nothing


def _final(run: Run, part: str, metric: str, *, lower: bool) -> float:
    """The last reading; the worst possible value for a run that diverged or ended in NaN."""
    readings = run.evaluations.get(part, ())
    value = readings[-1].metrics.get(metric, math.nan) if readings else math.nan
    return _worst(lower=lower) if run.outcome == "diverged" or math.isnan(value) else value


def _worst(*, lower: bool) -> float:
    """The worst possible value of a metric."""
    return math.inf if lower else -math.inf


def _distance_from_sgd(contender: Contender) -> int:
    """0 for SGD itself, 1 for SGD with decoupled decay or under GeN, `_NOT_SGD` for all else."""
    optimizer, schedule = contender.recipe.optimizer, contender.recipe.schedule
    if not isinstance(optimizer, SGDSection):
        return _NOT_SGD
    return 1 if optimizer.decoupled or isinstance(schedule, Gen) else 0


def _named(contenders: Sequence[Contender], name: str) -> Contender:
    for contender in contenders:
        if contender.name == name:
            return contender
    names = ", ".join(contender.name for contender in contenders)
    raise InputError(f"--reference: must be one of {names}, got {name!r}")


_SUMMARISED = ("epochs_to_target", "seconds_to_target", "train_seconds", "best", "final", "test")


def _standing_to_json(standing: Standing) -> dict[str, object]:
    spreads = {field: standing.spread_of(field) for field in _SUMMARISED}
    return {
        "name": standing.name,
        "optimizer": standing.contender.recipe.optimizer.name,
        "folders": [str(run.folder) for run in standing.contender.runs],
        "runs": len(standing.scores),
        "diverged": standing.diverged,
        "left_out": list(standing.left_out),
        **{field: None if its_spread is None else asdict(its_spread) for field, its_spread in spreads.items()},
        "against_first": None if standing.against_first is None else standing.against_first.to_json(),
        "mean_rank": standing.mean_rank,
        "scores": [asdict(score) for score in standing.scores],
    }


def _inverse(ratio: float | None) -> float | None:
    if ratio is None:
        return None
    return math.inf if ratio == 0 else 1 / ratio
