"""Many parameters in a few long pieces of memory, so that one launch of a device serves them all.

On a GPU a launch costs about as much as moving a million entries. A step of a list of tensors, with one number for each
(a length, or whether the gradient is finite), takes a launch for each tensor: torch's foreach functions know only
numbers that the host knows. So what is worked parameter by parameter lies in rows:

    zone      parameters one after the other, their entries in rows of `ROW` (1 for those that `ROW` does not divide)
    owner     of each row, the parameter that it belongs to
    spread    a vector with a number for each parameter becomes a column with a number for each row

and `rows * column` is one launch. Momenta are kept that way; each is also the parameter's own state tensor, a view. The
order is: preconditioned parameters, then embedding tables, then all others (`SECTIONS`); within a section those of
equal shape lie side by side, large ones first, so that a batched product takes them as they lie (`Piece`).

Legend: P = number of parameters; K of a class; R = rows of a zone; m, n = rows and columns of a parameter as a matrix.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple, TypeAlias

import torch
from torch import Tensor

from jorge_tune.optim.stacks import Block, BlockShape

ROW: Final = 64
SECTIONS: Final = ("preconditioned", "tables", "others")
Range: TypeAlias = tuple[int, int]
"""From which section on, and before which."""

ALL: Final = (0, 3)
PRECONDITIONED: Final = (0, 1)
TABLES: Final = (1, 2)
OTHERS: Final = (2, 3)
WITH_LENGTH: Final = (0, 2)


class Member(NamedTuple):
    """A parameter: the index of its group, its matrix, and the section it belongs to."""

    param: Tensor
    group_index: int
    matrix: tuple[int, int]
    blocks: tuple[Block, ...]
    section: int

    @property
    def row(self) -> int:
        """Entries in a row of its zone."""
        return ROW if self.param.numel() % ROW == 0 else 1


class Order(NamedTuple):
    """How a parameter's entries lie in memory: its dimensions from the slowest to the fastest."""

    dims: tuple[int, ...]
    is_contiguous: bool

    @classmethod
    def of(cls, param: Tensor) -> Order:
        """The parameter's own order if it fills its memory, else that of a contiguous tensor."""
        usual = tuple(range(param.dim()))
        dims = tuple(sorted(usual, key=lambda d: (-param.stride()[d], d)))
        if param.is_contiguous() or not param.permute(dims).is_contiguous():
            return cls(usual, is_contiguous=True)
        return cls(dims, is_contiguous=False)

    def shaped(self, piece: Tensor, param: Tensor) -> Tensor:
        """A piece of flat memory in the parameter's shape and strides."""
        if self.is_contiguous:
            return piece.view(param.shape)
        inverse = sorted(range(len(self.dims)), key=self.dims.__getitem__)
        return piece.view([param.shape[d] for d in self.dims]).permute(inverse)

    def flattened(self, tensor: Tensor) -> Tensor | None:
        """A tensor's memory as one dimension, if it lies in this order without gaps."""
        turned = tensor if self.is_contiguous else tensor.permute(self.dims)
        return turned.view(-1) if turned.is_contiguous() else None


@dataclass
class Zone:
    """Parameters whose entries are divided by `row`. `starts` and `ends` count entries."""

    row: int
    places: list[int] = field(default_factory=list)  # of its parameters in the layout's order
    starts: list[int] = field(default_factory=list)
    ends: list[int] = field(default_factory=lambda: [0, 0, 0])  # of the sections
    owners: Tensor = field(init=False)  # int64, (R,)

    def span(self, sections: Range) -> Range:
        """First and last entry of some sections."""
        first, last = sections
        return (self.ends[first - 1] if first else 0), self.ends[last - 1]


