"""The bench: training iterations of a recipe on a device, with torch's baseline and with our optimizer, timed.

Both optimizers work on one model, with learning rate 0: the arithmetic is that of training, but the weights stay where
they are, so that both meet the same gradients. The batches differ, because Jorge's preconditioners would grow without
bound under one gradient repeated for ever. For the same reason they are set back to an early state now and then, while
the clock does not run.
"""

from __future__ import annotations

import contextlib
import gc
import math
import resource
import sys
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from jorge_tune.calibration.cache import Calibratable, calibrated_section
from jorge_tune.calibration.input_shapes import needs_own_batches
from jorge_tune.calibration.timings import Iteration, Kind, Memory
from jorge_tune.calibration.workload import Workload, open_workload
from jorge_tune.errors import InputError
from jorge_tune.optim import Jorge, param_groups
from jorge_tune.recipe.schema import Recipe
from jorge_tune.training.build import build_optimizer
from jorge_tune.training.device import (
    Clock,
    LapTimer,
    autocast,
    backends_for,
    device_name,
    grad_scaler,
    is_out_of_memory,
    synchronize,
)

Result = TypeVar("Result")

_NEVER = 10**9  # a refresh interval, or a number of warm refreshes, that no measurement gets through
_MOST_REFRESHES = 40  # of one optimizer before its preconditioners are set back
_FIRST_STEPS = 3
_LAPS = 4  # data, forward, backward, optimizer
_REFINEMENTS = 3  # halvings of the gap between the largest batch that fits and the smallest that does not


def on_bench(
    recipe: Recipe, device: torch.device, work: Callable[[TrainingBench], Result], *, real_data: bool = False
) -> Result:
    """Open a bench for the recipe and give it to `work`. If memory runs out, name a batch that fits.

    Raises:
        InputError: the batch does not fit, or as `open_bench`.
    """
    try:
        return _work_on_bench(recipe, device, work, real_data)
    except (torch.OutOfMemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        message = str(error).splitlines()[0]

    # Only here, once the error and its frames are gone, is the memory of the bench free again.
    does_not_fit = f"batch_size: {recipe.batch_size} with {recipe.optimizer.name} does not fit on {device_name(device)}"
    if needs_own_batches(recipe):  # whether a smaller size makes smaller batches, only the user's code knows
        raise InputError(f"{does_not_fit}: let the factory make smaller batches, or try a smaller model ({message})")
    largest = largest_that_fits(recipe.batch_size, lambda size: fits(replace(recipe, batch_size=size), device))
    way_out = f"about {largest} does" if largest else "not even one image does; try a smaller model or block_size"
    raise InputError(f"{does_not_fit}: {way_out} ({message})")


def _work_on_bench(
    recipe: Recipe, device: torch.device, work: Callable[[TrainingBench], Result], real_data: bool
) -> Result:
    with open_bench(recipe, device, real_data=real_data) as bench:
        return work(bench)


@contextmanager
def open_bench(
    recipe: Recipe, device: torch.device, *, real_data: bool = False, clock: Clock = time.perf_counter
) -> Generator[TrainingBench, None, None]:
    """A bench with a random state and a precision of its own; the loader ends with the context.

    Args:
        recipe: A recipe with a refresh interval.
        device: Where to measure.
        real_data: Take batches from the recipe's loader, and count its time; else use batches on the device.
        clock: Reads seconds.

    Raises:
        InputError: the recipe cannot be built, its model does not accept its input, or its loss is not finite.
    """
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices), backends_for(recipe.precision), contextlib.ExitStack() as stack:
        torch.manual_seed(recipe.seed)
        workload = stack.enter_context(open_workload(recipe, device, real_data=real_data))
        bench = TrainingBench(recipe, workload, device, clock)
        bench.start()
        yield bench


