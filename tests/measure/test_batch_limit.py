"""A batch that does not fit: the message that says which one does."""

from __future__ import annotations

import weakref

import pytest
import torch
from torch import nn

from jorge_tune.errors import InputError
from jorge_tune.measure.batch_limit import largest_that_fits, within_memory
from jorge_tune.measure.workbench import open_bench
from jorge_tune.recipe.schema import Jorge, Model
from jorge_tune.training.models import OWN_MODELS
from tests.training.small_recipes import digits_recipe

CPU = torch.device("cpu")
LIMIT = 45
ALIVE: list[weakref.ref[nn.Module]] = []


class Hungry(nn.Module):
    """Needs more memory than there is for batches beyond LIMIT."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(64, 10)
        ALIVE.append(weakref.ref(self))

    def forward(self, images):
        if len(images) > LIMIT:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        held = [model() for model in ALIVE if model() is not None and model() is not self]
        assert not any(model.inner.weight.numel() for model in held), "a model that did not fit still has its memory"
        return self.inner(images.flatten(1))


@pytest.mark.parametrize("limit", [0, 1, 3, 45, 64, 100, 255])
def test_the_search_finds_one_near_the_largest(limit):
    asked: list[int] = []

    def fits(size: int) -> bool:
        asked.append(size)
        return size <= limit

    found = largest_that_fits(256, fits)
    assert found <= limit
    assert found >= 0.9 * limit or found >= limit - 1
    assert len(asked) <= 13
    assert all(size < 256 for size in asked)


def test_memory_that_ran_out_names_a_batch_that_fits(monkeypatch):
    ALIVE.clear()
    monkeypatch.setitem(OWN_MODELS, "hungry", Hungry)
    hungry = digits_recipe(model=Model(name="hungry"), batch_size=90, optimizer=Jorge(lr=0.1))
    with (
        pytest.raises(
            InputError, match=r"batch_size: 90 with jorge does not fit on .*: about (4[0-5]) does \(CUDA out"
        ),
        within_memory(hungry, CPU),
        open_bench(hungry, CPU),
    ):
        pass
    assert len(ALIVE) > 3


def test_nothing_fits(monkeypatch):
    def raises():
        raise RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setitem(OWN_MODELS, "hungry", lambda: Starving())
    with (
        pytest.raises(InputError, match="not even one image does"),
        within_memory(digits_recipe(model=Model(name="hungry"), batch_size=4, optimizer=Jorge(lr=0.1)), CPU),
    ):
        raises()


class Starving(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(64, 10)

    def forward(self, images):
        raise torch.OutOfMemoryError("out of memory")


def test_other_errors_pass(monkeypatch):
    with pytest.raises(RuntimeError, match="something else"), within_memory(digits_recipe(optimizer=Jorge(lr=1)), CPU):
        raise RuntimeError("something else")