class ParameterClass(NamedTuple):
    """Preconditioned parameters of one shape and order, side by side in zone `zone` from entry `start` on."""

    zone: int
    start: int
    places: range
    member: Member  # the first
    order: Order

    @property
    def entries(self) -> int:
        """Of all together."""
        return len(self.places) * self.member.param.numel()

    def matrices(self, flat: Tensor) -> Tensor:
        """Their entries in a zone's memory as matrices (K, m, n): a view where the order is the usual one."""
        part = flat.view(-1)[self.start : self.start + self.entries]
        shape = self.member.param.shape
        if not self.order.is_contiguous:
            inverse = [1 + d for d in sorted(range(len(shape)), key=self.order.dims.__getitem__)]
            part = part.view(len(self.places), *[shape[d] for d in self.order.dims]).permute(0, *inverse)
        return part.reshape(len(self.places), *self.member.matrix)


class Piece(NamedTuple):
    """Equal blocks that lie at equal distances in their class's memory, and so are one batch of a product."""

    shape: BlockShape
    rows: list[tuple[int, int]]  # place of the parameter and number of the block, in the order of the batch
    size: tuple[int, int, int]
    stride: tuple[int, int, int]
    offset: int  # from the class's first matrix

    def of(self, matrices: Tensor) -> Tensor:
        """The blocks, (batch, rows, columns), in matrices (K, m, n) that fill their memory."""
        return matrices.as_strided(self.size, self.stride, matrices.storage_offset() + self.offset)


