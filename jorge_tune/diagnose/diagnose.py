"""Jorge's direction against exact Shampoo's, along a short run of a recipe on its own data."""

from __future__ import annotations

import contextlib
import tempfile
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, NamedTuple

import torch
from torch import Tensor, nn

from jorge_tune.compare.statistics import Spread, spread
from jorge_tune.diagnose.diagnosis import NEWTON_CAPS, BlockDiagnosis, Diagnosis, QuadraticPoint, QuadraticStudy, Trace
from jorge_tune.diagnose.observe import DEFAULT_CHOICE, PreconditionerObserver, WatchedBlocks
from jorge_tune.errors import InputError, TrainingError, shortened
from jorge_tune.optim import Jorge, Shampoo
from jorge_tune.recipe.bootstrap import bootstrap
from jorge_tune.recipe.schedule import total_steps
from jorge_tune.recipe.schema import AdamWSection, Recipe, SGDSection
from jorge_tune.recipe.schema import JorgeSection as JorgeSection
from jorge_tune.records import Outcome, Record, RunDirectory, of_kind, read_records
from jorge_tune.runs.run_journal import ProgressCallback, RunJournal, RunProgress
from jorge_tune.runs.run_result import RunEnding
from jorge_tune.runs.stop_request import StopRequest
from jorge_tune.training.build import build_model, build_optimizer, build_scheduler
from jorge_tune.training.device import backends_for, choose_device
from jorge_tune.training.gen_stepper import build_stepper
from jorge_tune.training.loop import Loop, LoopPlan
from jorge_tune.training.tasks import Task, open_task


@dataclass(frozen=True, kw_only=True)
class DiagnosisSettings:
    """How a diagnosis is made: `steps` of training, a reading at the first, every `every`-th and the last of them.

    `refreshes` is the length of the convex quadratic; 0 leaves it out.
    """

    steps: int = 200
    every: int = 10
    refreshes: int = 300
    choice: WatchedBlocks = DEFAULT_CHOICE
    device: str = "auto"
    download: bool = False

    def measures(self, step: int) -> bool:
        """Whether a step (from 1) is read."""
        return step % self.every == 0 or step in (1, self.steps)


@dataclass(frozen=True)
class WatchedRun:
    """A run that was watched: how it ended, its records, and the model and optimizer as it left them."""

    ending: RunEnding
    planned: int  # steps: those asked for, or fewer where the recipe has fewer
    records: list[Record]
    model: nn.Module
    optimizer: Jorge
    watch: PreconditionerObserver


DEFAULT_SETTINGS: Final = DiagnosisSettings()


def as_jorge(recipe: Recipe) -> tuple[Recipe, list[str]]:
    """The Jorge recipe to diagnose, and what was done to get it.

    Raises:
        InputError: the recipe trains with neither Jorge nor an optimizer that Jorge can be bootstrapped from.
    """
    if isinstance(recipe.optimizer, JorgeSection):
        return recipe, []
    if isinstance(recipe.optimizer, (SGDSection, AdamWSection)):
        made = bootstrap(recipe).recipe
        what = recipe.optimizer.name
        return made, [f"the recipe trains with {what}: what was diagnosed is the Jorge recipe bootstrapped from it"]
    raise InputError(
        f"optimizer.name: must be jorge, or sgd or adamw to bootstrap from, got {recipe.optimizer.name!r}: "
        "what is diagnosed is Jorge's approximate root. Write torch's own SGD or AdamW as `name: sgd` or `name: adamw`"
    )


