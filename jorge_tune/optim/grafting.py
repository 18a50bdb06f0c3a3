"""Length of a step, momenta, and the update of the weights: lists of tensors, updated in place.

Grafting takes the norm of the step that another optimizer would have taken, and Jorge's direction (Jorge, A.2,
Algorithm 3). One step of the family calls, in this order,

    s = grafted_steps_    the steps of the grafted optimizer, from the gradients
    l = norms, or         ||s||, the length of each tensor's step ("tensor")
        mixed_lengths     the mean between it and an even share of all lengths ("mixed")
    m = with_momentum_    the preconditioned gradients with momentum, by the same recurrence
    m = flattened         its singular values made about equal, where `flatten` asks for it
    u = scale_to          l m / ||m||
    descend_              w <- (1 - lr wd) w - lr u

Embedding tables have no preconditioner; with `embeddings="adam"` Adam's step (`table_directions_`) is their m.
`copies` and `restore_` undo a step whose gradient was not finite, without asking the device.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import torch
from torch import Tensor

from jorge_tune.optim.argument_checks import Group
from jorge_tune.optim.stacks import collapse


def graft_buffers(group: Group, param: Tensor) -> tuple[str, ...]:
    """Names of the buffers of a parameter's shape that the grafted step needs, kept as `graft.<name>`."""
    if group["graft"] == "adamw":
        return "first_moment", "second_moment"
    own = ("momentum",) if group["momentum"] > 0 or group["graft"] == "none" else ()
    return (*own, "first_moment", "second_moment") if is_adam_table(group, param) else own


def keeps_length(group: Group, param: Tensor, has_blocks: bool) -> bool:
    """Whether a parameter keeps the mean length of its grafted steps, a float64 number, as `graft.length`."""
    is_mixed = group["length"] == "mixed" and group["graft"] != "none"
    return is_mixed and (has_blocks or is_adam_table(group, param))


def is_adam_table(group: Group, param: Tensor) -> bool:
    """Whether a parameter takes Adam's direction: two or more dimensions, and not preconditioned by its group."""
    return bool(
        group["embeddings"] == "adam" and group["graft"] == "sgd" and not group["precondition"] and param.dim() > 1
    )


def grafted_steps_(states: list[dict[str, Any]], grads: list[Tensor], group: Group) -> list[Tensor]:
    """The grafted optimizer's own steps; without a graft, the average of the gradients."""
    if group["graft"] == "adamw":
        return adamw_step_(
            [state["graft.first_moment"] for state in states],
            [state["graft.second_moment"] for state in states],
            grads,
            [int(state["step"]) for state in states],
            betas=group["graft_betas"],
            eps=group["graft_eps"],
        )
    return _moved_([state.get("graft.momentum") for state in states], states, grads, group)


def with_momentum_(states: list[dict[str, Any]], ps: list[Tensor], group: Group) -> list[Tensor]:
    """Directions d: the preconditioned gradients, with momentum."""
    buffers = [state["momentum"] for state in states]
    if group["graft"] == "adamw":
        average_(buffers, ps, group["graft_betas"][0])
        return buffers
    return _moved_(buffers, states, ps, group)


TABLE_BETA: Final = 0.999  # of the second moment of an embedding table; the first moment's is the momentum
TABLE_EPS: Final = 1e-8


def table_directions_(states: list[dict[str, Any]], grads: list[Tensor], group: Group) -> list[Tensor]:
    """Adam's directions for embedding tables: most of a table's rows have no gradient in most steps."""
    return adamw_step_(
        [state["graft.first_moment"] for state in states],
        [state["graft.second_moment"] for state in states],
        grads,
        [int(state["step"]) for state in states],
        betas=(group["momentum"], TABLE_BETA),
        eps=TABLE_EPS,
    )


def mean_lengths_(states: list[dict[str, Any]], lengths: Tensor) -> Tensor:
    """s_i, the mean of ||S_i|| over all steps of tensor i so far: s <- s + (||S|| - s) / t.

    Shape:
        lengths: (number of tensors,), float64, ||S_i|| of this step. Returns the same.
    """
    means = [state["graft.length"] for state in states]
    changes = torch._foreach_sub(list(lengths.unbind()), means)
    torch._foreach_mul_(changes, [1 / int(state["step"]) for state in states])
    torch._foreach_add_(means, changes)
    return torch.stack(means)


class LengthTotals(NamedTuple):
    """The sums of s_i^2 and of numel_i over all tensors of an optimizer that mix their lengths, float64, shape ()."""

    squares: Tensor
    sizes: Tensor

    def on(self, device: torch.device) -> LengthTotals:
        """The same on a device."""
        return LengthTotals(*(total.to(device, non_blocking=True) for total in self))


