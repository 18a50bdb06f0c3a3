"""What is kept of parameters that lie flat (flat.py): momenta, clocks, and the stacks of their preconditioners.

Everything kept here is also the parameters' own state, as views: `state_dict` never sees a bundle, and a bundle can be
built anew from the state at any time.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, Final, NamedTuple, TypeAlias

import torch
from torch import Tensor

from jorge_tune.optim import grafting
from jorge_tune.optim.argument_checks import Group, state_dtype
from jorge_tune.optim.flat import WITH_LENGTH, Layout, Member, ParameterClass, Piece, Range, cut
from jorge_tune.optim.preconditioner import Preconditioner
from jorge_tune.optim.stacks import BlockShape, SideState, Stack, StackRow, State, assign_slots, expose, fill_sides

KEPT_VECTORS: Final = 64
StackKey: TypeAlias = tuple[int, BlockShape]
"""Index of the group, and shape of the blocks."""


class Batch(NamedTuple):
    """A piece of a class, and the first of its rows in its stack."""

    kind: ParameterClass
    piece: Piece
    start: int

    @property
    def rows(self) -> list[int]:
        """In the stack."""
        return list(range(self.start, self.start + len(self.piece.rows)))


class FlatStack(NamedTuple):
    """A stack, the index of its group, the place of each row's parameter, and the batches that its rows come from."""

    group_index: int
    stack: Stack
    places: list[int]
    owners: Tensor  # the places, on the device
    batches: list[Batch]