def diagnose(
    recipe: Recipe,
    settings: DiagnosisSettings = DEFAULT_SETTINGS,
    *,
    progress: ProgressCallback | None = None,
    stop: StopRequest | None = None,
) -> Diagnosis:
    """Train a recipe for a while and set Jorge's direction against exact Shampoo's, Newton's and SGD's.

    Nothing is written; the run is bitwise the one that `train` makes of the same recipe. A diverged or interrupted
    run is an outcome, and holds what was read until then.

    Args:
        recipe: Of Jorge, or of SGD or AdamW: then the bootstrapped recipe is diagnosed.
        settings: How long, how often, which blocks.
        progress: Called at the start and after each step.
        stop: May ask the run to stop; Ctrl-C and SIGTERM do so in the main thread anyway.

    Raises:
        InputError: recipe, data, device or choice of blocks cannot be used.
        TrainingError: the run broke off.
    """
    recipe, notes = as_jorge(recipe)
    stop = stop or StopRequest()
    run = watched_run(recipe, settings, progress=progress, stop=stop)
    stopped = stop.reason is not None
    optimizer = recipe.optimizer
    assert isinstance(optimizer, JorgeSection)
    finished = run.ending.outcome == "interrupted" and not stopped
    outcome: Outcome = "finished" if finished else run.ending.outcome
    reason = "" if finished else run.ending.reason.split(";")[0]  # what follows tells of checkpoints
    studies, left_out = _studies(0 if stopped else settings.refreshes)
    if left_out:
        notes = [*notes, left_out]
        if finished:
            outcome, reason = "interrupted", "stopped by SIGINT in the convex quadratics, after the whole run"
    steps = list(of_kind(run.records, "step"))
    return Diagnosis(
        recipe=recipe.name,
        form=optimizer.form,
        seed=recipe.seed,
        device=str(next(run.model.parameters()).device),
        steps=len(steps),
        outcome=outcome,
        reason=reason,
        blocks=run.watch.results(),
        trace=_trace(steps),
        quadratics=studies,
        notes=tuple(notes + _notes(run, settings, len(steps))),
    )


def _studies(refreshes: int) -> tuple[tuple[QuadraticStudy, ...], str]:
    """The convex quadratics that were finished, none for 0 refreshes; and what Ctrl-C left out, if anything."""
    studies: list[QuadraticStudy] = []
    try:
        for power in POWERS if refreshes else ():
            studies.append(study_quadratic(refreshes, power))
    except KeyboardInterrupt:
        missing = len(POWERS) - len(studies)
        return tuple(studies), f"{missing} of {len(POWERS)} convex quadratics are left out: interrupted by Ctrl-C"
    return tuple(studies), ""


def watched_run(
    recipe: Recipe,
    settings: DiagnosisSettings,
    *,
    progress: ProgressCallback | None = None,
    stop: StopRequest | None = None,
) -> WatchedRun:
    """The first steps of a Jorge recipe's training, watched; no evaluation, no checkpoint, no directory left.

    Raises:
        InputError, TrainingError: as `diagnose`.
    """
    if settings.steps < 1 or settings.every < 1:
        raise InputError(f"steps and every must be 1 or more, got {settings.steps!r} and {settings.every!r}")
    device = choose_device(settings.device)
    with contextlib.ExitStack() as stack:
        stack.enter_context(torch.random.fork_rng(devices=[device] if device.type == "cuda" else []))
        stack.enter_context(backends_for(recipe.precision))
        model = build_model(recipe)
        build_optimizer(recipe.optimizer, model)  # faults of the recipe show before the data are read
        task = open_task(recipe, device, download=settings.download)
        stack.callback(task.close)
        model = model.to(device)
        task.check_model(model)
        optimizer = build_optimizer(recipe.optimizer, model)
        assert isinstance(optimizer, Jorge)
        scheduler = build_scheduler(recipe, optimizer, len(task.train))
        plan = _plan(recipe, task, settings)
        settings = replace(settings, steps=plan.stop_at)
        watch = stack.enter_context(
            PreconditionerObserver(optimizer, model.named_parameters(), settings.measures, settings.choice)
        )
        folder = RunDirectory(Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="jorge-tune-"))))
        journal = stack.enter_context(RunJournal(folder))
        stop = stack.enter_context(stop or StopRequest())
        told = _told(progress, plan.stop_at)
        torch.manual_seed(recipe.seed)
        stepper = build_stepper(recipe, optimizer, task.train)
        loop = Loop(task, model, optimizer, scheduler, plan, device, journal, _keep_nothing, stop, told, stepper)
        try:
            ending = loop.run()
        except (FloatingPointError, RuntimeError) as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise TrainingError(f"{recipe.name}: the run broke off after step {loop.moment.step}: {reason}") from error
        return WatchedRun(ending, plan.stop_at, read_records(folder.records), model, optimizer, watch)


