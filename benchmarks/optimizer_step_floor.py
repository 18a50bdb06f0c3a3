"""The floor of a step: the matrix products that it issues, recorded, and timed alone on operands of the same layout."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from optimizer_step_contenders import Subject
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

PRODUCTS = {"mm", "bmm", "addmm", "baddbmm", "addmm_", "baddbmm_"}


class Layout(NamedTuple):
    """Shape and strides of an operand: a transposed one is another product for the library that computes it."""

    shape: tuple[int, ...]
    strides: tuple[int, ...]

    def allocate(self, dtype: torch.dtype, device: torch.device) -> Tensor:
        """Normal entries, laid out so."""
        size = 1 + sum((side - 1) * stride for side, stride in zip(self.shape, self.strides, strict=True))
        return torch.randn(size, dtype=dtype, device=device).as_strided(self.shape, self.strides)


class Product(NamedTuple):
    """One product A B, batched if its operands have three dimensions."""

    left: Layout
    right: Layout
    dtype: torch.dtype

    @property
    def flops(self) -> int:
        *batch, m, k = self.left.shape
        return 2 * (batch[0] if batch else 1) * m * k * self.right.shape[-1]


class Recorder(TorchDispatchMode):
    """Counts the matrix products issued within it."""

    def __init__(self) -> None:
        super().__init__()
        self.products: Counter[Product] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.overloadpacket.__name__ in PRODUCTS:
            a, b = [arg for arg in args if isinstance(arg, Tensor)][-2:]
            layouts = (Layout(tuple(t.shape), t.stride()) for t in (a, b))
            self.products[Product(*layouts, a.dtype)] += 1
        return func(*args, **(kwargs or {}))


def record(subject: Subject, due: bool) -> Counter[Product]:
    """The products of one step in which everything, or nothing, is due."""
    subject.load_gradients()
    if subject.set_due is not None:
        subject.set_due(due)
    with Recorder() as recorder:
        subject.step()
    return recorder.products


def replay(products: Counter[Product], device: torch.device) -> Callable[[], None]:
    """A function that computes them and nothing else, into memory allocated here."""
    calls = []
    for product, count in products.items():
        a, b = (layout.allocate(product.dtype, device) for layout in (product.left, product.right))
        multiply = torch.bmm if a.dim() == 3 else torch.mm
        calls.append((multiply, a, b, multiply(a, b), count))

    def compute() -> None:
        for multiply, a, b, out, count in calls:
            for _ in range(count):
                multiply(a, b, out=out)

    return compute


def apply_seconds(subject: Subject, clock: Callable[[Callable[[], Any]], float]) -> float:
    """Time within the family's `_precondition` of a step in which nothing is due: gather, products, scatter."""
    (optimizer,) = subject.optimizers
    assert subject.set_due is not None
    inner: Callable[..., Any] = optimizer._precondition  # type: ignore[attr-defined]
    taken = []

    def timed(*args: Any) -> Any:
        results: list[Any] = []
        taken.append(clock(lambda: results.append(inner(*args))))
        return results[0]

    subject.load_gradients()
    subject.set_due(False)
    optimizer._precondition = timed  # type: ignore[attr-defined]
    try:
        subject.step()
    finally:
        del optimizer._precondition  # type: ignore[attr-defined]
    return sum(taken)
