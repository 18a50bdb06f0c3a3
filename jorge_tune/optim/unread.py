"""Which hyperparameters nothing reads beside which others. Names and values alone, without torch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final, NamedTuple


class Unread(NamedTuple):
    """`name` is read by nothing where `beside` has one of `values`; `instead` says what is."""

    name: str
    beside: str
    values: tuple[object, ...]
    instead: str


UNREAD: Final = (
    Unread("momentum", "graft", ("adamw",), "set graft_betas, whose first is the momentum of both"),
    Unread("dampening", "graft", ("adamw", "none"), "averages have no dampening, so leave it out"),
    Unread("dampening", "momentum", (0,), "without momentum there is nothing to dampen, so leave it out"),
    Unread("graft_betas", "graft", ("sgd", "none"), "set momentum, or graft 'adamw'"),
    Unread("graft_eps", "graft", ("sgd", "none"), "leave it out, or set graft 'adamw'"),
    Unread("series_terms", "form", ("congruence",), "leave it out, or set form 'series'"),
    Unread("root_iterations", "root", ("eigh",), "leave it out, or set root 'newton'"),
)


def unread(group: Mapping[str, Any], default: Callable[[str], Any]) -> Iterator[tuple[str, str]]:
    """Name and sentence of each hyperparameter that has another value than its default and is read by nothing.

    A momentum that says the same as `graft_betas` is no fault.
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


_NOTHING = object()