def _plan(recipe: Recipe, task: Task, settings: DiagnosisSettings) -> LoopPlan:
    """Short of the recipe's end by a step at least, so that the loop neither evaluates nor reads the test part."""
    stop_at = min(settings.steps, total_steps(recipe, len(task.train)))
    return LoopPlan(
        total_steps=stop_at + 1,
        stop_at=stop_at,
        evaluate_every=stop_at + 1,
        log_every=1,
        precision=recipe.precision,
    )


def _keep_nothing(checkpoint: object) -> None:
    """A diagnosis leaves no checkpoint."""


def _told(progress: ProgressCallback | None, steps: int) -> ProgressCallback | None:
    """`progress` with the diagnosis's own length."""
    if progress is None:
        return None

    def tell(moment: RunProgress) -> None:
        progress(replace(moment, total_steps=steps))

    return tell


def _trace(steps: list[Record]) -> Trace:
    return Trace(
        tuple(record["step"] for record in steps),
        tuple(record["loss"] for record in steps),
        tuple(record["lr"][0] for record in steps),
        tuple(record["graft_ratio"] for record in steps),
    )


def _notes(run: WatchedRun, settings: DiagnosisSettings, steps: int) -> list[str]:
    """What was left out and what could not be measured."""
    notes = []
    if run.planned < settings.steps:
        notes.append(f"{settings.steps} steps were asked for, but the recipe's training has only {run.planned}")
    if run.watch.left_out:
        notes.append(f"left out: {shortened(run.watch.left_out)}")
    if run.watch.steps < steps:
        notes.append(f"the loss scaler left out {steps - run.watch.steps} optimizer steps")
    missing = Counter(
        (block.name, reading.missing) for block in run.watch.results() for reading in block.readings if reading.missing
    )
    for (name, why), count in missing.items():
        notes.append(f"{name}: {count} of {len(run.watch.results()[0].readings)} readings are missing: {why}")
    return notes


ROWS, COLUMNS = 24, 16
LR, MOMENTUM, SIGMA = 0.1, 0.9, 0.1
POWERS = (1, 2)  # Hessians of condition 384 and 147,456
SEEDS = (0, 1, 2)
FORMS = ("series", "congruence")
ROOTS = (*FORMS, *(f"newton-{k}" for k in NEWTON_CAPS))


class Quadratic(NamedTuple):
    """One problem: the square roots of H and K, and where the descent begins."""

    root_h: Tensor
    root_k: Tensor
    start: Tensor

    def loss(self, W: Tensor) -> float:
        """f(W), as ||H^(1/2) W K^(1/2)||^2 / 2."""
        return float(torch.linalg.matrix_norm(self.root_h @ W @ self.root_k)) ** 2 / 2

    def gradient(self, W: Tensor, Z: Tensor) -> Tensor:
        """H W K + sigma H^(1/2) Z K^(1/2)."""
        return self.root_h @ (self.root_h @ W @ self.root_k + SIGMA * Z) @ self.root_k


class Descent(NamedTuple):
    """One optimizer's way down: f after each looked-at step, and the diagnosis of its preconditioners if it has any."""

    losses: dict[int, float]
    block: BlockDiagnosis | None


