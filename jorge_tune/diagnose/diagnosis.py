"""The results of a diagnosis as plain records, without torch, so that pages and tables need no torch either.

Directions have names. All of them are computed from the run's own gradients, before momentum:

jorge              L G R
exact              the exact roots of Jorge's own averages, applied to G
newton-k           the same averages with k Newton steps instead of exact roots
shampoo            the exact roots of Shampoo's averages (b2 0.999, at every step)
shampoo-newton-k   Shampoo's averages with k Newton steps
sgd                G
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from jorge_tune.compare.statistics import Spread, spread
from jorge_tune.records import Outcome

NEWTON_CAPS = (1, 2, 4, 8)
TOP_DIRECTIONS = (1, 4, 16, 64, 256)
SIDES: tuple[Literal["left"], Literal["right"]] = ("left", "right")


@dataclass(frozen=True)
class Refresh:
    """One refresh of one side.

    b2 depends on eps, although the direction does not: with a smaller start, b2 is nearer to 1, but new gradients are
    larger beside A by the same factor. `newest_share` does not depend on eps. It is the share that the newest gradient
    has of tr A after the refresh; each later refresh multiplies this share by 1 - its own newest_share.
    """

    step: int
    b2: float
    newest_share: float


@dataclass(frozen=True, kw_only=True)
class SideReading:
    """One side of a block at one step: its L (or R), and the statistics behind it."""

    refreshes: int
    b2: float  # of the last refresh
    newest_share: float  # of the last refresh
    condition: float  # of L
    asymmetry: float  # ||L - L^T|| / ||L||
    root_error: float  # ||L - A^(-1/4)|| / ||A^(-1/4)||, A being Jorge's own average
    newton_errors: Mapping[int, float]  # the same for k Newton steps on A, by k
    intrinsic_dimension: float  # of A
    mass: Mapping[int, float]  # the share of tr A in the top l directions, by l
    shampoo_intrinsic_dimension: float
    shampoo_mass: Mapping[int, float]


@dataclass(frozen=True)
class BlockReading:
    """One block at one step.

    `cosines[a][b]` is the cosine of direction a to direction b; None if one of them is zero or not finite. If nothing
    could be measured, `missing` says why, and the rest is empty.
    """

    step: int
    cosines: Mapping[str, Mapping[str, float | None]]
    sides: Mapping[str, SideReading]
    weight: float = 0.0  # ||G||^2
    missing: str = ""


@dataclass(frozen=True)
class BlockDiagnosis:
    """One block along the run, with every refresh of its sides."""

    name: str
    rows: int
    columns: int
    readings: tuple[BlockReading, ...]
    refreshes: Mapping[str, tuple[Refresh, ...]]

    @property
    def measured(self) -> tuple[BlockReading, ...]:
        """The readings at which something could be measured."""
        return tuple(reading for reading in self.readings if not reading.missing)


@dataclass(frozen=True)
class Trace:
    """The run itself, step by step."""

    steps: tuple[int, ...]
    loss: tuple[float, ...]
    lr: tuple[float, ...]
    graft_ratio: tuple[float | None, ...]  # ||grafted step|| / ||direction||, median over parameters


@dataclass(frozen=True)
class QuadraticPoint:
    """Root errors and cosines to the exact direction by root, and losses by optimizer, after so many refreshes."""

    refreshes: int
    root_errors: Mapping[str, Spread]
    cosines: Mapping[str, Spread]
    losses: Mapping[str, Spread]


@dataclass(frozen=True)
class QuadraticStudy:
    """A convex quadratic, and what was measured on it; the spreads are over problems drawn with different seeds."""

    eigenvalues: str  # of H and of K
    about: str
    points: tuple[QuadraticPoint, ...]


@dataclass(frozen=True)
class Diagnosis:
    """A whole diagnosis. `notes` say what was changed, left out, or could not be measured."""

    recipe: str
    form: str
    seed: int
    device: str
    steps: int
    outcome: Outcome
    reason: str
    blocks: tuple[BlockDiagnosis, ...]
    trace: Trace
    quadratics: tuple[QuadraticStudy, ...]
    notes: tuple[str, ...]

    @property
    def measured_steps(self) -> list[int]:
        """The steps at which at least one block was measured."""
        return sorted({reading.step for block in self.blocks for reading in block.measured})

    def cosines(self, of: str, to: str, step: int | None = None) -> list[float]:
        """The cosines of one direction to another on every block, at one step or at all steps."""
        found = (
            reading.cosines[of][to]
            for block in self.blocks
            for reading in block.measured
            if step is None or reading.step == step
        )
        return [value for value in found if value is not None]

    def step_cosine(self, of: str, to: str, step: int) -> float | None:
        """The cosine of the whole step, if each block's step has SGD's length: the mean weighted by ||G||^2."""
        here = [r for block in self.blocks for r in block.measured if r.step == step]
        pairs = [(r.weight, value) for r in here if (value := r.cosines[of][to]) is not None]
        total = sum(weight for weight, _ in pairs)
        return sum(weight * value for weight, value in pairs) / total if total > 0 else None

    def side_readings(self, step: int | None = None) -> Iterator[tuple[BlockDiagnosis, str, SideReading]]:
        """Every side of every block, at one step or at all steps."""
        for block in self.blocks:
            for reading in block.measured:
                if step is None or reading.step == step:
                    for side, found in reading.sides.items():
                        yield block, side, found

    def spread_of(self, field: str, step: int | None = None) -> Spread | None:
        """Median and range of one field of the sides' readings."""
        return spread([float(getattr(found, field)) for _, _, found in self.side_readings(step)])

    def to_json(self) -> dict[str, Any]:
        """Everything, as plain data."""
        return asdict(self)
