"""A diagnosis in words and tables: the verdict, directions, blocks, their sides, the quadratics."""

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
"""The labels of the directions that Jorge's is compared with, by their names in a diagnosis."""

_ROUNDING = 0.005  # cosines that differ by less are called equal


def diagnosis_verdict(diagnosis: Diagnosis) -> list[str]:
    """What the numbers mean, in a few sentences; first the outcome if the run did not finish."""
    lines = []
    if diagnosis.outcome != "finished":
        lines.append(f"{outcome_sentence(diagnosis)} The readings below were made before.")
    if spread(diagnosis.cosines("jorge", "exact")) is None:
        lines.append("Nothing could be measured on the run: no block had a reading with a direction.")
    else:
        lines += [_direction(diagnosis), _against_sgd(diagnosis), _newton(diagnosis), _rival(diagnosis)]
        lines += [_memory(diagnosis), _shape(diagnosis), _spectrum(diagnosis)]
    return lines + [_quadratic(study) for study in diagnosis.quadratics]


def outcome_sentence(diagnosis: Diagnosis) -> str:
    """How a diagnosis ended if it did not finish."""
    what = "The diagnosis was interrupted" if diagnosis.outcome == "interrupted" else f"The run {diagnosis.outcome}"
    return f"{what}: {diagnosis.reason}."


def heading(diagnosis: Diagnosis) -> str:
    """What was diagnosed, and how to read the numbers."""
    read = diagnosis.measured_steps
    return (
        f"{diagnosis.recipe} (form {diagnosis.form}, seed {diagnosis.seed}): {diagnosis.steps} steps, {len(read)} of "
        f"them read, on {len(diagnosis.blocks)} blocks. A cosine compares two directions of one gradient, before "
        "momentum: 1 means that they are the same. The exact root is that of Jorge's own averages, with Jorge's own "
        "b2. Shampoo has averages of its own."
    )


def tables(diagnosis: Diagnosis) -> Iterable[tuple[str, Table]]:
    """All tables with their titles; those about blocks only if a block was read."""
    if diagnosis.measured_steps:
        yield "Directions: cosines over blocks and steps, median and lowest", direction_table(diagnosis)
        yield "Blocks", block_table(diagnosis)
        yield "Preconditioners and the statistics behind them, at the last reading", side_table(diagnosis)
    for study in diagnosis.quadratics:
        yield f"Convex quadratic, {study.about}: median over seeds", quadratic_table(study)


def direction_table(diagnosis: Diagnosis) -> Table:
    """One row per direction: Jorge's cosine to it, and its own cosine to the exact direction that it approximates."""
    headings = ["direction", "Jorge's cosine to it", "lowest", "at the end", "its own to the exact root", "lowest own"]
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
    """The names under which a diagnosis has the cosine of an approximate direction to its exact one; None if exact."""
    if name.startswith("shampoo-"):
        return "shampoo", name
    return None if name in ("exact", "shampoo") else ("exact", name)


def block_table(diagnosis: Diagnosis) -> Table:
    """One row per block: how near Jorge's direction is to the exact one, and how near plain SGD's is."""
    headings = ["block", "size", "read", "to exact: end", "median", "lowest", "SGD to exact: median", "nearer than SGD"]
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
    """One row per side of a block, at its last reading; "dimension" is tr A / lambda_max."""
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
    """One row per number of refreshes: root errors, directions of both forms, and the loss of each descent."""
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


def _direction(diagnosis: Diagnosis) -> str:
    """How near Jorge and SGD are to the exact direction."""
    ours, sgd = spread(diagnosis.cosines("jorge", "exact")), spread(diagnosis.cosines("exact", "sgd"))
    assert ours is not None
    assert sgd is not None
    last = diagnosis.measured_steps[-1]
    end, plain = diagnosis.step_cosine("jorge", "exact", last), diagnosis.step_cosine("exact", "sgd", last)
    text = (
        f"Jorge's direction ({diagnosis.form}) has a median cosine of {show(ours.median)} (lowest {show(ours.low)}) to "
        f"the direction of the exact root of the same averages; plain SGD has {show(sgd.median)} (lowest "
        f"{show(sgd.low)})."
    )
    if end is not None and plain is not None:
        text += (
            f" At step {last}, with blocks weighted by their gradients, Jorge's whole step has {show(end)} and SGD's "
            f"has {show(plain)}."
        )
    return text