def draw_quadratic(seed: int, power: int) -> Quadratic:
    """A problem with the eigenvalues k^-power of H and K in random bases, float64."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    def root(size: int) -> Tensor:
        basis = torch.linalg.qr(normal(size, size))[0]
        values = torch.arange(1, size + 1, dtype=torch.float64) ** (-power / 2)
        product: Tensor = (basis * values) @ basis.mT
        return product

    return Quadratic(root(ROWS), root(COLUMNS), normal(ROWS, COLUMNS))


def descend(
    problem: Quadratic,
    make: Callable[[list[Tensor]], torch.optim.Optimizer],
    seed: int,
    refreshes: int,
    looks: Iterable[int],
) -> Descent:
    """`refreshes` steps of an optimizer on float32 weights; every optimizer with one seed sees the same Z."""
    W = nn.Parameter(problem.start.float())
    optimizer, wanted = make([W]), frozenset(looks)
    watch = PreconditionerObserver(optimizer, [("W", W)], wanted.__contains__) if isinstance(optimizer, Jorge) else None
    generator = torch.Generator().manual_seed(seed)
    losses = {}
    for step in range(1, refreshes + 1):
        Z = torch.randn(ROWS, COLUMNS, generator=generator, dtype=torch.float64)
        W.grad = problem.gradient(W.detach().double(), Z).float()
        optimizer.step()
        if step in wanted:
            losses[step] = problem.loss(W.detach().double())
    return Descent(losses, None if watch is None else watch.results()[0])


def study_quadratic(refreshes: int, power: int, seeds: Sequence[int] = SEEDS) -> QuadraticStudy:
    """Both forms of Jorge, Shampoo and SGD on one problem per seed; Newton's roots are of the series' own averages.

    Args:
        refreshes: Steps, each with a refresh, at least 1.
        power: The eigenvalues of H and K are k^-power.
        seeds: Of the problems and their noise.
    """
    looks = looked_at(refreshes)
    errors, cosines, losses = (defaultdict[tuple[int, str], list[float]](list) for _ in range(3))
    for seed in seeds:
        problem = draw_quadratic(seed, power)
        for name, make in _optimizers().items():
            found = descend(problem, make, seed, refreshes, looks)
            start = problem.loss(problem.start)
            for step, loss in found.losses.items():
                losses[step, name].append(loss / start)
            if found.block is not None:
                _gather(found.block, name, errors, cosines)
    points = tuple(
        QuadraticPoint(k, _at(k, errors, ROOTS), _at(k, cosines, (*ROOTS, "sgd")), _at(k, losses, _optimizers()))
        for k in looks
    )
    eigenvalues = "1/k" if power == 1 else f"1/k^{power}"
    about = (
        f"f(W) = tr(W^T H W K) / 2, {ROWS} x {COLUMNS}, eigenvalues {eigenvalues}, gradient noise {SIGMA} H^(1/2) Z "
        f"K^(1/2), a refresh at each step, lr {LR}, momentum {MOMENTUM}, float32, seeds {', '.join(map(str, seeds))}"
    )
    return QuadraticStudy(eigenvalues, about, points)


def looked_at(refreshes: int) -> list[int]:
    """1, 2, 5, 10, 20, 50, ... up to the last refresh, which is always among them."""
    series = [factor * 10**power for power in range(len(str(refreshes))) for factor in (1, 2, 5)]
    return sorted({count for count in series if count < refreshes} | {refreshes})


def _optimizers() -> dict[str, Callable[[list[Tensor]], torch.optim.Optimizer]]:
    def jorge(form: str) -> Callable[[list[Tensor]], torch.optim.Optimizer]:
        return lambda params: Jorge(params, LR, momentum=MOMENTUM, refresh_interval=1, form=form)  # type: ignore[arg-type]

    return {
        "sgd": lambda params: torch.optim.SGD(params, LR, momentum=MOMENTUM),
        **{form: jorge(form) for form in FORMS},
        "shampoo": lambda params: Shampoo(params, LR, momentum=MOMENTUM, refresh_interval=1),
    }


def _gather(
    block: BlockDiagnosis,
    form: str,
    errors: dict[tuple[int, str], list[float]],
    cosines: dict[tuple[int, str], list[float]],
) -> None:
    """Root errors (both sides) and cosines to the exact direction of one form and, from the series, of Newton."""
    for reading in block.measured:
        for name in (form, *(f"newton-{k}" for k in NEWTON_CAPS), "sgd"):
            if name != form and form != "series":
                continue
            of = "jorge" if name == form else "exact"
            value = reading.cosines[of]["exact" if name == form else name]
            if value is not None:
                cosines[reading.step, name].append(value)
        for side in reading.sides.values():
            errors[reading.step, form].append(side.root_error)
            if form == "series":
                for k, error in side.newton_errors.items():
                    errors[reading.step, f"newton-{k}"].append(error)


def _at(step: int, values: dict[tuple[int, str], list[float]], names: Iterable[str]) -> dict[str, Spread]:
    return {name: found for name in names if (found := spread(values[step, name])) is not None}