class TrainingBench:
    """One model with torch's baseline and our optimizer; what its members do, `measure.Bench` says."""

    def __init__(
        self,
        recipe: Recipe,
        workload: Workload,
        device: torch.device,
        clock: Clock = time.perf_counter,
    ) -> None:
        self._recipe, self._device = recipe, device
        self._model, self._batches, self._loss_of = workload.model, workload.batches, workload.loss_of
        self.scheduling = workload.read_scheduling
        """Seconds that the process has run, and has waited for a core, so far."""
        self._section = calibrated_section(recipe)
        self._laps = LapTimer(device, clock)
        self._contestants: dict[str, _Contestant] = {}
        self._interval = 1  # of the contestant `scheduled`
        self.memory: dict[str, Memory] = {}
        """The memory of `baseline` and of ours (`optimizer`), each without the other's state."""

    def start(self) -> None:
        """Run the first steps of both optimizers, which creates their state.

        Raises:
            InputError: the loss is not finite.
        """
        baseline = self._enter("baseline", baseline_optimizer(self._section, self._model))
        self.memory["baseline"] = Memory(baseline.state_bytes(), _peak_bytes(self._device))

        # The bench itself decides when ours refreshes, by its number of warm refreshes (`_of_kind`).
        optimizer = build_optimizer(replace(self._section, refresh_interval=1), self._model)
        for group in optimizer.param_groups:
            group.update(refresh_interval=_NEVER, warm_refreshes=_NEVER, stagger=False)
        ours = self._enter("ours", optimizer)
        peak = _peak_bytes(self._device) - baseline.state_bytes()
        self.memory["optimizer"] = Memory(ours.state_bytes(), peak)

    @property
    def device(self) -> str:
        """The name of the device."""
        return device_name(self._device)

    @property
    def period(self) -> int:
        """Steps between two updates of the statistics if they have an interval of their own, else 1."""
        return getattr(self._section, "statistics_interval", None) or 1

    @property
    def pools(self) -> bool:
        """Whether rests are pooled: on the processor, where the laps do not overlap."""
        return self._device.type == "cpu"

    @property
    def interval(self) -> int:
        """The recipe's refresh interval; the optimizer's default if it is not set."""
        own = build_optimizer(self._section, self._model).param_groups[0]["refresh_interval"]
        assert isinstance(own, int)
        return own

    def burst(self, kind: Kind, count: int) -> list[Iteration]:
        """Run `count` iterations back to back and read their times; set aged preconditioners back before."""
        contestant, refreshes_per_step = self._of_kind(kind)
        if contestant.refreshes > _MOST_REFRESHES:
            contestant.set_preconditioners_back()
        contestant.refreshes += refreshes_per_step * count

        synchronize(self._device)
        self._laps.mark()
        for _ in range(count):
            self._iterate(contestant)
        laps = self._laps.read()
        return [Iteration(*laps[start : start + _LAPS]) for start in range(0, len(laps), _LAPS)]

    def schedule(self, interval: int) -> None:
        """Make a new optimizer of kind `scheduled`; that of `plain` and `refreshing` ends and leaves it its memory."""
        for name in ("ours", "scheduled"):
            self._contestants.pop(name, None)

        optimizer = build_optimizer(replace(self._section, refresh_interval=interval), self._model)
        for group in optimizer.param_groups:
            group["warm_refreshes"] = 0
        self._enter("scheduled", optimizer)
        self._interval = interval

    def _of_kind(self, kind: Kind) -> tuple[_Contestant, float]:
        """The contestant, set to do what the kind says, and its number of refreshes per step."""
        if kind == "baseline":
            return self._contestants["baseline"], 0.0
        if kind == "scheduled":
            return self._contestants["scheduled"], 1 / self._interval

        ours, refreshing = self._contestants["ours"], kind == "refreshing"
        for group in ours.optimizer.param_groups:
            group["warm_refreshes"] = _NEVER if refreshing else 0
        return ours, float(refreshing)

    def _enter(self, name: str, optimizer: Optimizer) -> _Contestant:
        """Add a contestant and run its first steps.

        Raises:
            InputError: the loss is not finite.
        """
        for group in optimizer.param_groups:
            group["lr"] = 0.0
        contestant = _Contestant(optimizer, grad_scaler(self._recipe.precision, self._device))
        self._contestants[name] = contestant

        if self._device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self._device)
        for _ in range(_FIRST_STEPS):
            loss = float(self._iterate(contestant))
            if not math.isfinite(loss):
                raise InputError(
                    f"task.model: the loss is {loss} on these batches, so there is nothing to measure; "
                    "try real batches (--real-data)"
                )
        self._laps.read()

        if isinstance(optimizer, Jorge):
            contestant.save_preconditioners()
        return contestant

    def _iterate(self, contestant: _Contestant) -> Tensor:
        """One iteration, done as training does it, in four laps."""
        batch = next(self._batches)
        self._laps.mark()
        with autocast(self._recipe.precision, self._device):
            loss = self._loss_of(batch)
        self._laps.mark()
        contestant.optimizer.zero_grad(set_to_none=True)
        contestant.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        self._laps.mark()
        contestant.scaler.step(contestant.optimizer)
        contestant.scaler.update()
        self._laps.mark()
        return loss.detach()


