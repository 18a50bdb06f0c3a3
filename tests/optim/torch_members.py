"""The family as torch's own tests describe an optimizer: an `OptimizerInfo` for each member.

torch ships the descriptions (`torch.testing._internal.common_optimizers`) but not the tests that read them
(`test/test_optim.py` of its repository); the tests are in `test_torch_generic.py`, in our own form. GeN has no entry:
it is no `torch.optim.Optimizer` but sets the learning rate of one, from losses that only its caller can measure.
"""

from __future__ import annotations

import copy
import functools
import sys
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import ConstantLR, ExponentialLR, LinearLR, PolynomialLR, ReduceLROnPlateau, StepLR

from jorge_tune.optim import DecoupledSGD, Jorge, Muon, Shampoo, SketchyAdaGrad, SketchyShampoo

pytest.importorskip("expecttest", reason="torch's test tools need expecttest: pip install 'jorge-tune[test]'")


def _torch_tools() -> ModuleType:
    """torch's descriptions of optimizers, imported without what their import does to the whole process.

    It reads pytest's own command line, and forbids setting `torch.backends` flags, which other tests do.
    """
    flags = torch.backends.disable_global_flags.__globals__
    arguments, frozen = sys.argv, flags["__allow_nonbracketed_mutation_flag"]
    sys.argv = arguments[:1]
    try:
        from torch.testing._internal import common_optimizers
    finally:
        sys.argv, flags["__allow_nonbracketed_mutation_flag"] = arguments, frozen
    return common_optimizers


tools = _torch_tools()

LR = 1e-3  # where torch has it for SGD: with ten times as much, momentum alone makes the loss rise again
Kwargs = dict[str, Any]

SHARED: dict[str, Kwargs] = {
    "default": {"lr": LR},
    "another rate": {"lr": 3e-3},
    "rate in a tensor": {"lr": torch.tensor(1e-3)},
    "weight decay": {"lr": LR, "weight_decay": 0.5},
    "momentum": {"lr": LR, "momentum": 0.5},
    "momentum and weight decay": {"lr": LR, "momentum": 0.9, "weight_decay": 0.1},
    "maximize": {"lr": LR, "weight_decay": 0.1, "maximize": True},
    "raises at NaN": {"lr": LR, "nonfinite": "raise"},
}
SGD_LIKE: dict[str, Kwargs] = {
    "dampening": {"lr": LR, "momentum": 0.9, "dampening": 0.5},
    "nesterov": {"lr": LR, "momentum": 0.9, "nesterov": True, "weight_decay": 0.1},
}
PRECONDITIONED: dict[str, Kwargs] = {
    **SGD_LIKE,
    "without momentum": {"lr": LR, "momentum": 0.0},
    "grafted from AdamW": {"lr": LR, "graft": "adamw"},
    "not grafted": {"lr": LR, "graft": "none"},
    "in blocks": {"lr": LR, "block_size": 3},
    "every third step": {"lr": LR, "refresh_interval": 3, "warm_refreshes": 2},
    "not staggered": {"lr": LR, "refresh_interval": 2, "warm_refreshes": 0, "stagger": False},
}
OWN: dict[type[torch.optim.Optimizer], dict[str, Kwargs]] = {
    Jorge: {
        **PRECONDITIONED,
        "as in the paper": {"lr": LR, "preset": "paper"},
        "congruence": {"lr": LR, "form": "congruence"},
        "half power": {"lr": LR, "form": "half"},
        "half power, in every piece": {"lr": LR, "form": "half", "nesterov": True, "length": "mixed", "flatten": 5},
        "products in bfloat16": {"lr": LR, "product_precision": "bf16"},
        "three terms": {"lr": LR, "series_terms": 3, "b2_floor": 0.5},
    },
    Shampoo: {
        **PRECONDITIONED,
        "Newton's roots": {"lr": LR, "root": "newton"},
        "statistics every second step": {"lr": LR, "statistics_interval": 2, "b2": 0.9},
    },
    SketchyShampoo: {
        **PRECONDITIONED,
        "low rank": {"lr": LR, "rank": 3},
        "statistics every step": {"lr": LR, "rank": 3, "statistics_interval": 1},
    },
    SketchyAdaGrad: {"low rank": {"lr": LR, "rank": 4}, "regularised": {"lr": LR, "eps": 1e-6}},
    Muon: {
        **SGD_LIKE,
        "grafted from AdamW": {"lr": LR, "graft": "adamw"},
        "mixed lengths": {"lr": LR, "length": "mixed"},
        "three steps": {"lr": LR, "flatten": 3},
    },
    DecoupledSGD: SGD_LIKE,
}
SCHEDULERS = (
    [lambda opt: StepLR(opt, gamma=0.9, step_size=10)],
    [lambda opt: LinearLR(opt, start_factor=0.4, end_factor=0.8, total_iters=4)],
    [
        lambda opt: StepLR(opt, gamma=0.9, step_size=10),
        lambda opt: LinearLR(opt, start_factor=0.4, end_factor=0.6, total_iters=4),
    ],
    [lambda opt: ConstantLR(opt, factor=0.4, total_iters=4)],
    [lambda opt: PolynomialLR(opt, power=0.9, total_iters=4)],
    [lambda opt: StepLR(opt, gamma=0.99, step_size=10), lambda opt: ExponentialLR(opt, gamma=0.99), ReduceLROnPlateau],
)


