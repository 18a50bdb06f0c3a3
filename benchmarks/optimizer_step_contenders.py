"""The optimizers that `optimizer_step.py` times, each on its own copy of the same parameters and gradients."""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from shapes import Shape, synthetic_gradient
from torch import Tensor
from torch.optim import Optimizer

from jorge_tune.optim import Jorge, Shampoo, SketchyShampoo, series_refresh
from jorge_tune.optim.stacks import MAX_SIDE, collapse, partition

NEVER = 10**9  # steps, or refreshes
LR = 1e-4
SKETCH_RANK = 64


class LeftOutError(Exception):
    """This contender cannot run here; the text says why."""


@dataclass
class Problem:
    """The gradients that all contenders get, one after the other, and how they are cut into blocks."""

    shapes: list[Shape]
    block_size: int | None
    device: torch.device
    gradients: list[Tensor] = field(init=False)

    def __post_init__(self) -> None:
        generator = torch.Generator().manual_seed(0)
        self.gradients = [synthetic_gradient(s.shape, generator).to(self.device) for s in self.shapes]

    def turn(self) -> None:
        """The next gradient: the same spectrum in other directions, so that statistics gain rank as in training."""
        for gradient in self.gradients:
            matrix = gradient.view(gradient.shape[0], -1)
            matrix.copy_(matrix.roll((1, 7), (0, 1)))

    def matrices(self) -> Iterator[tuple[Shape, Tensor]]:
        """Gradients as (m, n) where they are preconditioned, else as vectors; views."""
        for shape, gradient in zip(self.shapes, self.gradients, strict=True):
            is_matrix = shape.precondition and len(shape.shape) > 1
            yield shape, gradient.view(collapse(shape.shape)) if is_matrix else gradient.view(-1)

    def blocks(self) -> Iterator[Tensor]:
        """Gradients as blocks of at most block_size x block_size, and vectors; views."""
        for _, matrix in self.matrices():
            pieces = partition(matrix.shape, self.block_size)
            yield from (block.view(matrix) for block in pieces) if pieces else [matrix]


@dataclass
class Subject:
    """A contender with its parameters, ready to step."""

    sources: list[Tensor]  # where each parameter's gradient comes from
    params: list[Tensor]
    optimizers: list[Optimizer]
    set_due: Callable[[bool], object] | None = None  # None: every step is the same

    def load_gradients(self) -> None:
        for param, source in zip(self.params, self.sources, strict=True):
            assert param.grad is not None
            param.grad.copy_(source)

    def step(self) -> None:
        for optimizer in self.optimizers:
            optimizer.step()


@dataclass(frozen=True)
class Contender:
    """How to make a subject; `blocks` says what it preconditions, for the table."""

    build: Callable[[Problem], Subject]
    blocks: str


def _params(sources: list[Tensor]) -> list[Tensor]:
    params = []
    for source in sources:
        param = torch.full_like(source, 0.01, memory_format=torch.contiguous_format).requires_grad_()
        param.grad = torch.zeros_like(param)
        params.append(param)
    return params


def _plain(make: Callable[[list[Tensor]], Optimizer]) -> Callable[[Problem], Subject]:
    def build(problem: Problem) -> Subject:
        params = _params(problem.gradients)
        return Subject(problem.gradients, params, [make(params)])

    return build


def family(make: Callable[..., Optimizer]) -> Callable[[Problem], Subject]:
    """A member of the family; `warm_refreshes` says whether everything is due or nothing, and rebuilds nothing."""

    def build(problem: Problem) -> Subject:
        params = _params(problem.gradients)
        groups = [
            {"params": [p for p, s in zip(params, problem.shapes, strict=True) if s.precondition is flag]}
            | {"precondition": flag}
            for flag in (True, False)
        ]
        groups = [group for group in groups if group["params"]]
        optimizer = make(
            groups, lr=LR, block_size=problem.block_size, refresh_interval=NEVER, stagger=False, warm_refreshes=0
        )

        def set_due(due: bool) -> None:
            for group in optimizer.param_groups:
                group["warm_refreshes"] = NEVER if due else 0

        return Subject(problem.gradients, params, [optimizer], set_due)

    return build


class OneRouteJorge(Jorge):
    """Jorge with all refreshes by one of the two routes to the same result, whatever it costs."""

    def __init__(self, *args: Any, route: str, **options: Any) -> None:
        super().__init__(*args, **options)
        self.route = route

    def _refresh_side(self, side: dict[str, Tensor], grads: Tensor, group: dict[str, Any]) -> dict[str, Tensor]:
        return {"": series_refresh(side[""], grads, relative_eps=group["eps"], route=self.route)}


def _sketchy(groups: list[dict[str, Any]], **options: Any) -> Optimizer:
    return SketchyShampoo(groups, rank=SKETCH_RANK, **options)


def _found(module: str, name: str) -> Any:
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise LeftOutError(f"{module}.{name} is not installed: {error}") from error


