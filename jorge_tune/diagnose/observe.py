"""An observer of a running Jorge: it reads gradients and preconditioners after each step, and changes nothing.

The exact comparator keeps Jorge's own averages, A <- b2 A + (1 - b2) G G^T at each of Jorge's refreshes, with Jorge's
own b2, ridge and start A_0 = L_0^(-4), in float64. So it differs from Jorge in the root alone. For the half power the
root is A^(-1/2), the start is A_0 = H_0^(-2), and Newton's roots are squared.

The second comparator is Shampoo as it is commonly used: b2 0.999, statistics at every step, and a fresh root at each
reading. Its bias correction is left out: a factor changes neither directions nor spectra.

Legend: L one side's preconditioner (m x m), G the gradient with that side first (m x n); P = L G R.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

import torch
from torch import Tensor

from jorge_tune.diagnose.diagnosis import (
    NEWTON_CAPS,
    SIDES,
    TOP_DIRECTIONS,
    BlockDiagnosis,
    BlockReading,
    Refresh,
    SideReading,
)
from jorge_tune.errors import InputError, shortened
from jorge_tune.optim import Jorge
from jorge_tune.optim.ridge import ridge_column
from jorge_tune.optim.shampoo import inverse_root_newton
from jorge_tune.optim.stacks import Block, collapse, partition

SHAMPOO_B2 = 0.999
SHAMPOO_EPS = 1e-6  # relative to the mean eigenvalue: the ridge of our Shampoo, and of Newton's iteration everywhere

Roots = dict[str, Tensor]


class BlockChoice(NamedTuple):
    """Which blocks to observe: those of matching parameters, without a side longer than `max_side`."""

    max_side: int = 1024
    parameters: re.Pattern[str] | None = None


DEFAULT_CHOICE: Final = BlockChoice()


class PreconditionerObserver:
    """Observes the blocks of a Jorge optimizer, from now until the end of the `with` block.

    Args:
        optimizer: An optimizer that has made no step yet.
        named: Its parameters with their names.
        measure: Whether to read a step (the first is 1). The averages follow every step anyway.
        choice: Which blocks to observe.

    Raises:
        InputError: no block is left to observe, or no parameter matches the choice.
    """

    def __init__(
        self,
        optimizer: Jorge,
        named: Iterable[tuple[str, Tensor]],
        measure: Callable[[int], bool],
        choice: BlockChoice = DEFAULT_CHOICE,
    ) -> None:
        assert not optimizer.state, "observe an optimizer from its first step on"
        self.blocks: list[BlockObserver] = []
        self.left_out: list[str] = []
        self.steps = 0
        self._measure = measure

        groups = {param: group for group in optimizer.param_groups for param in group["params"]}
        named = list(named)
        candidates = [n for n, param in named if param.requires_grad and _blocks_of(param, groups[param])]
        _check_pattern(choice.parameters, candidates)

        for name, param in named:
            self._choose(name, param, groups[param], choice)
        if not self.blocks:
            why = shortened(self.left_out) or "the model has none"
            raise InputError(f"no preconditioned block is left to observe: {why}")
        self._handle = optimizer.register_step_post_hook(self._observe_step)

    def __enter__(self) -> PreconditionerObserver:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._handle.remove()

    def results(self) -> tuple[BlockDiagnosis, ...]:
        """All readings, block by block."""
        return tuple(block.result() for block in self.blocks)

    def _choose(self, name: str, param: Tensor, group: dict[str, Any], choice: BlockChoice) -> None:
        """Observe the blocks of one parameter that fit the choice; note why the others are left out."""
        blocks = _blocks_of(param, group)
        if blocks and not param.requires_grad:
            self.left_out.append(f"{name} is frozen")
            return
        if blocks and choice.parameters is not None and not choice.parameters.search(name):
            self.left_out.append(f"{name} does not match --parameters")
            return

        for number, block in enumerate(blocks):
            rows, columns, *preconditioned = block.shape
            place = name if len(blocks) == 1 else f"{name}[{number}]"
            if max(rows, columns) > choice.max_side:
                self.left_out.append(f"{place} ({rows} x {columns}) has a side above {choice.max_side}")
                continue
            settings = [group[name] for name in ("eps", "eps_kind", "b2_floor", "form", "ridge")]
            sides = {
                side: SideObserver(*settings)
                for side, has_preconditioner in zip(SIDES, preconditioned, strict=True)
                if has_preconditioner
            }
            self.blocks.append(BlockObserver(place, param, number, block, sides))

    def _observe_step(self, optimizer: torch.optim.Optimizer, args: object, kwargs: object) -> None:
        self.steps += 1
        for block in self.blocks:
            block.observe(self.steps, optimizer.state.get(block.param, {}), measure=self._measure(self.steps))


@dataclass
class BlockObserver:
    """Observes one block of one parameter."""

    name: str
    param: Tensor
    number: int
    block: Block
    sides: dict[str, SideObserver]
    readings: list[BlockReading] = field(default_factory=list)

    def observe(self, step: int, state: Mapping[str, Any], *, measure: bool) -> None:
        """Follow one step. With `measure`, add a reading, or the reason why there is none."""
        grad, missing = self.param.grad, ""
        if grad is None:
            missing = "the parameter has no gradient"
        elif not bool(torch.isfinite(grad).all()):
            missing = "the gradient is not finite"
        else:
            where = "cpu" if grad.device.type == "mps" else grad.device  # Apple's GPUs have no float64
            G = self.block.view(grad.detach().reshape(collapse(grad.shape))).to(where, torch.float64)
            Ls = {side: state[f"{side}.{self.number}"] for side in self.sides}
            for side, observer in self.sides.items():
                signs = state.get(f"{side}.{self.number}.signs")
                observer.observe(step, Ls[side], G if side == "left" else G.mT, signs)

            if not bool(G.any()):
                missing = "the gradient is zero"
            elif any(observer.average is None for observer in self.sides.values()):
                missing = "no refresh had a gradient yet"
            elif measure:
                self.readings.append(self._read(step, G, {side: L.to(G) for side, L in Ls.items()}))

        if measure and missing:
            self.readings.append(BlockReading(step, {}, {}, missing=missing))

    def _read(self, step: int, G: Tensor, Ls: dict[str, Tensor]) -> BlockReading:
        """Read both sides, and apply the roots of each method to G: left @ G @ right."""
        readings, directions = {}, {"sgd": G}
        for side, observer in self.sides.items():
            readings[side], roots = observer.read(Ls[side])
            for name, root in roots.items():
                P = directions.get(name, G)
                directions[name] = root @ P if side == "left" else P @ root
        return BlockReading(step, _cosines(directions), readings, weight=float((G * G).sum()))

    def result(self) -> BlockDiagnosis:
        """All readings of this block."""
        rows, columns, *_ = self.block.shape
        refreshes = {side: tuple(observer.refreshes) for side, observer in self.sides.items()}
        return BlockDiagnosis(self.name, rows, columns, tuple(self.readings), refreshes)


@dataclass
class SideObserver:
    """Observes one side of a block: keeps its running averages in float64, and what each refresh did to them."""

    start_eps: float
    eps_kind: str
    b2_floor: float
    form: str = "series"
    ridge: float = 0.0
    average: Tensor | None = None
    refreshes: list[Refresh] = field(default_factory=list)
    _before: Tensor | None = None
    _shampoo: Tensor | None = None

    @property
    def power(self) -> float:
        """L is near A^(-power)."""
        return 1 / 2 if self.form == "half" else 1 / 4

    def observe(self, step: int, L: Tensor, G: Tensor, signs: Tensor | None = None) -> None:
        """Follow one step: G is its gradient, L and the sign generators are as they are after it.

        A changed L means a refresh.
        """
        S = G @ G.mT
        keep = SHAMPOO_B2
        self._shampoo = (1 - keep) * S if self._shampoo is None else keep * self._shampoo + (1 - keep) * S

        if self._before is None:
            scale = self.start_eps**-self.power if self.eps_kind == "absolute" else 1.0
            self._before = scale * torch.eye(len(L), dtype=L.dtype, device=L.device)
        if not torch.equal(L, self._before):
            self._refresh(step, G, signs)
            self._before = L.clone()

    def _refresh(self, step: int, G: Tensor, signs: Tensor | None) -> None:
        """Average G G^T into A, as Jorge's refresh does."""
        assert self._before is not None
        g_max = G.abs().max()  # 0 changes no L
        if self.form != "series" and (y := ridge_column(G / g_max, signs, self.ridge)) is not None:
            G = torch.cat((G, g_max * y), dim=-1)
        S = G @ G.mT
        before, identity = self._before.to(G), torch.eye(len(G), dtype=G.dtype, device=G.device)
        if self.average is None:
            relative = self.eps_kind == "relative"
            start = (
                self.start_eps * float(torch.linalg.matrix_norm(S))
                if relative
                else float(before[0, 0]) ** (-1 / self.power)
            )
            self.average, before = start * identity, start**-self.power * identity

        b2, rest = averaging_of(before, G, floor=self.b2_floor, form=self.form)
        self.average = b2 * self.average + rest * S
        self.refreshes.append(Refresh(step, b2, float(rest * S.trace() / self.average.trace())))

    def read(self, L: Tensor) -> tuple[SideReading, Roots]:
        """Measure L, and compute the roots that other methods would use in its place."""
        assert self.average is not None
        assert self._shampoo is not None
        values, vectors = eigen(self.average)
        newton = _newton_roots("newton", self.average)
        if self.form == "half":
            newton = {name: root @ root for name, root in newton.items()}
        own = {"exact": root_from(values, vectors, self.power), **newton}

        shampoo_values, shampoo_vectors = eigen(self._shampoo)
        ridge = SHAMPOO_EPS * shampoo_values.mean()
        theirs = {"shampoo": root_from(shampoo_values + ridge, shampoo_vectors)}
        theirs |= _newton_roots("shampoo-newton", self._shampoo)

        reading = SideReading(
            refreshes=len(self.refreshes),
            b2=self.refreshes[-1].b2,
            newest_share=self.refreshes[-1].newest_share,
            condition=condition(L),
            asymmetry=asymmetry(L),
            root_error=relative_error(L, own["exact"]),
            newton_errors={k: relative_error(own[f"newton-{k}"], own["exact"]) for k in NEWTON_CAPS},
            intrinsic_dimension=intrinsic_dimension(values),
            mass=_masses(values),
            shampoo_intrinsic_dimension=intrinsic_dimension(shampoo_values),
            shampoo_mass=_masses(shampoo_values),
        )
        return reading, {"jorge": L, **own, **theirs}