def _inputs(
    member: type[torch.optim.Optimizer], device: str | torch.device, dtype: torch.dtype | None = None
) -> list[Any]:
    settings = {**SHARED, **OWN[member]}
    return [tools.OptimizerInput(params=None, kwargs=copy.deepcopy(kwargs), desc=d) for d, kwargs in settings.items()]


def _error_inputs(device: str | torch.device, dtype: torch.dtype) -> list[Any]:
    """torch's own for all optimizers, with a learning rate where they leave it out, and ours."""
    found = tools.get_error_inputs_for_all_optims(device, dtype)
    for error in found:
        given = error.optimizer_error_input
        if given.params is None:  # a tensor with two rates: torch's sentence is of its own optimizers
            given.params = [nn.Parameter(torch.ones(2, 3))]
            error.error_regex = "lr must have one element|lr must be one number|lr must be"
        given.kwargs.setdefault("lr", LR)
    sparse = nn.Parameter(torch.ones(3, 2))
    sparse.grad = torch.ones(3, 2).to_sparse()
    for params, kwargs, words, place in (
        ([nn.Parameter(torch.ones(2, 2, dtype=torch.complex64))], {}, "params must be real", "CONSTRUCTION_ERROR"),
        ([sparse], {}, "sparse gradients are not supported", "STEP_ERROR"),
        (None, {"lr": -0.1}, "lr must be >= 0, got -0.1", "CONSTRUCTION_ERROR"),
        (None, {"lr": float("nan")}, "lr must be a finite number", "CONSTRUCTION_ERROR"),
        (None, {"lr": "0.1"}, "lr must be a finite number, got '0.1'", "CONSTRUCTION_ERROR"),
        (None, {"momentum": -0.5}, r"momentum must be in \[0, 1\), got -0.5", "CONSTRUCTION_ERROR"),
        (None, {"weight_decay": -1}, "weight_decay must be >= 0, got -1", "CONSTRUCTION_ERROR"),
    ):
        given = tools.OptimizerInput(params or [nn.Parameter(torch.ones(2, 3))], {"lr": LR, **kwargs})
        where = tools.OptimizerErrorEnum[place]
        found.append(tools.ErrorOptimizerInput(given, error_on=where, error_type=ValueError, error_regex=words))
    return found


