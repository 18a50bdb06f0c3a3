"""Parameters as matrices, matrices as blocks, and the steps at which a block is refreshed. Pure bookkeeping.

Legend: m, n = rows and columns of the collapsed matrix; a block is a piece of it with its own left (rows x rows)
and right (columns x columns) preconditioner.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor

MAX_SIDE = 8192  # without a block size, a longer side gets no preconditioner: 8192^2 float32 are 256 MiB


class BlockShape(NamedTuple):
    """Rows and columns of a block, and which of the two sides are preconditioned."""

    rows: int
    columns: int
    left: bool = True
    right: bool = True


class Block(NamedTuple):
    """A block's shape and where it starts in the collapsed matrix."""

    row: int
    column: int
    shape: BlockShape

    def view(self, matrix: Tensor) -> Tensor:
        """The block's part of `matrix`, shape (rows, columns), sharing its memory."""
        rows = slice(self.row, self.row + self.shape.rows)
        return matrix[rows, self.column : self.column + self.shape.columns]


def collapse(shape: Sequence[int]) -> tuple[int, int]:
    """(m, n) of a tensor with two or more dimensions: the first against all others (out, in*kh*kw).

    Leading dimensions of 1 are passed over while two are left: a position embedding (1, 197, 768) is (197, 768), not
    one row of which no left side could learn anything.
    """
    while len(shape) > 2 and shape[0] == 1:
        shape = shape[1:]
    return shape[0], math.prod(shape[1:])


def partition(shape: Sequence[int], block_size: int | None) -> tuple[Block, ...]:
    """The blocks of a parameter, row-major; none for tensors with fewer than two dimensions or no elements.

    A side longer than `block_size` is cut into pieces of it, the remainder last. With None nothing is cut, and a
    side longer than `MAX_SIDE` has no preconditioner.
    """
    if len(shape) < 2 or math.prod(shape) == 0:
        return ()
    m, n = collapse(shape)
    left, right = (block_size is not None or side <= MAX_SIDE for side in (m, n))
    if not (left or right):
        return ()
    return tuple(
        Block(row, column, BlockShape(rows, columns, left, right))
        for row, rows in _pieces(m, block_size)
        for column, columns in _pieces(n, block_size)
    )


def _pieces(side: int, block_size: int | None) -> list[tuple[int, int]]:
    size = block_size or side
    return [(start, min(size, side - start)) for start in range(0, side, size)]


def assign_slots(costs: Sequence[int], refresh_interval: int) -> list[int]:
    """A slot in [0, refresh_interval) for each block, so that every slot carries about the same cost.

    Largest first into the slot with the least so far; ties go to the lower index, so the answer is a pure
    function of its arguments.
    """
    load = [(0, slot) for slot in range(refresh_interval)]
    slots = [0] * len(costs)
    for index in sorted(range(len(costs)), key=lambda i: -costs[i]):
        total, slot = load[0]
        slots[index] = slot
        heapq.heapreplace(load, (total + costs[index], slot))
    return slots


def is_due(step: int, slot: int, refresh_interval: int, warm_refreshes: int) -> bool:
    """Whether a block in `slot` is refreshed at its parameter's `step` (from 1).

    Every step until `warm_refreshes` (and always the first), then every `refresh_interval`-th, shifted by the slot.
    """
    if step <= max(1, warm_refreshes):
        return True
    return (step - warm_refreshes - 1 - slot) % refresh_interval == 0
