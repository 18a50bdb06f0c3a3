"""Sketchy Shampoo and Sketchy AdaGrad: statistics kept as a few directions and one number for the mass that escaped.

`SketchyShampoo` sketches the two statistics of every block. `SketchyAdaGrad` sketches the one of the whole parameter,
taken as a vector; it is for convex and small problems. Both update their sketch by `frequent_directions` and apply it
by `sketched_root`.

Legend: G a gradient block (m x n); A = G G^T averaged (m x m), never stored; l the rank; B (m x k) the sketch, B B^T
near A, with orthogonal columns, the longest first; lambda = the squared lengths of these columns; rho the escaped mass,
with B B^T <= A <= B B^T + rho I. A leading batch dimension is allowed everywhere. k = l - 1 columns are stored, because
the l-th is always 0 (Alg. 1), or m where l >= m: then nothing escapes. For AdaGrad G is the gradient g as one column.

Reference:
    Feinberg, Chen, Sun, Anil, Hazan, "Sketchy: memory-efficient adaptive regularization with frequent directions".
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from jorge_tune.optim.argument_checks import Group, is_count, require, without_torch_switches
from jorge_tune.optim.kronecker import WITHOUT_REFRESHES, KroneckerOptimizer, Params
from jorge_tune.optim.numerics import largest
from jorge_tune.optim.stacks import Block, BlockShape, SideState


def frequent_directions(B: Tensor, Y: Tensor, *, tolerance: float = 0.0) -> tuple[Tensor, Tensor]:
    """FD-update: B' B'^T = U (lambda - lambda_l)_+ U^T, where B B^T + Y Y^T = U lambda U^T; and the escaped lambda_l.

    Taken from the singular values sigma = lambda^(1/2) of [B, Y]: the squared matrix is never formed, so that small
    directions keep the digits they have (Sec. 6). [B, Y] has at least l columns; with l > d there is no lambda_l and
    nothing escapes.

    Shape:
        B: (..., d, k), k = l - 1. Y: (..., d, n). Returns (..., d, k) and (...), the latter in float64.

    Args:
        B: The sketch before, with any decay taken already.
        Y: What is added.
        tolerance: Singular values up to this fraction of the largest are rounding noise and count as 0.

    Reference:
        Sketchy, Algorithm 1; for exponential averages Observation 6, with B <- b2^(1/2) B and Y = (1-b2)^(1/2) G.
    """
    columns = B.shape[-1]
    stacked = torch.cat((B, Y), dim=-1)
    if stacked.shape[-1] > stacked.shape[-2]:  # its left singular vectors are those of R^T, which is d x d
        stacked = torch.linalg.qr(stacked.mT, mode="r").R.mT
    U, sigma, _ = torch.linalg.svd(stacked, full_matrices=False)
    sigma = torch.where(sigma > tolerance * sigma[..., :1], sigma, 0.0)
    kept = sigma[..., :columns]
    last = sigma[..., columns : columns + 1] if sigma.shape[-1] > columns else torch.zeros_like(sigma[..., :1])
    lengths = ((kept - last) * (kept + last)).sqrt()  # (lambda - lambda_l)^(1/2) without cancellation
    return U[..., :columns] * lengths.unsqueeze(-2), last[..., 0].double() ** 2


def sketched_root(B: Tensor, rho: Tensor, G: Tensor, *, eps: float, exponent: float, tolerance: float = 0.0) -> Tensor:
    """(B B^T + x I)^(-exponent) G with x = rho + eps (tr B B^T + d rho) / d, without a d x d matrix.

    U ((lambda + x)^(-p) - x^(-p)) U^T G + x^(-p) G. At full rank this is (A + eps (tr A / d) I)^(-p) G. A zero
    eigenvalue (only with eps 0) is left out, as in the pseudo-inverse; a sketch of nothing is the identity. What of a
    column of G is outside the sketch counts as 0 up to `tolerance` times the column: it is rounding then, and x^(-p)
    is so large beside (lambda + x)^(-p) that the result would be.

    Shape:
        B: (..., d, k) with orthogonal columns. rho: (...), float64. G: (..., d, n). Returns as G.

    Reference:
        Sketchy, Algorithm 2, line 6, and Algorithm 3, line 6.
    """
    lengths = torch.linalg.vector_norm(B, dim=-2, dtype=torch.float64)
    values = lengths**2
    mean = values.sum(-1) / B.shape[-2] + rho
    x = (rho + eps * mean)[..., None]
    outside = _power(x, -exponent)
    gain = _power(values + x, -exponent) - outside
    outside, gain = (torch.where(mean[..., None] > 0, c, start) for c, start in ((outside, 1.0), (gain, 0.0)))
    U = B / torch.where(lengths > 0, lengths, 1.0).to(B.dtype).unsqueeze(-2)
    within = U.mT @ G
    if tolerance > 0:
        rest = G - U @ within
        real = torch.linalg.vector_norm(rest, dim=-2) > tolerance * torch.linalg.vector_norm(G, dim=-2)
        rest = torch.where(real.unsqueeze(-2) | (mean == 0)[..., None, None], rest, 0.0)
        return outside.to(G.dtype).unsqueeze(-1) * rest + U @ ((gain + outside).to(G.dtype).unsqueeze(-1) * within)
    inside = gain.to(G.dtype).unsqueeze(-1) * within
    return outside.to(G.dtype).unsqueeze(-1) * G + U @ inside


def _power(values: Tensor, exponent: float) -> Tensor:
    """values^exponent for an exponent below 0, and 0 for 0."""
    return torch.where(values > 0, torch.where(values > 0, values, 1.0) ** exponent, 0.0)


def initial_sketch(size: int, rank: int, dtype: torch.dtype, device: torch.device) -> SideState:
    """The sketch of nothing: B, and the float64 scalars with which the sum is scale (B B^T + escaped I)."""
    columns = size if rank >= size else rank - 1
    scalar = torch.zeros((), dtype=torch.float64, device=device)
    return {
        "": torch.zeros(size, columns, dtype=dtype, device=device),
        "scale": scalar,
        "escaped": scalar.clone(),
    }


def observe(side: SideState, grads: Tensor, *, keep: float, take: float, tolerance: float = 0.0) -> SideState:
    """keep times the sketched sum, plus take G G^T, for gradients of any size (B stays near 1, the scale is apart)."""
    g = largest(grads)
    new_part = torch.where(grads.abs().amax((-1, -2)) > 0, take * g[..., 0, 0].double() ** 2, 0.0)
    old_part = keep * side["scale"]
    scale = old_part + new_part
    safe = torch.where(scale > 0, scale, 1.0)
    old, new = ((part / safe).sqrt().to(grads.dtype)[..., None, None] for part in (old_part, new_part))
    B, escaped = frequent_directions(old * side[""], new * (grads / g), tolerance=tolerance)
    return {"": B, "scale": scale, "escaped": old_part / safe * side["escaped"] + escaped}


def check_rank(rank: object) -> None:
    """Refuse a rank that keeps no direction."""
    require(is_count(rank, 2), "rank", "be an int >= 2 (rank - 1 directions are kept)", rank)


def sketch_cost(size: int, other: int, rank: int) -> int:
    """Operations of a sketch's update: the thin SVD of size x (k + other), as R-SVD (Golub and Van Loan, 8.6)."""
    columns = other + (size if rank >= size else rank - 1)
    long, short = max(size, columns), min(size, columns)
    return 6 * long * short**2 + 20 * short**3


