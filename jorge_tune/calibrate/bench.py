"""A recipe's iteration on a device, with torch's baseline and our optimizer over one model, read by a device clock.

Learning rates are zero, so that the arithmetic is that of training while the weights stay where they are, and all
optimizers meet the same gradients. Batches differ, because one gradient repeated for ever would send Jorge's
preconditioners where no training takes them (they grow without bound where it has no part); besides, they are put back
to an early state now and then, off the clock.
"""

from __future__ import annotations

import contextlib
import gc
import itertools
import math
import resource
import sys
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import Optimizer

from jorge_tune.calibrate.cache import Calibratable, calibrated_section
from jorge_tune.calibrate.input_shapes import InputShape, input_shape, trainable_data
from jorge_tune.calibrate.timings import Iteration, Kind, Memory
from jorge_tune.errors import InputError
from jorge_tune.hardware import Scheduling, scheduling
from jorge_tune.optim import Jorge, param_groups
from jorge_tune.recipe.schema import Recipe
from jorge_tune.training.build import build_model, build_optimizer
from jorge_tune.training.device import Clock, LapTimer, autocast, backends_for, device_name, grad_scaler, synchronize
from jorge_tune.training.loader import Batch
from jorge_tune.training.tasks import Task, open_task

_NEVER = 10**9  # an interval, or a number of warm refreshes, that no measurement reaches the end of
_MOST_REFRESHES = 40  # of one optimizer before its preconditioners are put back
_FIRST_STEPS = 3
_LAPS = 4  # data, forward, backward, optimizer


@dataclass
class _Contestant:
    """An optimizer with its gradient scaler, and how often it was refreshed since its preconditioners were put back."""

    optimizer: Optimizer
    scaler: torch.amp.GradScaler
    refreshes: float = 0.0
    kept: list[tuple[Tensor, Tensor]] = field(default_factory=list)  # a preconditioner, its early copy on the host

    def keep(self) -> None:
        """Remember the preconditioners as they are."""
        for state in self.optimizer.state.values():
            sides = [tensor for key, tensor in state.items() if key.startswith(("left.", "right."))]
            self.kept += [(tensor, tensor.detach().to("cpu", copy=True)) for tensor in sides]

    def renew(self) -> None:
        """Put them back."""
        for tensor, copy in self.kept:
            tensor.copy_(copy)
        self.refreshes = 0.0

    def state_bytes(self) -> int:
        """Bytes of the optimizer's own tensors."""
        tensors = (value for state in self.optimizer.state.values() for value in state.values())
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors if isinstance(tensor, Tensor))


@contextmanager
def open_bench(
    recipe: Recipe, device: torch.device, *, real_data: bool = False, clock: Clock = time.perf_counter
) -> Generator[TrainingBench, None, None]:
    """A workbench whose random state and precision are its own and whose loader ends with it.

    Raises:
        InputError: the recipe cannot be built here, its model does not take its input, or its loss is not finite.
    """
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices), backends_for(recipe.precision), contextlib.ExitStack() as stack:
        torch.manual_seed(recipe.seed)
        model = build_model(recipe).to(device).train()
        batches: Iterator[Batch]
        waits = scheduling
        if real_data:
            task = open_task(recipe, device)
            stack.callback(task.close)
            task.check_model(model)
            batches = loader_batches(task)
            if trainable_data(recipe).workers:  # they are meant to compete for the cores
                waits = _unknown
        else:
            batches = itertools.cycle(synthetic_batches(model, input_shape(recipe), recipe.batch_size, device))
        bench = TrainingBench(recipe, model, batches, device, clock, waits)
        bench.start()
        yield bench


