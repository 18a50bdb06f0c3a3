"""The training loop: steps, evaluations, checkpoints, and the ways in which a run ends.

The device is asked for values only at log steps, at epoch ends and before checkpoints. Whether a loss was ever not
finite is remembered on the device, with the step. Ctrl-C and SIGTERM are stop requests (`StopRequest`), so that a run
can finish its step and write a checkpoint.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from jorge_tune.errors import RunDirectoryError, first_line
from jorge_tune.optim import KroneckerOptimizer
from jorge_tune.recipe.schema import Precision
from jorge_tune.runs.run_journal import Event, Moment, ProgressCallback, RunJournal, RunProgress
from jorge_tune.runs.run_result import Best, RunEnding, better
from jorge_tune.runs.stop_request import StopRequest
from jorge_tune.training.checkpoint import Checkpoint, Position, check_state
from jorge_tune.training.device import PhaseTimer, Stopwatch, autocast, grad_scaler, step_schedule
from jorge_tune.training.gen_stepper import BatchLoss, RateLog, Stepper
from jorge_tune.training.loader import Batch, TaskBatches
from jorge_tune.training.tasks import Task
from jorge_tune.untrusted import shown


@dataclass(frozen=True)
class LoopPlan:
    """How long a run is and how often it looks up."""

    total_steps: int
    stop_at: int  # <= total_steps
    evaluate_every: int  # epochs
    log_every: int  # steps
    precision: Precision
    is_lower_better: bool = False  # of the task's main metric


class Loop:
    """One run, from where it stands to its end; `run` may be called once. A stepper takes the optimizer's steps."""

    def __init__(
        self,
        task: Task,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        scheduler: LambdaLR,
        plan: LoopPlan,
        device: torch.device,
        journal: RunJournal,
        save: Callable[[Checkpoint], object],
        stop: StopRequest,
        progress: ProgressCallback | None = None,
        stepper: Stepper | None = None,
    ) -> None:
        self._task, self._model, self._plan, self._device = task, model, plan, device
        self._optimizer, self._scheduler, self._stepper = optimizer, scheduler, stepper
        self._journal, self._save, self._stop, self._progress = journal, save, stop, progress
        self._rate_log = None if stepper is None else RateLog(stepper)
        self._scaler = grad_scaler(plan.precision, device)
        self._stopwatch = Stopwatch(device)
        self._position = Position()
        self._best: Best | None = None
        self._saved_step: int | None = None
        self._first_bad = torch.zeros((), dtype=torch.int64, device=device)  # a step; 0: none
        self._last_loss: float | None = None
        self._last_evaluation: tuple[str, dict[str, float]] | None = None
        self._steps_per_epoch = len(task.train)
        self._started = (0, 0.0)  # step and seconds at the start of this stretch

    @property
    def moment(self) -> Moment:
        """Where the run is."""
        step = self._position.step
        return Moment(step, step / self._steps_per_epoch, self._stopwatch.seconds)

    def restore(self, checkpoint: Checkpoint) -> None:
        """Continue from a checkpoint: weights, optimizer, schedule, scaler, random state, position and time.

        Raises:
            RunDirectoryError: it is not of this training.
        """
        try:
            self._check_place(checkpoint)
            self._load(checkpoint)
            check_state(self._optimizer, checkpoint)
        except (MemoryError, torch.OutOfMemoryError):
            raise
        except (AttributeError, IndexError, KeyError, OverflowError, RuntimeError, TypeError, ValueError) as error:
            what = first_line(error).rstrip(":")
            where = checkpoint.source or "the checkpoint"
            raise RunDirectoryError(
                f"{where}: not a checkpoint of this run ({what}); remove it, or choose another --out"
            ) from error
        self._position, self._best = checkpoint.position, checkpoint.best
        self._saved_step = checkpoint.position.step
        self._stopwatch = Stopwatch(self._device, checkpoint.train_seconds)
        self._started = (checkpoint.position.step, checkpoint.train_seconds)

    def _check_place(self, checkpoint: Checkpoint) -> None:
        """Check that this training passes through the checkpoint's position.

        Raises:
            ValueError: it does not.
        """
        at, per_epoch = checkpoint.position, self._steps_per_epoch
        if at.step != at.epoch * per_epoch + at.step_in_epoch or at.step_in_epoch > per_epoch:
            raise ValueError(
                f"its step {at.step} is step {at.step_in_epoch} of epoch {at.epoch}, but an epoch has {per_epoch} "
                "here; were examples added or removed?"
            )
        if at.step > self._plan.total_steps:
            raise ValueError(f"its step {at.step} is beyond the last one, {self._plan.total_steps}")
        for name, mine in (("scheduler", self._scheduler.state_dict()), ("scaler", self._scaler.state_dict())):
            theirs = getattr(checkpoint, name)
            if theirs.keys() != mine.keys():
                raise ValueError(f"its {name} has {', '.join(sorted(theirs)) or 'nothing'}")
            odd = [key for key in mine if not _is_alike(mine[key], theirs[key])]
            if odd:
                raise ValueError(f"its {name}'s {odd[0]} is {shown(theirs[odd[0]])}")
        if not 0 <= checkpoint.scheduler["last_epoch"] <= at.step:
            raise ValueError(f"its scheduler is at step {checkpoint.scheduler['last_epoch']}")

    def _load(self, checkpoint: Checkpoint) -> None:
        self._model.load_state_dict(checkpoint.model)
        (self._stepper or self._optimizer).load_state_dict(checkpoint.optimizer)
        self._scheduler.load_state_dict(checkpoint.scheduler)
        if checkpoint.scaler:
            self._scaler.load_state_dict(checkpoint.scaler)
        torch.set_rng_state(checkpoint.cpu_rng)
        if checkpoint.cuda_rng is not None and self._device.type == "cuda":
            torch.cuda.set_rng_state(checkpoint.cuda_rng, self._device)

    def run(self) -> RunEnding:
        """Train to the end, to `stop_at`, or until something stops it."""
        self._report("start")
        self._model.train()
        while self._position.step < self._plan.stop_at or not self._position.closed:
            ending = self._train_stretch() or self._close_stretch()
            if ending is not None:
                return ending
        if self._position.step < self._plan.total_steps:
            return RunEnding("interrupted", f"stopped after {self._position.step} steps, as requested")
        if self._task.final_test is not None and self._evaluate("test", self._task.final_test) is None:
            return self._interrupted()
        return RunEnding("finished", "")

    def _train_stretch(self) -> RunEnding | None:
        """The remaining steps of this epoch, or of the run."""
        if self._position.step >= self._plan.stop_at or self._position.step_in_epoch >= self._steps_per_epoch:
            return None

        with self._stopwatch.running():
            for batch in self._task.train.epoch(self._position.epoch, self._position.step_in_epoch):
                self._train_step(batch)
                done = self._position.step >= self._plan.stop_at
                if done or self._stop.reason is not None or self._must_stop_at_log_step():
                    break

        ending = self._diverged()
        if ending is None and self._stop.reason is not None:
            return self._interrupted()
        return ending

    def _must_stop_at_log_step(self) -> bool:
        return self._position.step % self._plan.log_every == 0 and int(self._first_bad) > 0

    def _train_step(self, batch: Batch) -> None:
        step = self._position.step + 1
        logged = step % self._plan.log_every == 0 or step == self._plan.stop_at
        timer = PhaseTimer(self._device) if logged else None

        with _timed(timer, "forward"):
            loss = self._loss(batch)
        self._optimizer.zero_grad(set_to_none=True)
        self._scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        with _timed(timer, "optimizer"):
            if self._stepper is None:
                self._scaler.step(self._optimizer)
            else:
                again = BatchLoss(self._loss, batch, (self._position.epoch, self._position.step_in_epoch))
                self._scaler.step(self._stepper, again, loss.detach())  # type: ignore[arg-type]
            self._scaler.update()

        rates = self._rates()  # after the step, which GeN may have rescaled, and before the next one's
        step_schedule(self._scheduler, self._scaler)

        bad = ~torch.isfinite(loss.detach()) & (self._first_bad == 0)
        self._first_bad = torch.where(bad, step, self._first_bad)
        here = self._position
        self._position = replace(here, step=step, step_in_epoch=here.step_in_epoch + 1, closed=False)

        if self._rate_log is not None:
            self._journal.rate(self.moment, self._rate_log.record(rates))
        if timer is not None:
            self._log_step(loss, rates, timer)
        self._report("step", rates)

    def _loss(self, batch: Batch) -> Tensor:
        with autocast(self._plan.precision, self._device):
            return self._task.training_loss(self._model, batch)

    def _rates(self) -> list[float]:
        """The learning rates in force."""
        if self._stepper is not None:
            return self._stepper.rates
        return [float(group["lr"]) for group in self._optimizer.param_groups]

    def _log_step(self, loss: Tensor, rates: list[float], timer: PhaseTimer) -> None:
        self._last_loss = float(loss.detach())
        seconds = timer.read()
        ratio, skipped = None, 0
        if isinstance(self._optimizer, KroneckerOptimizer):
            ratio, skipped = self._optimizer.read_counters()
        values = {
            "loss": self._last_loss,
            "lr": rates,
            "forward_seconds": seconds["forward"],
            "optimizer_seconds": seconds["optimizer"],
            "graft_ratio": ratio,
            "skipped": skipped,
        }
        self._journal.step(self.moment, values)

    def _close_stretch(self) -> RunEnding | None:
        """The evaluation and the checkpoint that follow an epoch, or the last step."""
        here = self._position
        epoch_done = here.step_in_epoch >= self._steps_per_epoch
        whole = epoch_done and (here.epoch + 1) % self._plan.evaluate_every == 0
        if whole or here.step >= self._plan.total_steps:  # not where --max-steps ends: a resumed run has none there
            part, batches = self._task.selecting
            metrics = self._evaluate(part, batches)
            if metrics is None:
                return self._interrupted()
            if not math.isfinite(metrics["loss"]):
                return self._divergence(f"the {part} loss was {metrics['loss']} after step {here.step}")
            name = self._task.main_metric
            reading = Best(name, metrics[name], here.step, self.moment.epoch)
            self._best = better(self._best, reading, is_lower_better=self._plan.is_lower_better)

        if epoch_done:
            here = replace(here, epoch=here.epoch + 1, step_in_epoch=0)
        self._position = replace(here, closed=True)
        self._report("epoch")
        return self._checkpoint()

    def _evaluate(self, part: str, batches: TaskBatches) -> dict[str, float] | None:
        """Evaluate on a part; None if a stop request comes meanwhile."""
        started = time.perf_counter()
        meter = self._task.meter()
        self._model.eval()
        with torch.no_grad(), contextlib.closing(batches.epoch()) as stream:
            for batch in stream:
                if self._stop.reason is not None:
                    break
                with autocast(self._plan.precision, self._device):
                    outputs = self._task.outputs(self._model, batch)
                meter.update(outputs, batch)

        self._model.train()
        if self._stop.reason is not None:
            return None
        metrics = meter.compute()
        self._journal.evaluation(self.moment, part, metrics, time.perf_counter() - started)
        self._last_evaluation = part, metrics
        self._report("evaluation")
        return metrics

    def _interrupted(self) -> RunEnding:
        return self._checkpoint() or RunEnding("interrupted", self._stop.reason or "")

    def _diverged(self) -> RunEnding | None:
        step = int(self._first_bad)
        return self._divergence(f"the loss was first not finite at step {step}") if step else None

    def _divergence(self, what: str) -> RunEnding:
        good = (
            "no checkpoint was written before"
            if self._saved_step is None
            else (f"the last good checkpoint is from step {self._saved_step}")
        )
        return RunEnding("diverged", f"{what}; {good}")

    def _checkpoint(self) -> RunEnding | None:
        """Save, unless the state is no longer good."""
        ending = self._diverged()
        if ending is None and not _all_finite(list(self._model.parameters())):
            ending = self._divergence(f"a weight was not finite after step {self._position.step}")
        if ending is not None:
            return ending

        on_gpu = self._device.type == "cuda"
        self._save(
            Checkpoint(
                position=self._position,
                train_seconds=self._stopwatch.seconds,
                best=self._best,
                model=self._model.state_dict(),
                optimizer=(self._stepper or self._optimizer).state_dict(),
                scheduler=self._scheduler.state_dict(),
                scaler=self._scaler.state_dict(),
                cpu_rng=torch.get_rng_state(),
                cuda_rng=torch.cuda.get_rng_state(self._device) if on_gpu else None,
            )
        )
        self._saved_step = self._position.step
        return None

    def _report(self, event: Event, rates: list[float] | None = None) -> None:
        if self._progress is None:
            return
        at = self.moment
        start_step, start_seconds = self._started
        steps, seconds = at.step - start_step, at.train_seconds - start_seconds
        pace = seconds / steps if steps else None
        size = self._task.train.batch_size
        part, metrics = self._last_evaluation or (None, {})
        self._progress(
            RunProgress(
                event=event,
                step=at.step,
                total_steps=self._plan.total_steps,
                epoch=at.epoch,
                loss=self._last_loss,
                lr=(rates or self._rates())[0],
                metrics=metrics,
                part=part,
                data=self._task.summary.line() if event == "start" else "",
                samples_per_second=size / pace if pace else None,
                eta_seconds=pace * (self._plan.stop_at - at.step) if pace is not None else None,
            )
        )


def _timed(timer: PhaseTimer | None, name: str) -> contextlib.AbstractContextManager[None]:
    return contextlib.nullcontext() if timer is None else timer.phase(name)


def _is_alike(mine: object, theirs: object) -> bool:
    """Whether two values of a schedule's or a scaler's state are of one form; numbers are, whatever their type."""
    if isinstance(mine, (list, tuple)):
        return isinstance(theirs, (list, tuple)) and len(mine) == len(theirs) and all(map(_is_alike, mine, theirs))
    if isinstance(mine, (int, float)) and not isinstance(mine, bool):
        return isinstance(theirs, (int, float)) and not isinstance(theirs, bool) and math.isfinite(theirs)
    return type(mine) is type(theirs)


def _all_finite(tensors: Sequence[Tensor]) -> bool:
    """Whether no tensor holds NaN or infinity; one read from the device."""
    return not tensors or bool(torch.stack([torch.isfinite(tensor).all() for tensor in tensors]).all())
