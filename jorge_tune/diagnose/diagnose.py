"""Compare Jorge's direction with exact Shampoo's along a short run of a recipe on its own data."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from typing import Final

from torch import nn

from jorge_tune.diagnose.diagnosis import Diagnosis, QuadraticStudy, Trace
from jorge_tune.diagnose.observe import DEFAULT_CHOICE, BlockChoice, PreconditionerObserver
from jorge_tune.diagnose.quadratic import POWERS, study_quadratic
from jorge_tune.errors import InputError, shortened
from jorge_tune.optim import Jorge
from jorge_tune.recipe.bootstrap import bootstrap
from jorge_tune.recipe.schema import AdamWSection, JorgeSection, Recipe, SGDSection
from jorge_tune.records import Outcome, Record, of_kind
from jorge_tune.runs.run_journal import ProgressCallback
from jorge_tune.runs.run_result import RunEnding
from jorge_tune.runs.stop_request import StopRequest
from jorge_tune.training.snapshot import open_snapshot


@dataclass(frozen=True, kw_only=True)
class DiagnosisSettings:
    """How to diagnose.

    Attributes:
        steps: The length of the run. The first step, each `every`-th step and the last one are read.
        every: Steps between two readings.
        refreshes: The length of the convex quadratics; 0 leaves them out.
        choice: Which blocks to read.
        device: "auto", "cpu", "cuda", "cuda:1", ...
        download: Fetch a data set of torchvision if it is not there.
    """

    steps: int = 200
    every: int = 10
    refreshes: int = 300
    choice: BlockChoice = DEFAULT_CHOICE
    device: str = "auto"
    download: bool = False

    def measures(self, step: int) -> bool:
        """Whether a step (the first is 1) is read."""
        return step % self.every == 0 or step in (1, self.steps)


DEFAULT_SETTINGS: Final = DiagnosisSettings()


def diagnose(
    recipe: Recipe,
    settings: DiagnosisSettings = DEFAULT_SETTINGS,
    *,
    progress: ProgressCallback | None = None,
    stop: StopRequest | None = None,
) -> Diagnosis:
    """Train a recipe for a while, and compare Jorge's direction with exact Shampoo's, Newton's and SGD's.

    The run is bitwise the one that `train` makes of the same recipe, and it writes nothing. A run that diverges or is
    interrupted is an outcome; the diagnosis then holds what was read until then.

    Args:
        recipe: A Jorge recipe, or an SGD or AdamW recipe, which is bootstrapped first.
        settings: How long, how often, which blocks.
        progress: Called at the start and after each step.
        stop: May ask the run to stop. In the main thread, Ctrl-C and SIGTERM do so as well.

    Raises:
        InputError: the recipe, its data, the device or the choice of blocks cannot be used.
        TrainingError: the training broke off.
    """
    recipe, notes = as_jorge(recipe)
    assert isinstance(recipe.optimizer, JorgeSection)
    stop = stop or StopRequest()
    run = observe_run(recipe, settings, progress=progress, stop=stop)

    # The walk always ends with a stop after its last step. Unless somebody asked for it, the diagnosis has finished.
    was_stopped = stop.reason is not None
    finished = run.ending.outcome == "interrupted" and not was_stopped
    outcome: Outcome = "finished" if finished else run.ending.outcome
    reason = "" if finished else run.ending.reason.split(";")[0]  # the rest is about checkpoints

    quadratics, left_out = _quadratics(0 if was_stopped else settings.refreshes)
    if left_out:
        notes = [*notes, left_out]
        if finished:
            outcome, reason = "interrupted", "stopped by SIGINT in the convex quadratics, after the whole run"

    steps = list(of_kind(run.records, "step"))
    return Diagnosis(
        recipe=recipe.name,
        form=recipe.optimizer.form,
        seed=recipe.seed,
        device=str(next(run.model.parameters()).device),
        steps=len(steps),
        outcome=outcome,
        reason=reason,
        blocks=run.observer.results(),
        trace=_trace(steps),
        quadratics=quadratics,
        notes=tuple(notes + _notes(run, settings, len(steps))),
    )


def as_jorge(recipe: Recipe) -> tuple[Recipe, list[str]]:
    """The Jorge recipe to diagnose, with a note if it had to be bootstrapped.

    Raises:
        InputError: the recipe trains with neither Jorge nor an optimizer that Jorge can be bootstrapped from.
    """
    optimizer = recipe.optimizer
    if isinstance(optimizer, JorgeSection):
        return recipe, []
    if isinstance(optimizer, (SGDSection, AdamWSection)):
        note = f"the recipe trains with {optimizer.name}, so the Jorge recipe bootstrapped from it was diagnosed"
        return bootstrap(recipe).recipe, [note]
    raise InputError(
        f"optimizer.name must be jorge, or sgd or adamw to bootstrap from, got {optimizer.name!r}: a diagnosis "
        "measures Jorge's approximate root. Write torch's own SGD or AdamW as `name: sgd` or `name: adamw`"
    )


@dataclass(frozen=True)
class ObservedRun:
    """A short run and its observer.

    Attributes:
        ending: How the run ended.
        num_steps: The number of steps that were planned; fewer than asked for if the recipe has fewer.
        records: The run's records.
        model: The model after the run.
        optimizer: The optimizer after the run.
        observer: What it read of the preconditioners.
    """

    ending: RunEnding
    num_steps: int
    records: list[Record]
    model: nn.Module
    optimizer: Jorge
    observer: PreconditionerObserver


def observe_run(
    recipe: Recipe,
    settings: DiagnosisSettings,
    *,
    progress: ProgressCallback | None = None,
    stop: StopRequest | None = None,
) -> ObservedRun:
    """Train the first steps of a Jorge recipe and observe them: no evaluation, no checkpoint, no directory.

    Raises:
        InputError, TrainingError: as `diagnose`.
    """
    if settings.steps < 1 or settings.every < 1:
        raise InputError(f"steps and every must be 1 or more, got {settings.steps!r} and {settings.every!r}")

    with open_snapshot(recipe, device=settings.device, download=settings.download) as snapshot:
        optimizer = snapshot.optimizer
        assert isinstance(optimizer, Jorge)

        steps = min(settings.steps, snapshot.total_steps)
        measures = replace(settings, steps=steps).measures
        named = snapshot.model.named_parameters()
        with PreconditionerObserver(optimizer, named, measures, settings.choice) as observer:
            ending, records = snapshot.walk(steps, progress=progress, stop=stop)
        return ObservedRun(ending, steps, records, snapshot.model, optimizer, observer)


def _quadratics(refreshes: int) -> tuple[tuple[QuadraticStudy, ...], str]:
    """The convex quadratics that finished (none for 0 refreshes), and a note if Ctrl-C interrupted them."""
    studies: list[QuadraticStudy] = []
    try:
        for power in POWERS if refreshes else ():
            studies.append(study_quadratic(refreshes, power))
    except KeyboardInterrupt:
        missing = len(POWERS) - len(studies)
        return tuple(studies), f"{missing} of {len(POWERS)} convex quadratics are left out: interrupted by Ctrl-C"
    return tuple(studies), ""


def _trace(steps: list[Record]) -> Trace:
    return Trace(
        tuple(record["step"] for record in steps),
        tuple(record["loss"] for record in steps),
        tuple(record["lr"][0] for record in steps),
        tuple(record["graft_ratio"] for record in steps),
    )


def _notes(run: ObservedRun, settings: DiagnosisSettings, steps: int) -> list[str]:
    """What was left out, and what could not be measured."""
    notes = []
    if run.num_steps < settings.steps:
        notes.append(f"{settings.steps} steps were asked for, but the recipe's training has only {run.num_steps}")
    if run.observer.left_out:
        notes.append(f"left out: {shortened(run.observer.left_out)}")
    if run.observer.steps < steps:
        notes.append(f"the loss scaler left out {steps - run.observer.steps} optimizer steps")

    blocks = run.observer.results()
    missing = Counter((block.name, reading.missing) for block in blocks for reading in block.readings)
    for (name, why), count in missing.items():
        if why:
            notes.append(f"{name}: {count} of {len(blocks[0].readings)} readings are missing: {why}")
    return notes
