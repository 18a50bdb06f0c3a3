from __future__ import annotations

import pytest
import torch
from torch.utils.data import DataLoader

from tests.frameworks.small import data, loss_of, network, same, weights, with_every_member

accelerate = pytest.importorskip("accelerate", reason="Accelerate is absent: pip install 'jorge-tune[test-frameworks]'")


def prepared(optimizer_class, kwargs, seed):
    """An accelerator, with a network, an optimizer, batches and a schedule of its own."""
    accelerator = accelerate.Accelerator(cpu=True)
    model = network(seed)
    optimizer = optimizer_class(model.parameters(), **kwargs)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, step_size=2, gamma=0.5)
    return accelerator, *accelerator.prepare(model, optimizer, DataLoader(data(), batch_size=8), schedule)


def train(accelerator, model, optimizer, loader, schedule):
    for inputs, labels in loader:
        optimizer.zero_grad()
        accelerator.backward(loss_of(model, inputs, labels))
        optimizer.step()
        schedule.step()


@with_every_member
def test_a_saved_state_is_gone_on_from(optimizer_class, kwargs, tmp_path):
    run = prepared(optimizer_class, kwargs, seed=0)
    start = weights(run[1])
    train(*run)
    run[0].save_state(str(tmp_path / "state"))
    saved = weights(run[1])
    train(*run)
    end = weights(run[1])
    assert not same(start, saved)
    assert not same(saved, end)

    run[0].load_state(str(tmp_path / "state"))
    assert same(weights(run[1]), saved)
    train(*run)
    assert same(weights(run[1]), end)

    another = prepared(optimizer_class, kwargs, seed=1)
    for _ in range(2):  # prepare loaded a state, and so do both of these
        another[0].load_state(str(tmp_path / "state"))
    train(*another)
    assert same(weights(another[1]), end)
