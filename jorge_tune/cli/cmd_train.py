"""`jorge-tune train`: one run of one recipe."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from jorge_tune.cli.calibration_options import EXIT_NO_ANSWER, held_by, settled
from jorge_tune.cli.options import complete_recipe, device_options, share_the_cores
from jorge_tune.cli.output import clock_time, format_option, print_json, print_table, tell, training_progress
from jorge_tune.config.ranges import LARGEST_SEED

if TYPE_CHECKING:
    from jorge_tune.recipe.schema import Recipe
    from jorge_tune.training.runner import RunResult

_EXIT_DIVERGED = 3
_EXIT_INTERRUPTED = 130


@click.command()
@click.argument("recipe", shell_complete=complete_recipe)
@click.option("--out", type=click.Path(path_type=Path), help="Run directory [default: runs/<name>/seed-<n>].")
@click.option("--resume", is_flag=True, help="Continue the run that the directory holds.")
@click.option("--set", "assignments", multiple=True, metavar="KEY=VALUE", help="Replace a value; may be repeated.")
@click.option("--seed", type=click.IntRange(0, LARGEST_SEED), help="Seed of the run [default: the recipe's].")
@device_options()
@click.option("--max-steps", type=click.IntRange(min=1), help="Stop after that many steps in all; --resume goes on.")
@click.option("--log-every", type=click.IntRange(min=1), default=50, show_default=True, help="Steps between readings.")
@click.option("--threads", type=click.IntRange(min=1), help="CPU threads [default: torch's choice].")
@click.option("--download", is_flag=True, help="Fetch a torchvision data set that is not there.")
@format_option
def train_command(
    recipe: str,
    out: Path | None,
    resume: bool,
    assignments: tuple[str, ...],
    seed: int | None,
    device: str,
    max_steps: int | None,
    log_every: int,
    threads: int | None,
    download: bool,
    output_format: str,
) -> int:
    """Train RECIPE (a file or a shipped name) and leave a run directory: records, checkpoint, environment, log.

    Ctrl-C finishes the step, writes a checkpoint and exits with 130; --resume continues exactly there. A run whose
    loss is no longer a number ends as diverged, with exit code 3. `refresh_interval: auto` is measured first, as by
    calibrate-freq, and ends with 4 where that has no answer.

    \b
    Example:
      jorge-tune train digits/cnn-sgd --seed 1
      jorge-tune train digits/cnn-sgd --set optimizer.lr=0.05 --out runs/half-rate
    """
    wanted = read_with_overrides(recipe, assignments, seed)
    share_the_cores()
    folder = out or Path("runs") / wanted.name / f"seed-{wanted.seed}"
    ready = settled(wanted, held_by(folder), assignments, device=device, threads=threads)
    if ready is None:
        return EXIT_NO_ANSWER
    from jorge_tune.training import runner

    if threads is not None:
        use_threads(threads)
    with training_progress(ready.name) as progress:
        result = runner.train(
            ready,
            folder,
            device=device,
            resume=resume,
            max_steps=max_steps,
            log_every=log_every,
            progress=progress,
            download=download,
        )
    _show(result, output_format)
    return _exit_code(result, max_steps)


def read_with_overrides(argument: str, assignments: tuple[str, ...], seed: int | None) -> Recipe:
    """The recipe with its overrides; its file's warnings go to stderr."""
    from jorge_tune.recipe.checks import warnings_of
    from jorge_tune.recipe.recipe_files import load, override, resolve_recipe

    path = resolve_recipe(argument)
    loaded = load(path)
    recipe = override(loaded.recipe, assignments) if assignments else loaded.recipe
    if assignments:  # what is warned of may be the override's doing, so no line is named
        warnings = [f"{path} with --set: {field}: {what}" for field, what in warnings_of(recipe)]
    else:
        warnings = [warning.located(str(path)) for warning in loaded.warnings]
    for warning in warnings:
        tell(f"{warning} (warning)")
    return recipe if seed is None else replace(recipe, seed=seed)


def use_threads(threads: int) -> None:
    """Let torch use that many CPU threads."""
    import torch

    torch.set_num_threads(threads)


def _exit_code(result: RunResult, max_steps: int | None) -> int:
    if result.outcome == "diverged":
        return _EXIT_DIVERGED
    as_asked = max_steps is not None and result.step >= max_steps
    return _EXIT_INTERRUPTED if result.outcome == "interrupted" and not as_asked else 0


def _show(result: RunResult, output_format: str) -> None:
    if output_format == "json":
        print_json(_as_data(result))
        return
    rows: list[tuple[str, str]] = [
        ("outcome", result.outcome + (f": {result.reason}" if result.reason else "")),
        ("steps", str(result.step)),
        ("epochs", f"{result.epoch:g}"),
        ("training time", clock_time(result.train_seconds)),
    ]
    for part, metrics in ((result.part, result.metrics), ("test", result.test_metrics)):
        rows += [(f"{part} {name}", f"{value:.4f}") for name, value in metrics.items()]
    if result.best is not None:
        rows.append(
            (f"best {result.part} {result.best.metric}", f"{result.best.value:.4f} at epoch {result.best.epoch:g}")
        )
    if result.part == "test":
        rows.append(("note", "no validation part: the test part was read after each epoch"))
    print_table(["", "value"], [*dict(rows).items(), ("run directory", str(result.folder.root))])


def _as_data(result: RunResult) -> dict[str, Any]:
    return {
        "outcome": result.outcome,
        "reason": result.reason,
        "folder": str(result.folder.root),
        "step": result.step,
        "epoch": result.epoch,
        "train_seconds": result.train_seconds,
        "part": result.part,
        "metrics": dict(result.metrics),
        "test_metrics": dict(result.test_metrics),
        "best": None if result.best is None else vars(result.best),
    }