class Layout:
    """Where each of some parameters lies. All are on one device and of one dtype."""

    def __init__(self, members: Iterable[Member], device: torch.device) -> None:
        self.members = sorted_members(members)
        self.params = [member.param for member in self.members]
        self.orders = [Order.of(param) for param in self.params]
        self.device = device
        counts = [sum(member.section < end for member in self.members) for end in range(1, len(SECTIONS) + 1)]
        self.bounds = [0, *counts]  # of the sections, in places
        self.zones = self._build_zones()
        self.classes = self._build_classes()

    def _build_zones(self) -> list[Zone]:
        zones = [Zone(row) for row in (ROW, 1) if any(member.row == row for member in self.members)]
        for zone in zones:
            position = 0
            for place, member in enumerate(self.members):
                if member.row == zone.row:
                    zone.places.append(place)
                    zone.starts.append(position)
                    position += member.param.numel()
                    zone.ends[member.section :] = [position] * (len(SECTIONS) - member.section)
            zone.owners = torch.empty(position // zone.row, dtype=torch.int64, device=self.device)
            for place, start in zip(zone.places, zone.starts, strict=True):
                last = start + self.params[place].numel()
                zone.owners[start // zone.row : last // zone.row].fill_(place)
        return zones

    def _build_classes(self) -> list[ParameterClass]:
        classes = []
        for number, zone in enumerate(self.zones):
            start_of = dict(zip(zone.places, zone.starts, strict=True))
            chosen = [place for place in zone.places if self.members[place].section == 0]
            for _, group in itertools.groupby(chosen, key=lambda place: class_key(self.members[place])):
                places = list(group)
                first = places[0]
                together = range(first, first + len(places))
                classes.append(
                    ParameterClass(number, start_of[first], together, self.members[first], self.orders[first])
                )
        return classes

    def places(self, sections: Range) -> range:
        """Of the parameters of some sections."""
        return range(self.bounds[sections[0]], self.bounds[sections[1]])

    def empty(self, sections: Range, dtype: torch.dtype) -> list[Tensor]:
        """Memory for one tensor of each parameter: for each zone (R, row)."""
        spans = [(zone.span(sections), zone.row) for zone in self.zones]
        return [torch.empty((b - a) // row, row, dtype=dtype, device=self.device) for (a, b), row in spans]

    def part(self, rows: list[Tensor], sections: Range, of: Range) -> list[Tensor]:
        """The rows of some sections in memory that holds sections `of`."""
        parts = []
        for zone, whole in zip(self.zones, rows, strict=True):
            offset, (first, last) = zone.span(of)[0], zone.span(sections)
            parts.append(whole[(first - offset) // zone.row : (last - offset) // zone.row])
        return parts

    def pieces(self, rows: list[Tensor], sections: Range) -> list[Tensor]:
        """One-dimensional views, one for each parameter of the sections that the rows hold."""
        found: dict[int, Tensor] = {}
        for zone, whole in zip(self.zones, rows, strict=True):
            wanted = [place for place in zone.places if place in self.places(sections)]
            split = whole.view(-1).split_with_sizes([self.params[place].numel() for place in wanted])
            found.update(zip(wanted, split, strict=True))
        return [found[place] for place in self.places(sections)]

    def spread(self, vector: Tensor, sections: Range) -> list[Tensor]:
        """A number for each parameter (P,) as columns (R, 1), for each zone."""
        columns = []
        for zone in self.zones:
            first, last = (entry // zone.row for entry in zone.span(sections))
            columns.append(vector.index_select(0, zone.owners[first:last]).unsqueeze(1))
        return columns


def sorted_members(members: Iterable[Member]) -> list[Member]:
    """By section, zone and size (large ones first); equals side by side, in their own order otherwise."""
    members = list(members)
    first_of: dict[object, int] = {}
    for number, member in enumerate(members):
        first_of.setdefault(class_key(member), number)
    return sorted(members, key=lambda m: (m.section, -m.row, m.group_index, -m.param.numel(), first_of[class_key(m)]))


def class_key(member: Member) -> tuple[object, ...]:
    """What members of a class have in common."""
    order = Order.of(member.param).dims if member.param.dim() > 1 else ()
    return member.section, member.group_index, member.row, tuple(member.param.shape), order, member.blocks


def cut(kind: ParameterClass) -> Iterator[Piece]:
    """The blocks of a class, as few batches as their places in memory allow.

    Blocks of one shape form a grid (K, down, across). Its dimensions become one batch where they lie at one distance;
    where they do not, the shortest one is taken apart.
    """
    rows_of: dict[BlockShape, list[tuple[int, Block]]] = {}
    for number, block in enumerate(kind.member.blocks):
        rows_of.setdefault(block.shape, []).append((number, block))
    m, n = kind.member.matrix
    for shape, blocks in rows_of.items():
        for tops in _grids(blocks):
            number, first = tops[0][0]
            down, across = len(tops), len(tops[0])
            sizes = [len(kind.places), down, across]
            strides = [m * n, shape.rows * n, shape.columns]
            offset = first.row * n + first.column
            labels: dict[tuple[int, ...], tuple[int, int]] = {
                (k, i, j): (place, tops[i][j][0])
                for k, place in enumerate(kind.places)
                for i in range(down)
                for j in range(across)
            }
            for at, batch, stride in _batches(sizes, strides):
                start = offset + sum(a * s for a, s in zip(at, strides, strict=True))
                yield Piece(
                    shape,
                    [labels[index] for index in batch],
                    (len(batch), shape.rows, shape.columns),
                    (stride, n, 1),
                    start,
                )


def _grids(blocks: list[tuple[int, Block]]) -> Iterator[list[list[tuple[int, Block]]]]:
    """Blocks of one shape as grids, rows of equal columns: the whole ones, and where both have that shape the rests."""
    lines = [list(line) for _, line in itertools.groupby(blocks, key=lambda numbered: numbered[1].row)]
    for _, grid in itertools.groupby(lines, key=lambda line: [numbered[1].column for numbered in line]):
        yield list(grid)


def _batches(
    sizes: Sequence[int], strides: Sequence[int]
) -> Iterator[tuple[tuple[int, ...], list[tuple[int, ...]], int]]:
    """Where a batch starts in the grid, its members in order, and the distance from one to the next."""
    axes = [axis for axis, size in enumerate(sizes) if size > 1]
    merges = all(strides[a] == strides[b] * sizes[b] for a, b in itertools.pairwise(axes))
    if merges:
        members = list(itertools.product(*map(range, sizes)))
        yield (0,) * len(sizes), members, strides[axes[-1]] if axes else 0
        return

    taken = min(axes, key=lambda axis: sizes[axis])
    rest = [1 if axis == taken else size for axis, size in enumerate(sizes)]
    for index in range(sizes[taken]):
        for at, members, stride in _batches(rest, strides):
            moved = tuple(index if axis == taken else a for axis, a in enumerate(at))
            yield moved, [tuple(index if x == taken else a for x, a in enumerate(m)) for m in members], stride
