"""The best length of a step along the optimizer's own direction, measured during a recipe's training.

A probe walks the training beside the run (`training.snapshot`), and at the steps that it was asked for it evaluates
the loss along the step. It changes neither the run nor its directory.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from jorge_tune.errors import InputError
from jorge_tune.optim.gen_line import ProbeState, StepLine
from jorge_tune.probe.probe_result import LineReading, ProbeResult, StepReading, read_line
from jorge_tune.recipe.checks import base_schedule
from jorge_tune.recipe.schedule import lr_factor, warmup_steps
from jorge_tune.recipe.schema import Recipe
from jorge_tune.records import Record, of_kind
from jorge_tune.runs.run_journal import ProgressCallback
from jorge_tune.runs.stop_request import StopRequest
from jorge_tune.training.device import autocast
from jorge_tune.training.gen_stepper import BatchLoss, Stepper
from jorge_tune.training.loader import Batch
from jorge_tune.training.snapshot import Snapshot, open_snapshot

DEFAULT_STEPS = (0, 100, 1000)
"""The steps that a probe reads if none are named, counted from where it starts."""
_CURVE_POINTS = 200  # of the schedule, for drawing

ReadStep = Callable[[int, float, BatchLoss, StepLine, ProbeState, bool], None]


@dataclass(frozen=True, kw_only=True)
class ProbeSettings:
    """How to probe.

    Attributes:
        at: Which steps to read, each named by the number of steps before it, counted from the training's start. None
            reads `DEFAULT_STEPS`, counted from where the probe starts.
        points: The number of points on the line, 3 or 5.
        batches: The number of fresh batches, at least 1.
        device: "auto", "cpu", "cuda", "cuda:1", ...
        download: Fetch a data set of torchvision if it is not there.
    """

    at: tuple[int, ...] | None = None
    points: int = 5
    batches: int = 8
    device: str = "auto"
    download: bool = False


DEFAULT_SETTINGS: Final = ProbeSettings()


def probe(
    recipe: Recipe,
    settings: ProbeSettings = DEFAULT_SETTINGS,
    *,
    checkpoint: Path | None = None,
    progress: ProgressCallback | None = None,
    stop: StopRequest | None = None,
) -> ProbeResult:
    """Walk a recipe's training, and read the loss along the steps that it makes.

    The readings disturb nothing: the walk's steps are bitwise those of the run itself.

    Args:
        recipe: What to train.
        settings: Which steps to read, and how.
        checkpoint: A run directory of this recipe to start from, which is only read. None starts at the recipe's start.
        progress: Called at the start and after each step.
        stop: May ask the walk to stop. In the main thread, Ctrl-C and SIGTERM do so as well.

    Raises:
        InputError: the recipe, its data, the device, the directory or the steps cannot be used.
        TrainingError: the training broke off.
    """
    if settings.points not in (3, 5):
        raise InputError(f"points must be 3 or 5, got {settings.points!r}")
    if settings.batches < 1:
        raise InputError(f"batches must be 1 or more, got {settings.batches!r}")

    stop = stop or StopRequest()
    with open_snapshot(recipe, run=checkpoint, device=settings.device, download=settings.download) as snapshot:
        asked, notes = _steps_to_read(settings.at, snapshot)
        fresh = _fresh_batches(snapshot, settings.batches)
        if len(fresh) < settings.batches:
            notes.append(f"{settings.batches} fresh batches were asked for, but an epoch has only {len(fresh)}")

        reader = _Reader(snapshot, settings.points, fresh)
        ending, records = snapshot.walk(
            asked[-1] + 1, lambda inner: Prober(inner, asked, snapshot.step, reader.read), progress=progress, stop=stop
        )

        # The walk always ends with a stop after its last step. Unless somebody asked for it, the probe has finished.
        done = ending.outcome == "interrupted" and stop.reason is None
        return ProbeResult(
            recipe=recipe.name,
            optimizer=recipe.optimizer.name,
            seed=recipe.seed,
            device=str(snapshot.device),
            points=settings.points,
            outcome="finished" if done else ending.outcome,
            reason="" if done else ending.reason.split(";")[0],  # the rest is about checkpoints
            readings=tuple(reader.readings),
            schedule=_schedule(snapshot),
            walked=_walked(records),
            notes=tuple(notes),
        )


class Prober:
    """A stepper that takes the steps of another one, unchanged, and calls `read` at the steps that were asked for.

    Args:
        inner: An optimizer, or a stepper that takes its steps.
        asked: Which steps to read, each named by the number of steps before it.
        done: The number of steps that lie behind.
        read: Gets the step's number, the first group's rate, the loss closure, the line along the step, the state that
            evaluations change, and whether the step moved anything.
    """

    def __init__(self, inner: torch.optim.Optimizer | Stepper, asked: Sequence[int], done: int, read: ReadStep) -> None:
        self._inner, self._asked, self._done, self._read = inner, frozenset(asked), done, read

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """The optimizer's groups."""
        return self._inner.param_groups

    @property
    def rates(self) -> list[float]:
        """The learning rates in force, by group."""
        if isinstance(self._inner, torch.optim.Optimizer):
            return [float(group["lr"]) for group in self.param_groups]
        return self._inner.rates

    def step(self, loss_closure: BatchLoss, loss: Tensor) -> None:
        """Take one step, and read along it if it was asked for."""
        here = self._done
        self._done += 1
        if here not in self._asked:
            self._step(loss_closure, loss)
            return

        params = [p for group in self.param_groups for p in group["params"]]
        line = StepLine(params)
        self._step(loss_closure, loss)
        moved = line.stepped()
        with torch.no_grad(), line, ProbeState(p.device for p in params) as around:
            self._read(here, self.rates[0], loss_closure, line, around, moved)

    def state_dict(self) -> dict[str, Any]:
        """The state of the wrapped optimizer or stepper."""
        return self._inner.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load the state of the wrapped optimizer or stepper."""
        self._inner.load_state_dict(state_dict)

    def _step(self, loss_closure: BatchLoss, loss: Tensor) -> None:
        if isinstance(self._inner, torch.optim.Optimizer):
            self._inner.step()
        else:
            self._inner.step(loss_closure, loss)


@dataclass
class _Reader:
    """Reads the losses along a step, on the step's own batch and on fresh batches."""

    snapshot: Snapshot
    points: int
    fresh: list[Batch]
    readings: list[StepReading] = field(default_factory=list)

    def read(self, step: int, lr: float, loss: BatchLoss, line: StepLine, around: ProbeState, moved: bool) -> None:
        """Add a reading, or the reason why there is none."""
        warmup = base_schedule(self.snapshot.recipe).warmup
        length = 0.0 if warmup is None else warmup_steps(warmup, len(self.snapshot.task.train))
        warming = step < length
        if not moved:
            missing = "lr is 0, so there is no step" if lr == 0 else "the step moved nothing"
            self.readings.append(StepReading(step, lr, warming, missing=missing))
            return

        own = self._line([loss.batch], line, around)
        fresh = self._line(self.fresh, line, around)
        self.readings.append(StepReading(step, lr, warming, own, fresh))

    def _line(self, batches: list[Batch], line: StepLine, around: ProbeState) -> LineReading:
        """The losses of all samples at each point of the line; every evaluation starts from the same state."""
        half = self.points // 2
        multipliers = range(-half, half + 1)
        points = []
        for x in multipliers:
            line.go_to(x)
            losses = []
            for batch in batches:
                losses.append(_sample_losses(self.snapshot, batch))
                around.renew()
            points.append(losses)
        return read_line([float(x) for x in multipliers], _rows_alike(points), batches=len(batches))


