"""A batch that does not fit: the message that says which one does."""

from __future__ import annotations

import weakref

import pytest
import torch
from torch import nn

from jorge_tune.calibration.bench import largest_that_fits, on_bench
from jorge_tune.errors import InputError
from jorge_tune.recipe.schema import JorgeSection, ModelSection
from jorge_tune.training.models import OWN_MODELS
from tests.training.small_recipes import digits_recipe

CPU = torch.device("cpu")
LIMIT = 45
ALIVE: list[weakref.ref[nn.Module]] = []
COMPUTED: list[weakref.ref[torch.Tensor]] = []


class Hungry(nn.Module):
    """Needs more memory than there is for batches beyond LIMIT; its frames hold what it has by then."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(64, 10)
        ALIVE.append(weakref.ref(self))

    def forward(self, images):
        hidden = self.inner(images.flatten(1))
        if len(images) > LIMIT:
            COMPUTED.append(weakref.ref(hidden))
            return [self.run_out(hidden) for _ in range(1)]
        held = [ref() for ref in (*COMPUTED, *ALIVE) if ref() is not None and ref() is not self]
        assert not held, "what did not fit is still held"
        return hidden

    def run_out(self, hidden):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


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
    COMPUTED.clear()
    monkeypatch.setitem(OWN_MODELS, "hungry", Hungry)
    hungry = digits_recipe(model=ModelSection(name="hungry"), batch_size=90, optimizer=JorgeSection(lr=0.1))
    told = r"batch_size: 90 with jorge does not fit on .*: about (4[0-5]) does \(CUDA out"
    with pytest.raises(InputError, match=told):
        on_bench(hungry, CPU, lambda bench: bench.burst("plain", 1))
    assert len(ALIVE) > 3


def test_nothing_fits(monkeypatch):
    monkeypatch.setitem(OWN_MODELS, "hungry", Starving)
    with pytest.raises(InputError, match=r"not even one image does.*alloc_cpu"):
        on_bench(
            digits_recipe(model=ModelSection(name="hungry"), batch_size=4, optimizer=JorgeSection(lr=0.1)),
            CPU,
            lambda bench: bench,
        )


class Starving(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(64, 10)

    def forward(self, images):
        raise RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory")


def test_memory_that_runs_out_later_is_no_different(monkeypatch):
    def work(bench):
        bench.burst("plain", 1)
        raise torch.OutOfMemoryError("CUDA out of memory.")

    ALIVE.clear()
    monkeypatch.setitem(OWN_MODELS, "hungry", Hungry)
    hungry = digits_recipe(model=ModelSection(name="hungry"), batch_size=40, optimizer=JorgeSection(lr=0.1))
    with pytest.raises(InputError, match=r"batch_size: 40 with jorge does not fit on .*: about 3\d does"):
        on_bench(hungry, CPU, work)


def test_other_errors_pass():
    def work(bench):
        raise RuntimeError("something else")

    with pytest.raises(RuntimeError, match="something else"):
        on_bench(digits_recipe(optimizer=JorgeSection(lr=1)), CPU, work)
