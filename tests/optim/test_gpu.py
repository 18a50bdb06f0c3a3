"""What only a CUDA device can show: no waiting for it, and the same path as on the CPU."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from jorge_tune.optim import Jorge
from tests.gradients import network_gradients

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
SETTINGS = {
    "series": {},
    "congruence": {"form": "congruence"},
    "blocked": {"block_size": 5},
    "bf16": {"product_precision": "bf16"},
    "adamw": {"graft": "adamw"},
    "paper": {"preset": "paper"},
}


def parameters(device):
    return [nn.Parameter(torch.zeros_like(g, device=device)) for g in network_gradients(1, seed=0)[0]]


def set_gradients(params, grads):
    for p, g in zip(params, grads, strict=True):
        p.grad = g.to(p.device)


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS.keys())
@pytest.mark.parametrize("spoiled", [False, True])
def test_jorges_step_never_waits_for_the_device(settings, spoiled):
    params = parameters("cuda")
    timetable = {} if "preset" in settings else {"warm_refreshes": 3, "refresh_interval": 4}
    optimizer = Jorge(params, lr=0.1, weight_decay=1e-3, **timetable, **settings)
    for step, grads in enumerate(network_gradients(12, seed=0)):
        set_gradients(params, grads)
        if spoiled and step % 3 == 2:
            params[0].grad[0] = torch.nan
        if step % 5 == 4:
            params[2].grad = None  # what is due is then no slice of its stack
        torch.cuda.synchronize()
        torch.cuda.set_sync_debug_mode("error")
        try:
            optimizer.step()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    assert optimizer.read_counters().skipped == (4 if spoiled else 0)
    assert all(torch.isfinite(p).all() for p in params)


@pytest.mark.parametrize("settings", [s for n, s in SETTINGS.items() if n != "bf16"])
def test_the_path_is_the_cpus(settings):
    """Relative distance after 20 steps on a real network's gradients; products round differently."""
    weights = []
    for device in ("cpu", "cuda"):
        params = parameters(device)
        optimizer = Jorge(params, lr=0.1, **settings)
        for grads in network_gradients(20, seed=0):
            set_gradients(params, grads)
            optimizer.step()
        weights.append(torch.cat([p.detach().cpu().flatten() for p in params]))
    assert float((weights[1] - weights[0]).norm() / weights[0].norm()) < 1e-3
