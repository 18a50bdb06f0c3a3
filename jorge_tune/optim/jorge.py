"""Jorge: Shampoo whose inverse fourth roots are updated by matrix products alone.

One step, for each block of a parameter that is due for a refresh (`series_refresh`):

    X  = L^4 G G^T                                           Algorithm 2
    b2 = ||X||_F / (||X||_F + 1),  c = (1 - b2) / b2         A.1 (dynamic b2)
    L <- b2^(-1/4) L (I - 1/4 c X + 5/32 (c X)^2)            Eq. 8 and 11, from the series of (I + c X)^(-1/4), Eq. 6
    R <- the same function of (R, G^T)

and then for every parameter, as for all members of the family (`KroneckerOptimizer`):

    P = L G R,  m <- mu m + (1 - tau) P                      Algorithm 2
    w <- (1 - lr wd) w - lr ||s|| m / ||m||                  Algorithm 3 and A.2; s is the step that SGD would take

Legend: G a gradient block (m x n); L its left preconditioner (m x m), near A^(-1/4) for the running average
A <- b2 A + (1 - b2) G G^T, which is never stored; R the right one (n x n). b2 weighs the old average. mu is `momentum`,
tau `dampening`, wd `weight_decay`. A hat (`Lh`, `Gh`) marks a matrix scaled to a largest entry near 1. A leading batch
dimension is allowed everywhere.

The second form is ours (`congruence_refresh`). The series multiplies L from one side only, which is exact where L and
G G^T commute and loses accuracy where they do not. With M = L^2 G G^T L^2 the update of A reads

    A' = b2 L^(-2) (I + c M) L^(-2),  and here
    L' = b2^(-1/4) T L T,  T = (I + c M)^(-1/8) ~ I - 1/8 c M + 9/128 (c M)^2,

which is A'^(-1/4) where L and M commute. Where they do not, L' is still symmetric. It is also positive definite, since
||c M|| <= 1 keeps T at 0.9 I or more. To first order, only L proportional to A^(-1/4) stays where it is on average.
Here b2 comes from ||M||, which is ||X|| where all commutes. Where it does not, ||X|| grows without end along
directions that no gradient enters, and L forgets nothing any more.

The third form is ours too (half_power.py): H ~ A^(-1/2) on either side in place of L ~ A^(-1/4). Both of our forms have
a ridge (ridge.py).

Reference:
    Singh, Sating, Bhatele, "Jorge: approximate preconditioning for GPU-efficient second-order optimization".
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, Final, Literal, NamedTuple

import torch
from torch import Tensor

from jorge_tune.optim.argument_checks import Group, require, without_torch_switches
from jorge_tune.optim.half_power import gram_flops, gram_through, half_flops, half_refresh
from jorge_tune.optim.kronecker import KroneckerOptimizer, Params
from jorge_tune.optim.numerics import (
    averaging,
    bound_dead_rows,
    largest,
    largest_diagonal,
    norm,
    norm_of_product,
    plus_transpose,
)
from jorge_tune.optim.ridge import initial_signs, next_signs, ridge_column
from jorge_tune.optim.stacks import SideState

Route = Literal["auto", "dense", "low_rank"]

SERIES: Final = (-1 / 4, 5 / 32, -15 / 128)  # coefficients of A, A^2, A^3 in (I + A)^(-1/4), Eq. 6


def series_refresh(
    L: Tensor,
    G: Tensor,
    *,
    series_terms: int = 2,
    b2_floor: float = 0.0,
    relative_eps: float | None = None,
    product_dtype: torch.dtype | None = None,
    out: Tensor | None = None,
    route: Route = "auto",
) -> Tensor:
    """One refresh: L' = b2^(-1/4) L (I - c/4 X + 5 c^2/32 X^2), with b2 = ||X||_F / (||X||_F + 1).

    L' is not symmetric in general and must not be made so: averaging it with its transpose destroys positive
    definiteness.

    Shape:
        L: (..., m, m). G: (..., m, n). Returns (..., m, m), in L's dtype.

    Args:
        L: The preconditioner before.
        G: The gradient block; if it is all zero, L stays as it is.
        series_terms: Highest power of X, 1 to 3 (the paper's is 2).
        b2_floor: Lower bound of b2, in [0, 1); 0 is the paper's.
        relative_eps: If given, an L with a diagonal of exact ones stands for the start
            (relative_eps ||G G^T||_F)^(-1/4) I.
        product_dtype: Dtype of the products that make the correction, if it is not L's. bfloat16 keeps the direction
            on spectra down to 1/k; where G's singular values span 100, a refresh is mostly rounding (studies/LOG.md).
        out: Where to put L'; may be L itself. (Rows that had to be bounded come in a new tensor.)
        route: Two exact ways to the same L'. "dense" forms X; "low_rank" keeps X = Y G^T as its two factors;
            "auto" takes the one with fewer operations.

    Reference:
        Jorge, Eq. 8 and 11, A.1.
    """
    # The correction c X = X / ||X|| depends on the scale of neither L nor G, so it is made of scaled matrices.
    Lh, Gh, l_max, lost = _scaled(L, G, product_dtype)

    # X = Y G^T, or X = Y where there is no right factor; Y is scaled to a largest entry of 1.
    if _is_dense(route, refresh_flops(*G.shape[-2:])):
        L2 = Lh @ Lh
        Y, right = (L2 @ L2) @ (Gh @ Gh.mT), None
    else:
        Y, right = Lh @ (Lh @ (Lh @ (Lh @ Gh))), Gh.mT
    y_max = largest(Y)
    Y.div_(y_max)

    # W is what powers of X are made of: X^k = Y W^(k-1) G^T, with W = G^T Y (or W = Y).
    if right is None:
        W, norm_y = Y, norm(Y)
    else:
        W, norm_y = right @ Y, norm_of_product(Y, right)

    # growth = b2^(-1/4), weight = ||c X||, from the true ||X||, which is 0 for a zero gradient.
    growth, weight = averaging(L, lost * y_max.double() * norm_y, b2_floor, relative_eps)
    scale = torch.where(norm_y > 0, weight / norm_y, 0.0)  # c X = scale Y G^T

    # L (a1 c X + a2 (c X)^2 + ...) = L Y (a1 scale I + a2 scale^2 W + ...) G^T, growth and L's scale taken in.
    factor = growth * l_max.double()
    coefficients = [(SERIES[k] * factor * scale ** (k + 1)).to(W.dtype) for k in range(series_terms)]
    correction = (Lh @ Y) @ _polynomial(W, coefficients)
    if right is not None:
        correction = correction @ right

    return bound_dead_rows(torch.mul(L, growth.to(L.dtype), out=out).add_(correction), Gh)


def congruence_refresh(
    L: Tensor,
    G: Tensor,
    *,
    ridge: float = 0.0,
    signs: Tensor | None = None,
    b2_floor: float = 0.0,
    relative_eps: float | None = None,
    product_dtype: torch.dtype | None = None,
    out: Tensor | None = None,
    route: Route = "auto",
) -> Tensor:
    """One refresh: L' = b2^(-1/4) T L T, with c = 1 / ||M||_F and M = L^2 G G^T L^2.

    L' is bitwise symmetric if L is, and must be: an asymmetry of 1e-6 grows until the direction is lost.

    Shape:
        L: (..., m, m), symmetric positive definite. G: (..., m, n). Returns (..., m, m), in L's dtype.

    Args:
        L: The preconditioner before.
        G: The gradient block; if it is all zero, L stays as it is.
        ridge, signs: As in `half_refresh`.
        b2_floor: Lower bound of b2, in [0, 1).
        relative_eps, product_dtype, out: As in `series_refresh`.
        route: Two exact ways to the same L'; "auto" takes the one with fewer operations.
    """
    Lh, Gh, l_max, lost = _scaled(L, G, product_dtype)
    y = ridge_column(Gh, signs, ridge)

    # T = I + U, so T L T - L = D + D^T with D = L U + U L U / 2.
    if _is_dense(route, congruence_flops(*G.shape[-2:], ridged=y is not None)):
        M = gram_through(Lh @ Lh, Gh, y)
        growth, scale = _growth_and_scale(L, norm(M), lost, b2_floor, relative_eps)
        M = scale.to(M.dtype) * M  # c M

        U = (SECOND * (M @ M)).add_(M, alpha=FIRST)
        LU = Lh @ U
        D = LU.add_(U @ LU, alpha=0.5)
    else:
        Y = Lh @ (Lh @ (Gh if y is None else torch.cat((Gh, y), dim=-1)))  # M = Y Y^T
        S = Y.mT @ Y
        growth, scale = _growth_and_scale(L, norm(S), lost, b2_floor, relative_eps)  # ||S|| is ||M||
        scale = scale.to(S.dtype)

        K = SECOND * scale * (scale * S)  # U = Y K Y^T
        K.diagonal(dim1=-2, dim2=-1).add_(FIRST * scale[..., 0])
        LY = Lh @ Y
        D = (LY @ K + 0.5 * (Y @ (K @ (Y.mT @ LY) @ K))) @ Y.mT

    correction = plus_transpose(D.to(L.dtype)).mul_((growth * l_max.double()).to(L.dtype))
    refreshed = torch.mul(L, growth.to(L.dtype), out=out).add_(correction)
    return refreshed if y is not None else bound_dead_rows(refreshed, Gh)


FIRST, SECOND = -1 / 8, 9 / 128  # coefficients of A and A^2 in (I + A)^(-1/8)


def refresh_flops(m: int, n: int) -> tuple[int, int]:
    """Operations of one side's series refresh (side m, other side n), by the dense and by the low-rank route."""
    return 10 * m**3 + 2 * m * m * n, 12 * m * m * n + 8 * m * n * n


def congruence_flops(m: int, n: int, *, ridged: bool) -> tuple[int, int]:
    """The same for `congruence_refresh`."""
    columns = n + ridged
    low_rank = 8 * m * m * columns + 8 * m * columns**2 + 4 * columns**3
    return 8 * m**3 + gram_flops(m, n, ridged=ridged), low_rank


class _Scaled(NamedTuple):
    """L = l_max Lh and G = g_max Gh; `lost` is l_max^4 g_max^2, which X has lost by that. Scalars are (..., 1, 1)."""

    Lh: Tensor
    Gh: Tensor
    l_max: Tensor
    lost: Tensor


def _scaled(L: Tensor, G: Tensor, product_dtype: torch.dtype | None) -> _Scaled:
    """Both matrices divided by their largest entry (L by its diagonal's), so that no product leaves the range.

    What is lost is kept apart in float64: b2^(-1/4) = (1 + c)^(1/4) with c = 1 / ||X||. (Computed as (1 - b2) / b2,
    c would be lost to rounding once ||X|| > 1e7.)
    """
    dtype = product_dtype or L.dtype
    l_max, g_max = largest_diagonal(L), largest(G)
    return _Scaled((L / l_max).to(dtype), (G / g_max).to(dtype), l_max, l_max.double() ** 4 * g_max.double() ** 2)


def _growth_and_scale(
    L: Tensor, norm_m: Tensor, lost: Tensor, b2_floor: float, relative_eps: float | None
) -> tuple[Tensor, Tensor]:
    """b2^(-1/4) with the start's scale, and what takes the scaled M to c M; for M = 0 they are 1 and 0."""
    growth, weight = averaging(L, lost * norm_m, b2_floor, relative_eps)
    return growth, torch.where(norm_m > 0, weight / norm_m, 0.0)


def _is_dense(route: Route, flops: tuple[int, int]) -> bool:
    """Whether to form X, given the operations of the dense and of the low-rank route."""
    dense_flops, low_rank_flops = flops
    return route == "dense" or (route == "auto" and dense_flops <= low_rank_flops)


def _polynomial(W: Tensor, coefficients: list[Tensor]) -> Tensor:
    """a1 I + a2 W + a3 W^2 + ..., by Horner's rule."""
    constant, *higher = coefficients
    if len(higher) > 1:
        value = W @ _polynomial(W, higher)
    else:
        value = higher[0] * W if higher else torch.zeros_like(W)
    value.diagonal(dim1=-2, dim2=-1).add_(constant[..., 0])
    return value


# What follows is torch's bookkeeping around these functions: settings, presets, and the optimizer class.

FORMS: Final = ("series", "congruence", "half")
PRODUCT_DTYPES: Final[dict[str, torch.dtype | None]] = {"fp32": None, "tf32": None, "bf16": torch.bfloat16}


@contextlib.contextmanager
def tf32_products() -> Iterator[None]:
    """float32 products in TF32 on CUDA; what was set before is put back."""
    backend: Any = torch.backends.cuda.matmul
    before = backend.fp32_precision
    backend.fp32_precision = "tf32"
    try:
        yield
    finally:
        backend.fp32_precision = before


class _FromPreset:
    """The value that the preset says."""

    def __repr__(self) -> str:
        return "<from preset>"


FROM_PRESET: Final[Any] = _FromPreset()

PRESETS: Final[dict[str | None, dict[str, Any]]] = {
    None: {
        "refresh_interval": 10,
        "warm_refreshes": 100,
        "stagger": True,
        "block_size": 1024,
        "eps": 1.0,
        "eps_kind": "relative",
    },
    "paper": {
        "refresh_interval": 1,
        "warm_refreshes": 0,
        "stagger": False,
        "block_size": None,
        "eps": 1e-6,
        "eps_kind": "absolute",
    },
}


def _with_preset(preset: str | None, values: dict[str, Any]) -> dict[str, Any]:
    """The values, those not given explicitly from the preset."""
    require(preset in PRESETS, "preset", "be 'paper' or None", preset)
    given = {name: value for name, value in values.items() if value is not FROM_PRESET}
    return {**PRESETS[preset], **given}


class Jorge(KroneckerOptimizer):
    """Jorge, a drop-in torch optimizer: Shampoo's direction without inverses, SGD's step length by grafting.

    Each step: refresh L and R of the blocks that are due; P = L G R; momentum; the grafted optimizer's norm;
    decoupled decay w <- (1 - lr wd) w; w <- w - lr u. One-dimensional parameters take the grafted step.

    Args:
        params: Parameters or groups, as for any torch optimizer.
        lr: Learning rate, >= 0; SGD's own when `graft` is "sgd". A number or a tensor of one element, which is read
            once per step; may be left out where every group has one.
        momentum: Of the preconditioned gradient and of the grafted SGD, in [0, 1).
        dampening: As in torch's SGD, in [0, 1].
        nesterov: As in torch's SGD.
        weight_decay: Decoupled, >= 0. For SGD's coupled decay multiply by (1-dampening)/(1-momentum) (Eq. 9).
        graft: Whose step length: "sgd", "adamw", or "none".
        graft_betas: AdamW's betas, for graft "adamw".
        graft_eps: AdamW's eps, for graft "adamw".
        length: "tensor" gives each tensor the length of its own grafted step; "mixed" the geometric mean of its mean
            over all steps so far, and of an even share of all tensors' (each by the root of its number of entries).
        flatten: Newton-Schulz steps (Muon's) that bring the singular values of each direction near 1, >= 0; Muon
            takes 5.
        embeddings: Direction of the tensors of two or more dimensions in groups that are not preconditioned:
            "grafted" takes the grafted step, "adam" Adam's step at the grafted length (for graft "sgd").
        refresh_interval: Steps between two refreshes of a block, >= 1; without a preset 10.
        warm_refreshes: Refresh at each of this many first steps, nearly as good as interval 1; without a preset 100.
        stagger: Spread the refreshes over the interval so that steps cost about the same; without a preset True.
        block_size: Cut sides longer than this; None never cuts; without a preset 1024.
        eps: Start of the statistics, > 0: L_0 = eps^(-1/4) I if absolute (H_0 = eps^(-1/2) I); times ||G_1 G_1^T||_F
            if relative; without a preset 1.
        eps_kind: "relative" or "absolute"; without a preset "relative".
        b2_floor: Lower bound of the averaging weight b2, in [0, 1).
        series_terms: Highest power of X, 1 to 3.
        form: "series" is the paper's; "congruence" is ours: the same update in a symmetric form that does not drift
            with the number of refreshes; "half" is ours too: in the same symmetric way it holds the inverse square
            root of the statistics on each side, in place of the fourth root. (`series_terms` applies to the series.)
        ridge: Of our two forms: what is added to the statistics, relative to their mean eigenvalue, >= 0.
        product_precision: Of the products that make the refresh's correction: "fp32", "tf32" (on CUDA) or "bf16";
            L and R stay in float32, and what is applied too.
        nonfinite: "skip" leaves a parameter with a NaN or infinite gradient untouched; "raise" stops.
        preset: "paper" means Algorithm 2 with A.1 and A.2 to the letter: interval 1, no warm refreshes, no
            staggering, no blocks, eps 1e-6 absolute. A value given explicitly wins.
        maximize: Go up the gradient: its sign is turned, decay and all else stay.

    State, per parameter: `step` int64 on the host; `momentum` and `graft.<name>` of the parameter's shape;
    `left.<i>` (rows, rows) and `right.<i>` (columns, columns) of block i. All in float32 (float64 for float64).
    Our two forms add `left.<i>.signs` (rows,) and `right.<i>.signs` (columns,), int64; length "mixed" adds
    `graft.length`, one float64 number.

    Raises:
        ValueError: a value out of its range, a complex parameter, a sparse gradient.
        FloatingPointError: a non-finite gradient with nonfinite="raise"; nothing was changed.

    Example:
        >>> model = torch.nn.Linear(4, 2)
        >>> optimizer = Jorge(model.parameters(), lr=0.1, weight_decay=5e-3)

    Reference:
        Jorge, Algorithms 2 and 3, A.1, A.2; Section 4 for the settings.
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
        refresh_interval: int = FROM_PRESET,
        warm_refreshes: int = FROM_PRESET,
        stagger: bool = FROM_PRESET,
        block_size: int | None = FROM_PRESET,
        eps: float = FROM_PRESET,
        eps_kind: Literal["relative", "absolute"] = FROM_PRESET,
        b2_floor: float = 0.0,
        series_terms: int = 2,
        form: Literal["series", "congruence", "half"] = "series",
        ridge: float = 1e-2,
        product_precision: Literal["fp32", "tf32", "bf16"] = "fp32",
        nonfinite: Literal["skip", "raise"] = "skip",
        preset: Literal["paper"] | None = None,
        maximize: bool = False,
    ) -> None:
        values = {
            "lr": lr, "momentum": momentum, "dampening": dampening, "nesterov": nesterov, "weight_decay": weight_decay,
            "graft": graft, "graft_betas": graft_betas, "graft_eps": graft_eps, "refresh_interval": refresh_interval,
            "warm_refreshes": warm_refreshes, "stagger": stagger, "block_size": block_size, "eps": eps,
            "eps_kind": eps_kind, "b2_floor": b2_floor, "series_terms": series_terms, "form": form, "ridge": ridge,
            "product_precision": product_precision, "nonfinite": nonfinite, "maximize": maximize, "length": length,
            "flatten": flatten, "embeddings": embeddings,
        }  # fmt: skip
        super().__init__(params, _with_preset(preset, values))

    def _check_member(self, group: Group) -> None:
        require(group["eps"] > 0, "eps", "be > 0", group["eps"])
        kind = group["eps_kind"]
        require(kind in ("relative", "absolute"), "eps_kind", "be 'relative' or 'absolute'", kind)
        require(0 <= group["b2_floor"] < 1, "b2_floor", "be in [0, 1)", group["b2_floor"])
        require(group["series_terms"] in (1, 2, 3), "series_terms", "be 1, 2 or 3", group["series_terms"])
        precision = group["product_precision"]
        require(precision in PRODUCT_DTYPES, "product_precision", "be 'fp32', 'tf32' or 'bf16'", precision)
        require(group["form"] in FORMS, "form", "be 'series', 'congruence' or 'half'", group["form"])
        require(group["ridge"] >= 0, "ridge", "be >= 0", group["ridge"])

    def _initial_side(self, size: int, group: Group, dtype: torch.dtype, device: torch.device) -> SideState:
        identity = torch.eye(size, dtype=dtype, device=device)
        if group["eps_kind"] == "absolute":
            identity.mul_(group["eps"] ** (-1 / 2 if group["form"] == "half" else -1 / 4))
        if group["form"] == "series":
            return {"": identity}
        return {"": identity, "signs": initial_signs(size, device)}

    def _refresh_side(self, side: SideState, grads: Tensor, group: Group) -> SideState:
        precision = group["product_precision"] if grads.dtype == torch.float32 else "fp32"
        settings: dict[str, Any] = {
            "b2_floor": group["b2_floor"],
            "relative_eps": group["eps"] if group["eps_kind"] == "relative" else None,
            "product_dtype": PRODUCT_DTYPES[precision],
            "out": side[""],  # in place: L is large, and nothing else needs the old one
        }
        with tf32_products() if precision == "tf32" else contextlib.nullcontext():
            if group["form"] == "series":
                return {"": series_refresh(side[""], grads, series_terms=group["series_terms"], **settings)}

            signs = next_signs(side["signs"])
            refresh = half_refresh if group["form"] == "half" else congruence_refresh
            return {"": refresh(side[""], grads, ridge=group["ridge"], signs=signs, **settings), "signs": signs}

    def _apply_side(self, side: SideState, grads: Tensor, group: Group, *, right: bool) -> Tensor:
        return grads @ side[""] if right else side[""] @ grads

    def _apply_side_into(self, side: SideState, grads: Tensor, group: Group, out: Tensor, *, right: bool) -> None:
        torch.bmm(*((grads, side[""]) if right else (side[""], grads)), out=out)

    def _refresh_cost(self, size: int, other: int, group: Group) -> int:
        if group["form"] == "series":
            return min(refresh_flops(size, other))
        count = half_flops if group["form"] == "half" else congruence_flops
        return min(count(size, other, ridged=group["ridge"] > 0))
