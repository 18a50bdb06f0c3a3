"""A model's parameters in groups: who decays, at which rate, and who is preconditioned."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Protocol

from torch import nn
from torch.nn.utils.parametrize import is_parametrized

_NORMS = (
    nn.modules.batchnorm._NormBase,  # batch and instance norms
    nn.GroupNorm,
    nn.LayerNorm,
    nn.RMSNorm,
)
NO_DECAY_CLASSES = ("norm", "bias", "one_dimensional")


class GroupRule(Protocol):
    """What holds for the parameters whose name matches `pattern`."""

    @property
    def pattern(self) -> str:
        """A regular expression, searched in the parameter's name."""

    @property
    def lr_scale(self) -> float:
        """Factor on the learning rate."""

    @property
    def weight_decay_scale(self) -> float:
        """Factor on the weight decay."""

    @property
    def precondition(self) -> bool:
        """Whether these parameters may have preconditioners."""


def param_groups(
    model: nn.Module,
    *,
    lr: float,
    weight_decay: float,
    no_decay: Sequence[str] = (),
    groups: Sequence[GroupRule] = (),
) -> list[dict[str, Any]]:
    """Groups for any torch optimizer, each with `params`, `lr`, `weight_decay` and `precondition`.

    A parameter takes the first rule that matches its name. Weights of `nn.Embedding` and `nn.EmbeddingBag` are marked
    `precondition: False`, whatever the rules say: their gradients touch few rows, and one side is as long as the
    vocabulary. So is what is tied to them, and what a parametrisation makes them of.

    Args:
        model: The model; a parameter shared by several modules counts once, frozen ones are kept.
        lr: Learning rate before scaling.
        weight_decay: Decay before scaling.
        no_decay: Classes without decay: "norm" (parameters of normalisation layers), "bias", "one_dimensional".
        groups: Rules by name.

    Raises:
        ValueError: an unknown class, or a rule that matches no parameter.

    Example:
        >>> len(param_groups(nn.Linear(4, 2), lr=0.1, weight_decay=1e-3, no_decay=["bias"]))
        2
    """
    for name in no_decay:
        if name not in NO_DECAY_CLASSES:
            raise ValueError(f"no_decay must be of {', '.join(NO_DECAY_CLASSES)}, got {name!r}")
    unmatched = {rule.pattern for rule in groups}
    gathered: dict[tuple[float, float, bool], list[nn.Parameter]] = {}
    owners = _owners(model)
    tables = embedding_parameters(model)
    for name, param in model.named_parameters():
        rule = next((r for r in groups if re.search(r.pattern, name)), None)
        unmatched -= {r.pattern for r in groups if re.search(r.pattern, name)}
        own_lr = lr * rule.lr_scale if rule else lr
        own_decay = weight_decay * rule.weight_decay_scale if rule else weight_decay
        if _is_exempt(param, owners[param], no_decay):
            own_decay = 0.0
        precondition = param not in tables and (rule is None or rule.precondition)
        key = (own_lr, own_decay, precondition)
        gathered.setdefault(key, []).append(param)
    if unmatched:
        raise ValueError(f"groups: no parameter's name matches {', '.join(sorted(map(repr, unmatched)))}")
    return [
        {"params": params, "lr": own_lr, "weight_decay": own_decay, "precondition": precondition}
        for (own_lr, own_decay, precondition), params in gathered.items()
    ]


def embedding_parameters(model: nn.Module) -> set[nn.Parameter]:
    """The parameters that some embedding of the model holds, whatever module else does."""
    return {
        param
        for param, owners in _owners(model).items()
        if any(isinstance(module, (nn.Embedding, nn.EmbeddingBag)) for module, _ in owners)
    }


def _owners(model: nn.Module) -> dict[nn.Parameter, list[tuple[nn.Module, str]]]:
    """Each parameter's modules, with what they call it: of a parametrised tensor, the module whose tensor it makes."""
    owners: dict[nn.Parameter, list[tuple[nn.Module, str]]] = {}
    for module in model.modules():
        held = list(module.named_parameters(recurse=False))
        if is_parametrized(module):
            made = module.parametrizations.items()  # type: ignore[union-attr, operator]  # a ModuleDict then
            held += [(name, param) for name, makers in made for param in makers.parameters()]
        for name, param in held:
            owners.setdefault(param, []).append((module, name))
    return owners


def _is_exempt(param: nn.Parameter, owners: Sequence[tuple[nn.Module, str]], no_decay: Sequence[str]) -> bool:
    return (
        ("norm" in no_decay and any(isinstance(module, _NORMS) for module, _ in owners))
        or ("bias" in no_decay and any(name.endswith("bias") for _, name in owners))
        or ("one_dimensional" in no_decay and param.dim() <= 1)
    )