def _blocks_of(param: Tensor, group: Mapping[str, Any]) -> Sequence[Block]:
    return partition(param.shape, group["block_size"]) if group["precondition"] else ()


def _check_pattern(pattern: re.Pattern[str] | None, names: Sequence[str]) -> None:
    """Refuse a pattern that matches none of the preconditioned parameters.

    Raises:
        InputError: naming the parameters that there are.
    """
    if pattern is not None and names and not any(pattern.search(name) for name in names):
        rule = "--parameters must match a preconditioned parameter"
        raise InputError(f"{rule}, got {pattern.pattern!r}; they are {shortened(names, 8)}")


def _newton_roots(name: str, A: Tensor) -> Roots:
    return {f"{name}-{k}": inverse_root_newton(A, eps=SHAMPOO_EPS, iterations=k) for k in NEWTON_CAPS}


def _masses(values: Tensor) -> dict[int, float]:
    return {count: mass(values, count) for count in TOP_DIRECTIONS if count < len(values)}


def _cosines(directions: dict[str, Tensor]) -> dict[str, dict[str, float | None]]:
    """The cosines of Jorge's direction to all others, and of the two exact ones to their approximations and to G."""

    def to(origin: str, names: Iterable[str]) -> dict[str, float | None]:
        return {name: cosine(directions[origin], directions[name]) for name in names}

    return {
        "jorge": to("jorge", [name for name in directions if name != "jorge"]),
        "exact": to("exact", [*(f"newton-{k}" for k in NEWTON_CAPS), "sgd"]),
        "shampoo": to("shampoo", [*(f"shampoo-newton-{k}" for k in NEWTON_CAPS), "sgd"]),
    }


