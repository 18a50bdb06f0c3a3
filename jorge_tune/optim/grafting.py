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

The lists hold a tensor for each parameter (on the CPU) or one for many (flat.py, elsewhere). `Terms` says which numbers
the recurrences take in either case.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple, TypeAlias

import torch
from torch import Tensor

from jorge_tune.optim.argument_checks import Group
from jorge_tune.optim.stacks import collapse

Operands: TypeAlias = float | list[float] | list[Tensor]
"""What a list of tensors is multiplied by: one number for all, a number each, or a column of numbers each."""


class Terms(NamedTuple):
    """The numbers of a recurrence over a list of tensors.

    `steps` counts the steps of each parameter, from 1. `keep` gives what a buffer is multiplied by for a weight: the
    weight itself, or 1 where the gradient is masked (as zeros), so that the buffer stays. `spread` turns a number for
    each parameter into operands for the list. `is_exact` asks for torch's own two roundings, product and sum.
    """

    steps: Sequence[int]
    keep: Callable[[float], Operands]
    spread: Callable[[Sequence[float]], Operands]
    is_exact: bool = True


def listed(steps: Sequence[int]) -> Terms:
    """The terms of lists with a tensor for each parameter, none of them masked."""
    return Terms(steps, keep=lambda weight: weight, spread=list)


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


def grafted_steps_(buffers: dict[str, list[Tensor]], grads: list[Tensor], group: Group, terms: Terms) -> list[Tensor]:
    """The grafted optimizer's own steps; without a graft, the average of the gradients.

    Args:
        buffers: The buffers that `graft_buffers` names, each a list as `grads` is.
        grads: The gradients.
        group: Hyperparameters.
        terms: The recurrences' numbers.
    """
    if group["graft"] == "adamw":
        moments = buffers["first_moment"], buffers["second_moment"]
        return adamw_step_(*moments, grads, terms, betas=group["graft_betas"], eps=group["graft_eps"])
    return _moved_(buffers.get("momentum", []), grads, group, terms)


def with_momentum_(buffers: list[Tensor], ps: list[Tensor], group: Group, terms: Terms) -> list[Tensor]:
    """Directions d: the preconditioned gradients, with momentum."""
    if group["graft"] == "adamw":
        average_(buffers, ps, group["graft_betas"][0], terms)
        return buffers
    return _moved_(buffers, ps, group, terms)


TABLE_BETA: Final = 0.999  # of the second moment of an embedding table; the first moment's is the momentum
TABLE_EPS: Final = 1e-8


def table_directions_(
    buffers: dict[str, list[Tensor]], grads: list[Tensor], group: Group, terms: Terms
) -> list[Tensor]:
    """Adam's directions for embedding tables: most of a table's rows have no gradient in most steps."""
    moments = buffers["first_moment"], buffers["second_moment"]
    return adamw_step_(*moments, grads, terms, betas=(group["momentum"], TABLE_BETA), eps=TABLE_EPS)


def mean_lengths_(means: list[Tensor], lengths: Tensor, steps: Sequence[int]) -> Tensor:
    """s_i, the mean of ||S_i|| over all steps of tensor i so far: s <- s + (||S|| - s) / t.

    Shape:
        lengths: (number of tensors,), float64, ||S_i|| of this step. Returns the same.
    """
    changes = torch._foreach_sub(list(lengths.unbind()), means)
    torch._foreach_mul_(changes, [1 / step for step in steps])
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


def recur_(buffers: list[Tensor], values: list[Tensor], keep: Operands, take: Operands, terms: Terms) -> None:
    """b <- keep b + take v. Where torch's roundings are not asked for, each entry is read and written once."""
    if take == 1 and not terms.is_exact:
        for buffer, value, factor in zip(buffers, values, _each(keep, len(buffers)), strict=True):
            if isinstance(factor, Tensor):
                torch.addcmul(value, buffer, factor, out=buffer)
            else:
                torch.add(value, buffer, alpha=factor, out=buffer)
        return

    torch._foreach_mul_(buffers, keep)
    if not isinstance(take, list):
        torch._foreach_add_(buffers, values, alpha=take)
        return
    for buffer, value, factor in zip(buffers, values, _each(take, len(buffers)), strict=True):
        if isinstance(factor, Tensor):
            buffer.addcmul_(value, factor)
        else:
            buffer.add_(value, alpha=factor)


def _each(operands: Operands, count: int) -> Sequence[float | Tensor]:
    return operands if isinstance(operands, list) else [operands] * count


def sgd_step_(
    buffers: list[Tensor], grads: list[Tensor], terms: Terms, *, momentum: float, dampening: float, nesterov: bool
) -> list[Tensor]:
    """Advance SGD's momentum buffers, by torch's own recurrence, and return the steps before the learning rate.

    b <- g at a parameter's first step, else b <- momentum b + (1 - dampening) g; the step is b, or
    g + momentum b for Nesterov. Buffers begin as zeros. The returned tensors may be the buffers or the gradients
    themselves.
    """
    if momentum == 0:
        return grads
    take: Operands = 1 - dampening
    if dampening != 0 and 1 in terms.steps:
        take = terms.spread([1.0 if step == 1 else 1 - dampening for step in terms.steps])
    recur_(buffers, grads, terms.keep(momentum), take, terms)
    if nesterov:
        return list(torch._foreach_add(grads, buffers, alpha=momentum))
    return buffers


def adamw_step_(
    first_moments: list[Tensor],
    second_moments: list[Tensor],
    grads: list[Tensor],
    terms: Terms,
    *,
    betas: tuple[float, float],
    eps: float,
) -> list[Tensor]:
    """Advance AdamW's moments and return its bias-corrected steps, without decay, before the learning rate."""
    average_(first_moments, grads, betas[0], terms)
    torch._foreach_mul_(second_moments, terms.keep(betas[1]))
    torch._foreach_addcmul_(second_moments, grads, grads, value=1 - betas[1])
    roots = torch._foreach_sqrt(second_moments)
    torch._foreach_div_(roots, terms.spread([(1 - betas[1] ** t) ** 0.5 for t in terms.steps]))
    torch._foreach_add_(roots, eps)
    directions = torch._foreach_div(first_moments, roots)
    torch._foreach_div_(directions, terms.spread([1 - betas[0] ** t for t in terms.steps]))
    return list(directions)


def average_(averages: list[Tensor], values: list[Tensor], beta: float, terms: Terms) -> None:
    """Exponential average: a <- beta a + (1 - beta) v."""
    recur_(averages, values, terms.keep(beta), 1 - beta, terms)


def _moved_(buffers: list[Tensor], values: list[Tensor], group: Group, terms: Terms) -> list[Tensor]:
    if group["graft"] == "none":
        average_(buffers, values, group["momentum"], terms)
        return buffers
    sgd = {name: group[name] for name in ("momentum", "dampening", "nesterov")}
    return sgd_step_(buffers, values, terms, **sgd)


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
