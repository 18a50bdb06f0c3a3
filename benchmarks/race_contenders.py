"""The contenders of `races.py`: rivals with rates of their own, and what follows from the tuned recipe."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from jorge_tune.optim import DecoupledSGD, Jorge, Muon, Shampoo, param_groups
from jorge_tune.optim.param_groups import embedding_parameters

Make = Callable[[nn.Module, "Rates", float], list[Optimizer]]

MOMENTUM = 0.9
ADAMW_DECAY = 0.01


class Rates(NamedTuple):
    """A contender's rate, and that of what it leaves to AdamW."""

    lr: float
    rest: float


@dataclass(frozen=True)
class Contender:
    """How to make optimizers; `rates` are those tried, or `follows` names the contender that the rate is taken from.

    `rest` names the contender whose rate the parameters take that a rival leaves to AdamW. `epochs` is the part of the
    task's epochs that it trains for, with a schedule of its own.
    """

    make: Make
    rates: tuple[float, ...] = ()
    follows: str = ""
    rest: str = ""
    epochs: float = 1.0


class MatrixViews:
    """Parameters as matrices that share their memory, for optimizers that need them."""

    def __init__(self, params: list[nn.Parameter]) -> None:
        self.params = params
        self.views = [nn.Parameter(p.data.view(len(p), -1)) for p in params]

    def take_gradients(self) -> None:
        for view, param in zip(self.views, self.params, strict=True):
            assert param.grad is not None
            view.grad = param.grad.view(len(param), -1)


def _viewed(optimizer: Optimizer, views: MatrixViews) -> Optimizer:
    optimizer.register_step_pre_hook(lambda *_: views.take_gradients())
    return optimizer


def _parts(model: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """Matrices (no embeddings), and the rest."""
    tables = embedding_parameters(model)
    matrices = [p for p in model.parameters() if p.dim() > 1 and p not in tables]
    chosen = set(matrices)
    return matrices, [p for p in model.parameters() if p not in chosen]


def _sgd(**options: Any) -> Make:
    return lambda model, rates, decay: [
        torch.optim.SGD(model.parameters(), rates.lr, momentum=MOMENTUM, weight_decay=decay, **options)
    ]


def _adamw(model: nn.Module, rates: Rates, decay: float) -> list[Optimizer]:
    return [torch.optim.AdamW(model.parameters(), rates.lr, weight_decay=ADAMW_DECAY)]


def _muon(model: nn.Module, rates: Rates, decay: float) -> list[Optimizer]:
    """torch's Muon for matrices, AdamW for the rest."""
    matrices, rest = _parts(model)
    views = MatrixViews(matrices)
    muon = torch.optim.Muon(views.views, rates.lr, weight_decay=ADAMW_DECAY)
    return [_viewed(muon, views), torch.optim.AdamW(rest, rates.rest, weight_decay=ADAMW_DECAY)]


def _soap(model: nn.Module, rates: Rates, decay: float) -> list[Optimizer]:
    """pytorch-optimizer's SOAP, a basis every 10 steps; it takes Adam for what has one dimension."""
    soap = importlib.import_module("pytorch_optimizer").SOAP
    views = MatrixViews([p for p in model.parameters() if p.dim() > 1])
    flat = [p for p in model.parameters() if p.dim() < 2]
    soap = soap([*views.views, *flat], lr=rates.lr, weight_decay=ADAMW_DECAY, precondition_frequency=10)
    return [_viewed(soap, views)]


def _family(member: Callable[..., Optimizer], **options: Any) -> Make:
    """A member at SGD's rate and momentum, with the decay that Eq. 9 of the paper makes of SGD's."""

    def make(model: nn.Module, rates: Rates, decay: float) -> list[Optimizer]:
        groups = param_groups(model, lr=rates.lr, weight_decay=decay / (1 - MOMENTUM))
        return [member(groups, momentum=MOMENTUM, **options)]

    return make


def _from_adamw(**options: Any) -> Make:
    def make(model: nn.Module, rates: Rates, decay: float) -> list[Optimizer]:
        return [Jorge(param_groups(model, lr=rates.lr, weight_decay=ADAMW_DECAY), graft="adamw", **options)]

    return make


NESTEROV = {"nesterov": True}
MIXED_PLAIN = {"length": "mixed", "embeddings": "adam"}
MIXED = {**MIXED_PLAIN, **NESTEROV}
FLAT = {**MIXED, "flatten": 5}

CONTENDERS: dict[str, Contender] = {
    "sgd": Contender(_sgd(), rates=(0.01, 0.03, 0.1, 0.3, 1.0)),
    "sgd-nesterov": Contender(_sgd(nesterov=True), rates=(0.01, 0.03, 0.1, 0.3, 1.0)),
    "adamw": Contender(_adamw, rates=(3e-4, 1e-3, 3e-3, 1e-2, 3e-2)),
    "muon": Contender(_muon, rates=(3e-3, 1e-2, 3e-2, 0.1, 0.3), rest="adamw"),
    "soap": Contender(_soap, rates=(3e-4, 1e-3, 3e-3, 1e-2, 3e-2)),
    "control": Contender(_family(DecoupledSGD), follows="sgd"),
    "shampoo": Contender(_family(Shampoo), follows="sgd"),
    "jorge": Contender(_family(Jorge, form="series"), follows="sgd"),
    "jorge-nesterov": Contender(_family(Jorge, form="series", **NESTEROV), follows="sgd"),
    "congruence": Contender(_family(Jorge, form="congruence"), follows="sgd"),
    "half": Contender(_family(Jorge, form="half"), follows="sgd"),
    "half-nesterov": Contender(_family(Jorge, form="half", **NESTEROV), follows="sgd"),
    "jorge-mixed": Contender(_family(Jorge, form="series", **MIXED_PLAIN), follows="sgd"),
    "half-mixed-plain": Contender(_family(Jorge, form="half", **MIXED_PLAIN), follows="sgd"),
    "half-mixed": Contender(_family(Jorge, form="half", **MIXED), follows="sgd"),
    "half-flat": Contender(_family(Jorge, form="half", nesterov=True, flatten=5), follows="sgd"),
    "half-mixed-flat": Contender(_family(Jorge, form="half", **FLAT), follows="sgd"),
    "half-mixed-flat-short": Contender(_family(Jorge, form="half", **FLAT), follows="sgd", epochs=0.5),
    "muon-sgd": Contender(_family(Muon, **NESTEROV), follows="sgd"),
    "muon-sgd-mixed": Contender(_family(Muon, **MIXED), follows="sgd"),
    "jorge-adamw": Contender(_from_adamw(form="series"), follows="adamw"),
    "half-adamw": Contender(_from_adamw(form="half"), follows="adamw"),
    "half-adamw-mixed-flat": Contender(_from_adamw(form="half", length="mixed", flatten=5), follows="adamw"),
}


def set_factor(optimizers: list[Optimizer], factor: float) -> None:
    """Each group's rate to `factor` times its first."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            first = group.setdefault("first_lr", group["lr"])
            group["lr"] = first * factor if not isinstance(first, Tensor) else first.fill_(factor)
