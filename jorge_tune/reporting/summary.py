"""A comparison as the cells of a table, and what stands above and below it."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

from jorge_tune.measure.comparison import Comparison, Standing
from jorge_tune.measure.statistics import Spread

_ALWAYS = ("contender", "runs", "epochs to target", "final", "best")


class Table(NamedTuple):
    """Headings, rows of cells, and the headings whose columns are numbers."""

    headings: list[str]
    rows: list[list[str]]
    right: list[str]


def comparison_table(comparison: Comparison) -> Table:
    """One row per contender; columns that no contender fills are left out."""
    rows = [_row(comparison, standing) for standing in comparison.standings]
    headings = [name for name in rows[0] if name in _ALWAYS or any(row[name] != "-" for row in rows)]
    cells = [[row[name] for name in headings] for row in rows]
    return Table(headings, cells, [name for name in headings if name != "contender"])


def target_sentence(comparison: Comparison) -> str:
    """What the race is measured against, and on which part of the data."""
    sign = "<=" if comparison.lower_is_better else ">="
    return (
        f"target: {comparison.metric} {sign} {show_value(comparison.target.value)} "
        f"({comparison.target.origin}), read on the {comparison.part} part; "
        "cells are median [lowest, highest] over seeds"
    )


def show_value(value: float) -> str:
    """A metric's value; an infinite one is the worst there is, left by a run that diverged or ended in NaN."""
    return "no number" if math.isinf(value) else f"{value:.4g}"


def show_amount(value: float) -> str:
    """Epochs or seconds; an infinite number of them is a miss."""
    if math.isinf(value):
        return "miss"
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def show_ratio(value: float | None) -> str:
    """A paired ratio; "-" where no pair has one, "miss" or "first missed" where only the other of the two arrived."""
    if value is None:
        return "-"
    return "miss" if math.isinf(value) else "first missed" if value == 0 else f"{value:.2f}"


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
    """Median and range, and how many runs reached the target where some missed it."""
    found = standing.spread_of(field)
    if found is None:
        return "-"
    if math.isinf(found.low):
        return "miss"
    hit = sum(math.isfinite(getattr(score, field)) for score in standing.scores)
    return _range(found, show_amount) + ("" if hit == found.count else f" {hit} of {found.count} hit")


def _range(found: Spread | None, show: Callable[[float], str]) -> str:
    if found is None:
        return "-"
    if found.count == 1:
        return show(found.median)
    return f"{show(found.median)} [{show(found.low)}, {show(found.high)}]"
