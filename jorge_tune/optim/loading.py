"""A saved state on its way into an optimizer of the family: checked as a whole before anything is changed.

torch's own `load_state_dict` does the loading. This module adds to it at two public places: a hook that runs after the
caller's own and so sees the state as they leave it, and `__setstate__`, which receives what is loaded. Between the two,
every tensor is wrapped, because torch would cast it to its parameter's dtype.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from jorge_tune.optim.argument_checks import Group, check_group, is_count, plain, require, require_rate
from jorge_tune.optim.ridge import initial_signs

# These tell one member's states from another's: they are in the groups of every version of the members that have them.
# Whatever else a group lacks was added later.
_TELLING = ("precondition", "refresh_interval", "eps_kind", "statistics_interval", "rank")
_SHAPING = ("block_size", "rank")  # the shapes of the state follow from these


@dataclass(frozen=True)
class Kept:
    """A tensor that torch leaves as it is: what it loads into tuples and lists it would rebuild."""

    tensor: Tensor


class LoadTarget(NamedTuple):
    """The optimizer that a state is loaded into, as far as the checks go.

    `names` are its hyperparameters; `default` gives the class's default of one; `check_member` and `side_shapes` are
    the member's own.
    """

    groups: list[Group]
    names: frozenset[str]
    default: Callable[[str], Any]
    check_member: Callable[[Group], None]
    side_shapes: Callable[[Tensor, Group], dict[str, tuple[int, ...]]]


class Loading:
    """A hook for one load: checks the state, gives older ones what they lack, and keeps every tensor's dtype.

    `filled` then holds the hyperparameters that the state lacked, with the values taken.
    """

    def __init__(self, target: LoadTarget) -> None:
        self._target = target
        self.filled: dict[str, Any] = {}

    def __call__(self, optimizer: object, state_dict: dict[str, Any]) -> dict[str, Any]:
        """The state that torch goes on with.

        Raises:
            ValueError: with the place, what is wrong and the way out.
        """
        groups, ours = _groups_of(state_dict), self._target.groups
        _check_kin(groups, self._target.names)
        _check_form(groups, ours)
        groups = [self._completed(index, group) for index, group in enumerate(groups)]
        loaded = [
            {**group, "params": own["params"]} for group, own in zip(groups, ours, strict=True)
        ]  # the groups as they will be
        for index, group in enumerate(loaded):
            self._check_values(index, group)

        state = dict(state_dict["state"])
        pairs = ((param, group) for group in loaded for param in group["params"])
        keys = itertools.chain.from_iterable(group["params"] for group in groups)
        for key, (param, group) in dict(zip(keys, pairs, strict=True)).items():  # one named twice has one state
            if key in state:
                expected = self._target.side_shapes(param, group)
                state[key] = _own_state(state[key], param, expected, f"state of parameter {key}")
        return {**state_dict, "state": state, "param_groups": groups}

    def _completed(self, index: int, group: Group) -> Group:
        """The group with Python's own numbers, and the class's default of every hyperparameter that it lacks."""
        group = {name: plain(value) for name, value in group.items()}
        require("lr" in group, f"the state's param_groups[{index}]", "have an lr", sorted(group))
        for name in sorted(self._target.names - group.keys()):
            group[name] = self.filled[name] = self._target.default(name)
        return group

    def _check_values(self, index: int, group: Group) -> None:
        try:
            # A schedule may leave an lr a rounding below 0, which is no reason to lose the state.
            require_rate(group["lr"], "lr")
            check_group({**group, "lr": 0.0})
            self._target.check_member(group)
        except ValueError as error:
            raise ValueError(f"the state's param_groups[{index}]: {error}") from error


def missing_signs(own: Mapping[str, Any], expected: dict[str, tuple[int, ...]], device: torch.device) -> dict[str, Any]:
    """Sign generators that a parameter's state lacks: the congruence form had none at first."""
    begun = {_block_of(name) for name in own if name in expected}
    lacking = [name for name in expected if name.endswith(".signs") and name not in own and _block_of(name) in begun]
    return {name: initial_signs(expected[name][0], device) for name in lacking}


def unwrapped(state: Mapping[Any, Any]) -> None:
    """Take the tensors out of their wraps, in place."""
    for own in state.values():
        if isinstance(own, dict):
            own.update({name: value.tensor for name, value in own.items() if isinstance(value, Kept)})