class TrainingBench:
    """One model, torch's baseline and our optimizer; see `calibrate.Bench`."""

    def __init__(
        self,
        recipe: Recipe,
        model: nn.Module,
        batches: Iterator[Batch],
        device: torch.device,
        clock: Clock = time.perf_counter,
        waits: Callable[[], Scheduling | None] = scheduling,
    ) -> None:
        self._recipe, self._model, self._batches, self._device = recipe, model, batches, device
        self.scheduling = waits
        """What the process has run and waited for a core so far."""
        self._section = calibrated_section(recipe)
        self._laps = LapTimer(device, clock)
        self._contestants: dict[str, _Contestant] = {}
        self._interval = 1  # of the contestant `scheduled`
        self.memory: dict[str, Memory] = {}
        """Of the baseline and of ours (`optimizer`), each without the other's state."""

    def start(self) -> None:
        """Run the first steps of the baseline and of ours, which makes their state.

        Raises:
            InputError: the loss is not finite.
        """
        baseline = self._enter("baseline", baseline_optimizer(self._section, self._model))
        self.memory["baseline"] = Memory(baseline.state_bytes(), _peak_bytes(self._device))
        optimizer = build_optimizer(replace(self._section, refresh_interval=1), self._model)
        for group in optimizer.param_groups:
            group.update(refresh_interval=_NEVER, warm_refreshes=_NEVER, stagger=False)
        ours = self._enter("ours", optimizer)
        peak = _peak_bytes(self._device) - baseline.state_bytes()
        self.memory["optimizer"] = Memory(ours.state_bytes(), peak)

    @property
    def device(self) -> str:
        """The device's own name."""
        return device_name(self._device)

    @property
    def period(self) -> int:
        """Steps between two updates of the statistics, where they have a timetable of their own."""
        return getattr(self._section, "statistics_interval", None) or 1

    @property
    def pools(self) -> bool:
        """See `calibrate.Bench`."""
        return self._device.type == "cpu"

    @property
    def interval(self) -> int:
        """The recipe's own refresh interval, the optimizer's default where it is unset."""
        own = build_optimizer(self._section, self._model).param_groups[0]["refresh_interval"]
        assert isinstance(own, int)
        return own

    def burst(self, kind: Kind, count: int) -> list[Iteration]:
        """Run `count` iterations back to back and read their times; preconditioners that aged are put back before."""
        contestant, refreshes = self._of_kind(kind)
        if contestant.refreshes > _MOST_REFRESHES:
            contestant.renew()
        contestant.refreshes += refreshes * count
        synchronize(self._device)
        self._laps.mark()
        for _ in range(count):
            self._iterate(contestant)
        laps = self._laps.read()
        return [Iteration(*laps[start : start + _LAPS]) for start in range(0, len(laps), _LAPS)]

    def schedule(self, interval: int) -> None:
        """Make the optimizer of kind `scheduled` anew; `plain` and `refreshing` end, which leaves it their memory."""
        for name in ("ours", "scheduled"):
            self._contestants.pop(name, None)
        optimizer = build_optimizer(replace(self._section, refresh_interval=interval), self._model)
        for group in optimizer.param_groups:
            group["warm_refreshes"] = 0
        self._enter("scheduled", optimizer)
        self._interval = interval

    def _of_kind(self, kind: Kind) -> tuple[_Contestant, float]:
        """The contestant, set to do what the kind says, and its refreshes per step."""
        if kind == "baseline":
            return self._contestants["baseline"], 0.0
        if kind == "scheduled":
            return self._contestants["scheduled"], 1 / self._interval
        ours, refreshing = self._contestants["ours"], kind == "refreshing"
        for group in ours.optimizer.param_groups:
            group["warm_refreshes"] = _NEVER if refreshing else 0
        return ours, float(refreshing)

    def _enter(self, name: str, optimizer: Optimizer) -> _Contestant:
        """A contestant after its first steps."""
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
                    f"task.model: its loss is {loss} on these batches, so there is nothing to measure; "
                    "real batches (--real-data) may do better"
                )
        self._laps.read()
        if isinstance(optimizer, Jorge):
            contestant.keep()
        return contestant

    def _iterate(self, contestant: _Contestant) -> Tensor:
        """One iteration as training does it, four laps."""
        images, labels = next(self._batches)
        self._laps.mark()
        with autocast(self._recipe.precision, self._device):
            loss = functional.cross_entropy(self._model(images), labels)
        self._laps.mark()
        contestant.optimizer.zero_grad(set_to_none=True)
        contestant.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        self._laps.mark()
        contestant.scaler.step(contestant.optimizer)
        contestant.scaler.update()
        self._laps.mark()
        return loss.detach()


