"""Contests: one contender against another on the seeds that both have, with tallies, ratios and corrected p-values."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

from jorge_tune.measure import statistics
from jorge_tune.measure.comparison import OptimizerApart, Paired, Standing, Tally
from jorge_tune.measure.pairing import is_control, unpaired_because


def pair(standing: Standing, other: Standing, *, lower_is_better: bool) -> Paired | None:
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
    return Paired(
        pairs=len(pairs),
        epochs=_tally(statistics.differences(epochs)),
        seconds=_tally(statistics.differences(seconds)),
        final=_tally([-gain for gain in gains]),
        epoch_ratio=_median_ratio(epochs),
        second_ratio=_median_ratio(seconds),
        final_gain=statistics.median(gains),
    )


def contests(standings: Sequence[Standing], lower: bool) -> tuple[dict[str, Paired], tuple[OptimizerApart, ...]]:
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


def _corrected(held: Mapping[tuple[str, str], Paired], quantity: str) -> dict[tuple[str, str], Paired]:
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