RESOLUTION = torch.finfo(torch.float64).eps  # eigenvalues below m times this share of the largest are rounding noise


class Averaging(NamedTuple):
    """b2, and 1 - b2 without cancellation: float64 rounds b2 to 1 once ||X|| exceeds 1e16."""

    b2: float
    rest: float


def averaging_of(L: Tensor, G: Tensor, *, floor: float = 0.0, form: str = "series") -> Averaging:
    """The averaging weights of a refresh of L by G: b2 = ||X||_F / (||X||_F + 1), X = L^4 G G^T.

    In place of X the congruence form has M = L^2 G G^T L^2, and the half power M = L G G^T L.

    Shape:
        L: (m, m). G: (m, n). Both float64.

    Args:
        L: The preconditioner before the refresh, its true scale included.
        G: The gradient. An all-zero gradient gives b2 = 1: the refresh changes nothing.
        floor: Lower bound of b2, in [0, 1).

    Reference:
        Jorge, A.1, Eq. 10.
    """
    if form == "series":
        norm = float(torch.linalg.matrix_norm(L @ (L @ (L @ (L @ G))) @ G.mT))
    else:
        Y = L @ G if form == "half" else L @ (L @ G)
        norm = float(torch.linalg.matrix_norm(Y.mT @ Y))
    if norm == 0:
        return Averaging(1.0, 0.0)
    b2 = norm / (norm + 1)
    return Averaging(b2, 1 / (norm + 1)) if b2 >= floor else Averaging(floor, 1 - floor)