def product_cost(size: int, other: int, rank: int) -> int:
    """Operations of U (.. U^T G)."""
    return 4 * size * min(size, rank) * other


class SketchyShampoo(KroneckerOptimizer):
    """Shampoo from sketched statistics: O((m + n) rank) numbers for an m x n block instead of O(m^2 + n^2).

    P = (B_L B_L^T + ..)^(-1/4) G (B_R B_R^T + ..)^(-1/4), with the family's momentum, grafting and decay. At a rank
    not below a side's size that side is Shampoo's at the same `statistics_interval`. It saves memory, not time: a
    refresh is a thin SVD, for a square block about as much work as Shampoo's eigh.

    Args:
        params: Parameters or groups.
        lr: Learning rate, as in `Jorge`.
        rank: The paper's l, >= 2: a side longer than it keeps l - 1 directions. The paper takes 256 for sides of 1024;
            64 takes a quarter of that, is above the mean intrinsic dimensions (10 to 50) of the paper's networks
            (Sec. 5.2), and gave a direction of cosine 0.98 to Shampoo's on a 16 x 288 layer (8: 0.89; 128: 0.995).
            Low ranks (8, 16) diverged in some trainings at a rate that SGD and Shampoo bear (`studies/LOG.md`).
        b2: Averaging weight of the statistics, in [0, 1).
        eps: Added to the statistics, relative to their mean eigenvalue, > 0.
        statistics_interval: Steps between two updates of the statistics, >= 1; None: at refresh steps, as in the
            paper. With a number, `refresh_interval` has no say: a sketch is its own root.
        momentum, dampening, nesterov, weight_decay, graft, graft_betas, graft_eps: As in `Jorge`.
        length, flatten, embeddings: As in `Jorge`.
        refresh_interval, warm_refreshes, stagger, block_size, nonfinite, maximize: As in `Jorge`.

    State: as `Jorge`, where `left.<i>` is the sketch B (rows, k) of the average over its scale, k = rank - 1 or, for
        rank >= rows, rows; beside it the float64 scalars `left.<i>.scale`, `.escaped` (rho over the scale) and
        `.weight` (accumulated, for the bias correction); the right likewise.

    Raises:
        ValueError: a value out of its range, a complex parameter, a sparse gradient.

    Example:
        >>> model = torch.nn.Linear(4, 2)
        >>> optimizer = SketchyShampoo(model.parameters(), lr=0.1)

    Reference:
        Sketchy, Algorithm 3 with Sections 4.3 (exponential averages) and 6 (the factored SVD, at refresh steps only).
    """

    @without_torch_switches
    def __init__(
        self,
        params: Params,
        lr: float | Tensor | None = None,
        *,
        momentum: float = 0.9,
        dampening: float = 0.0,
        nesterov: bool = False,
        weight_decay: float = 0.0,
        graft: Literal["sgd", "adamw", "none"] = "sgd",
        graft_betas: tuple[float, float] = (0.9, 0.999),
        graft_eps: float = 1e-8,
        length: Literal["tensor", "mixed"] = "tensor",
        flatten: int = 0,
        embeddings: Literal["grafted", "adam"] = "grafted",
        refresh_interval: int = 10,
        warm_refreshes: int = 100,
        stagger: bool = True,
        block_size: int | None = 1024,
        rank: int = 64,
        b2: float = 0.999,
        eps: float = 1e-6,
        statistics_interval: int | None = None,
        nonfinite: Literal["skip", "raise"] = "skip",
        maximize: bool = False,
    ) -> None:
        defaults = {
            "lr": lr, "momentum": momentum, "dampening": dampening, "nesterov": nesterov, "weight_decay": weight_decay,
            "graft": graft, "graft_betas": graft_betas, "graft_eps": graft_eps, "refresh_interval": refresh_interval,
            "warm_refreshes": warm_refreshes, "stagger": stagger, "block_size": block_size, "rank": rank, "b2": b2,
            "eps": eps, "statistics_interval": statistics_interval, "nonfinite": nonfinite, "maximize": maximize,
            "length": length, "flatten": flatten, "embeddings": embeddings,
        }  # fmt: skip
        super().__init__(params, defaults)

    def _check_member(self, group: Group) -> None:
        check_rank(group["rank"])
        require(0 <= group["b2"] < 1, "b2", "be in [0, 1)", group["b2"])
        require(group["eps"] > 0, "eps", "be > 0", group["eps"])
        interval = group["statistics_interval"]
        require(interval is None or is_count(interval, 1), "statistics_interval", "be an int >= 1 or None", interval)

    def _initial_side(self, size: int, group: Group, dtype: torch.dtype, device: torch.device) -> SideState:
        sketch = initial_sketch(size, group["rank"], dtype, device)
        return {**sketch, "weight": sketch["scale"].clone()}

    def _observes(self, step: int, group: Group) -> bool:
        interval = group["statistics_interval"]
        return interval is not None and (step - 1) % interval == 0

    def _observe_side(self, side: SideState, grads: Tensor, group: Group) -> SideState:
        b2 = group["b2"]
        return {**observe(side, grads, keep=b2, take=1 - b2), "weight": b2 * side["weight"] + (1 - b2)}

    def _refresh_side(self, side: SideState, grads: Tensor, group: Group) -> SideState:
        return self._observe_side(side, grads, group) if group["statistics_interval"] is None else {}

    def _apply_side(self, side: SideState, grads: Tensor, group: Group, *, right: bool) -> Tensor:
        average = side["scale"] / side["weight"]
        factor = torch.where(average > 0, average, 1.0) ** (-1 / 4)
        G = grads * factor.to(grads.dtype)[..., None, None]
        P = sketched_root(side[""], side["escaped"], G.mT if right else G, eps=group["eps"], exponent=1 / 4)
        return P.mT if right else P

    def _refresh_cost(self, size: int, other: int, group: Group) -> int:
        return self._observe_cost(size, other, group) if group["statistics_interval"] is None else 0

    def _apply_cost(self, size: int, other: int, group: Group) -> int:
        return product_cost(size, other, group["rank"])

    def _observe_cost(self, size: int, other: int, group: Group) -> int:
        return sketch_cost(size, other, group["rank"])


