"""A recipe's iteration on a device, with torch's baseline and our optimizer over one model, read by a device clock.

Learning rates are zero, so that the arithmetic is that of training while the weights stay where they are, and all
optimizers meet the same gradients. Batches differ, because one gradient repeated for ever would send Jorge's
preconditioners where no training takes them (they grow without bound where it has no part); besides, they are put back
to an early state now and then, off the clock.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import resource
import sys
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import Optimizer

from jorge_tune.errors import InputError
from jorge_tune.hardware import Scheduling, scheduling
from jorge_tune.measure.batches import loader_batches, synthetic_batches
from jorge_tune.measure.fingerprint import Calibratable, calibrated_section
from jorge_tune.measure.inputs import input_shape, trainable_data
from jorge_tune.measure.timings import Iteration, Kind, Memory
from jorge_tune.optim import Jorge, param_groups
from jorge_tune.recipe.schema import Recipe
from jorge_tune.training.build import build_model, build_optimizer
from jorge_tune.training.environment import device_name
from jorge_tune.training.loader import Batch
from jorge_tune.training.precision import autocast, backends_for, grad_scaler
from jorge_tune.training.tasks import open_task
from jorge_tune.training.timing import Clock, LapTimer, synchronize

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
) -> Generator[Workbench, None, None]:
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
        bench = Workbench(recipe, model, batches, device, clock, waits)
        bench.start()
        yield bench


class Workbench:
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
