"""A diagnosis as the cells of tables: directions, blocks, their sides, the quadratic."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

from jorge_tune.compare.statistics import Spread, median, spread
from jorge_tune.compare.verdict import Table
from jorge_tune.diagnose.diagnosis import NEWTON_CAPS, TOP_DIRECTIONS, BlockDiagnosis, Diagnosis, QuadraticStudy

NAMES = {
    "exact": "exact root, Jorge's averages",
    **{f"newton-{k}": f"Newton x {k}, Jorge's averages" for k in NEWTON_CAPS},
    "shampoo": "Shampoo, b2 0.999",
    **{f"shampoo-newton-{k}": f"Shampoo, Newton x {k}" for k in NEWTON_CAPS},
    "sgd": "SGD",
}
"""What a direction is called, by its name in a diagnosis; "jorge" is what is compared with them."""


def direction_table(diagnosis: Diagnosis) -> Table:
    """One row per direction: Jorge's cosine to it, and its own to the root that it approximates."""
    headings = ["direction", "Jorge's cosine to it", "least", "at the end", "its own to the exact root", "least own"]
    last = diagnosis.measured_steps[-1]
    rows = []
    for name, label in NAMES.items():
        found = spread(diagnosis.cosines("jorge", name))
        pair = own_reference(name)
        own = None if pair is None else spread(diagnosis.cosines(*pair))
        rows.append(
            [
                label,
                show(found.median) if found else "-",
                show(found.low) if found else "-",
                show_spread(spread(diagnosis.cosines("jorge", name, last))),
                show(own.median) if own else "-",
                show(own.low) if own else "-",
            ]
        )
    return Table(headings, rows, headings[1:])


def own_reference(name: str) -> tuple[str, str] | None:
    """Where a diagnosis keeps the cosine of an approximate direction to its exact one."""
    if name.startswith("shampoo-"):
        return "shampoo", name
    return None if name in ("exact", "shampoo") else ("exact", name)


def block_table(diagnosis: Diagnosis) -> Table:
    """One row per block: how near its direction is to the exact one, and how near plain SGD's is."""
    headings = ["block", "size", "read", "to exact: end", "median", "least", "SGD to exact: median", "nearer than SGD"]
    rows = []
    for block in diagnosis.blocks:
        ours = _values(block, "jorge", "exact")
        theirs = _values(block, "exact", "sgd")
        nearer = sum(mine > other for mine, other in zip(ours, theirs, strict=True))
        row = [block.name, f"{block.rows} x {block.columns}", f"{len(block.measured)} of {len(block.readings)}"]
        if ours:
            row += [show(ours[-1]), show(median(ours)), show(min(ours)), show(median(theirs))]
            row.append(f"{nearer} of {len(ours)}")
        rows.append(row + ["-"] * (len(headings) - len(row)))
    return Table(headings, rows, headings[2:])


def side_table(diagnosis: Diagnosis) -> Table:
    """One row per side of a block, as the last reading has it; "dimension" is tr A / lambda_max."""
    tops = [top for top in TOP_DIRECTIONS if any(top in s.mass for _, _, s in diagnosis.side_readings())]
    headings = ["side", "size", "refreshes", "b2: first", "median", "end", "newest share: median"]
    headings += ["condition", "asymmetry", "root error"]
    headings += ["dimension", "dimension, b2 0.999", *(f"top {top}" for top in tops)]
    rows = []
    for block in diagnosis.blocks:
        if not block.measured:
            continue
        for side, found in block.measured[-1].sides.items():
            weights = [refresh.b2 for refresh in block.refreshes[side]]
            size = block.rows if side == "left" else block.columns
            row = [f"{block.name} {side}", str(size), str(found.refreshes)]
            row += [show_weight(value) for value in (weights[0], median(weights), weights[-1])]
            row.append(f"{median([refresh.newest_share for refresh in block.refreshes[side]]):.2g}")
            row += [f"{found.condition:.3g}", f"{found.asymmetry:.2g}", f"{found.root_error:.2g}"]
            row += [f"{found.intrinsic_dimension:.3g}", f"{found.shampoo_intrinsic_dimension:.3g}"]
            rows.append(row + [show(found.mass[top]) if top in found.mass else "-" for top in tops])
    return Table(headings, rows, headings[1:])


def quadratic_table(study: QuadraticStudy) -> Table:
    """One row per number of refreshes: root errors, directions of both forms, how far each descent has come."""
    roots = list(study.points[0].root_errors)
    descents = list(study.points[0].losses)
    headings = ["refreshes", *(f"error: {_short(name)}" for name in roots)]
    headings += ["cosine: series", "congruence", *(f"f / f(start): {_short(name)}" for name in descents)]
    rows = [
        [
            str(point.refreshes),
            *(f"{point.root_errors[name].median:.2g}" for name in roots),
            *(show(point.cosines[form].median) for form in ("series", "congruence")),
            *(f"{point.losses[name].median:.2g}" for name in descents),
        ]
        for point in study.points
    ]
    return Table(headings, rows, headings)


def heading(diagnosis: Diagnosis) -> str:
    """What was diagnosed, and how to read the numbers."""
    read = diagnosis.measured_steps
    return (
        f"{diagnosis.recipe} (form {diagnosis.form}, seed {diagnosis.seed}), {diagnosis.steps} steps, "
        f"{len(read)} of them read on {len(diagnosis.blocks)} blocks. Directions are those before momentum, of the "
        "run's own gradients. The exact root is of Jorge's own averages, with its own b2; Shampoo's are Shampoo's own."
    )


def show(value: float) -> str:
    """A cosine or a share."""
    return f"{value:.3f}"


def show_weight(b2: float) -> str:
    """An averaging weight, so that what is nearly 1 does not look like it."""
    return show(b2) if b2 < 0.9995 else f"1 - {1 - b2:.1g}"


def show_spread(found: Spread | None) -> str:
    """The median, and the least and largest over blocks."""
    if found is None:
        return "-"
    return show(found.median) + ("" if found.count == 1 else f" [{show(found.low)}, {show(found.high)}]")


def _values(block: BlockDiagnosis, of: str, to: str) -> list[float]:
    """A cosine at every reading that has it and the one it is compared with."""
    found = [(r.cosines["jorge"]["exact"], r.cosines["exact"]["sgd"], r.cosines[of][to]) for r in block.measured]
    return [value for first, second, value in found if first is not None and second is not None and value is not None]


def _short(name: str) -> str:
    return name.replace("newton-", "Newton x ").replace("sgd", "SGD").replace("shampoo", "Shampoo")


def tables(diagnosis: Diagnosis) -> Iterable[tuple[str, Table]]:
    """All tables with their titles; those of blocks only where something was read."""
    if diagnosis.measured_steps:
        yield "Directions: cosines over blocks and steps, median and least", direction_table(diagnosis)
        yield "Blocks", block_table(diagnosis)
        yield "Preconditioners and the statistics behind them, as last read", side_table(diagnosis)
    for study in diagnosis.quadratics:
        yield f"Convex quadratic, {study.about}: median over seeds", quadratic_table(study)


def sides_of(diagnosis: Diagnosis, field: str) -> Sequence[float]:
    """A number of every side as last read."""
    return [
        float(getattr(side, field))
        for block in diagnosis.blocks
        if block.measured
        for side in block.measured[-1].sides.values()
    ]


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
    advice = "" if diagnosis.form != "series" else "; optimizer.form=congruence does not drift: diagnose it too"
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
