"""Parameters as matrices, matrices as blocks, and blocks of equal shape as stacks. Bookkeeping without mathematics.

A parameter of two or more dimensions is a matrix (`collapse`). A matrix with long sides is cut into blocks, each with
its own left (rows x rows) and right (columns x columns) preconditioner (`partition`). Every block has a slot, which
says at which steps it is refreshed (`assign_slots`, `is_due`).

Blocks of equal shape are stacked, so that one batched product serves them all. A stack holds the preconditioners of
its blocks along a leading dimension, in order of slot, so that what is due at a step is a slice. Each row is also the
parameter's own state tensor (`left.<i>`, ...), a view into the stack. So `state_dict` never sees a stack, and stacks
can be rebuilt from the state at any time.

Legend: m, n = rows and columns of the collapsed matrix; B = blocks in the stack; a side state is a dict of tensors by
name, "" being the preconditioner itself.
"""

from __future__ import annotations

import heapq
import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
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


SideState = dict[str, Tensor]
State = MutableMapping[Tensor, dict[str, Any]]


class StackRow(NamedTuple):
    """One row of a stack: a parameter's block and the slot in which it is refreshed."""

    param: Tensor
    number: int
    block: Block
    slot: int


@dataclass
class Stack:
    """Blocks of one shape, dtype and device. `sides` maps "left" and "right" to (B, ...) tensors by name."""

    shape: BlockShape
    entries: list[StackRow]
    sides: dict[str, SideState] = field(default_factory=dict)

    def read(self, side: str, rows: list[int]) -> SideState:
        """The side states of `rows`: views where the rows are contiguous, else copies."""
        return {name: pick(tensor, rows) for name, tensor in self.sides[side].items()}

    def write(
        self, side: str, rows: list[int], given: SideState, state: SideState, flags: Tensor | None = None
    ) -> None:
        """Put side states back, `given` being what was read; what was changed in place is there already.

        With `flags`, bool of shape (number of rows,), the others are put back only where they are set.
        """
        for name, tensor in state.items():
            if tensor is given[name] and _contiguous(rows):
                continue
            whole = self.sides[side][name]
            if flags is not None and tensor is not given[name]:
                tensor = torch.where(flags.view(-1, *[1] * (tensor.dim() - 1)), tensor, pick(whole, rows))
            if _contiguous(rows):
                whole[rows[0] : rows[-1] + 1].copy_(tensor)
            else:
                torch._foreach_copy_([whole[row] for row in rows], list(tensor.unbind()))

    def gather(self, rows: list[int], grads: dict[Tensor, Tensor]) -> Tensor:
        """The gradients of `rows`, shape (number of rows, m, n)."""
        pieces = [self.entries[row].block.view(grads[self.entries[row].param]) for row in rows]
        return pieces[0].unsqueeze(0) if len(pieces) == 1 else torch.stack(pieces)


def build_stacks(
    partitions: Iterable[tuple[Tensor, tuple[Block, ...]]],
    state: State,
    *,
    slots: int,
    cost: Callable[[BlockShape], int],
    initial: Callable[[int, Tensor], SideState],
) -> list[Stack]:
    """Stack all blocks; sides come from `state` where it has them, else from `initial(size, param)`.

    Args:
        partitions: Parameters with their blocks.
        state: The optimizer's state; its side tensors become views into the stacks.
        slots: Number of slots to spread the refreshes over; 1 puts all into one step.
        cost: Operations of one refresh of a block of this shape.
        initial: State of a side before the first refresh.
    """
    rows = [(param, number, block) for param, blocks in partitions for number, block in enumerate(blocks)]
    assigned = assign_slots([cost(block.shape) for _, _, block in rows], slots)
    by_kind: dict[tuple[object, ...], list[StackRow]] = defaultdict(list)
    for row, slot in zip(rows, assigned, strict=True):
        kind = (row[2].shape, row[0].dtype, row[0].device)
        by_kind[kind].append(StackRow(*row, slot))
    stacks = []
    for entries in by_kind.values():
        stack = Stack(entries[0].block.shape, sorted(entries, key=lambda entry: entry.slot))
        fill_sides(stack, state, initial)
        stacks.append(stack)
    return stacks


def fill_sides(stack: Stack, state: State, initial: Callable[[int, Tensor], SideState]) -> None:
    """Give a stack its side states, from `state` where it has them, else from `initial(size, param)`."""
    like = stack.entries[0].param
    if stack.shape.left:
        stack.sides["left"] = _stack_side(stack, "left", state, initial(stack.shape.rows, like))
    if stack.shape.right:
        stack.sides["right"] = _stack_side(stack, "right", state, initial(stack.shape.columns, like))


def expose(stack: Stack, rows: list[int], state: State) -> None:
    """Give each row's parameter its side tensors, as views into the stack, where it has none yet."""
    for row in rows:
        entry = stack.entries[row]
        own = state[entry.param]
        for side, tensors in stack.sides.items():
            if side_key(side, entry.number, "") not in own:
                own.update({side_key(side, entry.number, name): tensor[row] for name, tensor in tensors.items()})


def side_key(side: str, number: int, name: str) -> str:
    """`left.3`, or `left.3.root` for a named tensor."""
    return f"{side}.{number}" + (f".{name}" if name else "")


def kept_side(own: Mapping[str, Any], side: str, number: int) -> SideState:
    """One side's tensors in a parameter's state, by name, with a leading dimension of 1."""
    key = side_key(side, number, "")
    return {
        name.removeprefix(key).removeprefix("."): tensor.unsqueeze(0)
        for name, tensor in own.items()
        if name == key or name.startswith(f"{key}.")
    }


def pick(tensor: Tensor, rows: list[int]) -> Tensor:
    """Ascending rows of a tensor: a view where they are contiguous. No index tensor, for which a GPU would wait."""
    if _contiguous(rows):
        return tensor[rows[0] : rows[-1] + 1]
    return torch.stack([tensor[row] for row in rows])


def _stack_side(stack: Stack, side: str, state: State, initial: SideState) -> SideState:
    stacked = {name: torch.stack([tensor] * len(stack.entries)) for name, tensor in initial.items()}
    for row, entry in enumerate(stack.entries):
        own = state.get(entry.param, {})
        for name, tensor in stacked.items():
            key = side_key(side, entry.number, name)
            if key in own:
                if own[key].shape != tensor[row].shape:
                    raise ValueError(
                        f"block_size and rank cannot change once there are preconditioners: {key} has shape "
                        f"{tuple(own[key].shape)}, but {tuple(tensor[row].shape)} is needed; make a new optimizer"
                    )
                tensor[row] = own[key]
                own[key] = tensor[row]
    return stacked


def _contiguous(rows: list[int]) -> bool:
    return rows[-1] - rows[0] + 1 == len(rows)
