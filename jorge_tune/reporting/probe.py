"""A probe as tables and words: what was measured, what follows from it, and what does not."""

from __future__ import annotations

from collections.abc import Iterator

from jorge_tune.measure.line import CONFIDENCE, RESAMPLES, LineReading
from jorge_tune.measure.probed import Probed, Reading, suggestion
from jorge_tune.recipe.render import number
from jorge_tune.reporting.summary import Table

GREEDY = (
    "What does not follow: a fresh optimum below the rate is no reason to lower it. It is the length that lowers the "
    "loss most in this one step. Long steps pay later: they go on along directions in which the loss falls slowly, "
    "while what they add in noise goes when the rate decays. Rates that train well lie far above it. Nor does it "
    "follow that the rate is stable: too long a step can look right along its own line, because it undoes the last one."
)
_FOLLOWS = {
    "raise": "the rate is probably too low. Try a higher one; how much higher the probe does not say",
    "lower": "the rate is too high there. Try a lower one, or a longer warm-up",
    "keep": "nothing measured here speaks against the rate",
}
_VERDICTS = {
    "ascent": "the loss rises along the step",
    "concave": "the loss bends down along the step, so there is no lowest point",
    "noise": "the points do not lie on a parabola",
}
_OWN = (
    "The step was computed from its own batch, so the optimum there is too long for any other: the distance between "
    "the two is how much of the step is that batch's noise."
)


def heading(probed: Probed) -> str:
    """What was probed, and how to read the numbers."""
    half = probed.points // 2
    return (
        f"{probed.recipe} ({probed.optimizer}, seed {probed.seed}) on {probed.device}: the loss along {count(probed)} "
        f"of its own training, at {-half} to {half} times the step. x* is where the parabola is lowest, lr* = x* lr; "
        f"slope and curvature are those of the loss in units of the step; intervals are the middle "
        f"{100 * CONFIDENCE:.0f} % of {RESAMPLES} draws of the samples."
    )


def count(probed: Probed) -> str:
    """How many steps were read."""
    return f"{len(probed.readings)} step{'' if len(probed.readings) == 1 else 's'}"


def table(probed: Probed) -> Table:
    """One row per step and kind of batch."""
    headings = [
        "step",
        "lr",
        "batch",
        "samples",
        "x* = lr*/lr",
        "interval",
        "lr*",
        "slope",
        "curvature",
        "noise",
        "fit",
    ]
    rows = []
    for reading in probed.readings:
        start = [str(reading.step), f"{reading.lr:.3g}"]
        if reading.missing:
            rows.append([*start, *["-"] * 8, reading.missing])
        for name, line in _lines(reading):
            rows.append([*start, name, *_cells(reading.lr, line)])
    return Table(headings, rows, headings[:2] + headings[3:10])


def words(probed: Probed) -> list[str]:
    """What was found at each step, what follows and what does not; the outcome first where the walk broke off."""
    lines = []
    if probed.outcome != "finished":
        lines.append(f"The training {probed.outcome}: {probed.reason}. What follows was read before.")
    lines += [_sentence(reading) for reading in probed.readings]
    found = suggestion(probed.readings)
    left_out = "; ".join(found.left_out)
    if found.direction is None:
        return [*lines, f"No suggestion: {found.reason}{f' ({left_out})' if left_out else ''}."]
    steps = ", ".join(map(str, found.rests_on))
    lines.append(f"What follows: {found.reason}: {_FOLLOWS[found.direction]}. This rests on step {steps}.")
    if left_out:
        lines.append(f"Left out of it: {left_out}.")
    return [*lines, _OWN, GREEDY]


def _lines(reading: Reading) -> Iterator[tuple[str, LineReading]]:
    if reading.own is not None:
        yield "its own", reading.own
    if reading.fresh is not None:
        yield f"{reading.fresh.batches} fresh", reading.fresh


def _cells(lr: float, line: LineReading) -> list[str]:
    fit = line.fit
    if fit is None:
        return [str(line.samples), *["-"] * 6, "the loss is not finite"]
    x = line.optimum
    interval = "-" if line.interval is None else f"[{line.interval.low:.3g}, {line.interval.high:.3g}]"
    noise = "cannot judge" if fit.noise_chance is None else f"{100 * fit.noise_chance:.2g} %"
    rates = ["-", interval, "-"] if x is None else [f"{x:.3g}", interval, f"{x * lr:.3g}"]
    return [str(line.samples), *rates, f"{fit.slope:.3g}", f"{fit.curvature:.3g}", noise, fit.verdict]


def _sentence(reading: Reading) -> str:
    where = f"Step {reading.step} (lr {number(float(f'{reading.lr:.3g}'))}{', warming up' if reading.warming else ''})"
    if reading.missing:
        return f"{where}: {reading.missing}."
    said = []
    for name, line in _lines(reading):
        if line.fit is None:
            said.append(f"on {name} the loss is not finite")
        elif line.optimum is None:
            share = f"{100 * line.agreeing:.0f} % of the draws have a lowest point ahead"
            said.append(f"on {name}: {_VERDICTS[line.fit.verdict]} ({share})")
        else:
            span = "" if line.interval is None else f" [{line.interval.low:.3g}, {line.interval.high:.3g}]"
            doubt = f", but {100 * (1 - line.agreeing):.0f} % of the draws have none" if not span else ""
            said.append(f"on {name}: lr* is {line.optimum:.3g} times lr{span}{doubt}")
    return f"{where}: {'; '.join(said)}.".replace("on its own", "on its own batch").replace("fresh:", "fresh batches:")
