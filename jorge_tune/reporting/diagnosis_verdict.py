"""A diagnosis in words, from the numbers alone."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from jorge_tune.measure.diagnosis import NEWTON_CAPS, Diagnosis, QuadraticStudy
from jorge_tune.measure.statistics import median, spread
from jorge_tune.reporting.diagnosis import show, show_weight, sides_of

_ROUNDING = 0.005  # cosines nearer than this are called equal


def diagnosis_verdict(diagnosis: Diagnosis) -> list[str]:
    """What the numbers mean, a sentence or two each; the outcome first where the run did not finish."""
    lines = []
    if diagnosis.outcome != "finished":
        lines.append(f"{outcome_sentence(diagnosis)} What follows was read before.")
    if spread(diagnosis.cosines("jorge", "exact")) is None:
        lines.append("Nothing could be measured on the run: no block had a reading with a direction.")
    else:
        lines += [_direction(diagnosis), _against_sgd(diagnosis), _newton(diagnosis), _rival(diagnosis)]
        lines += [_memory(diagnosis), _shape(diagnosis), _spectrum(diagnosis)]
    return lines + [_quadratic(study) for study in diagnosis.quadratics]


def outcome_sentence(diagnosis: Diagnosis) -> str:
    """How a diagnosis ended that did not finish."""
    what = "The diagnosis was interrupted" if diagnosis.outcome == "interrupted" else f"The run {diagnosis.outcome}"
    return f"{what}: {diagnosis.reason}."


def _direction(diagnosis: Diagnosis) -> str:
    ours, sgd = spread(diagnosis.cosines("jorge", "exact")), spread(diagnosis.cosines("exact", "sgd"))
    assert ours is not None
    assert sgd is not None
    last = diagnosis.measured_steps[-1]
    end, plain = diagnosis.step_cosine("jorge", "exact", last), diagnosis.step_cosine("exact", "sgd", last)
    text = (
        f"Jorge's direction ({diagnosis.form}) kept a cosine of {show(ours.median)} (least {show(ours.low)}) to "
        f"that of the exact root of the same averages; plain SGD's has {show(sgd.median)} (least {show(sgd.low)})."
    )
    if end is not None and plain is not None:
        text += (
            f" At step {last} the whole step, blocks weighted by their gradients, has {show(end)}, SGD's {show(plain)}."
        )
    return text


def _against_sgd(diagnosis: Diagnosis) -> str:
    """Whether the approximate root is still worth having, block by block, at the end."""
    pairs = [
        (block.name, ours, sgd)
        for block in diagnosis.blocks
        if block.measured
        and (ours := block.measured[-1].cosines["jorge"]["exact"]) is not None
        and (sgd := block.measured[-1].cosines["exact"]["sgd"]) is not None
    ]
    worse = [name for name, ours, sgd in pairs if ours < sgd - _ROUNDING]
    if not worse:
        return f"At the end it was no farther from the exact direction than SGD on any of {len(pairs)} blocks."
    names = ", ".join(worse[:3]) + (f" and {len(worse) - 3} more" if len(worse) > 3 else "")
    advice = "" if diagnosis.form == "congruence" else "; optimizer.form=congruence does not drift: diagnose it too"
    count = f"{len(worse)} of {len(pairs)} blocks ({names})"
    return f"At the end it was farther from the exact direction than plain SGD on {count}{advice}."


def _newton(diagnosis: Diagnosis) -> str:
    """How many Newton steps it takes to be as near to the exact direction as Jorge is."""
    ours = spread(diagnosis.cosines("jorge", "exact"))
    capped = {k: found for k in NEWTON_CAPS if (found := spread(diagnosis.cosines("exact", f"newton-{k}")))}
    assert ours is not None
    medians = _enough({k: found.median for k, found in capped.items()}, ours.median)
    least = _enough({k: found.low for k, found in capped.items()}, ours.low)
    return (
        f"Newton's iteration on the same averages has a median cosine of {medians}; in the least readings, of {least}."
    )


def _enough(cosines: Mapping[int, float], ours: float) -> str:
    """Newton's cosines by its steps, and the first number of steps whose cosine is Jorge's or more."""
    enough = next((k for k, value in cosines.items() if value >= ours), None)
    listed = ", ".join(f"{show(value)} after {k}" for k, value in cosines.items())
    if enough is None:
        return f"{listed} steps (no cap tried comes as near as Jorge's {show(ours)})"
    return f"{listed} steps (it takes {enough} to come as near as Jorge's {show(ours)})"


def _rival(diagnosis: Diagnosis) -> str:
    found, sgd = spread(diagnosis.cosines("jorge", "shampoo")), spread(diagnosis.cosines("shampoo", "sgd"))
    assert found is not None
    assert sgd is not None
    return (
        f"To Shampoo with its own averages (b2 0.999) Jorge's cosine is {show(found.median)} (least {show(found.low)}"
        f"), SGD's {show(sgd.median)}: what the averages differ in is in this number too."
    )


def _memory(diagnosis: Diagnosis) -> str:
    """b2 as it evolved, and how fast old gradients are forgotten, which b2 alone does not say."""
    sides = [refreshes for block in diagnosis.blocks for refreshes in block.refreshes.values() if refreshes]
    weights = [refresh.b2 for refreshes in sides for refresh in refreshes]
    shares = [refresh.newest_share for refreshes in sides for refresh in refreshes]
    lives = [_life([refresh.newest_share for refresh in refreshes]) for refreshes in sides]
    first = median([refreshes[0].b2 for refreshes in sides])
    return (
        f"b2 began at {show_weight(first)} and had a median of {show_weight(median(weights))}, between "
        f"{show_weight(min(weights))} and {show_weight(max(weights))}. It depends on eps; the newest gradient's share "
        f"of the averages does not: median {median(shares):.2g}, at most {max(shares):.2g}. An old gradient's share "
        f"fell to 1/e in {median(lives):.3g} refreshes (median over sides; in {min(lives):.3g} on the most forgetful)."
    )


def _life(newest_shares: Sequence[float]) -> float:
    """Refreshes in which an old share falls to 1/e: it falls by 1 - newest share at each."""
    loss = -sum(math.log1p(-min(share, 1 - 1e-15)) for share in newest_shares) / len(newest_shares)
    return 1 / loss if loss > 0 else math.inf


def _shape(diagnosis: Diagnosis) -> str:
    conditions, asymmetries = sides_of(diagnosis, "condition"), sides_of(diagnosis, "asymmetry")
    ratios = [value for value in diagnosis.trace.graft_ratio if value is not None]
    text = (
        f"L and R end with condition numbers of {median(conditions):.3g} (at most {max(conditions):.3g}) and "
        f"asymmetries of {median(asymmetries):.2g} (at most {max(asymmetries):.2g})."
    )
    if ratios:
        text += f" The graft ratio went from {ratios[0]:.3g} to {ratios[-1]:.3g}."
    return text


def _spectrum(diagnosis: Diagnosis) -> str:
    shares, tops = [], []
    for block in diagnosis.blocks:
        for side, found in (block.measured[-1].sides if block.measured else {}).items():
            shares.append(found.shampoo_intrinsic_dimension / (block.rows if side == "left" else block.columns))
            if 16 in found.shampoo_mass:
                tops.append(found.shampoo_mass[16])
    dimensions = sides_of(diagnosis, "shampoo_intrinsic_dimension")
    text = (
        f"The statistics (b2 0.999) have an intrinsic dimension of {median(dimensions):.3g} (at most "
        f"{max(dimensions):.3g}), {median(shares):.0%} of the nominal one in the median"
    )
    held = f"; the top 16 directions hold {median(tops):.0%} of their mass (at least {min(tops):.0%})" if tops else ""
    return f"{text}{held}."


def _quadratic(study: QuadraticStudy) -> str:
    point = study.points[-1]
    series, congruence = point.root_errors["series"], point.root_errors["congruence"]
    early = study.points[min(1, len(study.points) - 1)]
    newton = ", ".join(f"{point.root_errors[f'newton-{k}'].median:.2g} for {k}" for k in NEWTON_CAPS)
    return (
        f"On the convex quadratic with eigenvalues {study.eigenvalues} the series' root error goes from "
        f"{early.root_errors['series'].median:.2g} after {early.refreshes} refreshes to {series.median:.2g} after "
        f"{point.refreshes} (at most {series.high:.2g}), the congruence's to {congruence.median:.2g}; capped Newton's "
        f"is {newton} steps."
    )