MEMBERS = [
    tools.OptimizerInfo(
        member,
        optim_inputs_func=functools.partial(_inputs, member),
        optim_error_inputs_func=_error_inputs,
        scheduler_inputs=SCHEDULERS,
        supported_impls=(),  # one implementation, written in torch's foreach functions; none fused or differentiable
        not_og_supported_flags=("maximize",),
        supports_complex=False,
        supports_sparse=False,
    )
    for member in OWN
]


class Setting:
    """A member with one of its settings."""

    def __init__(self, info: Any, description: str) -> None:
        self.info, self.description = info, description
        self.member = info.optim_cls

    @property
    def kwargs(self) -> Kwargs:
        """The keywords, anew: a learning rate in a tensor is changed by its scheduler."""
        (given,) = (i for i in self.info.optim_inputs_func(device="cpu") if i.desc == self.description)
        return dict(given.kwargs)

    @property
    def rises(self) -> bool:
        """Whether the loss is to rise."""
        return bool(self.kwargs.get("maximize", False))

    def make(self, params: Any, **changed: Any) -> torch.optim.Optimizer:
        """The optimizer."""
        return self.member(params, **{**self.kwargs, **changed})

    def __repr__(self) -> str:
        return f"{self.info.name}, {self.description}"


SETTINGS = [Setting(info, given.desc) for info in MEMBERS for given in info.optim_inputs_func(device="cpu")]


class Task:
    """A weight, a bias, an input and the square of their sum: what torch's tests minimise."""

    def __init__(self, *, contiguous: bool = True, device: str = "cpu", rows: int = 10, columns: int = 5) -> None:
        trailing = () if contiguous else (2,)
        weight, bias = (torch.randn(*size, *trailing, device=device) for size in ((rows, columns), (rows,)))
        self.weight, self.bias = (nn.Parameter(p if contiguous else p[..., 0]) for p in (weight, bias))
        self.input = torch.randn(columns, device=device)

    @property
    def params(self) -> list[nn.Parameter]:
        return [self.weight, self.bias]

    def loss(self) -> torch.Tensor:
        """The loss, its gradients set afresh."""
        for param in self.params:
            param.grad = None
        loss = (self.weight.mv(self.input) + self.bias).pow(2).sum()
        loss.backward()
        return loss

    def twin(self) -> Task:
        """The same task with parameters of its own."""
        return copy.deepcopy(self)


def train(optimizer: torch.optim.Optimizer, task: Task, steps: int, schedulers: Any = ()) -> None:
    """`steps` steps, every scheduler stepped after each."""
    for _ in range(steps):
        loss = task.loss()
        optimizer.step()
        for scheduler in schedulers:
            scheduler.step(loss.detach()) if isinstance(scheduler, ReduceLROnPlateau) else scheduler.step()


def tensors_of(value: Any, place: str = "") -> Iterator[tuple[str, Any]]:
    """All that a nested value holds, with its place in it."""
    if isinstance(value, dict):
        for key, part in value.items():
            yield from tensors_of(part, f"{place}[{key!r}]")
    elif isinstance(value, list | tuple):
        yield f"{place}.length", len(value)
        for index, part in enumerate(value):
            yield from tensors_of(part, f"{place}[{index}]")
    else:
        yield place, value


def assert_same(one: Any, other: Any) -> None:
    """Both hold the same, to the last bit, in the same precision and on the same device."""
    ours, theirs = dict(tensors_of(one)), dict(tensors_of(other))
    assert ours.keys() == theirs.keys()
    for place, value in ours.items():
        twin = theirs[place]
        assert type(value) is type(twin), place
        if isinstance(value, torch.Tensor):
            assert (value.dtype, value.device, value.shape) == (twin.dtype, twin.device, twin.shape), place
            assert torch.equal(value, twin), place
        else:
            assert value == twin, place


def of_all(function: Callable[..., None]) -> Callable[..., None]:
    """Run a test for every setting of every member."""
    return pytest.mark.parametrize("setting", SETTINGS, ids=repr)(function)