def _rows_alike(points: list[list[Tensor]]) -> Tensor:
    """The losses as a table: of samples, or of whole batches if some batch could not be divided at some point.

    Shape:
        points: for each point, for each batch, (samples,) or (1,) -> (samples or batches, points).
    """
    counts = [{len(losses) for losses in of_batch} for of_batch in zip(*points, strict=True)]
    if any(len(count) > 1 for count in counts) or {1} in counts:
        points = [[losses.mean()[None] for losses in of_point] for of_point in points]
    return torch.stack([torch.cat(of_point) for of_point in points], dim=1)


def _sample_losses(snapshot: Snapshot, batch: Batch) -> Tensor:
    """The training loss of each sample, in float64 on the CPU; the batch is forwarded as a whole."""
    with autocast(snapshot.recipe.precision, snapshot.device):
        losses = snapshot.task.sample_losses(snapshot.model, batch)
    return losses.float().cpu().double()


def _steps_to_read(at: tuple[int, ...] | None, snapshot: Snapshot) -> tuple[list[int], list[str]]:
    """The steps to read, in order. Steps that the training does not have ahead are left out, with a note.

    Raises:
        InputError: no step is left.
    """
    start, total = snapshot.step, snapshot.total_steps
    wanted = sorted(set(at if at is not None else (start + step for step in DEFAULT_STEPS)))
    kept = [step for step in wanted if start <= step < total]
    if not kept:
        raise InputError(f"at must name steps from {start} to {total - 1}, the last one, got {wanted}")

    notes = []
    beyond = ", ".join(str(step) for step in wanted if step >= total)
    behind = ", ".join(str(step) for step in wanted if step < start)
    if beyond:
        notes.append(f"left out: step {beyond}; the last step of the training is {total - 1}")
    if behind:
        notes.append(f"left out: step {behind}; the checkpoint stands at step {start}")
    return kept, notes


def _fresh_batches(snapshot: Snapshot, count: int) -> list[Batch]:
    """Training batches in an order and with an augmentation that the training never uses; full ones if possible."""
    train = snapshot.task.train
    unused_epoch = -(-snapshot.total_steps // len(train)) + 1
    full: list[Batch] = []
    rest: list[Batch] = []
    with contextlib.closing(train.epoch(unused_epoch)) as batches:
        for batch in batches:
            (full if train.is_full(batch) else rest).append(batch)
            if len(full) == count:
                break
    return full or rest


def _schedule(snapshot: Snapshot) -> tuple[tuple[int, float], ...]:
    """The recipe's learning rate at steps spread over the whole training."""
    factor, lr = lr_factor(snapshot.recipe, len(snapshot.task.train)), snapshot.recipe.optimizer.lr
    last = snapshot.total_steps - 1
    steps = sorted({round(index * last / (_CURVE_POINTS - 1)) for index in range(_CURVE_POINTS)})
    return tuple((step, lr * factor(step)) for step in steps)


def _walked(records: list[Record]) -> tuple[tuple[int, float], ...]:
    """The rate of each step that the walk made."""
    return tuple((record["step"] - 1, record["lr"][0]) for record in of_kind(records, "rate"))
