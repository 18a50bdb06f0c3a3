"""The convex quadratic: how the error of Jorge's root grows with the number of refreshes.

f(W) = tr(W^T H W K) / 2 with gradient H W K + sigma H^(1/2) Z K^(1/2), Z a standard normal matrix. All eigenvalues and
the noise are known, and there is a refresh at each step, so that root errors can be compared over many refreshes.

Legend: H (ROWS x ROWS) and K (COLUMNS x COLUMNS) have the eigenvalues k^-power in random bases.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from jorge_tune.compare.statistics import Spread, spread
from jorge_tune.diagnose.diagnosis import NEWTON_CAPS, BlockDiagnosis, QuadraticPoint, QuadraticStudy
from jorge_tune.diagnose.observe import PreconditionerObserver
from jorge_tune.optim import Jorge, Shampoo

ROWS, COLUMNS = 24, 16
LR, MOMENTUM, SIGMA = 0.1, 0.9, 0.1
POWERS = (1, 2)  # Hessians with condition numbers 384 and 147,456
SEEDS = (0, 1, 2)
FORMS = ("series", "congruence")
ROOTS = (*FORMS, *(f"newton-{k}" for k in NEWTON_CAPS))

OptimizerFactory = Callable[[list[Tensor]], torch.optim.Optimizer]
ValuesByRefresh = defaultdict[tuple[int, str], list[float]]  # by number of refreshes and name


def study_quadratic(refreshes: int, power: int, seeds: Sequence[int] = SEEDS) -> QuadraticStudy:
    """Descend with both forms of Jorge, with Shampoo and with SGD, on one problem per seed.

    Newton's roots are those of the series' own averages.

    Args:
        refreshes: The number of steps, at least 1; each has a refresh.
        power: The eigenvalues of H and K are k^-power.
        seeds: One for each problem and its noise.
    """
    counts = counts_to_read(refreshes)
    errors, cosines, losses = (ValuesByRefresh(list) for _ in range(3))
    for seed in seeds:
        problem = draw_quadratic(seed, power)
        start = problem.loss(problem.start)
        for name, make in _optimizers().items():
            descent = descend(problem, make, seed, refreshes, counts)
            for step, loss in descent.losses.items():
                losses[step, name].append(loss / start)
            if descent.block is not None:
                _gather(descent.block, name, errors, cosines)

    points = tuple(
        QuadraticPoint(
            count,
            _spreads(count, errors, ROOTS),
            _spreads(count, cosines, (*ROOTS, "sgd")),
            _spreads(count, losses, _optimizers()),
        )
        for count in counts
    )
    eigenvalues = "1/k" if power == 1 else f"1/k^{power}"
    about = (
        f"f(W) = tr(W^T H W K) / 2, {ROWS} x {COLUMNS}, eigenvalues {eigenvalues}, gradient noise {SIGMA} H^(1/2) Z "
        f"K^(1/2), a refresh at each step, lr {LR}, momentum {MOMENTUM}, float32, seeds {', '.join(map(str, seeds))}"
    )
    return QuadraticStudy(eigenvalues, about, points)


class Quadratic(NamedTuple):
    """One problem: the square roots of H and K, and the weights that the descent starts from."""

    root_h: Tensor
    root_k: Tensor
    start: Tensor

    def loss(self, W: Tensor) -> float:
        """f(W), as ||H^(1/2) W K^(1/2)||^2 / 2."""
        return float(torch.linalg.matrix_norm(self.root_h @ W @ self.root_k)) ** 2 / 2

    def gradient(self, W: Tensor, Z: Tensor) -> Tensor:
        """H W K + sigma H^(1/2) Z K^(1/2)."""
        return self.root_h @ (self.root_h @ W @ self.root_k + SIGMA * Z) @ self.root_k


def draw_quadratic(seed: int, power: int) -> Quadratic:
    """A problem with the eigenvalues k^-power of H and K in random bases, float64."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    def root(size: int) -> Tensor:
        basis = torch.linalg.qr(normal(size, size))[0]
        values = torch.arange(1, size + 1, dtype=torch.float64) ** (-power / 2)
        product: Tensor = (basis * values) @ basis.mT
        return product

    return Quadratic(root(ROWS), root(COLUMNS), normal(ROWS, COLUMNS))


class Descent(NamedTuple):
    """One optimizer's descent: f after each step that was read, and for Jorge the diagnosis of its preconditioners."""

    losses: dict[int, float]
    block: BlockDiagnosis | None


def descend(problem: Quadratic, make: OptimizerFactory, seed: int, refreshes: int, counts: Iterable[int]) -> Descent:
    """Take `refreshes` steps on float32 weights. With one seed, every optimizer gets the same noise."""
    W = nn.Parameter(problem.start.float())
    optimizer, read = make([W]), frozenset(counts)
    observer = None
    if isinstance(optimizer, Jorge):
        observer = PreconditionerObserver(optimizer, [("W", W)], read.__contains__)

    generator = torch.Generator().manual_seed(seed)
    losses = {}
    for step in range(1, refreshes + 1):
        Z = torch.randn(ROWS, COLUMNS, generator=generator, dtype=torch.float64)
        W.grad = problem.gradient(W.detach().double(), Z).float()
        optimizer.step()
        if step in read:
            losses[step] = problem.loss(W.detach().double())
    return Descent(losses, None if observer is None else observer.results()[0])


def counts_to_read(refreshes: int) -> list[int]:
    """1, 2, 5, 10, 20, 50, ... and the last refresh."""
    series = [factor * 10**power for power in range(len(str(refreshes))) for factor in (1, 2, 5)]
    return sorted({count for count in series if count < refreshes} | {refreshes})


def _optimizers() -> dict[str, OptimizerFactory]:
    def jorge(form: str) -> OptimizerFactory:
        return lambda params: Jorge(params, LR, momentum=MOMENTUM, refresh_interval=1, form=form)  # type: ignore[arg-type]

    return {
        "sgd": lambda params: torch.optim.SGD(params, LR, momentum=MOMENTUM),
        **{form: jorge(form) for form in FORMS},
        "shampoo": lambda params: Shampoo(params, LR, momentum=MOMENTUM, refresh_interval=1),
    }


def _gather(block: BlockDiagnosis, form: str, errors: ValuesByRefresh, cosines: ValuesByRefresh) -> None:
    """Add the root errors of both sides and the cosines to the exact direction.

    Newton and SGD are read beside the series alone: their roots and directions are those of the series' averages.
    """
    others = (*(f"newton-{k}" for k in NEWTON_CAPS), "sgd") if form == "series" else ()
    for reading in block.measured:
        pairs = {form: reading.cosines["jorge"]["exact"]}
        pairs |= {name: reading.cosines["exact"][name] for name in others}
        for name, value in pairs.items():
            if value is not None:
                cosines[reading.step, name].append(value)

        for side in reading.sides.values():
            errors[reading.step, form].append(side.root_error)
            for k, error in side.newton_errors.items() if form == "series" else ():
                errors[reading.step, f"newton-{k}"].append(error)


def _spreads(count: int, values: ValuesByRefresh, names: Iterable[str]) -> dict[str, Spread]:
    return {name: its_spread for name in names if (its_spread := spread(values[count, name])) is not None}