class FlatBundle:
    """Parameters of one device, dtype and set of hyperparameters that lie flat, with their state."""

    def __init__(self, optimizer: Preconditioner, groups: Sequence[Group], members: list[Member], state: State) -> None:
        self.optimizer, self.groups = optimizer, groups
        self.group = groups[members[0].group_index]
        self.dtype = state_dtype(members[0].param)
        self.device = members[0].param.device
        self.layout = Layout(members, self.device)

        self.covers = self._covers()
        self.buffers = {name: self._zeros(sections) for name, sections in self.covers.items()}
        self._clock = torch.zeros(len(self.layout.params), dtype=torch.int64, device="cpu")
        self._steps = [0] * len(self.layout.params)
        self._clock_version = -1
        self.lengths = torch.zeros(self.layout.bounds[2], dtype=torch.float64, device=self.device)
        self._vectors: dict[object, Tensor] = {}
        self._constants: dict[tuple[float, torch.dtype], Tensor] = {}

        exposed = self._expose(state)
        self.stacks: list[FlatStack] = []
        self._build_stacks(state)
        sides = [
            (p, state[p], key) for p in self.layout.params for key in state[p] if key.startswith(("left.", "right."))
        ]
        self._exposed = exposed + [(param, own, key, own[key]) for param, own, key in sides]

    # What is kept.

    @property
    def pairs(self) -> list[tuple[Tensor, Member]]:
        """Parameters and what is known of them, in the layout's order."""
        return [(member.param, member) for member in self.layout.members]

    def is_whole(self, state: State) -> bool:
        """Whether the state still consists of the views given out; a caller may have put other tensors there."""
        return all(state.get(param) is own and own.get(key) is view for param, own, key, view in self._exposed)

    def count(self, present: Sequence[bool]) -> list[int]:
        """Advance the clocks of the parameters that have a gradient, and read all. No tensor is read for it.

        The numbers are Python's own. The state's `step` follows them; where a caller wrote into one (every change of a
        tensor has a version), they are read anew.
        """
        if self._clock._version != self._clock_version:
            self._steps = [int(step) for step in self._clock.tolist()]
        self._steps = [step + there for step, there in zip(self._steps, present, strict=True)]
        self._clock.add_(1 if all(present) else torch.tensor(present, dtype=torch.int64, device="cpu"))
        self._clock_version = self._clock._version
        return self._steps

    def _covers(self) -> dict[str, Range]:
        """Which sections each buffer is for, by state key."""
        sections_of: dict[str, list[int]] = {}
        for section in range(3):
            for place in self.layout.places((section, section + 1))[:1]:
                member = self.layout.members[place]
                names = [
                    f"graft.{name}" for name in grafting.graft_buffers(self.groups[member.group_index], member.param)
                ]
                for name in [*names, *(["momentum"] if section == 0 else [])]:
                    sections_of.setdefault(name, []).append(section)
        empty = [s for s in range(3) if not self.layout.places((s, s + 1))]
        spans = {name: sorted({*sections, *empty}) for name, sections in sections_of.items()}
        return {name: _around(span, sections_of[name][0]) for name, span in spans.items()}

    def _zeros(self, sections: Range) -> list[Tensor]:
        return [rows.zero_() for rows in self.layout.empty(sections, self.dtype)]

    def _expose(self, state: State) -> list[tuple[Tensor, dict[str, Any], str, Tensor]]:
        """Make each parameter's state views of what is kept here, with the values that it had."""
        views: list[tuple[int, str, Tensor]] = [(p, "step", self._clock[p]) for p in range(len(self.layout.params))]
        for name, sections in self.covers.items():
            pieces = self.layout.pieces(self.buffers[name], sections)
            for place, piece in zip(self.layout.places(sections), pieces, strict=True):
                views.append((place, name, self.layout.orders[place].shaped(piece, self.layout.params[place])))
        for place in self.layout.places(WITH_LENGTH):
            member = self.layout.members[place]
            if grafting.keeps_length(self.groups[member.group_index], member.param, member.section == 0):
                views.append((place, "graft.length", self.lengths[place]))

        exposed, is_new = [], True
        for place, key, view in views:
            own = state[self.layout.params[place]]
            if key in own:
                view.copy_(own[key])
                is_new = False
            own[key] = view
            exposed.append((self.layout.params[place], own, key, view))
        if is_new:
            self._clock_version = self._clock._version
        return exposed

    def _build_stacks(self, state: State) -> None:
        """Stack the blocks, batch by batch; the blocks of a stack share a slot, so that staggering adds no launch."""
        params = self.layout.params
        batches: dict[StackKey, list[Batch]] = {}
        rows: dict[StackKey, list[tuple[int, int]]] = {}
        for kind in self.layout.classes:
            for piece in cut(kind):
                key = kind.member.group_index, piece.shape
                known = rows.setdefault(key, [])
                batches.setdefault(key, []).append(Batch(kind, piece, len(known)))
                known += piece.rows

        slots = self._slots(rows)
        for key, (index, shape) in zip(rows, rows, strict=True):
            group, places = self.groups[index], [place for place, _ in rows[key]]
            blocks = [self.layout.members[place].blocks[number] for place, number in rows[key]]
            entries = [
                StackRow(params[place], number, block, slots[key])
                for (place, number), block in zip(rows[key], blocks, strict=True)
            ]
            stack = Stack(shape, entries)
            fill_sides(stack, state, functools.partial(self._initial, group))
            expose(stack, list(range(len(entries))), state)
            self.stacks.append(FlatStack(index, stack, places, self.vector(places, torch.int64), batches[key]))

    def _initial(self, group: Group, size: int, param: Tensor) -> SideState:
        return self.optimizer._initial_side(size, group, state_dtype(param), param.device)

    def _slots(self, rows: dict[StackKey, list[tuple[int, int]]]) -> dict[StackKey, int]:
        """A slot for each stack; ties in the order in which the groups name its parameters."""
        slots: dict[StackKey, int] = {}
        for index in {index for index, _ in rows}:
            group = self.groups[index]
            position = {param: number for number, param in enumerate(group["params"])}
            first = {
                key: min((position[self.layout.params[place]], number) for place, number in rows[key])
                for key in rows
                if key[0] == index
            }
            keys = sorted(first, key=first.__getitem__)
            costs = [len(rows[key]) * self.optimizer._block_refresh_cost(key[1], group) for key in keys]
            interval = group["refresh_interval"] if group["stagger"] else 1
            slots.update(zip(keys, assign_slots(costs, interval), strict=True))
        return slots

    # Numbers from the host.

    def vector(self, values: Sequence[float], dtype: torch.dtype = torch.float64) -> Tensor:
        """Numbers on the device; the last ones are kept. A GPU does not wait for the copy."""
        key = tuple(values), dtype
        if key not in self._vectors:
            if len(self._vectors) >= KEPT_VECTORS:
                del self._vectors[next(iter(self._vectors))]
            is_pinned = self.device.type == "cuda" and torch.cuda.is_available()
            host = torch.tensor(key[0], dtype=dtype, device="cpu", pin_memory=is_pinned)
            self._vectors[key] = host.to(self.device, non_blocking=True)
        return self._vectors[key]

    def constant(self, value: float, dtype: torch.dtype) -> Tensor:
        """A number as a tensor without dimensions."""
        key = value, dtype
        if key not in self._constants:
            self._constants[key] = torch.full((), value, dtype=dtype, device=self.device)
        return self._constants[key]


def _around(span: list[int], member: int) -> Range:
    """The longest run of neighbours in `span` that has `member`."""
    first = last = member
    while first - 1 in span:
        first -= 1
    while last + 1 in span:
        last += 1
    return first, last + 1