class SketchyAdaGrad(KroneckerOptimizer):
    """AdaGrad with a sketch of the whole matrix: w <- w - lr (B B^T + rho I)^(-1/2) g at every step.

    Each parameter, of whatever shape, is one vector with one preconditioner of d (rank - 1) numbers; sums are not
    weighted, nothing is grafted and nothing projected. The inverse is the pseudo-inverse: with K = min(d, k + 1)
    singular values of [B, g], those up to K u of the largest (u the spacing of the state's dtype at 1) count as 0,
    because rounding each column by u moves them by K^(1/2) u of it at most. A parameter whose group says
    `precondition: False` takes the gradient's step.

    Args:
        params: Parameters or groups.
        lr: Learning rate, >= 0: the longest step of a parameter, as a vector; its first has this length. The scale of
            the gradients does not matter.
        momentum: m <- momentum m + (1 - momentum) P; the paper has none, 0.
        weight_decay: Decoupled, >= 0.
        rank: The paper's l, >= 2; a rank not below d is full-matrix AdaGrad.
        eps: Added to the sum, relative to its mean eigenvalue, >= 0; 0 is the paper's pseudo-inverse.
        nonfinite, maximize: As in `Jorge`.

    State: `step` int64 on the host; `momentum` and `graft.momentum` of the parameter's shape; `left.0` the sketch B
        (d, k) over its scale, k = rank - 1 or, for rank >= d, d; float64 scalars `left.0.scale` and `.escaped`.

    Raises:
        ValueError: a value out of its range, a complex parameter, a sparse gradient.

    Example:
        >>> model = torch.nn.Linear(4, 2)
        >>> optimizer = SketchyAdaGrad(model.parameters(), lr=0.1)

    Reference:
        Sketchy, Algorithm 2, without the projection (K = R^d).
    """

    @without_torch_switches
    def __init__(
        self,
        params: Params,
        lr: float | Tensor | None = None,
        *,
        momentum: float = 0.0,
        weight_decay: float = 0.0,
        rank: int = 64,
        eps: float = 0.0,
        nonfinite: Literal["skip", "raise"] = "skip",
        maximize: bool = False,
    ) -> None:
        defaults = WITHOUT_REFRESHES | {
            "lr": lr, "momentum": momentum, "weight_decay": weight_decay, "graft": "none", "rank": rank, "eps": eps,
            "nonfinite": nonfinite, "maximize": maximize,
        }  # fmt: skip
        super().__init__(params, defaults)

    def _check_member(self, group: Group) -> None:
        check_rank(group["rank"])
        require(group["eps"] >= 0, "eps", "be >= 0", group["eps"])

    def _matrix_shape(self, param: Tensor) -> tuple[int, int]:
        return param.numel(), 1

    def _blocks(self, param: Tensor, group: Group) -> tuple[Block, ...]:
        if not group["precondition"] or param.numel() == 0:
            return ()
        return (Block(0, 0, BlockShape(param.numel(), 1, left=True, right=False)),)

    def _initial_side(self, size: int, group: Group, dtype: torch.dtype, device: torch.device) -> SideState:
        return initial_sketch(size, group["rank"], dtype, device)

    def _refresh_side(self, side: SideState, grads: Tensor, group: Group) -> SideState:
        return observe(side, grads, keep=1.0, take=1.0, tolerance=_rounding(side[""]))

    def _apply_side(self, side: SideState, grads: Tensor, group: Group, *, right: bool) -> Tensor:
        factor = torch.where(side["scale"] > 0, side["scale"], 1.0) ** (-1 / 2)
        g = grads * factor.to(grads.dtype)[..., None, None]
        return sketched_root(
            side[""], side["escaped"], g, eps=group["eps"], exponent=1 / 2, tolerance=_rounding(side[""])
        )

    def _refresh_cost(self, size: int, other: int, group: Group) -> int:
        return sketch_cost(size, other, group["rank"])

    def _apply_cost(self, size: int, other: int, group: Group) -> int:
        return product_cost(size, other, group["rank"])


def _rounding(B: Tensor) -> float:
    """K u: what rounding leaves of a direction that is none, relative to the largest."""
    size, columns = B.shape[-2:]
    return min(size, columns + 1) * torch.finfo(B.dtype).eps