def baseline_optimizer(section: Calibratable, model: nn.Module) -> Optimizer:
    """Torch's own foreach form of the grafted optimizer (of SGD, where nothing is grafted)."""
    groups = param_groups(
        model, lr=section.lr, weight_decay=section.weight_decay, no_decay=section.no_decay, groups=section.groups
    )
    for group in groups:
        del group["precondition"]
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


def _unknown() -> None:
    """Where waiting for a core says nothing."""


def _peak_bytes(device: torch.device) -> int:
    """Of torch's allocator since the last reset on a GPU; of the process since its start elsewhere."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


_OUT_OF_MEMORY = (
    "can't allocate memory",
    "not enough memory",
    "out of memory",
    "ALLOC_FAILED",
)  # of host and libraries
_POOL_BYTES, _LARGEST_POOL = 2**28, 8


def synthetic_batches(model: nn.Module, shape: InputShape, batch_size: int, device: torch.device) -> list[Batch]:
    """Batches of normal noise and random labels, different from each other, on the device and laid out as a loader's.

    Raises:
        InputError: the model does not take such images, or gives no class scores.
    """
    classes = _class_count(model, shape, device)
    size = batch_size * shape.channels * shape.height * shape.width * 4
    number = min(max(_POOL_BYTES // size, 2), _LARGEST_POOL)
    layout = torch.channels_last if device.type == "cpu" else torch.preserve_format
    batches = []
    for _ in range(number):
        images = torch.randn(batch_size, shape.channels, shape.height, shape.width, device=device)
        labels = torch.randint(classes, (batch_size,), device=device)
        batches.append((images.contiguous(memory_format=layout), labels))
    return batches


def loader_batches(task: Task) -> Iterator[Batch]:
    """The task's training batches, epoch after epoch; a smaller last one is left out."""
    full: int | None = None
    epoch = 0
    while True:
        for batch in task.train.epoch(epoch):
            full = full or len(batch[1])
            if len(batch[1]) == full:
                yield batch
        epoch += 1


def is_out_of_memory(error: Exception) -> bool:
    """Whether an error of torch says that memory ran out, the device's or the host's."""
    return isinstance(error, torch.OutOfMemoryError) or any(words in str(error) for words in _OUT_OF_MEMORY)


def _class_count(model: nn.Module, shape: InputShape, device: torch.device) -> int:
    """Scores per image, by running two images in evaluation mode."""
    model.eval()
    try:
        with torch.no_grad():
            outputs = model(torch.randn(2, shape.channels, shape.height, shape.width, device=device))
    except (RuntimeError, ValueError, TypeError, AssertionError, IndexError) as error:
        if is_out_of_memory(error):
            raise
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        note = f" ({shape.assumed})" if shape.assumed else ""
        raise InputError(f"task.model: its forward fails on images of shape {shape}{note}: {reason}") from error
    finally:
        model.train()
    if not isinstance(outputs, Tensor) or outputs.ndim != 2:
        found = f"shape {tuple(outputs.shape)}" if isinstance(outputs, Tensor) else type(outputs).__name__
        raise InputError(f"task.model: must give one score per class and image, got {found}")
    return outputs.shape[1]


Result = TypeVar("Result")

_REFINEMENTS = 3  # halvings of the gap between the largest that fits and the smallest that does not


def on_bench(
    recipe: Recipe, device: torch.device, work: Callable[[TrainingBench], Result], *, real_data: bool = False
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


def _worked(recipe: Recipe, device: torch.device, work: Callable[[TrainingBench], Result], real_data: bool) -> Result:
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
