"""A batch that does not fit: which one would."""

from __future__ import annotations

import gc
from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar

import torch

from jorge_tune.errors import InputError
from jorge_tune.measure.batches import is_out_of_memory
from jorge_tune.measure.workbench import Workbench, open_bench
from jorge_tune.recipe.schema import Recipe
from jorge_tune.training.environment import device_name

Result = TypeVar("Result")

_REFINEMENTS = 3  # halvings of the gap between the largest that fits and the smallest that does not


def on_bench(
    recipe: Recipe, device: torch.device, work: Callable[[Workbench], Result], *, real_data: bool = False
) -> Result:
    """What `work` makes of the recipe's bench; running out of memory names the largest batch that fits.

    Raises:
        InputError: memory ran out, or what `open_bench` refuses.
    """
    try:
        return _worked(recipe, device, work, real_data)
    except (torch.OutOfMemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        message = str(error).splitlines()[0]
    # Only here, with the error and its frames gone, is what the bench held free again.
    largest = largest_that_fits(recipe.batch_size, lambda size: fits(replace(recipe, batch_size=size), device))
    way_out = f"about {largest} does" if largest else "not even one image does; a smaller model or block_size may"
    raise InputError(
        f"batch_size: {recipe.batch_size} with {recipe.optimizer.name} does not fit on {device_name(device)}: "
        f"{way_out} ({message})"
    )


def _worked(recipe: Recipe, device: torch.device, work: Callable[[Workbench], Result], real_data: bool) -> Result:
    with open_bench(recipe, device, real_data=real_data) as bench:
        return work(bench)


def fits(recipe: Recipe, device: torch.device) -> bool:
    """Whether the recipe's first iterations, refreshes included, find the memory that they need."""
    _give_back(device)
    try:
        with open_bench(recipe, device):
            return True
    except (torch.OutOfMemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        return False
    finally:
        _give_back(device)


def largest_that_fits(batch_size: int, fits: Callable[[int], bool]) -> int:
    """A size near the largest below `batch_size` that fits, by halving and then refining; 0 if not even 1 does."""
    low, high = batch_size // 2, batch_size
    while low and not fits(low):
        low, high = low // 2, low
    for _ in range(_REFINEMENTS if low else 0):
        middle = (low + high) // 2
        if middle == low:
            break
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def _give_back(device: torch.device) -> None:
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
