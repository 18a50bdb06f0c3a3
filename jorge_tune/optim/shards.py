"""Parameters that are a part of one, and what is refused of them: a shard's gradient is no matrix to precondition."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

from torch import Tensor

from jorge_tune.optim.checks import Group

_WAY_OUT = "use DDP, or put it into a group with precondition=False, or take DecoupledSGD"


def place_of(group: Group, index: int, number: int) -> str:
    """Where a parameter is, by name if its group has names."""
    names, shape = group.get("param_names", ()), tuple(group["params"][number].shape)
    name = f" {names[number]!r}" if number < len(names) else ""
    return f"param_groups[{index}], parameter{name} of shape {shape}"


def is_dtensor(param: Tensor) -> bool:
    """Whether it is a DTensor, as FSDP2's and tensor-parallel ones are."""
    return hasattr(param, "full_tensor")


def refuse_dtensor(param: Tensor, place: str) -> None:
    """Refuse FSDP2's parameters.

    Raises:
        ValueError: with the way out.
    """
    if is_dtensor(param):
        raise ValueError(f"{place}: sharded parameters (DTensor) are not supported; shard the data instead (DDP)")


def check_shards(groups: Sequence[Group], *, warn: bool) -> None:
    """Refuse FSDP1's flat parameters and shards where they would be preconditioned; elsewhere `warn` of them.

    With use_orig_params a shard is known by its mark and its one dimension. Biases have one too, and are whole where
    FSDP shards nothing; then matrices are whole as well, which is seen by looking at all groups at once.

    Raises:
        ValueError: with the parameter and the way out.
    """
    marked = [(g, i, n, p) for i, g in enumerate(groups) for n, p in enumerate(g["params"]) if _is_of_fsdp(p)]
    whole = any(param.dim() > 1 for *_, param in marked)
    parts = [(g, i, n) for g, i, n, p in marked if getattr(p, "_is_flat_param", False) or not whole]
    for group, index, number in parts:
        if group["precondition"]:
            raise ValueError(
                f"{place_of(group, index, number)}: a parameter that FSDP flattened is no matrix, so that nothing "
                f"would be preconditioned as it should; {_WAY_OUT}"
            )
    if parts and warn:
        warnings.warn(
            f"{place_of(*parts[0])}: FSDP flattened it, so each rank steps its own part; "
            "a gradient that is not finite on one rank is left out there alone",
            stacklevel=5,
        )


def _is_of_fsdp(param: Tensor) -> bool:
    return getattr(param, "_is_flat_param", False) or getattr(param, "_fsdp_flattened", False)
