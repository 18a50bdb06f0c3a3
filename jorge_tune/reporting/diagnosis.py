"""A diagnosis as the cells of tables: directions, blocks, their sides, the quadratic."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from jorge_tune.measure.diagnosis import NEWTON_CAPS, TOP_DIRECTIONS, BlockDiagnosis, Diagnosis, QuadraticStudy
from jorge_tune.measure.statistics import Spread, median, spread
from jorge_tune.reporting.summary import Table

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