def length_totals(parts: Sequence[tuple[Tensor | None, Tensor | None]]) -> LengthTotals | None:
    """The sums over parts of (s, numel); parts without numel do not mix. None where none does."""
    mixing = [(means, sizes) for means, sizes in parts if means is not None and sizes is not None]
    if not mixing:
        return None
    totals = [LengthTotals(means.square().sum(), sizes.sum()).on(mixing[0][0].device) for means, sizes in mixing]
    return LengthTotals(*(torch.stack(column).sum() for column in zip(*totals, strict=True)))


def mixed_lengths(means: Tensor, sizes: Tensor, totals: LengthTotals) -> Tensor:
    """The geometric mean of a tensor's own length and its even share of all: (s_i N (numel_i / sum numel)^(1/2))^(1/2).

    N = (sum_i s_i^2)^(1/2). Where all tensors have the same s_i per root of numel_i, every length is s_i.

    Shape:
        means (the s_i), sizes (the numel_i), and what returns: (number of tensors,), float64.
    """
    shares = (totals.squares * sizes / totals.sizes).sqrt()
    return (means * shares).sqrt()


def scale_to(directions: list[Tensor], lengths: Tensor) -> tuple[list[Tensor], Tensor]:
    """u = length d / ||d||, and 0 where d = 0, tensor by tensor, with the ratios length / ||d||.

    Norms are float64 (see `norms`), so that steps of 1e-30 and 1e+30 have the norm they have.

    Returns:
        The scaled directions (new tensors) and the ratios, float64, shape (number of tensors,).
    """
    own = norms(directions)
    inverse = torch.where(own > 0, 1 / own, 0.0)
    scaled = list(torch._foreach_mul(directions, list(inverse.unbind())))
    torch._foreach_mul_(scaled, list(lengths.unbind()))  # in two steps: a ratio of 1e-60 would be 0 in float32
    return scaled, inverse * lengths


QUINTIC: Final = (3.4445, -4.7750, 2.0315)
"""Coefficients of Muon's Newton-Schulz step: steep at 0, and within 0.3 of 1 for singular values from 0.05 to 1."""


def flattened(directions: list[Tensor], steps: int) -> list[Tensor]:
    """Directions with singular values brought near 1 by `steps` of X <- a X + (b X X^T + c (X X^T)^2) X (new tensors).

    A tensor is the matrix that the preconditioners see (`collapse`). Equal matrices are worked on together. Only the
    direction means anything: a length follows.

    Reference:
        Jordan et al., "Muon: an optimizer for hidden layers in neural networks", 2024.
    """
    lengths = norms(directions)
    ratios = torch.where(lengths > 0, 1 / lengths, 0.0)
    scaled = torch._foreach_mul(directions, list(ratios.unbind()))

    together: dict[tuple[int, ...], list[int]] = defaultdict(list)
    matrices = []
    for index, tensor in enumerate(scaled):
        matrix = tensor.reshape(collapse(tensor.shape)) if tensor.dim() > 1 else tensor[None]
        matrices.append(matrix if matrix.shape[0] <= matrix.shape[1] else matrix.mT)
        together[tuple(matrices[-1].shape)].append(index)

    for indices in together.values():
        flat = newton_schulz(torch.stack([matrices[i] for i in indices]), steps)
        for index, X in zip(indices, flat, strict=True):
            matrices[index].copy_(X)  # a view of `scaled`, which is ours
    return list(scaled)


def newton_schulz(X: Tensor, steps: int) -> Tensor:
    """Muon's iteration, on matrices of Frobenius norm 1 with no more rows than columns: (..., m, n)."""
    a, b, c = QUINTIC
    for _ in range(steps):
        S = X @ X.mT
        X = a * X + (b * S + c * (S @ S)) @ X
    return X


def flatten_flops(rows: int, columns: int, steps: int) -> int:
    """Operations of `flattened` for one matrix."""
    m, n = sorted((rows, columns))
    return steps * (4 * m * m * n + 2 * m**3)


def descend_(params: list[Tensor], directions: list[Tensor], *, lr: float, weight_decay: float) -> None:
    """w <- (1 - lr wd) w - lr u, in state precision."""
    masters = [p.to(u.dtype) for p, u in zip(params, directions, strict=True)]
    if weight_decay != 0:
        torch._foreach_mul_(masters, 1 - lr * weight_decay)
    torch._foreach_add_(masters, directions, alpha=-lr)
    for param, master in zip(params, masters, strict=True):
        if master is not param:
            param.copy_(master)


