"""A probe as tables and words: what was measured, what follows from it, and what does not."""

from __future__ import annotations

from collections.abc import Iterator

from jorge_tune.compare.verdict import Table
from jorge_tune.probe.probe_result import CONFIDENCE, RESAMPLES, LineReading, ProbeResult, StepReading, suggestion
from jorge_tune.recipe.render import number

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


def heading(probed: ProbeResult) -> str:
    """What was probed, and how to read the numbers."""
    half = probed.points // 2
    fresh = next((f"{reading.fresh.batches} fresh" for reading in probed.readings if reading.fresh), "fresh")
    return (
        f"{probed.recipe} ({probed.optimizer}, seed {probed.seed}) on {probed.device}: the loss along {count(probed)} "
        f"of its own training, at {-half} to {half} times the step, on the step's own batch and on {fresh} ones. lr* "
        f"is the rate at which the parabola is lowest; slope and curvature are in units of the step; intervals are the "
        f"middle {100 * CONFIDENCE:.0f} % of {RESAMPLES} draws of the samples; noise is how often pure noise would be "
        f"fitted as well."
    )


def count(probed: ProbeResult) -> str:
    """How many steps were read."""
    return f"{len(probed.readings)} step{'' if len(probed.readings) == 1 else 's'}"


def table(probed: ProbeResult) -> Table:
    """One row per step and kind of batch."""
    headings = ["step, batch", "lr", "lr*/lr", "interval", "lr*", "fit", "slope", "curvature", "noise", "samples"]
    rows = []
    for reading in probed.readings:
        lr = f"{reading.lr:.3g}"
        if reading.missing:
            rows.append([str(reading.step), lr, *["-"] * 3, reading.missing, *["-"] * 4])
        for name, line in _lines(reading):
            rows.append([f"{reading.step}, {name.split()[-1]}", lr, *_cells(reading.lr, line)])
    return Table(headings, rows, [*headings[1:5], *headings[6:]])


def words(probed: ProbeResult) -> list[str]:
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


def _lines(reading: StepReading) -> Iterator[tuple[str, LineReading]]:
    if reading.own is not None:
        yield "its own", reading.own
    if reading.fresh is not None:
        yield f"{reading.fresh.batches} fresh", reading.fresh


def _cells(lr: float, line: LineReading) -> list[str]:
    fit = line.fit
    if fit is None:
        return [*["-"] * 3, "the loss is not finite", *["-"] * 3, str(line.samples)]
    x = line.optimum
    interval = "-" if line.interval is None or fit.at_least else f"[{line.interval.low:.3g}, {line.interval.high:.3g}]"
    noise = "cannot judge" if fit.noise_chance is None else f"{100 * fit.noise_chance:.2g} %"
    least = ">= " if fit.at_least else ""
    rates = ["-", interval, "-"] if x is None else [f"{least}{x:.3g}", interval, f"{least}{x * lr:.3g}"]
    return [*rates, fit.verdict, f"{fit.slope:.3g}", f"{fit.curvature:.3g}", noise, str(line.samples)]


def _sentence(reading: StepReading) -> str:
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
            at_least = line.fit.at_least
            span = "" if line.interval is None else f" [{line.interval.low:.3g}, {line.interval.high:.3g}]"
            doubt = f", but {100 * (1 - line.agreeing):.0f} % of the draws have none" if not span else ""
            how = " (rounding hides the curvature)" if at_least else span
            said.append(f"on {name}: lr* is {'at least ' if at_least else ''}{line.optimum:.3g} times lr{how}{doubt}")
    return f"{where}: {'; '.join(said)}.".replace("on its own", "on its own batch").replace("fresh:", "fresh batches:")
