"""A model's parameters in groups: who decays, at which rate, and who is preconditioned."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

from torch import nn

_NORMS = (
    nn.modules.batchnorm._NormBase,  # batch and instance norms
    nn.GroupNorm,
    nn.LayerNorm,
    nn.RMSNorm,
)
NO_DECAY_CLASSES = ("norm", "bias", "one_dimensional")


class GroupRule(Protocol):
    """Parameters whose name matches `pattern` have their lr and decay scaled."""

    @property
    def pattern(self) -> str:
        """A regular expression, searched in the parameter's name."""

    @property
    def lr_scale(self) -> float:
        """Factor on the learning rate."""

    @property
    def weight_decay_scale(self) -> float:
        """Factor on the weight decay."""


def param_groups(
    model: nn.Module,
    *,
    lr: float,
    weight_decay: float,
    no_decay: Sequence[str] = (),
    groups: Sequence[GroupRule] = (),
) -> list[dict[str, Any]]:
    """Groups for any torch optimizer, each with `params`, `lr`, `weight_decay` and `precondition`.

    A parameter takes the first rule that matches its name. Weights of `nn.Embedding` are marked
    `precondition: False`: their gradients touch few rows, and one side is as long as the vocabulary.

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
    for name, param, module in _named_parameters(model):
        rule = next((r for r in groups if re.search(r.pattern, name)), None)
        unmatched -= {r.pattern for r in groups if re.search(r.pattern, name)}
        own_lr = lr * rule.lr_scale if rule else lr
        own_decay = weight_decay * rule.weight_decay_scale if rule else weight_decay
        if _is_exempt(name, param, module, no_decay):
            own_decay = 0.0
        key = (own_lr, own_decay, not isinstance(module, nn.Embedding))
        gathered.setdefault(key, []).append(param)
    if unmatched:
        raise ValueError(f"groups: no parameter's name matches {', '.join(sorted(map(repr, unmatched)))}")
    return [
        {"params": params, "lr": own_lr, "weight_decay": own_decay, "precondition": precondition}
        for (own_lr, own_decay, precondition), params in gathered.items()
    ]


def _named_parameters(model: nn.Module) -> Iterator[tuple[str, nn.Parameter, nn.Module]]:
    seen: set[nn.Parameter] = set()
    for prefix, module in model.named_modules():
        for name, param in module.named_parameters(recurse=False):
            if param not in seen:
                seen.add(param)
                yield (f"{prefix}.{name}" if prefix else name), param, module


def _is_exempt(name: str, param: nn.Parameter, module: nn.Module, no_decay: Sequence[str]) -> bool:
    return (
        ("norm" in no_decay and isinstance(module, _NORMS))
        or ("bias" in no_decay and name.rsplit(".", 1)[-1].endswith("bias"))
        or ("one_dimensional" in no_decay and param.dim() <= 1)
    )