@dataclass
class _Contestant:
    """An optimizer with its gradient scaler.

    Attributes:
        refreshes: Refreshes since the preconditioners were last set back.
        saved: Each preconditioner with a copy of its early state, which lies on the host.
    """

    optimizer: Optimizer
    scaler: torch.amp.GradScaler
    refreshes: float = 0.0
    saved: list[tuple[Tensor, Tensor]] = field(default_factory=list)

    def save_preconditioners(self) -> None:
        """Remember the preconditioners as they are now."""
        for state in self.optimizer.state.values():
            sides = [tensor for key, tensor in state.items() if key.startswith(("left.", "right."))]
            self.saved += [(tensor, tensor.detach().to("cpu", copy=True)) for tensor in sides]

    def set_preconditioners_back(self) -> None:
        """Set the preconditioners back to the state that was saved."""
        for tensor, copy in self.saved:
            tensor.copy_(copy)
        self.refreshes = 0.0

    def state_bytes(self) -> int:
        """The bytes of the optimizer's own tensors."""
        tensors = (value for state in self.optimizer.state.values() for value in state.values())
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors if isinstance(tensor, Tensor))


def baseline_optimizer(section: Calibratable, model: nn.Module) -> Optimizer:
    """Torch's own optimizer that ours is grafted from, in its foreach form; SGD if nothing is grafted."""
    groups = param_groups(
        model, lr=section.lr, weight_decay=section.weight_decay, no_decay=section.no_decay, groups=section.groups
    )
    for group in groups:
        del group["precondition"]  # torch's optimizers do not know it

    if section.graft == "adamw":
        return torch.optim.AdamW(groups, betas=section.graft_betas, eps=section.graft_eps, foreach=True)
    return torch.optim.SGD(
        groups,
        lr=section.lr,
        momentum=section.momentum,
        dampening=section.dampening,
        nesterov=section.nesterov,
        foreach=True,
    )


def fits(recipe: Recipe, device: torch.device) -> bool:
    """Whether the recipe's first iterations, which refresh everything, fit into memory."""
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
    """A batch size below `batch_size` near the largest that fits; 0 if not even 1 does.

    The search halves the size until it fits, and then refines.
    """
    low, high = batch_size // 2, batch_size
    while low and not fits(low):
        low, high = low // 2, low
    for _ in range(_REFINEMENTS if low else 0):
        middle = (low + high) // 2
        if middle == low:
            break
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def _peak_bytes(device: torch.device) -> int:
    """The peak of torch's allocator since its last reset on a GPU, else the peak of the process since its start."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _give_back(device: torch.device) -> None:
    """Return unused memory to the device."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
