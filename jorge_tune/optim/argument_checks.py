"""What the optimizers of the family refuse, each with the rule and the way out.

groups       `check_group` judges the hyperparameters of a parameter group; `unread` names those that have no effect
gradients    `usable_gradient` and `check_dtype`
parameters   `refuse_dtensor` and `check_shards`: a shard of a matrix cannot be preconditioned
constructor  `without_torch_switches` answers torch's own switches (foreach, fused, ...), which the family does not have
values       `require`, `is_count`, `is_number`, `require_rate` judge a single value; `plain` makes it Python's own
"""

from __future__ import annotations

import functools
import math
import numbers
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple, ParamSpec

import torch
from torch import Tensor

Group = dict[str, Any]
P = ParamSpec("P")


def check_group(group: Group) -> None:
    """Check the hyperparameters that every member has, and that the parameters are real."""
    for name in TORCH_SWITCHES:
        if group.get(name):
            raise ValueError(f"a group must not have {name}={group[name]!r}: {TORCH_SWITCHES[name]}")
    _check_kinds(group)

    require(read_rate(group["lr"]) >= 0, "lr", "be >= 0", group["lr"])
    require(0 <= group["momentum"] < 1, "momentum", "be in [0, 1)", group["momentum"])
    require(0 <= group["dampening"] <= 1, "dampening", "be in [0, 1]", group["dampening"])
    require(group["weight_decay"] >= 0, "weight_decay", "be >= 0", group["weight_decay"])

    graft = group["graft"]
    require(graft in ("sgd", "adamw", "none"), "graft", "be 'sgd', 'adamw' or 'none'", graft)
    is_plain = group["momentum"] > 0 and group["dampening"] == 0 and graft == "sgd"
    given = f"momentum {group['momentum']}, dampening {group['dampening']} and graft {graft!r}"
    if group["nesterov"] and not is_plain:
        raise ValueError(f"nesterov must have momentum > 0, dampening 0 and graft 'sgd', got {given}")
    require(group["graft_eps"] > 0, "graft_eps", "be > 0", group["graft_eps"])

    length, embeddings = group["length"], group["embeddings"]
    require(length in ("tensor", "mixed"), "length", "be 'tensor' or 'mixed'", length)
    require(is_count(group["flatten"], 0), "flatten", "be an int >= 0", group["flatten"])
    require(embeddings in ("grafted", "adam"), "embeddings", "be 'grafted' or 'adam'", embeddings)

    require(is_count(group["refresh_interval"], 1), "refresh_interval", "be an int >= 1", group["refresh_interval"])
    require(is_count(group["warm_refreshes"], 0), "warm_refreshes", "be an int >= 0", group["warm_refreshes"])
    size = group["block_size"]
    require(size is None or is_count(size, 1), "block_size", "be an int >= 1 or None", size)

    require(group["nonfinite"] in ("skip", "raise"), "nonfinite", "be 'skip' or 'raise'", group["nonfinite"])
    for param in group["params"]:
        require(not param.is_complex(), "params", "be real (view a complex one as real pairs)", param.dtype)


def _check_kinds(group: Group) -> None:
    """Numbers are numbers and flags are flags, before anything is compared."""
    require_rate(group["lr"], "lr")
    for name in _NUMBERS:
        require(name not in group or is_number(group[name]), name, "be a finite number", group.get(name))
    for name in _FLAGS:
        require(isinstance(group[name], bool), name, "be True or False", group[name])
    betas = group["graft_betas"]
    fine = isinstance(betas, (tuple, list)) and len(betas) == 2 and all(is_number(b) and 0 <= b < 1 for b in betas)
    require(fine, "graft_betas", "be two numbers in [0, 1)", betas)


_NUMBERS = ("momentum", "dampening", "weight_decay", "graft_eps", "b2", "eps", "b2_floor", "ridge")
_FLAGS = ("nesterov", "stagger", "maximize", "precondition")


class UnreadValue(NamedTuple):
    """`name` has no effect where `beside` has one of `values`; `instead` says what to do."""

    name: str
    beside: str
    values: tuple[object, ...]
    instead: str


UNREAD: Final = (
    UnreadValue("momentum", "graft", ("adamw",), "set graft_betas: its first value is the momentum of both"),
    UnreadValue(
        "dampening", "graft", ("adamw", "none"), "the momentum is an average, which has no dampening; leave it out"
    ),
    UnreadValue("dampening", "momentum", (0,), "without momentum there is nothing to dampen; leave it out"),
    UnreadValue("length", "graft", ("none",), "no length is taken from another step; leave it out, or set a graft"),
    UnreadValue("embeddings", "graft", ("adamw", "none"), "embeddings take the grafted step; leave it out"),
    UnreadValue("graft_betas", "graft", ("sgd", "none"), "set momentum, or graft 'adamw'"),
    UnreadValue("graft_eps", "graft", ("sgd", "none"), "leave it out, or set graft 'adamw'"),
    UnreadValue("series_terms", "form", ("congruence", "half"), "leave it out, or set form 'series'"),
    UnreadValue("ridge", "form", ("series",), "leave it out, or set form 'congruence' or 'half'"),
    UnreadValue("root_iterations", "root", ("eigh",), "leave it out, or set root 'newton'"),
)
_NOTHING = object()


def unread(group: Mapping[str, Any], default: Callable[[str], Any]) -> Iterator[tuple[str, str]]:
    """Name and sentence of each hyperparameter that has another value than its default and no effect.

    A momentum equal to the first of `graft_betas` is accepted.
    """
    for name, beside, values, instead in UNREAD:
        if name not in group or group.get(beside, _NOTHING) not in values:
            continue
        value = group[name]
        usual = default(name)
        if not (value == usual or (isinstance(value, list) and tuple(value) == usual) or _says_the_same(name, group)):
            yield name, f"{name}={value!r} has no effect with {beside}={group[beside]!r}: {instead}"