def _with_sgd(sources: list[Tensor], make: Callable[[list[Tensor]], Optimizer]) -> Subject:
    """A peer for the matrices and torch's SGD for the vectors."""
    params = _params(sources)
    vectors = [p for p in params if p.dim() < 2]
    optimizers = [make([p for p in params if p.dim() == 2])]
    if vectors:
        optimizers.append(torch.optim.SGD(vectors, LR, momentum=0.9))
    return Subject(sources, params, optimizers)


def _muon(problem: Problem) -> Subject:
    muon = _found("torch.optim", "Muon")
    return _with_sgd([matrix for _, matrix in problem.matrices()], lambda params: muon(params, LR))


def _soap(problem: Problem) -> Subject:
    soap = _found("pytorch_optimizer", "SOAP")
    sources = list(problem.blocks())
    params = _params(sources)
    optimizer = soap(params, LR, precondition_frequency=NEVER, max_precondition_dim=MAX_SIDE)

    def set_due(due: bool) -> None:
        for group in optimizer.param_groups:
            group["precondition_frequency"] = 1 if due else NEVER
        for state in optimizer.state.values():
            state["precondition_frequency"] = 1 if due else NEVER

    return Subject(sources, params, [optimizer], set_due)


def _public_shampoo(problem: Problem) -> Subject:
    shampoo = _found("pytorch_optimizer", "Shampoo")
    subject = _with_sgd(list(problem.blocks()), lambda params: shampoo(params, LR, momentum=0.9))
    return _by_interval(subject)


def _scalable_shampoo(problem: Problem) -> Subject:
    shampoo = _found("pytorch_optimizer", "ScalableShampoo")
    sources = [matrix for _, matrix in problem.matrices()]
    params = _params(sources)
    optimizer = shampoo(
        params,
        LR,
        block_size=problem.block_size or 0,
        shape_interpretation=False,
        start_preconditioning_step=1,
        no_preconditioning_for_layers_with_dim_gt=MAX_SIDE if problem.block_size is None else NEVER,
    )
    return _by_interval(Subject(sources, params, [optimizer]))


def _by_interval(subject: Subject) -> Subject:
    def set_due(due: bool) -> None:
        subject.optimizers[0].preconditioning_compute_steps = 1 if due else NEVER  # type: ignore[attr-defined]

    subject.set_due = set_due
    return subject


def _jorge(**fixed: Any) -> Callable[..., Optimizer]:
    return lambda groups, **options: Jorge(groups, **fixed, **options)


def _shampoo(root: str) -> Callable[..., Optimizer]:
    return lambda groups, **options: Shampoo(groups, root=root, **options)


def _routed(route: str) -> Callable[..., Optimizer]:
    return lambda groups, **options: OneRouteJorge(groups, route=route, **options)


CONTENDERS: dict[str, Contender] = {
    "sgd": Contender(_plain(lambda params: torch.optim.SGD(params, LR, momentum=0.9)), "none"),
    "adamw": Contender(_plain(lambda params: torch.optim.AdamW(params, LR)), "none"),
    "jorge": Contender(family(_jorge()), "same"),
    "jorge-dense": Contender(family(_routed("dense")), "same"),
    "jorge-low-rank": Contender(family(_routed("low_rank")), "same"),
    "jorge-congruence": Contender(family(_jorge(form="congruence")), "same"),
    "jorge-half": Contender(family(_jorge(form="half")), "same"),
    "jorge-half-flat": Contender(family(_jorge(form="half", length="mixed", flatten=5)), "same"),
    "jorge-bf16": Contender(family(_jorge(product_precision="bf16")), "same"),
    "shampoo-eigh": Contender(family(_shampoo("eigh")), "same"),
    "shampoo-newton": Contender(family(_shampoo("newton")), "same"),
    "sketchy": Contender(family(_sketchy), f"same, rank {SKETCH_RANK}"),
    "public-scalable-shampoo": Contender(_scalable_shampoo, "same"),
    "public-shampoo": Contender(_public_shampoo, "same, as parameters"),
    "public-soap": Contender(_soap, "same, as parameters"),
    "torch-muon": Contender(_muon, "no blocks, collapsed"),
}


def state_bytes(optimizers: list[Optimizer]) -> int:
    """Bytes of the distinct storages that the optimizers' states hold, in tensors, lists or objects of their own."""
    storages = {}
    for tensor in _tensors([optimizer.state for optimizer in optimizers]):
        storage = tensor.untyped_storage()
        storages[storage.data_ptr()] = storage.nbytes()
    return sum(storages.values())


def _tensors(value: object) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        yield from (tensor for item in value.values() for tensor in _tensors(item))
    elif isinstance(value, (list, tuple)):
        yield from (tensor for item in value for tensor in _tensors(item))
    elif hasattr(value, "__dict__"):
        yield from _tensors(vars(value))


def is_finite(subject: Subject) -> bool:
    """Whether every parameter still is; a NaN would change what a step costs."""
    return all(math.isfinite(float(param.detach().double().sum())) for param in subject.params)