def _against_sgd(diagnosis: Diagnosis) -> str:
    """Whether the approximate root is better than none at the end, block by block."""
    pairs = [
        (block.name, ours, sgd)
        for block in diagnosis.blocks
        if block.measured
        and (ours := block.measured[-1].cosines["jorge"]["exact"]) is not None
        and (sgd := block.measured[-1].cosines["exact"]["sgd"]) is not None
    ]
    worse = [name for name, ours, sgd in pairs if ours < sgd - _ROUNDING]
    if not worse:
        return f"At the end, Jorge was no farther from the exact direction than SGD on any of {len(pairs)} blocks."
    names = ", ".join(worse[:3]) + (f" and {len(worse) - 3} more" if len(worse) > 3 else "")
    advice = (
        "; form congruence does not drift: try --set optimizer.form=congruence" if diagnosis.form == "series" else ""
    )
    count = f"{len(worse)} of {len(pairs)} blocks ({names})"
    return f"At the end, Jorge was farther from the exact direction than plain SGD on {count}{advice}."


def _newton(diagnosis: Diagnosis) -> str:
    """How many Newton steps come as near to the exact direction as Jorge does."""
    ours = spread(diagnosis.cosines("jorge", "exact"))
    capped = {k: found for k in NEWTON_CAPS if (found := spread(diagnosis.cosines("exact", f"newton-{k}")))}
    assert ours is not None
    medians = _enough({k: found.median for k, found in capped.items()}, ours.median)
    least = _enough({k: found.low for k, found in capped.items()}, ours.low)
    return f"Newton's iteration on the same averages has a median cosine of {medians}, and a lowest cosine of {least}."


def _enough(cosines: Mapping[int, float], ours: float) -> str:
    """Newton's cosines by its steps, and the first number of steps that comes as near as Jorge."""
    enough = next((k for k, value in cosines.items() if value >= ours), None)
    listed = ", ".join(f"{show(value)} after {k}" for k, value in cosines.items())
    if enough is None:
        return f"{listed} steps (none of these comes as near as Jorge's {show(ours)})"
    return f"{listed} steps (it takes {enough} to come as near as Jorge's {show(ours)})"


def _rival(diagnosis: Diagnosis) -> str:
    """How near Jorge is to Shampoo as it is commonly used."""
    found, sgd = spread(diagnosis.cosines("jorge", "shampoo")), spread(diagnosis.cosines("shampoo", "sgd"))
    assert found is not None
    assert sgd is not None
    return (
        f"To Shampoo with its own averages (b2 0.999), Jorge's cosine is {show(found.median)} (lowest "
        f"{show(found.low)}) and SGD's is {show(sgd.median)}; these numbers include the difference of the averages."
    )


def _memory(diagnosis: Diagnosis) -> str:
    """How b2 evolved, and how fast Jorge forgets old gradients, which b2 alone does not say."""
    sides = [refreshes for block in diagnosis.blocks for refreshes in block.refreshes.values() if refreshes]
    weights = [refresh.b2 for refreshes in sides for refresh in refreshes]
    shares = [refresh.newest_share for refreshes in sides for refresh in refreshes]
    lives = [_life([refresh.newest_share for refresh in refreshes]) for refreshes in sides]
    first = median([refreshes[0].b2 for refreshes in sides])
    return (
        f"b2 began at {show_weight(first)}; its median is {show_weight(median(weights))}, its range "
        f"{show_weight(min(weights))} to {show_weight(max(weights))}. b2 depends on eps, but the newest gradient's "
        f"share of the averages does not: its median is {median(shares):.2g}, and at most it is {max(shares):.2g}. "
        f"The share of an old gradient fell to 1/e in {median(lives):.3g} refreshes (median over sides; on the "
        f"fastest side in {min(lives):.3g})."
    )