def _groups_of(state_dict: Any) -> list[Group]:
    whole = isinstance(state_dict, Mapping) and {"state", "param_groups"} <= state_dict.keys()
    got = sorted(map(str, state_dict)) if isinstance(state_dict, Mapping) else type(state_dict).__name__
    require(whole, "state_dict", "be an optimizer's, with 'state' and 'param_groups'", got)
    groups = state_dict["param_groups"]
    formed = isinstance(groups, Sequence) and all(
        isinstance(group, Mapping) and isinstance(group.get("params"), Sequence) for group in groups
    )
    require(formed, "state_dict['param_groups']", "be a list of groups with a list of 'params'", groups)
    require(isinstance(state_dict["state"], Mapping), "state_dict['state']", "be a dict", state_dict["state"])
    return [dict(group) for group in groups]


def _check_kin(groups: list[Group], names: frozenset[str]) -> None:
    missing = sorted({name for name in _TELLING if name in names and not all(name in group for group in groups)})
    if missing:
        raise ValueError(f"the state is another optimizer's: its groups have no {', '.join(missing)}")
    foreign = sorted({name for name in _TELLING if name not in names and any(name in group for group in groups)})
    if foreign:
        raise ValueError(f"the state is another optimizer's: its groups have {', '.join(foreign)}, unknown here")


def _check_form(groups: list[Group], ours: list[Group]) -> None:
    """As many groups of as many parameters, and what the shapes of the state follow from."""
    theirs_count, ours_count = ([len(group["params"]) for group in gs] for gs in (groups, ours))
    if theirs_count != ours_count:
        raise ValueError(f"the state has groups of {theirs_count} parameters, this optimizer of {ours_count}")
    for name in _SHAPING:
        theirs, own = ([plain(group.get(name)) for group in gs] for gs in (groups, ours))
        if theirs != own and all(name in group for group in groups):
            raise ValueError(
                f"the state was made with {name} {theirs}, this optimizer has {own}: construct it with the same {name}"
            )


def _own_state(state: Any, param: Tensor, expected: dict[str, tuple[int, ...]], place: str) -> dict[str, Any]:
    """One parameter's state, checked, copied to where it will be, each tensor wrapped."""
    require(isinstance(state, Mapping), place, "be a dict", state)
    checked: dict[str, Any] = {}
    for name, value in state.items():
        if name == "step":
            checked[name] = Kept(_clock(value, place))
        elif isinstance(value, Tensor) or _is_ours(name):
            _check_tensor(name, value, param, expected, place)
            checked[name] = Kept(value.detach().to(device=param.device, copy=True))
        else:
            checked[name] = value
    require("step" in checked or not any(map(_is_ours, checked)), place, "have a step", sorted(checked))
    begun = {_block_of(name) for name in checked if name in expected}
    checked.update({name: Kept(signs) for name, signs in missing_signs(checked, expected, param.device).items()})
    missing = sorted(name for name in expected if _block_of(name) in begun and name not in checked)
    if missing:
        raise ValueError(f"{place}: {', '.join(missing)} is missing")
    return checked


def _is_ours(name: object) -> bool:
    return isinstance(name, str) and (name == "momentum" or name.startswith(("graft.", "left.", "right.")))


def _block_of(name: str) -> str:
    return ".".join(name.split(".")[:2])


def _clock(step: Any, place: str) -> Tensor:
    """A parameter's step count, int64 on the host: saved by us, or a plain number as some tools write it."""
    number = step.item() if isinstance(step, Tensor) and step.numel() == 1 else plain(step)
    whole = is_count(number, 0) or (isinstance(number, float) and number >= 0 and number.is_integer())
    require(whole and number < 2**63, f"{place}: step", "be a whole number >= 0", step)
    return torch.tensor(int(number), dtype=torch.int64)


def _check_tensor(name: str, value: Any, param: Tensor, expected: dict[str, tuple[int, ...]], place: str) -> None:
    require(isinstance(value, Tensor), f"{place}: {name}", "be a tensor", value)
    whole = name == "momentum" or name.startswith("graft.")
    shape = () if name == "graft.length" else tuple(param.shape) if whole else expected.get(name)
    if name.startswith(("left.", "right.")) and shape is None:
        raise ValueError(f"{place}: {name} belongs to a block that shape {tuple(param.shape)} does not have")
    if name.endswith(".signs"):
        require(value.dtype == torch.int64, f"{place}: {name}", "be of int64", value.dtype)
    if shape is not None and tuple(value.shape) != shape:
        raise ValueError(f"{place}: {name} has shape {tuple(value.shape)}, but {shape} is needed here")
