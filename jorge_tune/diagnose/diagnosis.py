"""What a diagnosis found, as plain records: no torch here, so that pages and tables are made without it.

Directions are named: "jorge" is L G R; "exact" has Jorge's own averages and their exact roots; "newton-k" the same
averages and k Newton steps; "shampoo" Shampoo's averages (b2 0.999, every step) and exact roots, "shampoo-newton-k" the
same with k Newton steps; "sgd" is G. All of them are directions before momentum, of the run's own gradients.
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

    b2 depends on eps, the direction does not: the smaller the start, the nearer is b2 to 1 while new gradients are as
    much the larger. What depends on neither is the share that the newest gradient has of tr A after the refresh; an
    older one's share falls by 1 - newest_share at each refresh that follows.
    """

    step: int
    b2: float
    newest_share: float


@dataclass(frozen=True, kw_only=True)
class SideReading:
    """One side of a block at one step: its L (or R), and what the statistics behind it look like."""

    refreshes: int
    b2: float  # of the last refresh, as is the next
    newest_share: float  # of the newest gradient in tr A
    condition: float  # of L
    asymmetry: float  # ||L - L^T|| / ||L||
    root_error: float  # ||L - A^(-1/4)|| / ||A^(-1/4)||, A being Jorge's own average
    newton_errors: Mapping[int, float]  # the same for k Newton steps on A, by k
    intrinsic_dimension: float  # of A
    mass: Mapping[int, float]  # share of tr A in the top l directions, by l
    shampoo_intrinsic_dimension: float
    shampoo_mass: Mapping[int, float]


@dataclass(frozen=True)
class BlockReading:
    """One block at one step. `cosines[a][b]` is that of direction a to direction b; None: one of them has none.

    Where nothing could be measured `missing` says why and the rest is empty.
    """

    step: int
    cosines: Mapping[str, Mapping[str, float | None]]
    sides: Mapping[str, SideReading]
    weight: float = 0.0  # ||G||^2
    missing: str = ""


@dataclass(frozen=True)
class BlockDiagnosis:
    """A block along the run, with every refresh of its sides."""

    name: str
    rows: int
    columns: int
    readings: tuple[BlockReading, ...]
    refreshes: Mapping[str, tuple[Refresh, ...]]

    @property
    def measured(self) -> tuple[BlockReading, ...]:
        """The readings that hold something."""
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
    """After so many refreshes: root errors and cosines to the exact direction by root, losses by optimizer."""

    refreshes: int
    root_errors: Mapping[str, Spread]
    cosines: Mapping[str, Spread]
    losses: Mapping[str, Spread]


@dataclass(frozen=True)
class QuadraticStudy:
    """The convex quadratic, and what was measured on it; spreads are over problems drawn with other seeds."""

    eigenvalues: str  # of H and of K
    about: str
    points: tuple[QuadraticPoint, ...]


@dataclass(frozen=True)
class Diagnosis:
    """A whole diagnosis. `notes` says what was changed, left out or could not be measured."""

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
        """Steps at which at least one block was measured."""
        return sorted({reading.step for block in self.blocks for reading in block.measured})

    def cosines(self, of: str, to: str, step: int | None = None) -> list[float]:
        """All cosines of one direction to another, of every block, at one step or at all of them."""
        found = (
            reading.cosines[of][to]
            for block in self.blocks
            for reading in block.measured
            if step is None or reading.step == step
        )
        return [value for value in found if value is not None]

    def step_cosine(self, of: str, to: str, step: int) -> float | None:
        """The blocks' cosines weighted by ||G||^2: that of the whole step, each block having SGD's length."""
        here = [r for block in self.blocks for r in block.measured if r.step == step]
        pairs = [(r.weight, value) for r in here if (value := r.cosines[of][to]) is not None]
        total = sum(weight for weight, _ in pairs)
        return sum(weight * value for weight, value in pairs) / total if total > 0 else None

    def side_readings(self, step: int | None = None) -> Iterator[tuple[BlockDiagnosis, str, SideReading]]:
        """Every side of every block, at one step or at all of them."""
        for block in self.blocks:
            for reading in block.measured:
                if step is None or reading.step == step:
                    for side, found in reading.sides.items():
                        yield block, side, found

    def spread_of(self, field: str, step: int | None = None) -> Spread | None:
        """Median and range of a number of the sides."""
        return spread([float(getattr(found, field)) for _, _, found in self.side_readings(step)])

    def to_json(self) -> dict[str, Any]:
        """Everything, as plain data."""
        return asdict(self)
