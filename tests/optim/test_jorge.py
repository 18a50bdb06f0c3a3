"""Jorge against an independent float64 form of the paper, and against the exact inverse fourth root."""

from __future__ import annotations

import itertools

import pytest
import torch

from jorge_tune.optim import Jorge, series_refresh
from tests.gradients import decaying, network_gradients
from tests.reference import JorgeReference, inverse_root, jorge_refresh

SHAPES = {"tall": (20, 6), "wide": (6, 20), "square": (12, 12), "conv": (8, 3, 3, 3)}

# Largest relative error of L, R, momenta and the new weight after one step, measured over SHAPES and 200 steps, each
# from the same state: 2.0e-7 and 7.3e-16.
STEP_ERROR = {torch.float32: 5e-7, torch.float64: 2e-15}


def gradients(shape, steps, seed, dtype):
    m = shape[0]
    n = int(torch.tensor(shape[1:]).prod())
    return [G.to(dtype).reshape(shape) for G in itertools.islice(decaying(m, n, seed=seed, drift=0), steps)]


def pairs(reference, optimizer, weight):
    """Our tensors beside the reference's, all as (m, n); ours sums the momentum that the paper averages."""
    state, shape = optimizer.state[weight], reference.weight.shape
    return {
        "L": (state["left.0"], reference.L),
        "R": (state["right.0"], reference.R),
        "m": ((1 - reference.momentum) * state["momentum"].reshape(shape), reference.m),
        "m_sgd": (state["graft.momentum"].reshape(shape), reference.m_sgd),
        "weight": (weight.detach().reshape(shape), reference.weight),
    }


def resynchronise(reference, optimizer, weight):
    for name, (ours, _) in pairs(reference, optimizer, weight).items():
        setattr(reference, name, ours.double().clone())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kind", SHAPES)
def test_paper_preset_equals_algorithm_2_over_200_steps(kind, dtype):
    weight = torch.nn.Parameter(gradients(SHAPES[kind], 1, 9, dtype)[0])
    optimizer = Jorge([weight], lr=0.05, weight_decay=1e-2, preset="paper")
    reference = JorgeReference(weight.detach(), eps=1e-6, momentum=0.9, lr=0.05, weight_decay=1e-2)
    for G in gradients(SHAPES[kind], 200, 3, dtype):
        weight.grad = G
        optimizer.step()
        reference.step(G)
        for name, (ours, wanted) in pairs(reference, optimizer, weight).items():
            assert float((ours - wanted).norm() / wanted.norm()) < STEP_ERROR[dtype], name
        resynchronise(reference, optimizer, weight)


def test_paper_preset_equals_algorithm_2_on_a_networks_gradients():
    steps = network_gradients(60, seed=0)
    weights = [torch.nn.Parameter(torch.zeros_like(g, dtype=torch.float64)) for g in steps[0]]
    optimizer = Jorge(weights, lr=0.05, preset="paper")
    matrices = [i for i, w in enumerate(weights) if w.dim() > 1]
    references = {
        i: JorgeReference(weights[i].detach(), eps=1e-6, momentum=0.9, lr=0.05, weight_decay=0) for i in matrices
    }
    for grads in steps:
        for weight, grad in zip(weights, grads, strict=True):
            weight.grad = grad.double()
        optimizer.step()
        for i, reference in references.items():
            reference.step(grads[i])
    for i, reference in references.items():  # float64, 60 steps without resynchronising
        wanted, got = reference.weight, weights[i].detach().reshape(reference.weight.shape)
        assert float((got - wanted).norm() / wanted.norm()) < 1e-7


def direction_cosines(seed, refreshes, m=24, n=16):
    """Cosine of L G R to the exact roots' A_L^(-1/4) G A_R^(-1/4) for the same b2 and statistics, at each refresh.

    The gradients' spectra decay as 1/k on both sides and their bases stand still.
    """
    L, R = torch.eye(m, dtype=torch.float64), torch.eye(n, dtype=torch.float64)
    A_L, A_R = torch.eye(m, dtype=torch.float64), torch.eye(n, dtype=torch.float64)
    for G in itertools.islice(decaying(m, n, seed=seed, drift=0), refreshes):
        _, b2 = jorge_refresh(L, G)
        A_L = b2 * A_L + (1 - b2) * G @ G.T
        _, b2 = jorge_refresh(R, G.T)
        A_R = b2 * A_R + (1 - b2) * G.T @ G
        L, R = series_refresh(L, G), series_refresh(R, G.T)
        ours, exact = L @ G @ R, inverse_root(A_L) @ G @ inverse_root(A_R)
        yield float((ours * exact).sum() / (ours.norm() * exact.norm()))


# Least cosine over five seeds: 0.868 within 200 refreshes, 0.795 within 2,000 (mean of the last 500: 0.941). The
# series loses accuracy slowly because it is one-sided; where the bases turn it loses much more (studies/LOG.md).
LEAST_COSINE = {200: 0.85, 2000: 0.75}


def test_direction_stays_near_the_exact_root_for_200_refreshes():
    cosines = list(direction_cosines(seed=0, refreshes=200))
    assert min(cosines) > LEAST_COSINE[200]
    assert min(cosines) < 0.999  # it does lose accuracy: an exact form would not pass here


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(5))
def test_direction_stays_near_the_exact_root_for_2000_refreshes(seed):
    assert min(direction_cosines(seed, refreshes=2000)) > LEAST_COSINE[2000]
