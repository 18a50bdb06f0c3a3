"""The refresh interval, measured inside a loop of the user's own: with their model, loss, batches and device."""

from __future__ import annotations

import contextlib
import itertools
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from jorge_tune.calibration.bench import TrainingBench
from jorge_tune.calibration.cache import calibrated_section, fingerprint_of, machine_facts, today
from jorge_tune.calibration.calibrate_recipe import RecipeCalibration, calibratable, check_overhead
from jorge_tune.calibration.input_shapes import OWN_BATCHES
from jorge_tune.calibration.measure import DEFAULT_EFFORT, Effort, Report
from jorge_tune.calibration.measure import calibrate as calibrate_bench
from jorge_tune.calibration.timings import Profile
from jorge_tune.calibration.workload import Workload
from jorge_tune.errors import InputError
from jorge_tune.recipe.recipe_files import read_recipe
from jorge_tune.recipe.schema import Recipe
from jorge_tune.training.device import is_out_of_memory
from jorge_tune.training.python_task import check_has_parameters, first_length, moved
from jorge_tune.training.random_stream import RandomStream

Batch = Any


def calibrate(
    recipe: str | Path | Recipe,
    model: nn.Module,
    loss: Callable[[nn.Module, Batch], Tensor],
    *batches: Batch,
    overhead: float = 0.1,
    effort: Effort = DEFAULT_EFFORT,
    report: Report = lambda progress: None,
) -> RecipeCalibration:
    """Measure, on your own model in your own process, how often its preconditioners may be refreshed.

    It is the instrument and the decision of `jorge-tune calibrate-freq`: iterations with torch's baseline and with the
    recipe's optimizer, in turn, and the smallest interval whose mean step keeps the budget. Your process's settings
    (threads, TF32, what your loss autocasts) count as they are. Weights, buffers, gradients, modes and random states
    are afterwards what they were before. The cache of measurements is neither read nor written.

    Args:
        recipe: The recipe or its file; it needs no task. One of SGD or AdamW is bootstrapped first.
        model: On the device where you train it; of a DistributedDataParallel its `module`.
        loss: The scalar loss of a batch: called as `loss(model, batch)`.
        batches: One batch or several, as your loop has them; several differ, as in training. They are moved to the
            model's device.
        overhead: The budget as a fraction of the baseline's iteration, greater than 0.
        effort: How long to measure.
        report: Called with the progress.

    Returns:
        `choice.outcome` is "interval", "infeasible" or "unstable"; `choice.interval` is the number, `choice.reason` the
        sentence.

    Example:
        >>> found = calibrate("jorge.yaml", model, lambda m, b: cross_entropy(m(b[0]), b[1]), batch)  # doctest: +SKIP
        >>> found.choice.interval  # doctest: +SKIP
        12

    Raises:
        InputError: the recipe has no interval to calibrate, the loss is no finite scalar, or memory runs out.
    """
    check_overhead(overhead)
    wanted = calibratable(recipe if isinstance(recipe, Recipe) else read_recipe(recipe))
    calibrated_section(wanted)  # refuses an optimizer without an interval
    if not batches:
        raise InputError("batches: give at least one batch after the loss")
    if isinstance(model, nn.parallel.DistributedDataParallel):
        raise InputError("model: a step that waits for other processes cannot be timed alone; give its `module`")
    check_has_parameters(model, "model")
    device = next(model.parameters()).device
    here = [moved(batch, device) for batch in batches]
    wanted = replace(wanted, batch_size=first_length(here[0]) or wanted.batch_size)

    with untouched(model, device, wanted.seed):
        workload = Workload(model.train(), itertools.cycle(here), lambda batch: _scalar(loss(model, batch)))
        bench = TrainingBench(wanted, workload, device)
        try:
            bench.start()
            measured = calibrate_bench(bench, overhead, effort=effort, report=report)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            message = str(error).partition("\n")[0]
            raise InputError(
                f"batches: one does not fit next to both optimizers; give smaller ones ({message})"
            ) from error
        profile = Profile(measured.parts, bench.memory, bench.device, f"{OWN_BATCHES} of the caller")

    place = "cpu" if device.type == "cpu" else f"{device.type}:{device.index or 0}"
    facts = machine_facts(wanted, place, threads=torch.get_num_threads())
    facts = json.loads(json.dumps({**facts, "data": "given", "model": type(model).__name__}, default=str))
    return RecipeCalibration(
        recipe=wanted,
        overhead=overhead,
        choice=measured.choice,
        measurements=measured.measurements,
        profile=profile,
        fingerprint=fingerprint_of(facts),
        facts=facts,
        measured_on=today(),
        from_cache=False,
        training_steps=wanted.steps,
    )


@contextlib.contextmanager
def untouched(model: nn.Module, device: torch.device, seed: int) -> Iterator[None]:
    """Whatever runs the model inside: weights, buffers, gradients, modes and random states are put back afterwards.

    A step at rate 0 leaves weights alone, but for a gradient that is not finite; so they are copied to the host.
    """
    tensors = [*model.parameters(), *model.buffers()]
    kept = [(tensor, tensor.detach().to("cpu", copy=True)) for tensor in tensors]
    gradients = [(param, param.grad) for param in model.parameters()]
    modes = [(module, module.training) for module in model.modules()]
    devices = [device] if device.type == "cuda" else []
    for param, _ in gradients:
        param.grad = None
    try:
        with torch.random.fork_rng(devices=devices), RandomStream(seed), torch.enable_grad():
            yield
    finally:
        with torch.no_grad():
            for tensor, copy in kept:
                tensor.copy_(copy)
        for param, gradient in gradients:
            param.grad = gradient
        for module, mode in modes:
            module.training = mode


def _scalar(loss: object) -> Tensor:
    if isinstance(loss, Tensor) and loss.ndim == 0 and loss.requires_grad:
        return loss
    got = f"a tensor of shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else type(loss).__name__
    if isinstance(loss, Tensor) and loss.ndim == 0:
        got = "one that does not depend on the model's parameters"
    raise InputError(f"loss: must return a scalar tensor to go backward from, got {got}")
