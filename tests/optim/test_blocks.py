"""Parameters as matrices and matrices as blocks."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from jorge_tune.optim import Jorge
from jorge_tune.optim.blocks import MAX_SIDE, Block, BlockShape, assign_slots, collapse, is_due, partition


@pytest.mark.parametrize(
    ("shape", "matrix"),
    [
        ((64, 3, 7, 7), (64, 147)),
        ((1, 197, 768), (197, 768)),  # a position embedding
        ((1, 1, 768), (1, 768)),
        ((1, 6), (1, 6)),
        ((1, 1), (1, 1)),
        ((6, 1, 3, 3), (6, 9)),  # a depthwise convolution
    ],
)
def test_collapse_passes_over_leading_ones(shape, matrix):
    assert collapse(shape) == matrix


def test_a_step_of_a_parameter_with_leading_ones_is_that_of_its_matrix():
    generator = torch.Generator().manual_seed(0)
    weights = [torch.nn.Parameter(torch.ones(1, 1, 5, 4)), torch.nn.Parameter(torch.ones(5, 4))]
    optimizers = [Jorge([w], lr=0.1) for w in weights]
    for _ in range(4):
        grad = torch.randn(5, 4, generator=generator)
        for weight, optimizer in zip(weights, optimizers, strict=True):
            weight.grad = grad.reshape(weight.shape)
            optimizer.step()
    assert torch.allclose(weights[0].reshape(5, 4), weights[1], rtol=1e-6, atol=1e-7)  # norms add up in another order


@given(
    shape=st.lists(st.integers(0, 9), min_size=0, max_size=4).map(tuple),
    block_size=st.one_of(st.none(), st.integers(1, 7)),
)
def test_blocks_tile_the_matrix(shape, block_size):
    blocks = partition(shape, block_size)
    if len(shape) < 2 or math.prod(shape) == 0:
        assert blocks == ()
        return
    covered = torch.zeros(collapse(shape), dtype=torch.int64)
    for block in blocks:
        block.view(covered).add_(1)
        assert block_size is None or max(block.shape.rows, block.shape.columns) <= block_size
    assert bool((covered == 1).all())


def test_a_side_too_long_to_precondition_leaves_the_other_its_preconditioner():
    assert partition((4, MAX_SIDE + 1), None) == (Block(0, 0, BlockShape(4, MAX_SIDE + 1, left=True, right=False)),)
    assert partition((MAX_SIDE + 1, MAX_SIDE + 1), None) == ()


@given(costs=st.lists(st.integers(1, 50), min_size=1, max_size=40), interval=st.integers(1, 12))
def test_slots_are_about_equally_full(costs, interval):
    """Largest first never leaves two slots further apart than the largest single cost."""
    load = [0] * interval
    for cost, slot in zip(costs, assign_slots(costs, interval), strict=True):
        load[slot] += cost
    assert max(load) - min(load) <= max(costs)


@given(slot=st.integers(0, 11), interval=st.integers(1, 12), warm=st.integers(0, 20))
def test_every_interval_holds_each_slot_once_after_the_warm_steps(slot, interval, warm):
    slot %= interval
    assert all(is_due(step, slot, interval, warm) for step in range(1, max(1, warm) + 1))
    start = max(1, warm) + interval
    due = [step for step in range(start, start + 3 * interval) if is_due(step, slot, interval, warm)]
    assert [late - early for early, late in itertools.pairwise(due)] == [interval] * 2
