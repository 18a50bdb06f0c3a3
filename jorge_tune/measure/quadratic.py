"""How the error of a root grows with the number of refreshes, on a convex quadratic.

f(W) = tr(W^T H W K) / 2 with H (m x m) and K (n x n) positive definite, eigenvalues k^-p, bases drawn at random and
standing still. A gradient is H W K + sigma H^(1/2) Z K^(1/2) with fresh normal Z: least squares near its solution. The
optimizers are the package's own, refreshed at every step, with momentum 0.9 and SGD's step length by grafting.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from jorge_tune.measure.diagnosis import NEWTON_CAPS, BlockDiagnosis, QuadraticPoint, QuadraticStudy
from jorge_tune.measure.statistics import Spread, spread
from jorge_tune.measure.watch import Watch
from jorge_tune.optim import Jorge, Shampoo

ROWS, COLUMNS = 24, 16
LR, MOMENTUM, SIGMA = 0.1, 0.9, 0.1
POWERS = (1, 2)  # Hessians of condition 384 and 147,456
SEEDS = (0, 1, 2)
FORMS = ("series", "congruence")
ROOTS = (*FORMS, *(f"newton-{k}" for k in NEWTON_CAPS))


class Quadratic(NamedTuple):
    """One problem: the square roots of H and K, and where the descent begins."""

    root_h: Tensor
    root_k: Tensor
    start: Tensor

    def loss(self, W: Tensor) -> float:
        """f(W), as ||H^(1/2) W K^(1/2)||^2 / 2."""
        return float(torch.linalg.matrix_norm(self.root_h @ W @ self.root_k)) ** 2 / 2

    def gradient(self, W: Tensor, Z: Tensor) -> Tensor:
        """H W K + sigma H^(1/2) Z K^(1/2)."""
        return self.root_h @ (self.root_h @ W @ self.root_k + SIGMA * Z) @ self.root_k


class Descent(NamedTuple):
    """One optimizer's way down: f after each looked-at step, and the diagnosis of its preconditioners if it has any."""

    losses: dict[int, float]
    block: BlockDiagnosis | None


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


def descend(
    problem: Quadratic,
    make: Callable[[list[Tensor]], torch.optim.Optimizer],
    seed: int,
    refreshes: int,
    looks: Iterable[int],
) -> Descent:
    """`refreshes` steps of an optimizer on float32 weights; every optimizer with one seed sees the same Z."""
    W = nn.Parameter(problem.start.float())
    optimizer, wanted = make([W]), frozenset(looks)
    watch = Watch(optimizer, [("W", W)], wanted.__contains__) if isinstance(optimizer, Jorge) else None
    generator = torch.Generator().manual_seed(seed)
    losses = {}
    for step in range(1, refreshes + 1):
        Z = torch.randn(ROWS, COLUMNS, generator=generator, dtype=torch.float64)
        W.grad = problem.gradient(W.detach().double(), Z).float()
        optimizer.step()
        if step in wanted:
            losses[step] = problem.loss(W.detach().double())
    return Descent(losses, None if watch is None else watch.results()[0])


def study_quadratic(refreshes: int, power: int, seeds: Sequence[int] = SEEDS) -> QuadraticStudy:
    """Both forms of Jorge, Shampoo and SGD on one problem per seed; Newton's roots are of the series' own averages.

    Args:
        refreshes: Steps, each with a refresh, at least 1.
        power: The eigenvalues of H and K are k^-power.
        seeds: Of the problems and their noise.
    """
    looks = looked_at(refreshes)
    errors, cosines, losses = (defaultdict[tuple[int, str], list[float]](list) for _ in range(3))
    for seed in seeds:
        problem = draw_quadratic(seed, power)
        for name, make in _optimizers().items():
            found = descend(problem, make, seed, refreshes, looks)
            start = problem.loss(problem.start)
            for step, loss in found.losses.items():
                losses[step, name].append(loss / start)
            if found.block is not None:
                _gather(found.block, name, errors, cosines)
    points = tuple(
        QuadraticPoint(k, _at(k, errors, ROOTS), _at(k, cosines, (*ROOTS, "sgd")), _at(k, losses, _optimizers()))
        for k in looks
    )
    eigenvalues = "1/k" if power == 1 else f"1/k^{power}"
    about = (
        f"f(W) = tr(W^T H W K) / 2, {ROWS} x {COLUMNS}, eigenvalues {eigenvalues}, gradient noise {SIGMA} H^(1/2) Z "
        f"K^(1/2), a refresh at each step, lr {LR}, momentum {MOMENTUM}, float32, seeds {', '.join(map(str, seeds))}"
    )
    return QuadraticStudy(eigenvalues, about, points)


def looked_at(refreshes: int) -> list[int]:
    """1, 2, 5, 10, 20, 50, ... up to the last refresh, which is always among them."""
    series = [factor * 10**power for power in range(len(str(refreshes))) for factor in (1, 2, 5)]
    return sorted({count for count in series if count < refreshes} | {refreshes})


def _optimizers() -> dict[str, Callable[[list[Tensor]], torch.optim.Optimizer]]:
    def jorge(form: str) -> Callable[[list[Tensor]], torch.optim.Optimizer]:
        return lambda params: Jorge(params, LR, momentum=MOMENTUM, refresh_interval=1, form=form)  # type: ignore[arg-type]

    return {
        "sgd": lambda params: torch.optim.SGD(params, LR, momentum=MOMENTUM),
        **{form: jorge(form) for form in FORMS},
        "shampoo": lambda params: Shampoo(params, LR, momentum=MOMENTUM, refresh_interval=1),
    }


def _gather(
    block: BlockDiagnosis,
    form: str,
    errors: dict[tuple[int, str], list[float]],
    cosines: dict[tuple[int, str], list[float]],
) -> None:
    """Root errors (both sides) and cosines to the exact direction of one form and, from the series, of Newton."""
    for reading in block.measured:
        for name in (form, *(f"newton-{k}" for k in NEWTON_CAPS), "sgd"):
            if name != form and form != "series":
                continue
            of = "jorge" if name == form else "exact"
            value = reading.cosines[of]["exact" if name == form else name]
            if value is not None:
                cosines[reading.step, name].append(value)
        for side in reading.sides.values():
            errors[reading.step, form].append(side.root_error)
            if form == "series":
                for k, error in side.newton_errors.items():
                    errors[reading.step, f"newton-{k}"].append(error)


def _at(step: int, values: dict[tuple[int, str], list[float]], names: Iterable[str]) -> dict[str, Spread]:
    return {name: found for name in names if (found := spread(values[step, name])) is not None}