def copies(params: list[Tensor], states: list[dict[str, Any]]) -> list[list[Tensor]]:
    """What a step of these parameters changes besides the preconditioners, copied."""
    return [[t.clone() for t in _step_tensors(p, s)] for p, s in zip(params, states, strict=True)]


def restore_(
    params: list[Tensor], states: list[dict[str, Any]], before: list[list[Tensor]], finite: list[Tensor]
) -> None:
    """Undo the step where the gradient was not finite, without asking the device."""
    for param, state, copies, flag in zip(params, states, before, finite, strict=True):
        for tensor, copy in zip(_step_tensors(param, state), copies, strict=True):
            tensor.copy_(torch.where(flag, tensor, copy))


def sgd_step_(
    buffers: list[Tensor],
    grads: list[Tensor],
    first: Sequence[bool],
    *,
    momentum: float,
    dampening: float,
    nesterov: bool,
) -> list[Tensor]:
    """Advance SGD's momentum buffers, by torch's own recurrence, and return the steps before the learning rate.

    b <- g at a parameter's first step, else b <- momentum b + (1 - dampening) g; the step is b, or
    g + momentum b for Nesterov. The returned tensors may be the buffers or the gradients themselves.
    """
    if momentum == 0:
        return grads
    torch._foreach_mul_(buffers, momentum)
    torch._foreach_add_(buffers, grads, alpha=1 - dampening)
    for buffer, grad, is_first in zip(buffers, grads, first, strict=True):
        if is_first:
            buffer.copy_(grad)
    if nesterov:
        return list(torch._foreach_add(grads, buffers, alpha=momentum))
    return buffers


def adamw_step_(
    first_moments: list[Tensor],
    second_moments: list[Tensor],
    grads: list[Tensor],
    steps: Sequence[int],
    *,
    betas: tuple[float, float],
    eps: float,
) -> list[Tensor]:
    """Advance AdamW's moments and return its bias-corrected steps, without decay, before the learning rate."""
    average_(first_moments, grads, betas[0])
    torch._foreach_mul_(second_moments, betas[1])
    torch._foreach_addcmul_(second_moments, grads, grads, value=1 - betas[1])
    roots = torch._foreach_sqrt(second_moments)
    torch._foreach_div_(roots, [(1 - betas[1] ** t) ** 0.5 for t in steps])
    torch._foreach_add_(roots, eps)
    directions = torch._foreach_div(first_moments, roots)
    torch._foreach_div_(directions, [1 - betas[0] ** t for t in steps])
    return list(directions)


def average_(averages: list[Tensor], values: list[Tensor], beta: float) -> None:
    """Exponential average: a <- beta a + (1 - beta) v."""
    torch._foreach_mul_(averages, beta)
    torch._foreach_add_(averages, values, alpha=1 - beta)


def _moved_(buffers: list[Any], states: list[dict[str, Any]], values: list[Tensor], group: Group) -> list[Tensor]:
    if group["graft"] == "none":
        average_(buffers, values, group["momentum"])
        return buffers
    return sgd_step_(
        buffers,
        values,
        [int(state["step"]) == 1 for state in states],
        momentum=group["momentum"],
        dampening=group["dampening"],
        nesterov=group["nesterov"],
    )


def _step_tensors(param: Tensor, state: dict[str, Any]) -> list[Tensor]:
    momenta = [value for key, value in state.items() if key == "momentum" or key.startswith("graft.")]
    return [param, *momenta]


ROW = 1024  # entries that float32 adds up without harm
SAFE_NORMS = (1e-10, 1e15)  # between them what float32 loses of a sum of squares does not show


def norms(tensors: list[Tensor]) -> Tensor:
    """Frobenius norms in float64, shape (number of tensors,); not finite where an entry is not."""
    if all(tensor.device.type == "cpu" for tensor in tensors):
        return torch.stack([_host_norm(tensor) for tensor in tensors])
    return torch.stack(torch._foreach_norm(tensors, 2, dtype=torch.float64))


def _host_norm(tensor: Tensor) -> Tensor:
    """In rows of the tensor's own precision, joined in float64: at most 4e-7 off, and four times as fast."""
    flat = tensor.reshape(-1)
    whole = flat.numel() // ROW * ROW
    rows = torch.linalg.vector_norm(flat[:whole].view(-1, ROW), dim=1)
    rows = torch.cat((rows, torch.linalg.vector_norm(flat[whole:]).unsqueeze(0)))
    fit = SAFE_NORMS[0] < float(rows.max()) < SAFE_NORMS[1]
    norm: Tensor = torch.linalg.vector_norm(rows if fit else tensor, dtype=torch.float64)
    return norm