def _says_the_same(name: str, group: Mapping[str, Any]) -> bool:
    return name == "momentum" and group["momentum"] == group["graft_betas"][0]


def usable_gradient(param: Tensor, index: int, *, cast: bool = True) -> Tensor:
    """The parameter's gradient, in state precision (see `state_dtype`) unless told not to cast."""
    grad = param.grad
    assert grad is not None
    if grad.layout is not torch.strided:
        raise ValueError(
            f"{place_in(index, param)}: sparse gradients are not supported (set sparse=False on the embedding)"
        )
    grad = grad.detach()
    return grad.to(state_dtype(param)) if cast else grad


def check_dtype(state: dict[str, Any], dtype: torch.dtype, param: Tensor, index: int) -> None:
    """Refuse a state of another precision than `dtype`: the parameter's was changed after the first step."""
    for name, value in state.items():
        if name == "momentum" or (name.startswith("graft.") and name != "graft.length"):
            if value.dtype != dtype:
                raise ValueError(
                    f"{place_in(index, param)}: the state is {value.dtype}, the gradient needs {dtype}; "
                    "make a new optimizer after changing the parameters' dtype"
                )
            return


def place_in(index: int, param: Tensor) -> str:
    """Where a parameter is, by its group and shape."""
    return f"param_groups[{index}], parameter of shape {tuple(param.shape)}"


def state_dtype(param: Tensor) -> torch.dtype:
    """Momenta and preconditioners live in float32, or float64 for float64 parameters."""
    return torch.float64 if param.dtype == torch.float64 else torch.float32


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

    With use_orig_params a shard is recognised by FSDP's mark and its one dimension. Biases have one dimension too, and
    are whole where FSDP shards nothing. Then matrices are whole as well, so all groups are looked at together.

    Raises:
        ValueError: with the parameter and the way out.
    """
    marked = [(g, i, n, p) for i, g in enumerate(groups) for n, p in enumerate(g["params"]) if _is_of_fsdp(p)]
    whole = any(param.dim() > 1 for *_, param in marked)
    parts = [(g, i, n) for g, i, n, p in marked if getattr(p, "_is_flat_param", False) or not whole]
    for group, index, number in parts:
        if group["precondition"]:
            raise ValueError(
                f"{place_of(group, index, number)}: FSDP flattened this parameter, so it is not a matrix any more and "
                f"cannot be preconditioned; {_WAY_OUT}"
            )
    if parts and warn:
        warnings.warn(
            f"{place_of(*parts[0])}: FSDP flattened this parameter, so each rank updates its own part; "
            "a gradient that is not finite on one rank is skipped on that rank only",
            stacklevel=5,
        )


def _is_of_fsdp(param: Tensor) -> bool:
    return getattr(param, "_is_flat_param", False) or getattr(param, "_fsdp_flattened", False)


_WAY_OUT = "use DDP, put it into a group with precondition=False, or use DecoupledSGD"


TORCH_SWITCHES: Final = {
    "foreach": "it always works on lists of tensors, so leave it out",
    "fused": "its step is not one kernel; leave it out (with a GradScaler nothing else changes)",
    "differentiable": "no gradient flows through its step; use torch.optim.SGD(differentiable=True) where one must",
    "capturable": "its step reads step counts on the host; leave it out, and capture only forward and backward",
}


def without_torch_switches(init: Callable[P, None]) -> Callable[P, None]:
    """A constructor that refuses torch's switches of implementation, and says for each what to do instead."""

    @functools.wraps(init)
    def checked_init(*args: P.args, **kwargs: P.kwargs) -> None:
        for name, advice in TORCH_SWITCHES.items():
            if name in kwargs:
                raise TypeError(f"{type(args[0]).__name__} takes no {name}: {advice}")
        init(*args, **kwargs)

    return checked_init


def require(holds: bool, name: str, rule: str, got: object) -> None:
    """Raise ValueError `<name> must <rule>, got <value>` unless `holds`."""
    if not holds:
        raise ValueError(f"{name} must {rule}, got {got!r}")


def is_count(value: object, minimum: int) -> bool:
    """Whether `value` is an int (and no bool) of at least `minimum`."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= minimum


def is_number(value: object) -> bool:
    """Whether `value` is a finite real number (and no bool)."""
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # an int that no float holds
        return False


def is_rate(value: object) -> bool:
    """Whether `value` is a learning rate: a finite number, or a tensor of one element, whatever its shape."""
    if not isinstance(value, Tensor):
        return is_number(value)
    return (
        value.numel() == 1
        and value.dtype is not torch.bool
        and not value.is_complex()
        and math.isfinite(read_rate(value))
    )


def require_rate(value: object, name: str) -> None:
    """Raise ValueError unless `value` is a learning rate."""
    rule = "be a tensor of one finite number" if isinstance(value, Tensor) else "be a finite number"
    require(is_rate(value), name, rule, value)


def read_rate(lr: Any) -> float:
    """A group's learning rate as a number; a tensor on an accelerator is waited for."""
    return float(lr.detach() if isinstance(lr, Tensor) else lr)


def plain(value: Any) -> Any:
    """A NumPy scalar as Python's own, in a pair too, so that a saved state reads back as plain values."""
    if type(value) in (tuple, list):
        return type(value)(plain(item) for item in value)
    if isinstance(value, Tensor) or getattr(value, "shape", None) != () or not hasattr(value, "item"):
        return value
    number = value.item()
    return float(number) if hasattr(number, "item") and isinstance(number, numbers.Real) else number  # of a longdouble