def cosine(P: Tensor, Q: Tensor) -> float | None:
    """<P, Q> / (||P|| ||Q||); None if one of them has no direction, because it is zero or not finite."""
    lengths = torch.linalg.vector_norm(P) * torch.linalg.vector_norm(Q)
    value = float((P * Q).sum() / lengths)
    return value if abs(value) <= 2 else None  # also false for NaN


def condition(L: Tensor) -> float:
    """The largest singular value over the smallest; infinite for a singular matrix. L need not be symmetric."""
    values = torch.linalg.svdvals(L)
    return float(values[0] / values[-1])


def asymmetry(L: Tensor) -> float:
    """||L - L^T||_F / ||L||_F: 0 for a symmetric matrix, 2 for a skew one."""
    return relative_error(L.mT, L)


def relative_error(approximate: Tensor, exact: Tensor) -> float:
    """||approximate - exact||_F / ||exact||_F."""
    return float(torch.linalg.matrix_norm(approximate - exact) / torch.linalg.matrix_norm(exact))


def intrinsic_dimension(values: Tensor) -> float:
    """tr A / lambda_max: 1 for a matrix of rank one, m for the identity.

    Reference:
        Sketchy, Fig. 3.
    """
    return float(values.sum() / values[-1])


def mass(values: Tensor, directions: int) -> float:
    """The share of tr A that lies in the top `directions` eigenvalues (Sketchy, Fig. 3)."""
    return float(values[-directions:].sum() / values.sum())


def eigen(A: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues and eigenvectors of a symmetric A >= 0; eigenvalues below float64's resolution are raised to it."""
    values, vectors = torch.linalg.eigh(A)
    return values.clamp(min=float(values[-1]) * len(values) * RESOLUTION), vectors


def root_from(values: Tensor, vectors: Tensor, power: float = 1 / 4) -> Tensor:
    """A^(-power), from the eigenvalues and eigenvectors of A."""
    root: Tensor = (vectors * values**-power) @ vectors.mT
    return root
