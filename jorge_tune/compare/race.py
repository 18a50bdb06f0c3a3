"""A race trains contenders on common seeds, seed by seed, into one directory; a second call resumes it."""

from __future__ import annotations

import contextlib
import itertools
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from jorge_tune.compare.run_directories import Contender, Run, read_run
from jorge_tune.errors import InputError
from jorge_tune.one_run import is_command, train_any
from jorge_tune.recipe.user_code import code_folders
from jorge_tune.recipe.user_imports import user_code
from jorge_tune.records import RunDirectory

if TYPE_CHECKING:
    from torch import nn

    from jorge_tune.runs.run_journal import RunProgress

Stage = Literal["reused", "training", "ended"]


@dataclass(frozen=True)
class RaceSettings:
    """The device, the number of CPU threads (None: torch's choice), and whether data may be downloaded.

    `loggers` names where to copy the records to: `csv`, `tensorboard`, `wandb`.
    """

    device: str = "auto"
    download: bool = False
    threads: int | None = None
    loggers: tuple[str, ...] = ()


@dataclass(frozen=True)
class RaceProgress:
    """The progress of a race: run `number` of `total`; `run` is set while it trains, `outcome` once it has ended."""

    stage: Stage
    number: int
    total: int
    name: str
    seed: int
    run: RunProgress | None = None
    outcome: str | None = None


@dataclass(frozen=True)
class Race:
    """The contenders with their runs; `interrupted` if the race was stopped before its end."""

    contenders: tuple[Contender, ...]
    interrupted: bool


def run_race(
    contenders: Sequence[Contender],
    seeds: Sequence[int],
    out: Path,
    *,
    settings: RaceSettings = RaceSettings(),
    report: Callable[[RaceProgress], None] = lambda progress: None,
) -> Race:
    """Train every contender that has no runs yet on every seed, into OUT/<name>/seed-<n>.

    All contenders run one seed before the next seed begins, so that a slow hour of the machine slows all of them. A run
    that ended is reused, and one that was stopped is resumed, if its directory holds the same recipe. Contenders that
    have runs already stay as they are.

    Raises:
        InputError: a recipe cannot be trained, or a directory is taken; that is checked before anything is written.
    """
    entrants = [index for index, contender in enumerate(contenders) if not contender.runs]
    _check(contenders, entrants, seeds, out, settings)

    runs: dict[int, list[Run]] = {index: [] for index in entrants}
    total, number = len(entrants) * len(seeds), 0
    interrupted = False
    needs_torch = any(not is_command(contenders[index].recipe) for index in entrants)
    with cpu_threads(settings.threads) if needs_torch else contextlib.nullcontext():
        for seed, index in itertools.product(seeds, entrants):
            number += 1
            place = (number, total, contenders[index].name, seed)
            run = _one_run(contenders[index], seed, out, settings, place, report)
            interrupted = run.outcome == "interrupted"
            if interrupted:
                break
            runs[index].append(run)

    raced = [replace(c, runs=tuple(runs[i])) if i in runs else c for i, c in enumerate(contenders)]
    return Race(tuple(raced), interrupted)


def run_path(out: Path, name: str, seed: int) -> Path:
    """OUT/<name>/seed-<n>, without those characters of the name that do not suit a directory."""
    return out / (re.sub(r"[^\w.+-]+", "-", name).strip(".-") or "recipe") / f"seed-{seed}"


@contextlib.contextmanager
def cpu_threads(threads: int | None) -> Iterator[None]:
    """Let torch use so many CPU threads inside the `with` block."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(threads or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _check(
    contenders: Sequence[Contender], entrants: Sequence[int], seeds: Sequence[int], out: Path, settings: RaceSettings
) -> None:
    """Build every model and optimizer once, so that a fault of the last contender is found before the race begins."""
    from jorge_tune.runs.run_start import inspect_run_directory

    taken: dict[Path, str] = {}
    made: tuple[str, nn.Module] | None = None  # contenders of one task share the model, which may come with its data
    for index in entrants:
        name, recipe = contenders[index].name, contenders[index].recipe
        directory = run_path(out, name, 0).parent
        if directory in taken:
            raise InputError(f"{taken[directory]} and {name} would both train into {directory}; rename one recipe")
        taken[directory] = name

        for seed in seeds:
            inspect_run_directory(RunDirectory(run_path(out, name, seed)), replace(recipe, seed=seed), resume=True)
        if is_command(recipe):
            from jorge_tune.command.run_command import check_startable

            check_startable(recipe, settings.device)
            continue
        from jorge_tune.training.build import build_model, build_optimizer

        with user_code(recipe):
            made_of = repr((recipe.task, recipe.batch_size, code_folders(recipe)))
            if made is None or made[0] != made_of:
                made = (made_of, build_model(recipe))
            build_optimizer(recipe.optimizer, made[1])


def _one_run(
    contender: Contender,
    seed: int,
    out: Path,
    settings: RaceSettings,
    place: tuple[int, int, str, int],
    report: Callable[[RaceProgress], None],
) -> Run:
    """Train one run, resume it, or reuse it if it has ended; `place` is the head of each progress report."""
    from jorge_tune.runs.run_start import ResumeState, inspect_run_directory

    path, recipe = run_path(out, contender.name, seed), replace(contender.recipe, seed=seed)
    if inspect_run_directory(RunDirectory(path), recipe, resume=True) is ResumeState.ENDED:
        run = read_run(path)
        report(RaceProgress("reused", *place, outcome=run.outcome))
        return run

    report(RaceProgress("training", *place))
    train_any(
        recipe,
        path,
        device=settings.device,
        threads=settings.threads,
        download=settings.download,
        loggers=settings.loggers,
        resume=True,
        progress=lambda progress: report(RaceProgress("training", *place, run=progress)),
    )

    run = read_run(path)
    report(RaceProgress("ended", *place, outcome=run.outcome))
    return run
