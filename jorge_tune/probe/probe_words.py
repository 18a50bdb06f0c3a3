"""A probe in words and tables: what was measured, what follows from it, and what does not."""

from __future__ import annotations

from collections.abc import Iterator

from jorge_tune.compare.verdict import Table
from jorge_tune.probe.probe_result import CONFIDENCE, RESAMPLES, LineReading, ProbeResult, StepReading, suggestion
from jorge_tune.recipe.render import number

GREEDY = (
    "What does not follow: an optimum below lr on fresh batches is no reason to lower the rate. It is the length that "
    "lowers the loss most in this one step. Longer steps pay off later: they make progress along directions in which "
    "the loss falls slowly, and the noise that they add goes away when the rate decays. Rates that train well lie far "
    "above this optimum. Nor does it follow that the rate is stable: a step that is too long can look right along its "
    "own line, because it undoes the previous one."
)
_FOLLOWS = {
    "raise": "the rate is probably too low. Try a higher one; the probe does not say how much higher",
    "lower": "the rate is too high there. Try a lower one, or a longer warm-up",
    "keep": "these measurements give no reason to change the rate",
}
_VERDICTS = {
    "ascent": "the loss rises along the step",
    "concave": "the loss bends down along the step, so there is no lowest point",
    "noise": "the points do not lie on a parabola",
}
_OWN = (
    "The step was computed from its own batch, so the optimum there is too long for any other batch. The distance "
    "between the two shows how much of the step is noise of that batch."
)


def heading(probed: ProbeResult) -> str:
    """What was probed, and how to read the numbers."""
    half = probed.points // 2
    fresh = next((f"{reading.fresh.batches} fresh" for reading in probed.readings if reading.fresh), "fresh")
    return (
        f"{probed.recipe} ({probed.optimizer}, seed {probed.seed}) on {probed.device}: the loss along {count(probed)} "
        f"of its own training, at {-half} to {half} times the step, on the step's own batch and on {fresh} ones. lr* "
        f"is the rate at which the fitted parabola is lowest. Slope and curvature are in units of the step. The "
        f"interval is the middle {100 * CONFIDENCE:.0f} % of {RESAMPLES} resamples. Noise says how often a parabola "
        f"would fit pure noise as well."
    )


def count(probed: ProbeResult) -> str:
    """The number of steps that were read: `3 steps`."""
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
    """The reading of each step, what follows and what does not; first the outcome if the training broke off."""
    lines = []
    if probed.outcome != "finished":
        was = "was interrupted" if probed.outcome == "interrupted" else probed.outcome
        lines.append(f"The training {was}: {probed.reason}. The readings below were made before.")
    lines += [_sentence(reading) for reading in probed.readings]

    suggested = suggestion(probed.readings)
    left_out = "; ".join(suggested.left_out)
    if suggested.direction is None:
        return [*lines, f"No suggestion: {suggested.reason}{f' ({left_out})' if left_out else ''}."]

    steps = ", ".join(map(str, suggested.rests_on))
    lines.append(f"What follows: {suggested.reason}: {_FOLLOWS[suggested.direction]}. This rests on step {steps}.")
    if left_out:
        lines.append(f"Left out of it: {left_out}.")
    return [*lines, _OWN, GREEDY]


def _lines(reading: StepReading) -> Iterator[tuple[str, LineReading]]:
    """The lines of a step, each with the name of its batches."""
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
    """The reading of one step."""
    where = f"Step {reading.step} (lr {number(float(f'{reading.lr:.3g}'))}{', warming up' if reading.warming else ''})"
    if reading.missing:
        return f"{where}: {reading.missing}."

    parts = []
    for name, line in _lines(reading):
        if line.fit is None:
            parts.append(f"on {name} the loss is not finite")
        elif line.optimum is None:
            share = f" ({100 * line.agreeing:.0f} % of the resamples have a lowest point ahead)"
            parts.append(f"on {name}: {_VERDICTS[line.fit.verdict]}{share if line.samples > 1 else ''}")
        else:
            at_least = line.fit.at_least
            span = "" if line.interval is None else f" [{line.interval.low:.3g}, {line.interval.high:.3g}]"
            doubt = f", but {100 * (1 - line.agreeing):.0f} % of the resamples have none" if not span else ""
            doubt = ", without an interval" if line.samples == 1 else doubt
            how = " (rounding hides the curvature)" if at_least else span
            parts.append(f"on {name}: lr* is {'at least ' if at_least else ''}{line.optimum:.3g} times lr{how}{doubt}")
    return f"{where}: {'; '.join(parts)}.".replace("on its own", "on its own batch").replace("fresh:", "fresh batches:")
