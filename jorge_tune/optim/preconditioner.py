"""The part in which the members of the family differ: the preconditioner of one side of a block.

Legend: G a gradient block (m x n); L, R its left and right preconditioners. A side has `size` rows and `size` columns;
`other` is the block's other dimension. The left side sees gradients (batch, size, other), the right side sees them
transposed.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from jorge_tune.optim.argument_checks import Group
from jorge_tune.optim.stacks import Block, BlockShape, SideState, collapse, partition, side_key


class Preconditioner(ABC):
    """Abstract: the part in which the members of the family differ."""

    @abstractmethod
    def _check_member(self, group: Group) -> None:
        """Raise ValueError for a hyperparameter of the member out of its range."""

    @abstractmethod
    def _initial_side(self, size: int, group: Group, dtype: torch.dtype, device: torch.device) -> SideState:
        """State of one side before any gradient, unbatched: tensors by name, "" being the first."""

    def _observes(self, step: int, group: Group) -> bool:
        """Whether the gradient of a parameter's `step` (from 1) enters statistics outside a refresh."""
        return False

    def _observe_side(self, side: SideState, grads: Tensor, group: Group) -> SideState:
        """What gradients (batch, size, other) add to the statistics, where `_observes` says so."""
        raise NotImplementedError

    @abstractmethod
    def _refresh_side(self, side: SideState, grads: Tensor, group: Group) -> SideState:
        """What a refresh changes, given gradients (batch, size, other)."""

    @abstractmethod
    def _apply_side(self, side: SideState, grads: Tensor, group: Group, *, right: bool) -> Tensor:
        """L G, or G R if `right`, for gradients (batch, m, n)."""

    def _apply_side_into(self, side: SideState, grads: Tensor, group: Group, out: Tensor, *, right: bool) -> None:
        """The same, written to `out`, which may be a part of a larger matrix."""
        out.copy_(self._apply_side(side, grads, group, right=right))

    # What a side costs, in floating-point operations.

    @abstractmethod
    def _refresh_cost(self, size: int, other: int, group: Group) -> int:
        """Of one refresh; refreshes are spread over the interval by it."""

    def _apply_cost(self, size: int, other: int, group: Group) -> int:
        """Of one product with the gradient."""
        return 2 * size * size * other

    def _observe_cost(self, size: int, other: int, group: Group) -> int:
        """Of one update of the statistics outside a refresh."""
        return 0

    # How a parameter becomes blocks.

    def _matrix_shape(self, param: Tensor) -> tuple[int, int]:
        """Rows and columns of the matrix that is cut into blocks."""
        return collapse(param.shape)

    def _blocks(self, param: Tensor, group: Group) -> tuple[Block, ...]:
        """The blocks of a parameter; none if it takes the grafted optimizer's step."""
        return partition(param.shape, group["block_size"]) if group["precondition"] else ()

    def _block_refresh_cost(self, shape: BlockShape, group: Group) -> int:
        left = self._refresh_cost(shape.rows, shape.columns, group) if shape.left else 0
        return left + (self._refresh_cost(shape.columns, shape.rows, group) if shape.right else 0)

    def _side_shapes(self, param: Tensor, group: Group) -> dict[str, tuple[int, ...]]:
        """The shape of each tensor of a parameter's sides, by state key."""
        shapes: dict[str, tuple[int, ...]] = {}
        for number, block in enumerate(self._blocks(param, group)):
            for side, size, has in (
                ("left", block.shape.rows, block.shape.left),
                ("right", block.shape.columns, block.shape.right),
            ):
                tensors = self._initial_side(size, group, torch.float32, torch.device("meta")) if has else {}
                shapes.update({side_key(side, number, name): tuple(t.shape) for name, t in tensors.items()})
        return shapes
