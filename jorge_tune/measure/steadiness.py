"""Was the machine the same machine throughout? Judged on the baseline, whose work never changes.

Ratios of one round hide what slows all kinds alike, so the baseline's own seconds are looked at over time.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import NamedTuple

_LEAST = 3  # values on either side of a shift; fewer leave the medians alone
_ERRORS = 4.0  # a shift must exceed this many standard errors; tests/measure/test_steadiness.py counts false alarms
_MEDIAN_ERROR = 1.2533  # standard error of a median in that of a mean, of normal values
_LARGEST_SHIFT = 0.25  # smaller changes of pace come and go on virtual machines; answers must hold on both sides of one
_WIDEST = 0.3  # between quartiles; ratios within a round bear what is less (studies/LOG.md)
_MOST_WAITING = 0.2
_THIRD_QUARTILE = 1.1503  # of absolute deviations of normal values, in standard deviations; sees two alternating speeds


class Shift(NamedTuple):
    """A step or drift in a series: after how many values, and the later median over the earlier one."""

    after: int
    factor: float


def largest_shift(values: Sequence[float], least_change: float) -> Shift | None:
    """The change of level that fits best, of those beyond `least_change` (a fraction) and beyond noise; else None."""
    logs = [math.log(value) for value in values]
    found: tuple[float, Shift] | None = None
    for split in range(_LEAST, len(logs) - _LEAST + 1):
        before, after = statistics.median(logs[:split]), statistics.median(logs[split:])
        residuals = [abs(x - (before if i < split else after)) for i, x in enumerate(logs)]
        noise = statistics.quantiles(residuals, n=4, method="inclusive")[2] / _THIRD_QUARTILE
        error = _MEDIAN_ERROR * noise * math.sqrt(1 / split + 1 / (len(logs) - split))
        is_shift = abs(after - before) > max(math.log1p(least_change), _ERRORS * error)
        if is_shift and (found is None or sum(residuals) < found[0]):
            found = sum(residuals), Shift(split, math.exp(after - before))
    return found[1] if found else None


def quartile_spread(values: Sequence[float]) -> float:
    """The distance between the quartiles, in medians."""
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return (high - low) / middle


def disturbance(references: Sequence[float], overhead: float, waiting: float | None = None) -> str | None:
    """What speaks against trusting figures with these baseline seconds, in words; None where nothing does.

    A level that moved by more than a quarter, quartiles further apart than 30 %, or threads that waited for a core for
    more than half the overhead (or 10 %): the machine did something else meanwhile.

    Args:
        references: the baseline's seconds in the order of time.
        overhead: the budget that is to be told apart, as a fraction.
        waiting: the part of its time that the process waited for a core; None where the system does not say.
    """
    if waiting is not None and waiting > min(overhead, _MOST_WAITING) / 2:
        return f"the process waited for a core for {waiting:.0%} of its time: other programs are running"
    shift = largest_shift(references, _LARGEST_SHIFT)
    if shift is not None:
        return (
            f"the baseline's own step {changed_pace(shift, len(references))}: "
            "another program started or ended, or the clock moved"
        )
    spread = quartile_spread(references)
    if spread > _WIDEST:
        return (
            f"the baseline's own step varies by {spread:.0%} between its quartiles, and more than {_WIDEST:.0%} hides "
            "what is to be measured"
        )
    return None


def changed_pace(shift: Shift, count: int) -> str:
    """`became 14% faster after 7 of 30 readings`."""
    pace = "slower" if shift.factor > 1 else "faster"
    change = max(shift.factor, 1 / shift.factor) - 1
    return f"became {change:.0%} {pace} after {shift.after} of {count} readings"