def _life(newest_shares: Sequence[float]) -> float:
    """The number of refreshes in which an old share falls to 1/e; each multiplies it by 1 - newest share."""
    loss = -sum(math.log1p(-min(share, 1 - 1e-15)) for share in newest_shares) / len(newest_shares)
    return 1 / loss if loss > 0 else math.inf


def _shape(diagnosis: Diagnosis) -> str:
    """The condition and the asymmetry of the preconditioners, and the graft ratio."""
    conditions, asymmetries = sides_of(diagnosis, "condition"), sides_of(diagnosis, "asymmetry")
    ratios = [value for value in diagnosis.trace.graft_ratio if value is not None]
    text = (
        f"At the end, L and R have a median condition number of {median(conditions):.3g} (at most "
        f"{max(conditions):.3g}) and a median asymmetry of {median(asymmetries):.2g} (at most {max(asymmetries):.2g})."
    )
    if ratios:
        text += f" The graft ratio went from {ratios[0]:.3g} to {ratios[-1]:.3g}."
    return text


def _spectrum(diagnosis: Diagnosis) -> str:
    """How many directions the statistics have."""
    shares, tops = [], []
    for block in diagnosis.blocks:
        for side, found in (block.measured[-1].sides if block.measured else {}).items():
            shares.append(found.shampoo_intrinsic_dimension / (block.rows if side == "left" else block.columns))
            if 16 in found.shampoo_mass:
                tops.append(found.shampoo_mass[16])

    dimensions = sides_of(diagnosis, "shampoo_intrinsic_dimension")
    text = (
        f"The statistics (b2 0.999) have a median intrinsic dimension of {median(dimensions):.3g} (at most "
        f"{max(dimensions):.3g}), in the median {median(shares):.0%} of a side's length"
    )
    held = f"; the top 16 directions hold {median(tops):.0%} of their mass (at least {min(tops):.0%})" if tops else ""
    return f"{text}{held}."


def _quadratic(study: QuadraticStudy) -> str:
    """How the root errors grow with the number of refreshes."""
    point = study.points[-1]
    series, congruence = point.root_errors["series"], point.root_errors["congruence"]
    early = study.points[min(1, len(study.points) - 1)]
    newton = ", ".join(f"{point.root_errors[f'newton-{k}'].median:.2g} for {k}" for k in NEWTON_CAPS)
    return (
        f"On the convex quadratic with eigenvalues {study.eigenvalues}, the root error of the series goes from "
        f"{early.root_errors['series'].median:.2g} after {early.refreshes} refreshes to {series.median:.2g} after "
        f"{point.refreshes} (at most {series.high:.2g}), and that of the congruence to {congruence.median:.2g}; "
        f"Newton's iteration has {newton} steps."
    )


def sides_of(diagnosis: Diagnosis, field: str) -> Sequence[float]:
    """One number of every side, at its last reading."""
    return [
        float(getattr(side, field))
        for block in diagnosis.blocks
        if block.measured
        for side in block.measured[-1].sides.values()
    ]


def show(value: float) -> str:
    """A cosine or a share."""
    return f"{value:.3f}"


def show_weight(b2: float) -> str:
    """An averaging weight; one that is nearly 1 as `1 - 2e-06`."""
    return show(b2) if b2 < 0.9995 else f"1 - {1 - b2:.1g}"


def show_spread(found: Spread | None) -> str:
    """The median, and the range over blocks."""
    if found is None:
        return "-"
    return show(found.median) + ("" if found.count == 1 else f" [{show(found.low)}, {show(found.high)}]")


def _values(block: BlockDiagnosis, of: str, to: str) -> list[float]:
    """One cosine at each reading that has both this one and the one that it is compared with."""
    found = [(r.cosines["jorge"]["exact"], r.cosines["exact"]["sgd"], r.cosines[of][to]) for r in block.measured]
    return [value for first, second, value in found if first is not None and second is not None and value is not None]


def _short(name: str) -> str:
    return name.replace("newton-", "Newton x ").replace("sgd", "SGD").replace("shampoo", "Shampoo")
