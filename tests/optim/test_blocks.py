"""Parameters as matrices and matrices as blocks."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from jorge_tune.optim import Jorge
from jorge_tune.optim.stacks import MAX_SIDE, assign_slots, collapse, is_due, partition


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


shapes = st.lists(st.integers(1, 40), min_size=2, max_size=4).map(tuple)


@given(shape=shapes, block_size=st.one_of(st.none(), st.integers(1, 50)))
@settings(max_examples=200, deadline=None)
def test_blocks_cover_a_parameter_exactly_once(shape, block_size):
    counts = torch.zeros(collapse(shape))
    blocks = partition(shape, block_size)
    for block in blocks:
        block.view(counts).add_(1)
        assert block.shape.rows <= (block_size or len(counts))
    assert torch.equal(counts, torch.ones_like(counts))
    assert list(blocks) == sorted(blocks, key=lambda b: (b.row, b.column))


def test_what_has_no_blocks():
    assert partition((7,), 4) == ()
    assert partition((), None) == ()
    assert partition((0, 3), None) == ()
    (block,) = partition((MAX_SIDE + 1, 4), None)
    assert (block.shape.left, block.shape.right) == (False, True)
    assert partition((MAX_SIDE + 1, MAX_SIDE + 1), None) == ()


@given(costs=st.lists(st.integers(1, 100), max_size=60), interval=st.integers(1, 20))
@settings(max_examples=200, deadline=None)
def test_slots_are_even_and_repeatable(costs, interval):
    slots = assign_slots(costs, interval)
    assert slots == assign_slots(costs, interval)
    load = [sum(c for c, s in zip(costs, slots, strict=True) if s == slot) for slot in range(interval)]
    assert max(load) - min(load) <= max(costs, default=0)


@given(interval=st.integers(1, 12), warm=st.integers(0, 9), slot=st.integers(0, 11))
@settings(max_examples=200, deadline=None)
def test_after_warming_up_a_block_is_due_once_per_interval(interval, warm, slot):
    slot %= interval
    assert all(is_due(t, slot, interval, warm) for t in range(1, max(1, warm) + 1))
    start = max(1, warm) + 1
    for t in range(start, start + 5):
        assert sum(is_due(t + k, slot, interval, warm) for k in range(interval)) == 1
    assert is_due(warm + 1 + slot, slot, interval, warm)
